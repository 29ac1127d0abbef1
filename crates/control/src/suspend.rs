//! From running to suspended, and back where traffic comes in between or the disk is full.

use std::sync::Arc;

use colibri_hypervisor::machine::VmmError;
use colibri_store::{Phase, Transition};

use crate::actor::{Actor, accept_all};
use crate::changes::Cause;
use crate::failure::chain;
use crate::flow::{Step, Stopped};
use crate::hooks::Hook;
use crate::launch::{Origin, kill, release};
use crate::session::Session;
use crate::settings::SuspendHookFailure;

impl Actor {
    /// A running MicroVM is to be suspended: written and published. Whoever else asked for it meanwhile has
    /// what was asked for.
    pub(crate) async fn begin_suspend(&mut self) {
        self.forget_wakes().await;
        let requested = self.requested.take();
        self.cause = requested.unwrap_or(Cause::Idle);
        // Only an end that came in between stops it.
        let _ = self
            .enter(
                Phase::Suspending,
                Transition::to(Phase::Suspending).reason(None),
            )
            .await;
        accept_all(&mut self.intents.suspend);
    }

    pub(crate) async fn suspend(&mut self) {
        if let Err(stopped) = self.try_suspend().await {
            self.stopped(stopped).await;
        }
    }

    async fn try_suspend(&mut self) -> Step<()> {
        if self.intents.wake {
            return self.run_again(None, None).await;
        }
        let told = match self.call(Hook::Suspend).await {
            Err(Stopped::Failed(reason)) if self.outlives_suspend_hook() => {
                tracing::info!(microvm_id = %self.id, reason, "not suspended");
                return self.run_again(Some(reason), None).await;
            }
            told => told?,
        };
        let back = told.then_some(Hook::Resume);
        if self.intents.wake {
            return self.run_again(None, back).await;
        }
        self.close_session().await;
        let machine = self
            .machine
            .clone()
            .ok_or_else(|| Stopped::Failed("The MicroVM has no machine.".into()))?;
        let suspending = Arc::clone(&machine);
        let captured = self.attend(async move { suspending.suspend().await }).await;
        self.unless_ending()?;
        match captured {
            Err(error) => self.suspend_failed(&error, back).await,
            Ok(_) if self.intents.wake => self.cancel(back).await,
            Ok(suspension) => {
                tracing::info!(
                    microvm_id = %self.id,
                    pages = suspension.manifest.pages,
                    stopped_micros = suspension.stopped_micros,
                    "suspended"
                );
                let now = self.fell_asleep();
                self.delta_bytes = Some(suspension.manifest.memory.length);
                self.enter(
                    Phase::Captured,
                    Transition::to(Phase::Captured).suspended_at(Some(now)),
                )
                .await
            }
        }
    }

    fn outlives_suspend_hook(&self) -> bool {
        let exit = self.session.as_ref().and_then(Session::exit_seen);
        let choice = self.shared.settings.suspend_hook_failure;
        exit.is_none() && choice == SuspendHookFailure::KeepRunning
    }

    /// The driver could not write the suspension: the guest is running again, and so is the MicroVM.
    async fn suspend_failed(&mut self, error: &VmmError, back: Option<Hook>) -> Step<()> {
        tracing::warn!(microvm_id = %self.id, error = %chain(error), "could not suspend; it keeps running");
        let reason = match error {
            VmmError::Ended { .. } | VmmError::Gone { .. } => {
                return Err(Stopped::Failed("The MicroVM stopped unexpectedly.".into()));
            }
            VmmError::StorageFull { .. } => {
                "The MicroVM could not be suspended: no space left. It keeps running."
            }
            _ => "The MicroVM could not be suspended. It keeps running.",
        };
        let opened = self.opening(false)?;
        self.session = Some(self.attend_unless_ending(opened).await??);
        self.run_again(Some(reason.into()), back).await
    }

    /// Traffic came while the guest was captured: the suspension is dropped and the guest goes on.
    async fn cancel(&mut self, back: Option<Hook>) -> Step<()> {
        let machine = self
            .machine
            .clone()
            .ok_or_else(|| Stopped::Failed("The MicroVM has no machine.".into()))?;
        let dropped = self
            .attend(async move { machine.forget_suspension().await })
            .await;
        dropped.map_err(|error| {
            Stopped::Failed(self.host_failed("drop the MicroVM's cancelled suspension", &error))
        })?;
        let opened = self.opening(true)?;
        self.session = Some(self.attend_unless_ending(opened).await??);
        self.run_again(None, back).await
    }

    /// A MicroVM whose suspension was given up runs again; its clock is put right, and its application is told
    /// where it had been told of the suspension.
    async fn run_again(&mut self, reason: Option<String>, back: Option<Hook>) -> Step<()> {
        self.intents.wake = false;
        self.become_itself(Origin::Pause, back).await?;
        self.enter(
            Phase::Running,
            Transition::to(Phase::Running).reason(reason),
        )
        .await
    }

    /// A captured MicroVM lets go of its process and its slot, unless the host has room to keep them: its
    /// row says in either case that it has neither.
    pub(crate) async fn put_away(&mut self) {
        self.handle.lease.forget();
        let delta_bytes = self.delta_bytes.take();
        if let (Some(bytes), Some(_), Some(_)) = (delta_bytes, &self.machine, &self.slot) {
            self.leave = self.shared.hot.admit(&self.id, bytes, &self.shared);
        }
        if self.leave.is_none() {
            self.let_go().await;
        }
        let transition = Transition::to(Phase::Suspended).slot(None).machine(None);
        // Only an end that came in between stops it.
        let _ = self.enter(Phase::Suspended, transition).await;
    }

    /// A suspended MicroVM's process goes; its suspension stays what it is.
    pub(crate) async fn give_up_process(&mut self) {
        tracing::debug!(microvm_id = %self.id, "giving up the kept process");
        self.let_go().await;
    }

    /// Ends the process and gives the slot back, however long it takes.
    pub(crate) async fn let_go(&mut self) {
        self.close_session().await;
        if let Some(machine) = self.machine.take() {
            self.persevere("end its machine", || kill(&machine)).await;
        }
        if let Some(record) = self.recorded.machine.take() {
            let vmm = Arc::clone(&self.shared.vmm);
            self.persevere("end its machine", || vmm.discard(&record))
                .await;
        }
        if let Some(index) = self.recorded.slot.take() {
            // One that cannot be had is gone; the next daemon sweeps what this is wrong about.
            self.slot = self.shared.network.adopt(index).await.ok();
        }
        self.served_guest = None;
        if let Some(slot) = self.slot.take() {
            self.persevere("release its network slot", || release(&slot))
                .await;
        }
        self.holds_suspension = false;
        if self.leave.take().is_some() {
            self.shared.hot.forget(&self.id);
        }
    }

    /// Calls a hook and waits for it; true when it is enabled.
    async fn call(&mut self, hook: Hook) -> Step<bool> {
        let Some((hook, call)) = self.hook_call(hook) else {
            return Ok(false);
        };
        let client = self.client()?;
        let outcome = self
            .attend_unless_ending(async move { client.call_hook(call).await })
            .await?;
        hook.failure(&outcome)
            .map_or(Ok(true), |reason| Err(self.unless_exited(reason)))
    }
}
