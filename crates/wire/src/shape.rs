//! The requests and answers of the API as they are on the wire. Absent members are omitted, never
//! null. What the members mean and which of them fit together is [`crate::check`]'s.

pub mod common;
pub mod configuration;
pub mod connector;
pub mod image;
pub mod microvm;
pub mod tag;
