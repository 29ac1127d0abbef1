//! Identifiers and quantities, each parsed once at the edge.

mod arn;
pub mod connector;
pub mod image;
pub mod memory;
pub mod microvm;
pub mod place;
pub mod port;
pub mod role;
pub mod s3_uri;
pub mod timestamp;
pub mod version;
