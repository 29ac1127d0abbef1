//! The MicroVMs that this daemon knows, by id and by endpoint label: how to reach each one's actor and
//! what it last said of itself. The store has the truth; this is what is asked on every request.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};

use colibri_store::Phase;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::changes::{Cause, current_request};
use crate::lease::Lease;
use crate::ready::Running;
use crate::roles::KeptCredentials;

/// Commands that an actor's mailbox holds; one more is refused as throttled.
pub(crate) const MAILBOX: usize = 64;

/// What a host name or a token leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The MicroVM's id.
    pub microvm_id: String,
    /// The label of its host name.
    pub label: String,
    /// Its size: baseline memory, MiB.
    pub memory_mib: u32,
}

/// What a resume does when it finds the MicroVM's suspension damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfDamaged {
    /// The MicroVM stays suspended, with a reason that says what can be done.
    #[default]
    Refuse,
    /// It goes back to the suspension that it woke from last, where that is kept and whole: what it did since is
    /// lost.
    GoBack,
}

/// What an actor is asked.
pub(crate) enum Command {
    Suspend(Reply),
    Resume(Reply, IfDamaged),
    Terminate(Reply),
}

/// Where a command's answer goes, and whose it is.
#[derive(Debug)]
pub(crate) struct Reply {
    answer: oneshot::Sender<Result<(), WrongPhase>>,
    /// Who commands.
    pub(crate) cause: Option<Cause>,
}

impl Reply {
    /// For the call at hand.
    pub(crate) fn to(answer: oneshot::Sender<Result<(), WrongPhase>>) -> Self {
        Self {
            answer,
            cause: current_request().map(Cause::Request),
        }
    }

    /// For the application in the guest.
    pub(crate) fn to_guest(answer: oneshot::Sender<Result<(), WrongPhase>>) -> Self {
        Self {
            answer,
            cause: Some(Cause::Guest),
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers; gives the answer back when nobody waits for it any more.
    pub(crate) fn send(
        self,
        outcome: Result<(), WrongPhase>,
    ) -> Result<(), Result<(), WrongPhase>> {
        self.answer.send(outcome)
    }
}

/// A MicroVM cannot do that in this phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrongPhase(pub(crate) Phase);

/// What an actor last said of its MicroVM.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    /// There while traffic may flow.
    pub(crate) running: Option<Arc<Running>>,
    /// Attempts to make it ready that failed, and why the last one did.
    pub(crate) failures: u64,
    pub(crate) failure: Option<String>,
}

impl Status {
    pub(crate) fn of(phase: Phase) -> Self {
        Self {
            phase,
            running: None,
            failures: 0,
            failure: None,
        }
    }
}

/// A MicroVM's entry.
pub(crate) struct Handle {
    pub(crate) endpoint: Endpoint,
    pub(crate) mailbox: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Status>,
    /// What its guest says of being busy.
    pub(crate) lease: Lease,
    /// Requests that wait for it.
    pub(crate) waiting: AtomicUsize,
    /// Traffic wants it: a mark, not a queue, so that a thousand requests wake it once.
    pub(crate) wanted: Arc<Notify>,
    /// Traffic wakes it.
    pub(crate) auto_resume: bool,
    /// Credentials of its role that its guest was given.
    pub(crate) credentials: KeptCredentials,
    /// It takes no inbound traffic.
    pub(crate) closed: bool,
    /// It may be given a shell.
    pub(crate) shell: bool,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Registry {
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<String, Arc<Handle>>,
    ids: HashMap<String, String>,
}

impl Registry {
    pub(crate) fn insert(&self, handle: Arc<Handle>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Endpoint {
            microvm_id, label, ..
        } = handle.endpoint.clone();
        entries.ids.insert(label, microvm_id.clone());
        entries.by_id.insert(microvm_id, handle);
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Handle>> {
        self.entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(id)
            .cloned()
    }

    pub(crate) fn by_label(&self, label: &str) -> Option<Arc<Handle>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .ids
            .get(label)
            .and_then(|id| entries.by_id.get(id))
            .cloned()
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = entries.by_id.remove(id) {
            entries.ids.remove(&handle.endpoint.label);
        }
    }
}
