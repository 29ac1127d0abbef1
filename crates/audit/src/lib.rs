//! The trail of who did what: one structured event for each call and each change of state, in the
//! names of CloudTrail's record, a line of JSON each, in files that are rotated and bounded.
//!
//! - [`record`] is what an event says.
//! - [`trail`] takes events: a bounded queue, and a thread that writes.
//! - [`files`] is where they go: one file that grows, a few that are full.
//!
//! What is worth an event is the business of those who record it.
#![forbid(unsafe_code)]

pub mod files;
pub mod record;
pub mod trail;

pub use files::FileSettings;
pub use record::{EventCategory, EventType, Record, Resource, UserIdentity};
pub use trail::{OpenFailure, Trail};
