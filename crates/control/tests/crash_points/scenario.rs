//! Every transition there is, as a client and the host bring it about.

use std::time::Duration;

use colibri_control::Settings;
use colibri_testkit::HookPlan;
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use serde_json::{Value, json};

use crate::common::trial::{Outcome, Trial, Trouble, holds, violation};
use crate::common::{Daemon, IMAGE, all_hooks};

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Scenario { $($name),* }

        impl Scenario {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

scenarios!(
    Launch,
    LaunchFromPool,
    LaunchWithFailingHook,
    Suspend,
    SuspendAndKeep,
    SuspendIdle,
    SuspendCancelled,
    EvictKept,
    Resume,
    ResumeKept,
    ResumeByTraffic,
    ResumeDamaged,
    GoBack,
    TerminateLaunching,
    TerminateRunning,
    TerminateSuspending,
    TerminateSuspended,
    TerminateKept,
    TerminateResuming,
    IdleOver,
    LifetimeOverRunning,
    LifetimeOverSuspended,
    WindowOver,
    ApplicationExits,
    ProcessDies,
    CreateImage,
    CreateImageAndStock,
    UpdateImage,
    DeleteImage,
    DeleteVersion,
    Housekeeping,
    Restart,
    Shutdown,
);

/// A policy under which nothing happens by itself within a trial.
fn patient() -> Value {
    json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 28_800, "suspendedDurationSeconds": 28_800, "autoResumeEnabled": true,
    } })
}

