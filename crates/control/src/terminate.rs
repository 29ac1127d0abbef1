//! From any phase to nothing: no process, no slot, no file, only the row.

use std::sync::Arc;
use std::time::Duration;

use colibri_store::{Phase, Transition};
use tokio::time::timeout;

use crate::actor::Actor;
use crate::bases;
use crate::hooks::Hook;
use crate::launch::remove_directory;

/// What an orderly stop may take beyond the application's grace time.
const STOP_MARGIN: Duration = Duration::from_secs(2);

impl Actor {
    pub(crate) async fn end(&mut self) {
        if self.orderly {
            self.tell_application().await;
        }
        self.let_go().await;
        let directory = self.shared.settings.microvm_directory(&self.id);
        self.persevere("remove its directory", || remove_directory(&directory))
            .await;
        let now = self.shared.clock.now();
        let mut transition = Transition::to(Phase::Terminated)
            .slot(None)
            .machine(None)
            .payload_spent()
            .ended_at(now);
        // Written when the end began, unless the disk was full then; a recovered end has only what was written.
        if let Some(reason) = self.end_reason.clone() {
            transition = transition.reason(Some(reason));
        }
        self.persist(transition).await;
        self.phase = Phase::Terminated;
        self.publish();
        bases::sweep(&self.shared).await;
    }

    /// The application of a MicroVM that ran well is told, and stopped in order. Its failures are its own.
    async fn tell_application(&mut self) {
        let Ok(client) = self.client() else { return };
        if self
            .session
            .as_ref()
            .is_some_and(|session| session.exit_seen().is_some())
        {
            return;
        }
        if let Some((hook, call)) = self.hook_call(Hook::Terminate) {
            let caller = Arc::clone(&client);
            let outcome = self
                .attend(async move { caller.call_hook(call).await })
                .await;
            if let Some(failure) = hook.failure(&outcome) {
                tracing::info!(microvm_id = %self.id, failure, "the terminate hook failed");
            }
        }
        let grace = self.shared.settings.stop_grace;
        let stopped = self
            .attend(timeout(grace + STOP_MARGIN, async move {
                client.stop(grace).await
            }))
            .await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::info!(microvm_id = %self.id, "the application did not stop in order");
        }
    }
}
