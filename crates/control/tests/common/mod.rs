//! A control plane on a simulated world, which a test can crash and start again.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "members are given as json! literals"
)]

pub(crate) mod invariants;
pub(crate) mod trial;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use colibri_control::{
    Clock, Control, EndpointForm, HostDisk, HostMemory, LogSink, MintFailure, NoCredentials, Parts,
    PassedRole, ReadyMachine, RoleCredentials, RoleKeys, Settings, StartFailure, TokenMint,
};
use colibri_store::Store;
use colibri_testkit::World;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::id::port::AllowedPorts;
use colibri_wire::page::PageKey;
use colibri_wire::shape::image::CreateMicrovmImageRequest;
use colibri_wire::shape::microvm::{MicrovmDescription, MicrovmState, RunMicrovmRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
pub(crate) const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:hello";
/// Bound of the wait for the sessions of a daemon that was killed.
const CLOSE_BOUND: Duration = Duration::from_secs(60);
/// When the simulated clock starts.
pub(crate) const EPOCH: i64 = 1_795_305_600_000;

#[derive(Default)]
pub(crate) struct MemoryLogs(Mutex<Vec<(String, String, String)>>);

impl MemoryLogs {
    pub(crate) fn lines(&self) -> Vec<(String, String, String)> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl LogSink for MemoryLogs {
    async fn append(&self, group: &str, stream: &str, events: Vec<(i64, String)>) {
        let events = events
            .into_iter()
            .map(|(_, line)| (group.to_owned(), stream.to_owned(), line));
        self.0.lock().unwrap().extend(events);
    }
}

/// Credentials of roles, numbered, good for 55 minutes.
pub(crate) struct NumberedKeys {
    pub(crate) made: Mutex<Vec<PassedRole>>,
    clock: Clock,
}

#[async_trait]
impl RoleKeys for NumberedKeys {
    async fn credentials(&self, passed: &PassedRole) -> Result<RoleCredentials, NoCredentials> {
        let mut made = self.made.lock().unwrap();
        made.push(passed.clone());
        if passed.role_arn.ends_with("/refused") {
            return Err(NoCredentials::Failed);
        }
        Ok(RoleCredentials {
            access_key_id: format!("ASIA{}", made.len()),
            secret_access_key: "secret".into(),
            session_token: "token".into(),
            issued_at: self.clock.now(),
            expires_at: self.clock.now() + 55 * 60 * 1000,
        })
    }
}

struct PlainTokens;

impl TokenMint for PlainTokens {
    fn endpoint_token(
        &self,
        microvm_id: &str,
        ports: &AllowedPorts,
        minutes: u32,
    ) -> Result<String, MintFailure> {
        Ok(format!(
            "{microvm_id}/{}/{minutes}",
            ports.specifications().len()
        ))
    }

    fn shell_token(&self, microvm_id: &str, minutes: u32) -> Result<String, MintFailure> {
        Ok(format!("shell/{microvm_id}/{minutes}"))
    }
}

pub(crate) struct Daemon {
    pub(crate) world: World,
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Clock,
    pub(crate) logs: Arc<MemoryLogs>,
    pub(crate) roles: Arc<NumberedKeys>,
    pub(crate) settings: Settings,
    /// The state as the test reads it: no fault is met on the way.
    pub(crate) store: Store,
    directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_in(temporary_directory(), change).await
    }

    /// A daemon on a data directory that another one left.
    pub(crate) async fn start_in(
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let place = Place {
            region: Region::parse("us-east-1").unwrap(),
            account: Account::parse("000000000000").unwrap(),
        };
        let endpoint = EndpointForm::UnderDomain("microvm.localhost:8443".into());
        let mut settings = Settings::new(
            place,
            directory.path().into(),
            endpoint,
            PageKey::new([7; 32]),
        );
        // What is kept for speed would be counted wherever a test counts machines; its own tests turn it on.
        settings.pool.enabled = false;
        settings.spares.enabled = false;
        settings.hot.enabled = false;
        settings.host_memory = HostMemory::simulated();
        settings.reserve_mib = 100;
        settings.host_disk = HostDisk::simulated();
        settings.disk_reserve_mib = 100;
        change(&mut settings);
        let (world, clock, logs) = (
            World::new(),
            Clock::following_runtime(EPOCH),
            Arc::new(MemoryLogs::default()),
        );
        let roles = Arc::new(NumberedKeys {
            made: Mutex::default(),
            clock: clock.clone(),
        });
        let store = open_store(&settings).await;
        let control = begin(&settings, &world, &clock, &logs, &roles, &store).await;
        let control = control.unwrap();
        Self {
            world,
            control,
            clock,
            logs,
            roles,
            settings,
            store,
            directory,
        }
    }

    /// A daemon with one image, built.
    pub(crate) async fn with_image() -> Self {
        Self::with_image_of(json!({})).await
    }

    /// A daemon with one image, built with these members more.
    pub(crate) async fn with_image_of(more: Value) -> Self {
        let daemon = Self::start().await;
        daemon.create_image(more).await;
        daemon
    }

    /// The daemon is killed and another one starts; the world goes on.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.crash().await;
        self.restart().await;
    }

    pub(crate) async fn crash(&self) {
        self.world.daemon_is_killed();
        self.control.abort().await;
        let closed = self.world.sessions_closed();
        tokio::time::timeout(CLOSE_BOUND, closed).await.unwrap();
        // A write that the dead daemon had begun ends before the next one starts, as with a real kill.
        self.store.forget_tokens(0).await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.world.daemon_restarts();
        self.reopen().await;
    }

    /// Ends this daemon in order; its data directory.
    pub(crate) async fn close(self) -> tempfile::TempDir {
        self.control.shutdown().await;
        self.directory
    }

    pub(crate) async fn reopen(&mut self) {
        self.try_reopen().await.unwrap();
    }

    /// Starts the next daemon, where it can start.
    pub(crate) async fn try_reopen(&mut self) -> Result<(), StartFailure> {
        let (settings, world) = (&self.settings, &self.world);
        let (clock, logs, roles) = (&self.clock, &self.logs, &self.roles);
        // First: where the start is cut off, the writes that it began are waited for in this store.
        self.store = open_store(settings).await;
        self.control = begin(settings, world, clock, logs, roles, &self.store).await?;
        Ok(())
    }

    pub(crate) fn image_request(more: Value) -> CreateMicrovmImageRequest {
        let mut request = json!({
            "name": "hello",
            "baseImageArn": BASE,
            "buildRoleArn": "arn:aws:iam::000000000000:role/build",
            "codeArtifact": { "uri": "s3://artifacts/hello.zip" },
            "resources": [{ "minimumMemoryInMiB": 512 }],
        });
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(request).unwrap()
    }

    pub(crate) async fn create_image(&self, more: Value) {
        self.control
            .create_microvm_image(Self::image_request(more))
            .await
            .unwrap();
        self.control.image_settled(IMAGE).await.unwrap();
    }

    pub(crate) fn run_request(more: Value) -> RunMicrovmRequest {
        let mut request = json!({ "imageIdentifier": IMAGE });
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(request).unwrap()
    }

    /// Runs a MicroVM and waits until it runs.
    pub(crate) async fn run(&self, more: Value) -> String {
        let id = self.launch(more).await;
        assert_eq!(
            self.reaches(&id, MicrovmState::Running).await,
            MicrovmState::Running
        );
        id
    }

    pub(crate) async fn launch(&self, more: Value) -> String {
        self.control
            .run_microvm(Self::run_request(more))
            .await
            .unwrap()
            .microvm_id
    }

    pub(crate) async fn reaches(&self, id: &str, state: MicrovmState) -> MicrovmState {
        let states = [state];
        let reached = self.control.microvm_reaches(id, &states);
        tokio::time::timeout(Duration::from_secs(100_000), reached)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn get(&self, id: &str) -> MicrovmDescription {
        let request = serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap();
        self.control.get_microvm(request).await.unwrap()
    }

    pub(crate) async fn suspend(&self, id: &str) -> Result<(), colibri_wire::ApiError> {
        self.control
            .suspend_microvm(serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap())
            .await
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<(), colibri_wire::ApiError> {
        self.control
            .resume_microvm(serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap())
            .await
    }

    /// As `resume`, back to the previous suspension where the last is damaged.
    pub(crate) async fn go_back(&self, id: &str) -> Result<(), colibri_wire::ApiError> {
        let request = serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap();
        let control = &self.control;
        control
            .resume_or_go_back(request, colibri_control::IfDamaged::GoBack)
            .await
    }

    /// What a failing disk does to the memory of a suspension.
    pub(crate) fn damage(&self, id: &str) {
        let file = self.settings.microvm_directory(id).join("memory.delta");
        std::fs::write(file, b"damaged").unwrap();
    }

    pub(crate) async fn terminate(&self, id: &str) -> Result<(), colibri_wire::ApiError> {
        self.control
            .terminate_microvm(serde_json::from_value(json!({ "microvmIdentifier": id })).unwrap())
            .await
    }

    pub(crate) async fn suspended(&self, id: &str) {
        self.suspend(id).await.unwrap();
        assert_eq!(
            self.reaches(id, MicrovmState::Suspended).await,
            MicrovmState::Suspended
        );
    }

    pub(crate) async fn terminated(&self, id: &str) -> String {
        assert_eq!(
            self.reaches(id, MicrovmState::Terminated).await,
            MicrovmState::Terminated
        );
        self.get(id).await.state_reason.unwrap_or_default()
    }

    /// Requests the application through the endpoint; the count of its requests.
    pub(crate) async fn request(&self, id: &str) -> u64 {
        let ready = self.control.ready(id).await.unwrap();
        requests(&ready, "/").await.unwrap()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn microvm_directories(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("microvms"))
            .unwrap()
            .count()
    }

    /// Nothing of any MicroVM is left but its row, and no trait's contract was broken on the way.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.world.machines(), Vec::<String>::new());
        assert!(self.world.slots().is_empty(), "{:?}", self.world.slots());
        assert_eq!(self.microvm_directories(), 0);
        assert_eq!(self.world.contract_breaches(), Vec::<String>::new());
    }
}

/// In memory where the host has such a file system: durability is not what these tests are about.
pub(crate) fn temporary_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

async fn open_store(settings: &Settings) -> Store {
    let path = settings.data_directory.join("state.db");
    Store::open(path).await.unwrap()
}

async fn begin(
    settings: &Settings,
    world: &World,
    clock: &Clock,
    logs: &Arc<MemoryLogs>,
    roles: &Arc<NumberedKeys>,
    store: &Store,
) -> Result<Arc<Control>, StartFailure> {
    let parts = Parts {
        settings: settings.clone(),
        store: store.clone().observed(world.journal()),
        vmm: world.vmm(),
        network: world.network(),
        builder: world.builder(),
        logs: Arc::clone(logs) as Arc<dyn LogSink>,
        tokens: Arc::new(PlainTokens),
        roles: Arc::clone(roles) as Arc<dyn RoleKeys>,
        clock: clock.clone(),
    };
    Control::start(parts).await
}

/// One HTTP request to the application; the count in its answer, where it is not cut off.
pub(crate) async fn requests(ready: &ReadyMachine, path: &str) -> Option<u64> {
    let mut stream = ready.connect(8080).await.ok()?;
    ready.active();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())
        .await
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let body = answer.split_once("\r\n\r\n")?.1;
    serde_json::from_str::<Value>(body)
        .ok()?
        .get("requests")?
        .as_u64()
}

/// Members of an image whose every hook is enabled.
pub(crate) fn all_hooks() -> Value {
    json!({
        "hooks": {
            "port": 9000,
            "microvmImageHooks": { "ready": "ENABLED" },
            "microvmHooks": {
                "run": "ENABLED", "runTimeoutInSeconds": 5,
                "suspend": "ENABLED", "suspendTimeoutInSeconds": 5,
                "resume": "ENABLED", "resumeTimeoutInSeconds": 5,
                "terminate": "ENABLED", "terminateTimeoutInSeconds": 5,
            },
        },
    })
}

/// A policy that suspends after a minute and wakes on traffic.
pub(crate) fn auto() -> Value {
    json!({ "idlePolicy": {
        "maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 600, "autoResumeEnabled": true,
    } })
}
