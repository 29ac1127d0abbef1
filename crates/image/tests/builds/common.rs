//! What the tests of real container builds share: a hypervisor that shows the root disk instead of
//! booting it, a network of one real namespace, artifacts and a log in memory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use colibri_hypervisor::machine::{Architecture, VmmError};
use colibri_hypervisor::{
    BootSpec, LaunchSpec, Machine, MachineRecord, MachineShape, SpareSpec, Vmm, VmmDescription,
};
use colibri_image::{
    ArtifactError, Artifacts, BuildFailure, BuildLog, BuildLogs, BuildRequest, BuildStage,
    BuilderSettings, BuiltImage, ContainerImageBuilder, GuestAssets, GuestFiles, HookSettings,
    ImageBuilder as _, Progress,
};
use colibri_network::{
    Egress, Grant, GuestListener, GuestStream, Network, NetworkError, Slot, SlotUsage,
};
use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};

/// The base image of these tests; `scripts/base-image` provides it.
pub(crate) const BASE: &str = "docker.io/library/debian:12-slim";

/// The directory that the builders of this test's process share: one storage, so that the base image
/// is prepared once.
pub(crate) struct Ground {
    pub(crate) directory: TempDir,
    pub(crate) log: Arc<Lines>,
    pub(crate) network: Arc<OneNamespace>,
    pub(crate) vmm: Arc<Showcase>,
    pub(crate) stages: Arc<Stages>,
}

/// Everything for a build; `None`, with the reason printed, where this machine cannot run one.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn ground() -> Option<Ground> {
    let runs = |program: &str, arguments: &[&str]| {
        let command = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        command.is_ok_and(|status| status.success())
    };
    let missing = if !rustix::process::geteuid().is_root() {
        Some("container builds need root".to_owned())
    } else if !runs("buildah", &["inspect", "--type", "image", BASE]) {
        Some(format!(
            "no buildah, or no local image {BASE} (scripts/base-image makes it)"
        ))
    } else {
        None
    };
    if let Some(missing) = missing {
        let required = std::env::var_os("COLIBRI_TEST_REQUIRED").is_some();
        assert!(!required, "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    Some(Ground {
        directory: tempfile::tempdir().unwrap(),
        log: Arc::default(),
        network: Arc::new(OneNamespace::new()),
        vmm: Arc::default(),
        stages: Arc::default(),
    })
}

impl Ground {
    pub(crate) fn settings(&self) -> BuilderSettings {
        let mut settings = BuilderSettings::below(self.directory.path());
        settings.run_directory = self.directory.path().join("run");
        settings
    }

    pub(crate) fn builder(
        &self,
        settings: BuilderSettings,
        files: &[(&str, &str)],
    ) -> ContainerImageBuilder {
        let nothing = PathBuf::from("/dev/null");
        let guest = GuestAssets::of(vec![GuestFiles {
            architecture: Architecture::X86_64,
            kernel_version: "none".into(),
            kernel: nothing.clone(),
            initramfs: nothing,
            kernel_arguments: Vec::new(),
        }]);
        let artifacts = Arc::new(Zip(packed(files)));
        let log: Arc<dyn BuildLogs> = Arc::new(Opened(Arc::clone(&self.log)));
        let vmm: Arc<dyn Vmm> = self.vmm.clone();
        let network: Arc<dyn Network> = self.network.clone();
        ContainerImageBuilder::new(settings, vmm, network, artifacts, guest, log)
    }

    pub(crate) fn request(&self) -> BuildRequest {
        let directory = self.directory.path().join("base");
        std::fs::create_dir_all(&directory).unwrap();
        BuildRequest {
            build_id: uuid::Uuid::new_v4().to_string(),
            image_name: "shop".into(),
            image_arn: "arn:aws:lambda:us-east-1:000000000000:microvm-image:shop".into(),
            image_version: "1.0".into(),
            base_version: 1,
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            key: "shop.zip".into(),
            shape: MachineShape {
                architecture: Architecture::X86_64,
                vcpus: 1,
                memory_mib: 512,
            },
            disk_bytes: 1 << 30,
            environment: Vec::new(),
            all_capabilities: false,
            egress: Egress::Sealed,
            hooks: HookSettings::default(),
            directory,
            log_group: "/aws/lambda-microvms/shop".into(),
            log_stream: Some("build".into()),
        }
    }