fn policy(idle: u32, window: u32) -> Value {
    json!({ "idlePolicy": {
        "maxIdleDurationSeconds": idle, "suspendedDurationSeconds": window, "autoResumeEnabled": true,
    } })
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Scenario {
    pub(crate) fn settings(self, settings: &mut Settings) {
        use Scenario::{
            CreateImageAndStock, EvictKept, LaunchFromPool, Restart, ResumeKept, Shutdown,
            SuspendAndKeep, TerminateKept,
        };
        settings.pool.enabled = matches!(self, LaunchFromPool | CreateImageAndStock | Shutdown);
        settings.pool.memory_mib = 10_000;
        settings.pool.machines_per_version = 1;
        settings.hot.enabled = matches!(
            self,
            SuspendAndKeep | EvictKept | ResumeKept | TerminateKept | Restart | Shutdown
        );
        settings.hot.memory_mib = 10_000;
        settings.hot.longest = Duration::from_secs(1_000_000);
    }

    /// Whether it begins without the image that the others have.
    pub(crate) fn begins_empty(self) -> bool {
        matches!(self, Self::CreateImage | Self::CreateImageAndStock)
    }

    pub(crate) fn changes_images(self) -> bool {
        matches!(
            self,
            Self::CreateImage
                | Self::CreateImageAndStock
                | Self::UpdateImage
                | Self::DeleteImage
                | Self::DeleteVersion
                | Self::Restart
        )
    }

    /// Brings about what it begins with; nothing goes wrong here. The MicroVM that it is about.
    pub(crate) async fn prepare(self, trial: &mut Trial) -> Outcome<String> {
        match self {
            Self::Launch | Self::TerminateLaunching | Self::CreateImage => Ok(String::new()),
            Self::CreateImageAndStock | Self::UpdateImage | Self::DeleteImage => Ok(String::new()),
            Self::LaunchFromPool | Self::Shutdown => {
                // A build stocks the pool; so does a launch.
                let id = trial.run("first", patient()).await?;
                trial.terminate(&id).await?;
                trial.reaches(&id, MicrovmState::Terminated).await?;
                pool_is_stocked(trial).await?;
                Ok(String::new())
            }
            Self::LaunchWithFailingHook => {
                trial.daemon.world.plan_hook("run", HookPlan::Status(500));
                Ok(String::new())
            }
            Self::SuspendIdle => running(trial, policy(60, 28_800)).await,
            Self::IdleOver => running(trial, policy(60, 0)).await,
            Self::LifetimeOverRunning => {
                running(trial, json!({ "maximumDurationInSeconds": 600 })).await
            }
            Self::LifetimeOverSuspended => {
                asleep(trial, json!({ "maximumDurationInSeconds": 600 })).await
            }
            Self::WindowOver => asleep(trial, policy(28_800, 60)).await,
            Self::EvictKept
            | Self::Resume
            | Self::ResumeKept
            | Self::ResumeByTraffic
            | Self::TerminateSuspended
            | Self::TerminateKept
            | Self::TerminateResuming => asleep(trial, patient()).await,
            Self::ResumeDamaged | Self::GoBack => damaged(trial).await,
            Self::Suspend
            | Self::SuspendAndKeep
            | Self::SuspendCancelled
            | Self::TerminateRunning
            | Self::TerminateSuspending
            | Self::ApplicationExits
            | Self::ProcessDies => running(trial, patient()).await,
            Self::DeleteVersion => {
                let id = running(trial, patient()).await?;
                update_image(trial).await?;
                Ok(id)
            }
            Self::Housekeeping => {
                let id = running(trial, patient()).await?;
                trial.terminate(&id).await?;
                trial.reaches(&id, MicrovmState::Terminated).await?;
                trial.runs.clear();
                Ok(id)
            }
            Self::Restart => populated(trial).await,
        }
    }

    /// The transition; what it ends in.
    pub(crate) async fn play(self, trial: &mut Trial, id: &str) -> Outcome<()> {
        use MicrovmState::{Running, Suspended, Terminated};
        match self {
            Self::Launch | Self::LaunchFromPool => {
                let id = trial.run("token", launch_with_payload()).await?;
                trial.request(&id).await
            }
            Self::LaunchWithFailingHook => {
                let id = trial.launch("token", patient()).await?;
                let ended = trial.reaches(&id, Terminated).await;
                trial.daemon.world.plan_hook("run", HookPlan::Status(200));
                ended
            }
            Self::Suspend | Self::SuspendAndKeep => {
                trial.suspend(id).await?;
                trial.reaches(id, Suspended).await
            }
            Self::SuspendIdle => trial.reaches(id, Suspended).await,
            Self::SuspendCancelled => {
                trial.suspend(id).await?;
                trial.request(id).await?;
                trial.reaches(id, Running).await
            }
            Self::EvictKept => {
                trial.daemon.settings.host_memory.set_available_percent(5);
                let evicted = process_is_gone(trial, id).await;
                trial.daemon.settings.host_memory.set_available_percent(100);
                evicted?;
                trial.reaches(id, Suspended).await
            }
            Self::Resume | Self::ResumeKept => {
                trial.resume(id).await?;
                trial.reaches(id, Running).await
            }
            Self::ResumeByTraffic => trial.request(id).await,
            Self::ResumeDamaged => {
                trial.resume(id).await?;
                let refused = trial.reaches(id, Suspended).await;
                went_back(trial, id).await?;
                refused
            }
            Self::GoBack => went_back(trial, id).await,
            Self::TerminateLaunching => {
                let id = trial.launch("token", patient()).await?;
                end(trial, &id).await
            }
            Self::TerminateRunning | Self::TerminateSuspended | Self::TerminateKept => {
                end(trial, id).await
            }
            Self::TerminateSuspending => {
                trial.suspend(id).await?;
                end(trial, id).await
            }
            Self::TerminateResuming => {
                trial.resume(id).await?;
                end(trial, id).await
            }
            Self::IdleOver
            | Self::LifetimeOverRunning
            | Self::LifetimeOverSuspended
            | Self::WindowOver => trial.reaches(id, Terminated).await,
            Self::ApplicationExits => {
                if let Some(guest) = trial.daemon.world.guest(id) {
                    guest.exit_application(3);
                }
                trial.reaches(id, Terminated).await
            }
            Self::ProcessDies => {
                trial.daemon.world.kill_process(id);
                trial.reaches(id, Terminated).await
            }
            Self::CreateImage => create_image(trial).await,
            Self::CreateImageAndStock => {
                create_image(trial).await?;
                pool_is_stocked(trial).await
            }
            Self::UpdateImage => update_image(trial).await,
            Self::DeleteImage => delete_image(trial).await,
            Self::DeleteVersion => {
                delete_version(trial).await?;
                trial.request(id).await
            }
            Self::Housekeeping => forgotten(trial, id).await,
            Self::Restart => {
                trial.kill().await;
                trial.image_settled().await?;
                trial.request(id).await
            }
            Self::Shutdown => {
                trial
                    .call(async |daemon: &Daemon| daemon.control.shutdown().await)
                    .await;
                trial.kill().await;
                Ok(())
            }
        }
    }
}

fn launch_with_payload() -> Value {
    let mut request = patient();
    request["runHookPayload"] = json!("secret");
    request
}

async fn running(trial: &mut Trial, more: Value) -> Outcome<String> {
    let id = trial.run("prepared", more).await?;
    trial.request(&id).await?;
    Ok(id)
}

async fn asleep(trial: &mut Trial, more: Value) -> Outcome<String> {
    let id = running(trial, more).await?;
    trial.suspend(&id).await?;
    trial.reaches(&id, MicrovmState::Suspended).await?;
    Ok(id)
}

/// One whose last suspension is damaged, and which the one before brings back as it was two requests ago.
async fn damaged(trial: &mut Trial) -> Outcome<String> {
    let id = asleep(trial, patient()).await?;
    trial.request(&id).await?;
    trial.request(&id).await?;
    trial.suspend(&id).await?;
    trial.reaches(&id, MicrovmState::Suspended).await?;
    trial.daemon.damage(&id);
    trial.served.insert(id.clone(), 1);
    Ok(id)
}

/// Asked as often as it takes: a daemon that is killed forgets that it was to go back.
async fn went_back(trial: &mut Trial, id: &str) -> Outcome<()> {
    for _ in 0..4 {
        trial.go_back(id).await?;
        let state = trial.stable(id).await?;
        if state == MicrovmState::Running {
            trial.request(id).await?;
            let served = trial.served.get(id).copied();
            return holds(served == Some(2), || format!("{id} answered {served:?}"));
        }
    }
    violation(format!("{id} does not go back"))
}

/// MicroVMs in every state that lasts, and a build under way.
async fn populated(trial: &mut Trial) -> Outcome<String> {
    let awake = trial.run("awake", patient()).await?;
    trial.request(&awake).await?;
    let asleep = trial.run("asleep", patient()).await?;
    trial.request(&asleep).await?;
    trial.suspend(&asleep).await?;
    trial.reaches(&asleep, MicrovmState::Suspended).await?;
    let ended = trial.run("ended", patient()).await?;
    end(trial, &ended).await?;
    let faults = trial.daemon.world.faults();
    faults.next(
        colibri_testkit::Operation::Build,
        colibri_testkit::Fault::Hang,
    );
    begin_update(trial).await?;
    let world = trial.daemon.world.clone();
    world
        .faults()
        .hanging(colibri_testkit::Operation::Build)
        .await;
    Ok(awake)
}

async fn end(trial: &mut Trial, id: &str) -> Outcome<()> {
    trial.terminate(id).await?;
    trial.reaches(id, MicrovmState::Terminated).await
}

/// Waits in simulated time for what the daemon does by itself.
async fn until(trial: &mut Trial, what: &str, is_so: impl AsyncFn(&Daemon) -> bool) -> Outcome<()> {
    for _ in 0..2_000 {
        if trial.call(&is_so).await {
            return Ok(());
        }
        trial
            .call(async |_: &Daemon| tokio::time::sleep(Duration::from_secs(1)).await)
            .await;
    }
    Err(Trouble::Told(format!("never: {what}")))
}

async fn pool_is_stocked(trial: &mut Trial) -> Outcome<()> {
    until(
        trial,
        "a machine waits in the pool",
        async |daemon: &Daemon| {
            let world = &daemon.world;
            world.machines().iter().any(|id| {
                let guest = world.guest(id);
                id.starts_with("pool-")
                    && guest
                        .is_some_and(|guest| !guest.is_running() && guest.identities_assumed() > 0)
            })
        },
    )
    .await
}

async fn process_is_gone(trial: &mut Trial, id: &str) -> Outcome<()> {
    until(trial, "the kept process goes", async |daemon: &Daemon| {
        daemon.world.guest(id).is_none()
    })
    .await
}

async fn create_image(trial: &mut Trial) -> Outcome<()> {
    trial
        .ask("CreateMicrovmImage", async |daemon: &Daemon| {
            let mut more = all_hooks();
            more["clientToken"] = json!("image");
            let request = Daemon::image_request(more);
            daemon.control.create_microvm_image(request).await.map(drop)
        })
        .await?;
    let there = trial.image_settled().await?;
    holds(there, || "the new image is gone".into())?;
    version_is(trial, 1).await
}

async fn begin_update(trial: &mut Trial) -> Outcome<()> {
    trial
        .ask("UpdateMicrovmImage", async |daemon: &Daemon| {
            let request: Value = serde_json::to_value(Daemon::image_request(all_hooks())).unwrap();
            let mut request = request;
            request["imageIdentifier"] = json!(IMAGE);
            request["clientToken"] = json!("update");
            daemon
                .control
                .update_microvm_image(of(request))
                .await
                .map(drop)
        })
        .await
}

async fn update_image(trial: &mut Trial) -> Outcome<()> {
    begin_update(trial).await?;
    trial.image_settled().await?;
    version_is(trial, 2).await
}

async fn version_is(trial: &mut Trial, wanted: u32) -> Outcome<()> {
    let image = trial.daemon.store.image("hello".into()).await;
    let latest = image.ok().flatten().and_then(|image| image.latest_active);
    if latest == Some(wanted) {
        return Ok(());
    }
    Err(Trouble::Told(format!(
        "the newest version is {latest:?}, not {wanted}"
    )))
}

async fn delete_image(trial: &mut Trial) -> Outcome<()> {
    trial
        .ask("DeleteMicrovmImage", async |daemon: &Daemon| {
            let request = of(json!({ "imageIdentifier": IMAGE }));
            gone_is_fine(daemon.control.delete_microvm_image(request).await.map(drop))
        })
        .await?;
    if trial.image_settled().await? {
        return Err(Trouble::Told("the image is still there".into()));
    }
    Ok(())
}

async fn delete_version(trial: &mut Trial) -> Outcome<()> {
    trial
        .ask("DeleteMicrovmImageVersion", async |daemon: &Daemon| {
            let request = of(json!({ "imageIdentifier": IMAGE, "imageVersion": "1.0" }));
            let deleted = daemon.control.delete_microvm_image_version(request).await;
            gone_is_fine(deleted.map(drop))
        })
        .await?;
    trial.image_settled().await?;
    let image = trial
        .daemon
        .store
        .image("hello".into())
        .await
        .unwrap()
        .unwrap();
    let left = trial.daemon.store.version(image.id, 1).await.unwrap();
    if left.is_some() {
        return Err(Trouble::Told("the version is still there".into()));
    }
    Ok(())
}

/// A client that asks again after a crash finds the deletion done or under way.
fn gone_is_fine(deleted: Result<(), ApiError>) -> Result<(), ApiError> {
    match deleted {
        Err(ApiError::ResourceNotFound { .. } | ApiError::Conflict { .. }) => Ok(()),
        other => other,
    }
}

async fn forgotten(trial: &mut Trial, id: &str) -> Outcome<()> {
    for _ in 0..400 {
        trial
            .call(async |_: &Daemon| tokio::time::sleep(Duration::from_secs(600)).await)
            .await;
        let row = trial.daemon.store.microvm(id.to_owned()).await;
        if row.ok().flatten().is_none() {
            return Ok(());
        }
    }
    Err(Trouble::Told(
        "the row of an ended MicroVM stays for ever".into(),
    ))
}
