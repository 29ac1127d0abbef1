//! Every change of state is told to the observer, with what caused it.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

mod common;

use std::sync::{Arc, Mutex};

use colibri_control::{Cause, Change, Observer, Subject, on_behalf_of};
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE};
use serde_json::json;
use tokio::sync::Notify;

#[derive(Default)]
struct Notes {
    changes: Mutex<Vec<Change>>,
    told: Notify,
}

impl Observer for Notes {
    fn changed(&self, change: Change) {
        self.changes.lock().unwrap().push(change);
        self.told.notify_one();
    }
}

impl Notes {
    /// Completes when the change has been told: a client can see a state before the observer does.
    async fn until(&self, is_awaited: impl Fn(&Change) -> bool) {
        while !self.changes.lock().unwrap().iter().any(&is_awaited) {
            self.told.notified().await;
        }
    }

    async fn until_phase(&self, phase: &str) {
        self.until(|change| change.phase == Some(phase)).await;
    }

    async fn until_state(&self, state: &str) {
        self.until(|change| change.state == state).await;
    }

    /// Phases and causes of MicroVMs since the last look.
    fn microvms(&self) -> Vec<(&'static str, Cause)> {
        std::mem::take(&mut *self.changes.lock().unwrap())
            .into_iter()
            .filter(|change| matches!(change.subject, Subject::Microvm { .. }))
            .map(|change| (change.phase.unwrap(), change.cause))
            .collect()
    }

    /// States and causes of the rest since the last look.
    fn images(&self) -> Vec<(String, Cause)> {
        std::mem::take(&mut *self.changes.lock().unwrap())
            .into_iter()
            .filter(|change| !matches!(change.subject, Subject::Microvm { .. }))
            .map(|change| (change.state, change.cause))
            .collect()
    }
}

fn by(request: &str) -> Cause {
    Cause::Request(request.into())
}

#[tokio::test(start_paused = true)]
async fn every_change_is_told_with_its_cause() {
    let notes = Arc::new(Notes::default());
    let observer = Arc::clone(&notes);
    let mut daemon = Daemon::start_with(|settings| settings.observer = observer).await;
    on_behalf_of("create".into(), daemon.create_image(json!({}))).await;
    notes.until_state("CREATED").await;
    let states = notes.images();
    let expected = ["CREATING", "IN_PROGRESS", "SUCCESSFUL", "CREATED"];
    assert_eq!(
        states,
        expected.map(|state| (state.to_owned(), by("create")))
    );

    let idle = json!({
        "maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 600, "autoResumeEnabled": true,
    });
    let run = daemon.run(json!({ "idlePolicy": idle }));
    let id = on_behalf_of("run".into(), run).await;
    notes.until_phase("running").await;
    assert_eq!(
        notes.microvms(),
        [("launching", by("run")), ("running", by("run"))]
    );

    assert_eq!(
        daemon.reaches(&id, MicrovmState::Suspended).await,
        MicrovmState::Suspended
    );
    notes.until_phase("suspended").await;
    let slept = notes.microvms();
    assert_eq!(slept.first(), Some(&("suspending", Cause::Idle)));
    assert_eq!(slept.last(), Some(&("suspended", Cause::Idle)));

    let resume = serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap();
    on_behalf_of("resume".into(), daemon.control.resume_microvm(resume))
        .await
        .unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    notes.until_phase("running").await;
    let woken = notes.microvms();
    assert_eq!(woken.first(), Some(&("resuming", by("resume"))));
    assert_eq!(woken.last(), Some(&("running", by("resume"))));

    daemon.crash_and_restart().await;
    let terminate = serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap();
    on_behalf_of("end".into(), daemon.control.terminate_microvm(terminate))
        .await
        .unwrap();
    daemon.reaches(&id, MicrovmState::Terminated).await;
    notes.until_phase("terminated").await;
    assert_eq!(
        notes.microvms(),
        [("terminating", by("end")), ("terminated", by("end"))]
    );

    let delete = serde_json::from_value(json!({ "imageIdentifier": IMAGE })).unwrap();
    on_behalf_of("delete".into(), daemon.control.delete_microvm_image(delete))
        .await
        .unwrap();
    daemon.control.image_settled(IMAGE).await.unwrap();
    notes.until_state("DELETED").await;
    assert_eq!(
        notes.images(),
        ["DELETING", "DELETED"].map(|state| (state.to_owned(), by("delete")))
    );
}
