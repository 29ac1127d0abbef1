//! From suspended to running.

use std::future::Future;
use std::sync::Arc;

use colibri_hypervisor::machine::VmmError;
use colibri_store::{Phase, StoreError, Transition};

use crate::actor::{Actor, accept_all};
use crate::changes::Cause;
use crate::failure::chain;
use crate::flow::{Step, Stopped};
use crate::hooks::Hook;
use crate::launch::{LaunchFailure, Origin};

/// Why a resume did not get as far as the guest.
enum NotContinued {
    Stopped(Stopped),
    /// The suspension is intact: it stays suspended.
    StaysSuspended(String),
}

impl From<Stopped> for NotContinued {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl Actor {
    /// A suspended MicroVM is to run again: written and published. Whoever else asked for it meanwhile has
    /// what was asked for.
    pub(crate) async fn begin_resume(&mut self) {
        self.intents.wake = false;
        let requested = self.requested.take();
        self.cause = requested.unwrap_or(Cause::Traffic);
        // Only an end that came in between stops it.
        let _ = self
            .enter(
                Phase::Resuming,
                Transition::to(Phase::Resuming).reason(None),
            )
            .await;
        accept_all(&mut self.intents.resume);
    }

    /// Up to the moment before the guest runs, everything can be undone.
    pub(crate) async fn resume(&mut self) {
        match self.try_resume().await {
            Ok(()) => {}
            Err(NotContinued::Stopped(stopped)) => self.stopped(stopped).await,
            Err(NotContinued::StaysSuspended(reason)) => self.stay_suspended(reason).await,
        }
        self.intents.go_back = false;
    }

    async fn try_resume(&mut self) -> Result<(), NotContinued> {
        // Nobody asks for its process from here on: it runs, or is let go.
        if self.leave.take().is_some() {
            self.shared.hot.forget(&self.id);
            self.holds_suspension = true;
        }
        self.check_memory().await?;
        let _under_way = self.shared.pool.under_way();
        let started = if self.has_stopped_machine().await {
            // Its network is the old one.
            self.grant_anew().await
        } else {
            self.start_machine(true).await
        };
        if let Err(failure) = started {
            self.go_back_or_stay(&failure).await?;
        }
        self.unless_ending()?;
        // From here on the guest may have run: its suspension is void, but for what is kept of it meanwhile.
        let transition = self
            .machine_recorded(Transition::to(Phase::Continuing))
            .reason(self.went_back.clone());
        let keeping = self.keeping_suspension();
        let (entered, ()) = tokio::join!(self.enter(Phase::Continuing, transition), keeping);
        Ok(entered?)
    }

    /// A suspension that is damaged: another way back is told of, or taken where somebody asked for it.
    async fn go_back_or_stay(&mut self, failure: &LaunchFailure) -> Result<(), NotContinued> {
        if !self.is_damaged(failure) {
            return Err(self.resume_failed(failure));
        }
        tracing::warn!(microvm_id = %self.id, error = %chain(failure), "its suspension is damaged");
        // What a failed start took is given back, for the next one takes it again.
        self.let_go().await;
        if !self.intents.go_back {
            let offer = self.offer_of_previous(failure).await;
            return Err(NotContinued::StaysSuspended(offer));
        }
        self.go_back(failure)
            .await
            .map_err(NotContinued::StaysSuspended)?;
        self.unless_ending()?;
        self.start_machine(true)
            .await
            .map_err(|failure| self.resume_failed(&failure))
    }

    /// Whether the process that wrote the suspension was kept and is still good; otherwise the suspension on
    /// the disk is the way back.
    async fn has_stopped_machine(&mut self) -> bool {
        let Some(machine) = self.machine.clone() else {
            return false;
        };
        let running = self.attend(async move { machine.is_running().await }).await;
        if matches!(running, Ok(false)) {
            return true;
        }
        tracing::warn!(microvm_id = %self.id, "the kept process is of no use; restoring from the disk");
        self.let_go().await;
        false
    }

