//! One HTTP front for every AWS service that Colibri speaks: who is asking, for what, hand over.
//!
//! Services are told apart by the credential scope of the request's signature, never by host name; a
//! request without one by its path. What they do is not this crate's business: the MicroVM API is
//! `control`'s, S3 is `objects`', logs are `logs`'.
#![forbid(unsafe_code)]

mod answer;
mod audit;
mod authorization;
mod extension;
mod front;
mod idle;
mod lambda;
mod lifecycle;
mod listen;
mod logs;
mod rates;
mod service;
mod sts;

pub use audit::AuditSettings;
pub use authorization::{AccountRoles, ObjectCallers};
pub use front::Front;
pub use lifecycle::LifecycleAudit;
pub use listen::{ListenFailure, Listener};
pub use rates::{Rate, Rates, UnknownOperation};
