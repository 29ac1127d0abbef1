//! A client and a daemon that may be killed at any moment: what was cut off is asked again of the next
//! daemon, as a client would.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use colibri_control::Settings;
use colibri_store::Phase;
use colibri_testkit::Strike;
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Daemon, IMAGE, requests};

/// Bound of what a client waits for, in simulated time.
const PATIENCE: Duration = Duration::from_secs(40_000);
/// Times that a client repeats a call that failed for the service's own reasons.
const ATTEMPTS: u32 = 4;

/// Why a client did not get what it wanted.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The service said so: fine where a fault was planned.
    Told(String),
    /// It must never happen.
    Violation(String),
}

pub(crate) type Outcome<T> = Result<T, Trouble>;

pub(crate) fn violation<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Violation(what.into()))
}

/// Says what is wrong unless it holds.
pub(crate) fn holds(is_so: bool, what: impl FnOnce() -> String) -> Outcome<()> {
    if is_so { Ok(()) } else { violation(what()) }
}

pub(crate) struct Trial {
    pub(crate) daemon: Daemon,
    /// Strikes that come with the next starts, and the points that pass before each.
    pub(crate) later: VecDeque<(usize, Strike)>,
    /// The host goes down with the daemon, once.
    pub(crate) reboot: bool,
    /// Starts after the first.
    pub(crate) recoveries: usize,
    /// The points that were struck, in words.
    pub(crate) struck: Vec<String>,
    /// Client tokens of the MicroVMs that were asked for, and the ids that came.
    pub(crate) runs: BTreeMap<String, (Value, Option<String>)>,
    /// Requests that each MicroVM has answered.
    pub(crate) served: BTreeMap<String, u64>,
}