    /// Builds with the default settings.
    pub(crate) async fn build(&self, files: &[(&str, &str)]) -> Result<BuiltImage, BuildFailure> {
        let progress: Arc<dyn Progress> = self.stages.clone();
        self.builder(self.settings(), files)
            .build(self.request(), progress)
            .await
    }

    /// Runs `buildah` on the builds' storage.
    pub(crate) fn buildah(&self, arguments: &[&str]) -> String {
        let root = self.directory.path().join("containers/storage");
        let run = self.directory.path().join("run");
        let storage: [&OsStr; 6] = [
            "--storage-driver".as_ref(),
            "overlay".as_ref(),
            "--root".as_ref(),
            root.as_ref(),
            "--runroot".as_ref(),
            run.as_ref(),
        ];
        let output = Command::new("buildah")
            .args(storage)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asserts that nothing of any build is left.
    pub(crate) fn assert_nothing_left(&self) {
        let below = |name: &str| {
            let entries = std::fs::read_dir(self.directory.path().join(name))
                .into_iter()
                .flatten()
                .flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        assert!(below("builds").is_empty(), "{:?}", below("builds"));
        assert!(below("base").is_empty(), "{:?}", below("base"));
        let list = |what: &str| self.buildah(&[what, "--quiet"]);
        assert_eq!(
            (list("containers").as_str(), list("images").as_str()),
            ("", "")
        );
        assert_eq!(
            *self.network.taken.lock().unwrap(),
            0,
            "slots not given back"
        );
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let here = self.directory.path().display().to_string();
        assert!(
            !mounts
                .lines()
                .any(|mount| mount.contains(&here) && mount.contains("merged")),
            "{mounts}"
        );
    }
}

fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer
            .start_file(*name, SimpleFileOptions::default().unix_permissions(0o755))
            .unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

struct Zip(Vec<u8>);

#[async_trait]
impl Artifacts for Zip {
    async fn fetch(
        &self,
        _bucket: &str,
        _key: &str,
        into: &Path,
        limit: u64,
    ) -> Result<u64, ArtifactError> {
        let length = self.0.len() as u64;
        if length > limit {
            return Err(ArtifactError::TooLarge { length, limit });
        }
        tokio::fs::write(into, &self.0).await?;
        Ok(length)
    }
}

/// A log whose lines can be waited for.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<Vec<String>>,
    written: tokio::sync::Notify,
}

impl Lines {
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub(crate) async fn wait_for(&self, text: &str) {
        let seen = async {
            loop {
                let written = self.written.notified();
                if self
                    .lines
                    .lock()
                    .unwrap()
                    .iter()
                    .any(|line| line.contains(text))
                {
                    return;
                }
                written.await;
            }
        };
        let bound = std::time::Duration::from_secs(120);
        tokio::time::timeout(bound, seen)
            .await
            .unwrap_or_else(|_| panic!("no {text:?} in:\n{}", self.text()));
    }
}

struct Opened(Arc<Lines>);

impl BuildLogs for Opened {
    fn open(&self, _group: &str, _stream: &str) -> Arc<dyn BuildLog> {
        Arc::new(Opened(Arc::clone(&self.0)))
    }
}

impl BuildLog for Opened {
    fn append(&self, text: &str) {
        self.0.lines.lock().unwrap().push(text.to_owned());
        self.0.written.notify_one();
    }
}

/// A network whose one namespace is a process's own, with nothing in it.
pub(crate) struct OneNamespace {
    holder: Mutex<Child>,
    taken: Arc<Mutex<i64>>,
}

impl OneNamespace {
    fn new() -> Self {
        // The shell says when it is inside.
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", "echo in; exec sleep infinity"])
            .stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
        Self {
            holder: Mutex::new(holder),
            taken: Arc::default(),
        }
    }
}

impl Drop for OneNamespace {
    fn drop(&mut self) {
        let holder = self.holder.get_mut().unwrap();
        let _ = holder.kill();
        let _ = holder.wait();
    }
}

struct OneSlot {
    namespace: PathBuf,
    taken: Arc<Mutex<i64>>,
}

#[async_trait]
impl Network for OneNamespace {
    async fn acquire(&self, _egress: Egress) -> Result<Arc<dyn Slot>, NetworkError> {
        *self.taken.lock().unwrap() += 1;
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", self.holder.lock().unwrap().id()));
        Ok(Arc::new(OneSlot {
            namespace,
            taken: Arc::clone(&self.taken),
        }))
    }

