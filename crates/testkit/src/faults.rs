//! Faults that a test plans: the n-th call of an operation fails, is delayed, or never returns.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use colibri_hypervisor::machine::VmmError;
use tokio::sync::watch;

use crate::points::{Points, Verdict};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the functions of the traits, by name")]
pub enum Operation {
    Boot,
    Launch,
    Prepare,
    TakeUp,
    AdoptMachine,
    Discard,
    SweepMachines,
    Relocate,
    Resume,
    Pause,
    Control,
    Freeze,
    Suspend,
    KeepSuspension,
    ForgetSuspension,
    Previous,
    GoBack,
    Kill,
    AcquireSlot,
    AdoptSlot,
    SweepSlots,
    Attach,
    ReleaseSlot,
    Grant,
    Withdraw,
    Build,
}

impl Operation {
    /// Whether it writes files that may not fit.
    fn needs_space(self) -> bool {
        matches!(
            self,
            Self::Boot
                | Self::Launch
                | Self::Freeze
                | Self::Suspend
                | Self::KeepSuspension
                | Self::Build
        )
    }
}

/// What happens instead of, before or after the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has done nothing.
    Fail,
    /// It fails for want of space and has done nothing.
    StorageFull,
    /// It fails because the snapshot is of another host, and has done nothing.
    Foreign,
    /// It never returns and has done nothing.
    Hang,
    /// It is done and never returns.
    HangAfter,
    /// It is done after this time.
    Delay(Duration),
}

struct Planned {
    operation: Operation,
    calls_before: usize,
    fault: Fault,
}

/// The plan, and what came of it.
#[derive(Default)]
pub struct Faults {
    planned: Mutex<Vec<Planned>>,
    calls: Mutex<HashMap<Operation, usize>>,
    hanging: Mutex<HashMap<Operation, watch::Sender<bool>>>,
    pub(crate) points: Points,
}

impl Faults {
    /// The next call of `operation` meets `fault`; later ones do not.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.after(operation, 0, fault);
    }

    /// The call of `operation` after `calls_before` more meets `fault`.
    pub fn after(&self, operation: Operation, calls_before: usize, fault: Fault) {
        lock(&self.planned).push(Planned {
            operation,
            calls_before,
            fault,
        });
    }

    /// Forgets every fault that has not been met.
    pub fn clear(&self) {
        lock(&self.planned).clear();
        lock(&self.hanging).clear();
    }

    /// How often an operation has been called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> usize {
        lock(&self.calls).get(&operation).copied().unwrap_or(0)
    }

    /// Returns when a call of `operation` has met a hang.
    pub async fn hanging(&self, operation: Operation) {
        let mut seen = lock(&self.hanging)
            .entry(operation)
            .or_insert_with(|| watch::channel(false).0)
            .subscribe();
        // The sender lives in the map as long as the world does, or the plan was cleared.
        let _ = seen.wait_for(|hangs| *hangs).await;
    }

    /// Meets the fault planned for this call, if any.
    pub(crate) async fn meet(&self, operation: Operation) -> Met {
        let call = format!("{operation:?}");
        if let Verdict::Fails { storage_full } =
            self.points.before(&call, operation.needs_space()).await
        {
            return Met::Fails { storage_full };
        }
        match self.take(operation) {
            Some(Fault::Fail) => Met::Fails {
                storage_full: false,
            },
            Some(Fault::StorageFull) => Met::Fails { storage_full: true },
            Some(Fault::Foreign) => Met::Foreign,
            Some(Fault::Hang) => self.hang(operation).await,
            Some(Fault::HangAfter) => Met::HangsAfter,
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Met::Nothing
            }
            None => Met::Nothing,
        }
    }

    /// The call was carried out; it returns unless a fault keeps it (`hangs`), or the daemon is killed.
    pub(crate) async fn done(&self, operation: Operation, hangs: bool) {
        if hangs {
            self.hang(operation).await;
        }
        self.points.after(&format!("{operation:?}")).await;
    }

    /// Never returns, and lets the test know that it was reached.
    pub(crate) async fn hang(&self, operation: Operation) -> Met {
        lock(&self.hanging)
            .entry(operation)
            .or_insert_with(|| watch::channel(false).0)
            .send_replace(true);
        std::future::pending().await
    }

    fn take(&self, operation: Operation) -> Option<Fault> {
        *lock(&self.calls).entry(operation).or_insert(0) += 1;
        let mut planned = lock(&self.planned);
        let mut met = None;
        planned.retain_mut(|plan| {
            if plan.operation != operation {
                return true;
            }
            if plan.calls_before == 0 && met.is_none() {
                met = Some(plan.fault);
                return false;
            }
            plan.calls_before = plan.calls_before.saturating_sub(1);
            true
        });
        met
    }
}

/// What a call met.
pub(crate) enum Met {
    Nothing,
    Fails { storage_full: bool },
    Foreign,
    HangsAfter,
}

impl Met {
    /// The driver's error, where the call fails; whether it hangs afterwards, where it does not.
    pub(crate) fn or_vmm_error(self, id: &str, attempted: &str) -> Result<bool, VmmError> {
        match self {
            Self::Nothing => Ok(false),
            Self::HangsAfter => Ok(true),
            Self::Foreign => Err(VmmError::ForeignSnapshot {
                path: id.into(),
                frozen_on: "simulated 1.0".into(),
                here: "simulated 2.0".into(),
            }),
            Self::Fails { storage_full: true } => Err(VmmError::StorageFull {
                attempted: attempted.into(),
            }),
            Self::Fails {
                storage_full: false,
            } => Err(VmmError::Refused {
                id: id.into(),
                attempted: attempted.into(),
                reason: "the test planned it".into(),
            }),
        }
    }

    pub(crate) fn fails(&self) -> bool {
        matches!(self, Self::Fails { .. } | Self::Foreign)
    }

    pub(crate) fn hangs_after(&self) -> bool {
        matches!(self, Self::HangsAfter)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