impl Trial {
    pub(crate) fn of(daemon: Daemon) -> Self {
        Self {
            daemon,
            later: VecDeque::new(),
            reboot: false,
            recoveries: 0,
            struck: Vec::new(),
            runs: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }

    /// Carries a call out, again with the next daemon where it is killed meanwhile.
    pub(crate) async fn call<T>(&mut self, call: impl AsyncFn(&Daemon) -> T) -> T {
        loop {
            tokio::select! {
                biased;
                () = self.daemon.world.points().crashed() => {}
                outcome = call(&self.daemon) => return outcome,
            }
            self.recover().await;
        }
    }

    /// As [`Trial::call`], within a client's patience.
    async fn patiently<T>(&mut self, what: &str, call: impl AsyncFn(&Daemon) -> T) -> Outcome<T> {
        let outcome = self
            .call(async |daemon: &Daemon| timeout(PATIENCE, call(daemon)).await)
            .await;
        outcome.or_else(|_| violation(format!("{what} never ended")))
    }

    /// The daemon is gone; the next one starts, however often that takes.
    pub(crate) async fn recover(&mut self) {
        loop {
            self.daemon.crash().await;
            if std::mem::take(&mut self.reboot) {
                self.daemon.world.reboot();
            }
            self.recoveries += 1;
            self.daemon.world.daemon_restarts();
            self.plan_next();
            let world = self.daemon.world.clone();
            tokio::select! {
                biased;
                () = world.points().crashed() => {}
                // One that cannot start says so and is started again.
                started = self.daemon.try_reopen() => if started.is_ok() { return },
            }
        }
    }

    /// The strike for the next daemon is planned when the one for this has come.
    fn plan_next(&mut self) {
        let points = self.daemon.world.points();
        if let Some(struck) = points.struck() {
            self.struck.push(struck);
            points.forget();
            if let Some((passed, strike)) = self.later.pop_front() {
                points.plan(passed, strike);
            }
        }
    }

    /// Every point that was struck.
    pub(crate) fn all_struck(&self) -> Vec<String> {
        let last = self.daemon.world.points().struck();
        self.struck.iter().cloned().chain(last).collect()
    }

    /// The daemon is killed here and now.
    pub(crate) async fn kill(&mut self) {
        self.daemon.world.points().crash();
        self.recover().await;
    }

    /// Repeats what failed for the service's own reasons, as the AWS clients do.
    pub(crate) async fn ask<T>(
        &mut self,
        what: &str,
        call: impl AsyncFn(&Daemon) -> Result<T, ApiError>,
    ) -> Outcome<T> {
        for attempt in 1.. {
            match self.patiently(what, &call).await? {
                Ok(value) => return Ok(value),
                Err(ApiError::InternalServer { .. }) if attempt < ATTEMPTS => {
                    sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(Trouble::Told(format!("{what}: {error}"))),
            }
        }
        unreachable!("the attempts are bounded")
    }

    /// Asks for a MicroVM under a client token; the id.
    pub(crate) async fn launch(&mut self, token: &str, more: Value) -> Outcome<String> {
        let mut request = more;
        request["clientToken"] = json!(token);
        self.runs.insert(token.to_owned(), (request.clone(), None));
        let id = self
            .ask("RunMicrovm", async |daemon: &Daemon| {
                let request = Daemon::run_request(request.clone());
                let answer = daemon.control.run_microvm(request).await;
                answer.map(|microvm| microvm.microvm_id)
            })
            .await?;
        self.runs
            .insert(token.to_owned(), (request, Some(id.clone())));
        Ok(id)
    }

    pub(crate) async fn run(&mut self, token: &str, more: Value) -> Outcome<String> {
        let id = self.launch(token, more).await?;
        self.reaches(&id, MicrovmState::Running).await?;
        Ok(id)
    }

    pub(crate) async fn suspend(&mut self, id: &str) -> Outcome<()> {
        self.ask("SuspendMicrovm", async |daemon: &Daemon| {
            daemon.suspend(id).await
        })
        .await
    }

    pub(crate) async fn resume(&mut self, id: &str) -> Outcome<()> {
        self.ask("ResumeMicrovm", async |daemon: &Daemon| {
            daemon.resume(id).await
        })
        .await
    }

    pub(crate) async fn go_back(&mut self, id: &str) -> Outcome<()> {
        self.ask("ResumeMicrovm", async |daemon: &Daemon| {
            daemon.go_back(id).await
        })
        .await
    }

    pub(crate) async fn terminate(&mut self, id: &str) -> Outcome<()> {
        self.ask("TerminateMicrovm", async |daemon: &Daemon| {
            daemon.terminate(id).await
        })
        .await
    }

    /// Waits for a state, or for the end.
    pub(crate) async fn reaches(&mut self, id: &str, state: MicrovmState) -> Outcome<()> {
        let stable = [state];
        let reached = self
            .call(async |daemon: &Daemon| {
                timeout(PATIENCE, daemon.control.microvm_reaches(id, &stable)).await
            })
            .await;
        match reached {
            Ok(Ok(reached)) if reached == state => Ok(()),
            Ok(Ok(reached)) => Err(Trouble::Told(format!("{id} is {reached:?}, not {state:?}"))),
            Ok(Err(error)) => violation(format!("{id} is lost: {error}")),
            Err(_) => {
                let now = self.stable(id).await?;
                Err(Trouble::Told(format!("{id} stays {now:?}, not {state:?}")))
            }
        }
    }

    /// Waits until a MicroVM rests.
    pub(crate) async fn stable(&mut self, id: &str) -> Outcome<MicrovmState> {
        let states = [MicrovmState::Running, MicrovmState::Suspended];
        let reached = self
            .patiently(
                &format!("the transition of {id}"),
                async |daemon: &Daemon| daemon.control.microvm_reaches(id, &states).await,
            )
            .await?;
        reached.or_else(|error| violation(format!("{id} is lost: {error}")))
    }

    /// One request to the application, waking it; checks that it remembers every earlier one.
    pub(crate) async fn request(&mut self, id: &str) -> Outcome<()> {
        let answered = self
            .patiently("a request", async |daemon: &Daemon| {
                let ready = daemon.control.ready(id).await;
                let ready = ready.map_err(|reason| reason.to_string())?;
                Ok::<_, String>(requests(&ready, "/").await)
            })
            .await?;
        let earlier = self.served.get(id).copied().unwrap_or(0);
        match answered {
            // A request that was cut off may have been counted.
            Ok(Some(count)) if count > earlier => {
                self.served.insert(id.to_owned(), count);
                Ok(())
            }
            Ok(Some(count)) => violation(format!("{id} forgot requests: {count} after {earlier}")),
            Ok(None) => Err(Trouble::Told(format!("{id} cut a request off"))),
            Err(reason) => Err(Trouble::Told(format!("{id} is not ready: {reason}"))),
        }
    }

    /// The phase in the store.
    pub(crate) async fn phase(&self, id: &str) -> Option<Phase> {
        let row = self.daemon.store.microvm(id.to_owned()).await;
        row.ok().flatten().map(|row| row.phase)
    }

    pub(crate) async fn image_settled(&mut self) -> Outcome<bool> {
        let settled = self
            .patiently("an image's transition", async |daemon: &Daemon| {
                daemon.control.image_settled(IMAGE).await
            })
            .await?;
        let settled = settled.or_else(|error| violation(format!("the image is lost: {error}")))?;
        Ok(settled.is_some())
    }
}

/// A data directory in which an image was built, to begin many trials with.
pub(crate) struct Template(tempfile::TempDir);

impl Template {
    pub(crate) fn make(more: &Value, change: impl FnOnce(&mut Settings)) -> Self {
        let runtime = runtime();
        let directory = runtime.block_on(async {
            let daemon = Daemon::start_with(change).await;
            daemon.create_image(more.clone()).await;
            daemon.close().await
        });
        Self(directory)
    }

    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let directory = super::temporary_directory();
        copy(self.0.path(), directory.path());
        directory
    }

    /// Every file below `images` with its content.
    pub(crate) fn bases(directory: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(directory, &directory.join("images"), &mut files);
        files
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&there).unwrap();
            copy(&entry.path(), &there);
        } else {
            std::fs::copy(entry.path(), there).unwrap();
        }
    }
}

fn collect(
    root: &std::path::Path,
    directory: &std::path::Path,
    files: &mut BTreeMap<String, Vec<u8>>,
) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// A runtime whose clock moves only when everything waits.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

impl Template {
    /// Nothing at all.
    pub(crate) fn empty() -> Self {
        Self(super::temporary_directory())
    }
}