    async fn adopt(&self, index: u32) -> Result<Arc<dyn Slot>, NetworkError> {
        Err(NetworkError::Gone { index })
    }

    fn usage(&self) -> SlotUsage {
        SlotUsage {
            capacity: u32::MAX,
            taken: 0,
        }
    }

    async fn withdraw(&self, _name: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn sweep(&self, _keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
        Ok(())
    }
}

#[async_trait]
impl Slot for OneSlot {
    fn index(&self) -> u32 {
        0
    }

    fn uid(&self) -> Option<u32> {
        None
    }

    async fn attach(&self) -> Result<Option<(OwnedFd, OwnedFd)>, NetworkError> {
        let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
        Ok(Some((open(Path::new("/dev/null")), open(&self.namespace))))
    }

    async fn connect(&self, _port: u16) -> std::io::Result<Box<dyn GuestStream>> {
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }

    async fn listen(&self) -> std::io::Result<Box<dyn GuestListener>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn grant(&self, _grants: &[Grant]) -> Result<(), NetworkError> {
        Err(NetworkError::NotGranted { index: 0 })
    }

    async fn release(&self) -> Result<(), NetworkError> {
        *self.taken.lock().unwrap() -= 1;
        Ok(())
    }
}

/// A hypervisor that puts the root disk on show instead of booting it: every build that comes so far
/// fails there.
#[derive(Default)]
pub(crate) struct Showcase {
    pub(crate) disk: Mutex<Option<PathBuf>>,
}

impl Showcase {
    /// What `debugfs` says about the shown disk.
    pub(crate) fn debugfs(&self, request: &str) -> String {
        let disk = self.disk.lock().unwrap().clone().unwrap();
        let output = Command::new("debugfs")
            .args(["-R", request])
            .arg(disk)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[async_trait]
impl Vmm for Showcase {
    fn description(&self) -> &VmmDescription {
        unreachable!("a build does not ask")
    }

    async fn boot(&self, spec: BootSpec) -> Result<Arc<dyn Machine>, VmmError> {
        let below = spec.directory.ancestors().nth(3).unwrap();
        let shown = below.join("shown.raw");
        std::fs::rename(&spec.root_disk, &shown).unwrap();
        *self.disk.lock().unwrap() = Some(shown);
        Err(VmmError::Refused {
            id: spec.id,
            attempted: "boot".into(),
            reason: "it only shows".into(),
        })
    }

    async fn launch(&self, _spec: LaunchSpec) -> Result<Arc<dyn Machine>, VmmError> {
        unreachable!("nothing was frozen")
    }

    async fn prepare(&self, _spec: SpareSpec) -> Result<Arc<dyn Machine>, VmmError> {
        unreachable!("a build keeps no spare")
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Arc<dyn Machine>, VmmError> {
        Err(VmmError::Gone { id: record.id })
    }

    fn lives(&self, _record: &MachineRecord) -> bool {
        false
    }

    async fn discard(&self, _record: &MachineRecord) -> Result<(), VmmError> {
        Ok(())
    }

    async fn previous(&self, _directory: &Path, _base: &Path) -> Result<SystemTime, VmmError> {
        unreachable!("nothing was suspended")
    }

    async fn go_back(&self, _directory: &Path, _base: &Path) -> Result<SystemTime, VmmError> {
        unreachable!("nothing was suspended")
    }

    async fn sweep(&self, _root: &Path, _keep: &[String]) -> Result<Vec<String>, VmmError> {
        Ok(Vec::new())
    }
}

/// What a build told of its course.
#[derive(Default)]
pub(crate) struct Stages {
    pub(crate) code_bytes: Mutex<Option<u64>>,
    pub(crate) seen: Mutex<Vec<BuildStage>>,
}

#[async_trait]
impl Progress for Stages {
    async fn stage(&self, stage: BuildStage) {
        self.seen.lock().unwrap().push(stage);
    }

    async fn machine_started(&self, _record: &MachineRecord, _slot: u32) {}

    async fn machine_ended(&self, _record: &MachineRecord) {}

    async fn code_size(&self, bytes: u64) {
        *self.code_bytes.lock().unwrap() = Some(bytes);
    }
}
