//! Turning the failure of a system call into the sentence that the host receives.

use std::fmt::Display;

use colibri_guest_protocol::message::AgentFailure;

/// Says what was attempted when something failed.
pub(crate) trait Attempt<T> {
    /// Names the attempt, as a verb phrase: "mount /proc".
    fn attempt(self, attempted: impl FnOnce() -> String) -> Result<T, AgentFailure>;
}

impl<T, E: Display> Attempt<T> for Result<T, E> {
    fn attempt(self, attempted: impl FnOnce() -> String) -> Result<T, AgentFailure> {
        self.map_err(|cause| failure(attempted(), cause.to_string()))
    }
}

/// A failure from its two halves.
pub(crate) fn failure(attempted: impl Into<String>, reason: impl Into<String>) -> AgentFailure {
    AgentFailure {
        attempted: attempted.into(),
        reason: reason.into(),
    }
}
