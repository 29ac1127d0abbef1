//! The points at which a daemon can be killed, or a call be made to fail: before and after every call of
//! a driver, every call that a guest's agent answers, and every write of the store. They are counted, so
//! that a test can visit each of them; which call is to fail by name is `faults`.

use std::future::Future;
use std::sync::Mutex;

use tokio::sync::watch;

use crate::faults::lock;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The daemon is killed: the call under way never returns, and no other one does from then on.
    Crash,
    /// The call fails and has done nothing. Points behind a call are passed over.
    Fail,
    /// The call fails for want of space and has done nothing. Likewise.
    StorageFull,
}

/// How a call that passed a point goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    Fails { storage_full: bool },
}

/// The count, and what is planned.
pub struct Points {
    state: Mutex<State>,
    crashed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    passed: usize,
    planned: Option<(usize, Strike)>,
    struck: Option<String>,
    disk_is_full: bool,
}

impl Default for Points {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            crashed: watch::channel(false).0,
        }
    }
}

impl Points {
    /// From here on, the point after `passed` others is struck; what was planned before is forgotten.
    pub fn plan(&self, passed: usize, strike: Strike) {
        let mut state = lock(&self.state);
        state.passed = 0;
        state.planned = Some((passed, strike));
        state.struck = None;
    }

    /// Nothing is struck any more, and nothing was.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.planned = None;
        state.struck = None;
    }

    /// How many points were passed since the last plan.
    #[must_use]
    pub fn passed(&self) -> usize {
        lock(&self.state).passed
    }

    /// The point that was struck, in words, since the last plan.
    #[must_use]
    pub fn struck(&self) -> Option<String> {
        lock(&self.state).struck.clone()
    }

    /// From now on every call that needs space on the disk fails, or none does.
    pub fn fill_disk(&self, full: bool) {
        lock(&self.state).disk_is_full = full;
    }

    /// Returns when the daemon has been killed.
    pub async fn crashed(&self) {
        let mut crashed = self.crashed.subscribe();
        // The sender lives as long as this does.
        let _ = crashed.wait_for(|crashed| *crashed).await;
    }

    /// The daemon is killed wherever it is.
    pub fn crash(&self) {
        self.crashed.send_replace(true);
    }

    /// The next daemon starts.
    pub(crate) fn restart(&self) {
        self.crashed.send_replace(false);
    }

    /// A call is about to be carried out.
    pub(crate) async fn before(&self, call: &str, needs_space: bool) -> Verdict {
        self.unless_crashed().await;
        match self.strike(true, || format!("before {call}")) {
            Some(Strike::Crash) => self.die().await,
            Some(Strike::Fail) => Verdict::Fails {
                storage_full: false,
            },
            Some(Strike::StorageFull) => Verdict::Fails { storage_full: true },
            None if needs_space && lock(&self.state).disk_is_full => {
                Verdict::Fails { storage_full: true }
            }
            None => Verdict::Passes,
        }
    }

    /// A call was carried out; who made it learns of it when this returns.
    pub(crate) async fn after(&self, call: &str) {
        self.unless_crashed().await;
        if self.strike(false, || format!("after {call}")).is_some() {
            self.die().await;
        }
    }

    /// Something happened that the daemon waits for and cannot be stopped: it may die at that moment.
    pub(crate) fn mark(&self, what: impl FnOnce() -> String) {
        if !*self.crashed.borrow() && self.strike(false, what).is_some() {
            self.crash();
        }
    }

    /// What strikes here; a call that is done already can only be struck by a crash.
    fn strike(&self, may_fail: bool, point: impl FnOnce() -> String) -> Option<Strike> {
        let mut state = lock(&self.state);
        let here = state.passed;
        state.passed += 1;
        let (planned, strike) = state.planned?;
        if here != planned {
            return None;
        }
        state.planned = None;
        if strike != Strike::Crash && !may_fail {
            return None;
        }
        state.struck = Some(point());
        Some(strike)
    }

    async fn unless_crashed(&self) {
        if *self.crashed.borrow() {
            std::future::pending::<()>().await;
        }
    }

    fn die(&self) -> impl Future<Output = Verdict> + use<> {
        self.crash();
        std::future::pending()
    }
}
