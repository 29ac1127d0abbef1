//! IAM policies: documents, and what they allow.
//!
//! [`PolicyDocument::parse`] refuses whatever it does not fully understand, so that [`evaluate`] never
//! comes upon a condition that it cannot check. Neither reads a clock or waits for anything.

mod condition;
mod document;
mod error;
mod evaluate;
mod operator;
mod pattern;
mod request;
mod trust;
mod value;
mod written;

pub use document::{Effect, PolicyDocument};
pub use error::PolicyError;
pub use evaluate::{Decision, NamedPolicy, PolicySet, Source, StatementName, evaluate};
pub use request::{Context, Request, Resource};
pub use trust::{Caller, Trust, TrustPolicy};