    async fn check_memory(&mut self) -> Result<(), NotContinued> {
        let shared = Arc::clone(&self.shared);
        let (needs_more, mib) = (self.machine.is_none(), self.memory_mib);
        if !shared.has_disk_left() {
            // Awake, it would need room to sleep again.
            return Err(NotContinued::StaysSuspended(
                "No capacity: this host is short of disk.".into(),
            ));
        }
        let room = async move {
            if needs_more && !shared.has_memory_left().await {
                return Ok(Some(
                    "No capacity: this host is short of memory.".to_owned(),
                ));
            }
            loop {
                // This one is counted already.
                let in_use = shared.store.microvms_in_use().await?;
                let fits = in_use.running_memory_mib <= shared.admission().running_memory_mib;
                if fits {
                    return Ok(None);
                }
                if !shared.give_up_kept().await {
                    break;
                }
            }
            Ok::<_, StoreError>(Some(format!(
                "No capacity: the MicroVM's {mib} MiB do not fit into this host's memory."
            )))
        };
        let room = self.attend(room).await.map_err(|error| {
            NotContinued::StaysSuspended(self.host_failed("learn what memory is in use", &error))
        })?;
        room.map_or(Ok(()), |reason| Err(NotContinued::StaysSuspended(reason)))
    }

    /// Whatever it was, the suspension stays: an operator can put its files right, or bring back what it was
    /// frozen on. Only its window, its lifetime and its owner end it.
    fn resume_failed(&self, failure: &LaunchFailure) -> NotContinued {
        tracing::warn!(microvm_id = %self.id, error = %chain(failure), "could not resume");
        let went_back = self.went_back.as_ref().map(|told| format!("{told} "));
        NotContinued::StaysSuspended(went_back.unwrap_or_default() + &failure.for_owner())
    }

    async fn stay_suspended(&mut self, reason: String) {
        self.let_go().await;
        self.intents.wake = false;
        self.failure = Some(reason.clone());
        let transition = Transition::to(Phase::Suspended)
            .reason(Some(reason))
            .slot(None)
            .machine(None);
        // Only an end that came in between stops it.
        let _ = self.enter(Phase::Suspended, transition).await;
    }

    /// The guest runs: it learns the time, its application is told, the suspension goes.
    pub(crate) async fn finish_resume(&mut self) {
        if let Err(stopped) = self.try_finish_resume().await {
            self.stopped(stopped).await;
        }
    }

    async fn try_finish_resume(&mut self) -> Step<()> {
        let start = !std::mem::take(&mut self.guest_runs);
        if std::mem::take(&mut self.holds_suspension) {
            self.drop_suspension().await?;
        }
        let opened = self.opening(start)?;
        let dropped = self.dropping_suspension();
        // The suspension is void since this phase was written: it goes while the guest wakes.
        let (session, dropped) = self
            .attend_unless_ending(async { tokio::join!(opened, dropped) })
            .await?;
        self.session = Some(session?);
        dropped.map_err(|error| {
            Stopped::Failed(self.host_failed("remove the MicroVM's spent suspension", &error))
        })?;
        self.become_itself(Origin::Snapshot, Some(Hook::Resume))
            .await?;
        self.suspended_at = None;
        self.enter(
            Phase::Running,
            Transition::to(Phase::Running)
                .reason(self.went_back.clone())
                .suspended_at(None),
        )
        .await?;
        self.went_back = None;
        Ok(())
    }

    fn dropping_suspension(&self) -> impl Future<Output = Result<(), VmmError>> + use<> {
        let machine = self.machine.clone();
        async move {
            match machine {
                Some(machine) => machine.forget_suspension().await,
                None => Ok(()),
            }
        }
    }

    /// Removes what is left of a suspension that was continued: a later one must not be taken for it.
    pub(crate) async fn drop_suspension(&mut self) -> Step<()> {
        let dropping = self.dropping_suspension();
        let dropped = self.attend(dropping).await;
        dropped.map_err(|error| {
            Stopped::Failed(self.host_failed("remove the MicroVM's spent suspension", &error))
        })
    }
}
