//! The states as they are spelled on disk. The spelling is a file format: it never changes.

macro_rules! stored_states {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// The spelling on disk.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// Reads the spelling on disk.
            #[must_use]
            pub fn from_stored(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

stored_states! {
    /// State of an image (specification, section 5.1). A deleted one has no row.
    ImageState {
        /// Its first version is being built.
        Creating = "creating",
        /// Its first version succeeded.
        Created = "created",
        /// Its first version failed.
        CreateFailed = "create_failed",
        /// A later version is being built, or a version is being deleted.
        Updating = "updating",
        /// The last update succeeded.
        Updated = "updated",
        /// The last update failed.
        UpdateFailed = "update_failed",
        /// It is being removed.
        Deleting = "deleting",
        /// Its removal failed.
        DeleteFailed = "delete_failed",
    }
}

stored_states! {
    /// State of an image version (specification, section 5.2).
    VersionState {
        /// Its build waits.
        Pending = "pending",
        /// Its build runs.
        InProgress = "in_progress",
        /// Its build succeeded.
        Successful = "successful",
        /// Its build failed.
        Failed = "failed",
        /// It is being removed.
        Deleting = "deleting",
        /// Its removal failed.
        DeleteFailed = "delete_failed",
    }
}

stored_states! {
    /// Whether a version may be launched.
    VersionStatus {
        /// It may.
        Active = "active",
        /// It may not.
        Inactive = "inactive",
    }
}

stored_states! {
    /// State of a build (specification, section 5.3).
    BuildState {
        /// It waits for its turn.
        Pending = "pending",
        /// It runs.
        InProgress = "in_progress",
        /// It succeeded: its base is there.
        Successful = "successful",
        /// It failed.
        Failed = "failed",
    }
}

stored_states! {
    /// State of a network connector or of a version of one (specification, section 14). A deleted one has
    /// no row.
    ConnectorState {
        /// Being made.
        Pending = "pending",
        /// Of use.
        Active = "active",
        /// Of no use for the time being.
        Inactive = "inactive",
        /// Could not be made.
        Failed = "failed",
        /// Being removed.
        Deleting = "deleting",
        /// Its removal failed.
        DeleteFailed = "delete_failed",
    }
}

stored_states! {
    /// How the last update of a network connector went.
    UpdateState {
        /// It goes on.
        InProgress = "in_progress",
        /// Well.
        Successful = "successful",
        /// Not.
        Failed = "failed",
    }
}

stored_states! {
    /// Where a MicroVM is: finer than the API's state, fine enough for the next daemon to finish or
    /// undo what a crash interrupted.
    Phase {
        /// Being launched from its base, `/run` included.
        Launching = "launching",
        /// Running.
        Running = "running",
        /// Being suspended; its suspension is not complete, or not known to be.
        Suspending = "suspending",
        /// Its suspension is complete on disk; the process may still be there, stopped.
        Captured = "captured",
        /// Suspended: no process, no slot.
        Suspended = "suspended",
        /// Being launched from its suspension; the guest has not run, so this can be undone.
        Resuming = "resuming",
        /// The guest was or may have been continued: its suspension is void.
        Continuing = "continuing",
        /// Being ended.
        Terminating = "terminating",
        /// Ended; only the row is left.
        Terminated = "terminated",
    }
}

impl Phase {
    /// Whether the MicroVM still has, or may have, something on this host.
    #[must_use]
    pub fn is_live(self) -> bool {
        self != Self::Terminated
    }
}

#[cfg(test)]
mod tests {
    use super::Phase;

    #[test]
    fn a_phase_reads_back_as_it_was_written_and_nothing_else_is_one() {
        assert_eq!(
            Phase::from_stored(Phase::Continuing.as_str()),
            Some(Phase::Continuing)
        );
        assert_eq!(Phase::from_stored("CONTINUING"), None);
    }
}
