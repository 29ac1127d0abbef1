//! Builds the Dockerfile, with `buildah`, as hostile code: in a user namespace of its own ids, in the
//! network of a slot, with bounds on memory, processes, files, disk and time.
//!
//! `buildah` itself runs in namespaces that die with it: the slot's network, so that `ADD` and
//! downloads reach what the guest may reach and nothing of the host; its own processes, so that
//! killing it kills every container that it started; its own mounts, in a file system that holds next to nothing
//! of the host ([`crate::confinement`]). The base images that the Dockerfile names are fetched beforehand over
//! the host's network, as a registry may be private ([`crate::bases`]); the build itself fetches none.

use std::fs::Permissions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use colibri_guest_protocol::GATEWAY_ADDRESS;
use rustix::process::{Resource, getrlimit};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::command::{CommandError, RunningCommand};
use crate::confinement::Confinement;
use crate::disk_use;
use crate::output::{BuildLog, Together};
use crate::request::{BuildFailure, FailureCode};
use crate::settings::BuilderSettings;
use crate::storage::ContainerStorage;

/// How often the build's disk use is measured.
const DISK_CHECK: Duration = Duration::from_secs(5);

/// User ids of a build's containers, as many as an image may use.
const CONTAINER_IDS: u32 = 65_536;

/// Processes and threads of a build's containers.
const PROCESSES: u64 = 8192;

/// Open files of each of a build's processes.
const OPEN_FILES: u64 = 65_536;

/// Most output of a build that is passed on, bytes; the rest is read and dropped.
const MOST_OUTPUT: usize = 64 * 1024 * 1024;

/// Places for temporary files that any user may pass through. The containers' own root is nobody on the
/// host and must reach what `buildah` prepares there; the data directory lets nobody in.
const SCRATCH_PLACES: [&str; 3] = ["/var/tmp", "/tmp", "/mnt"];

/// One container build.
pub(crate) struct ContainerBuild<'a> {
    pub(crate) settings: &'a BuilderSettings,
    pub(crate) storage: &'a ContainerStorage,
    pub(crate) build_id: &'a str,
    /// The build's own directory.
    pub(crate) work: &'a Path,
    /// The unpacked artifact.
    pub(crate) context: &'a Path,
    /// The network namespace of the build's slot; none on a simulated network: no network then.
    pub(crate) namespace: Option<OwnedFd>,
    /// What the build may write, bytes.
    pub(crate) disk_bytes: u64,
    pub(crate) log: &'a dyn BuildLog,
}

impl ContainerBuild<'_> {
    /// Builds; the image is then in the storage under the build's name.
    ///
    /// # Errors
    /// A Dockerfile that fails, a bound that is reached, a host that lacks something.
    pub(crate) async fn run(&self) -> Result<(), BuildFailure> {
        let prepared = self.storage.prepare().and_then(|()| self.write_files());
        prepared.map_err(|error| BuildFailure::io("prepare the container build", &error))?;
        let deadline = Instant::now() + self.settings.container_time;
        self.fetch_bases(deadline).await?;
        let running = self.command().stream().map_err(|error| internal(&error))?;
        match self.follow(running, deadline).await? {
            Ok(()) => Ok(()),
            Err(reason) => {
                tracing::info!(
                    build_id = self.build_id,
                    reason,
                    "the container build failed"
                );
                Err(self.failed(&reason))
            }
        }
    }

    fn write_files(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(self.scratch())?;
        std::fs::set_permissions(self.scratch(), Permissions::from_mode(0o711))?;
        // An empty /sys: a user namespace may not mount one in a network namespace that is not its own,
        // and the host's would tell about the host. The mount point is for the cgroups.
        std::fs::create_dir_all(self.work.join("sys/fs/cgroup"))?;
        std::fs::create_dir_all(self.work.join("root"))?;
        std::fs::write(
            self.work.join("resolv.conf"),
            format!("nameserver {GATEWAY_ADDRESS}\n"),
        )
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.work.join("tmp")
    }

    fn command(&self) -> crate::command::HostCommand {
        let settings = self.settings;
        let ids = format!("0:{}:{CONTAINER_IDS}", settings.first_container_id);
        let network = if self.namespace.is_some() {
            // `host` is what `buildah` itself is in: the slot's namespace.
            [
                "--network=host".to_owned(),
                format!("--dns={GATEWAY_ADDRESS}"),
            ]
            .to_vec()
        } else {
            vec!["--network=none".to_owned()]
        };
        let place = self.scratch_place();
        self.storage
            .wrapped_buildah(&self.wrapper(place), place)
            .arg("build")
            .arg("--signature-policy")
            .arg(self.storage.policy())
            .args(["--isolation", "oci", "--runtime"])
            .arg(&settings.runtime)
            .args(["--userns-uid-map", &ids, "--userns-gid-map", &ids])
            .args(network)
            .arg("--volume")
            .arg(format!("{}:/sys:ro", self.work.join("sys").display()))
            .args([
                "--http-proxy=false",
                "--no-hosts",
                "--pull=never",
                "--layers=false",
                "--force-rm",
                "--no-cache",
            ])
            // The OCI format has no SHELL, and buildah then ignores the instruction.
            .args(["--format", "docker"])
            .args(["--memory", &settings.container_memory_bytes.to_string()])
            .args([
                "--memory-swap",
                &settings.container_memory_bytes.to_string(),
            ])
            .args(["--cpu-shares", &settings.container_cpu_shares.to_string()])
            .args(["--ulimit", &ulimit("nproc", Resource::Nproc, PROCESSES)])
            .args(["--ulimit", &ulimit("nofile", Resource::Nofile, OPEN_FILES)])
            .args(["--cgroup-parent", &cgroup(self.build_id)])
            .args(["--tag", &ContainerStorage::image_name(self.build_id)])
            .arg("--file")
            .arg(self.context.join("Dockerfile"))
            .arg("--")
            .arg(self.context)
    }

    /// The first of [`SCRATCH_PLACES`] that hides none of the build's own directories.
    fn scratch_place(&self) -> &'static Path {
        let own = [
            self.work,
            self.storage.root(),
            self.settings.run_directory.as_path(),
        ];
        let base = self.settings.base_storage.as_deref();
        let hides = |place: &Path| {
            own.into_iter()
                .chain(base)
                .any(|path| path.starts_with(place))
        };
        let places = SCRATCH_PLACES.map(Path::new);
        places
            .into_iter()
            .find(|place| place.is_dir() && !hides(place))
            .unwrap_or(places[0])
    }

    /// The programs around `buildah` that give it its namespaces.
    fn wrapper(&self, scratch_place: &Path) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        if let Some(namespace) = &self.namespace {
            // The descriptor stays in this process: the path goes through its own.
            words.push("nsenter".to_owned());
            words.push(format!(
                "--net=/proc/{}/fd/{}",
                std::process::id(),
                namespace.as_raw_fd()
            ));
            words.push("--".to_owned());
        }
        let unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "--propagation",
            "private",
            "--",
        ];
        words.extend(unshare.map(str::to_owned));
        let [root, resolver, sys] = ["root", "resolv.conf", "sys"].map(|name| self.work.join(name));
        let scratch = self.scratch();
        let mut read_only = vec![self.context];
        // A runtime of the host's that lies apart from the other programs.
        let runtime = self.settings.runtime.as_path();
        let programs = ["/usr", "/bin", "/sbin"];
        if runtime.is_file() && !programs.iter().any(|place| runtime.starts_with(place)) {
            read_only.push(runtime);
        }
        // The containers see `sys` read-only. Mounted so here, a user namespace could not mount it.
        let run = self.settings.run_directory.as_path();
        let mut writable = vec![&*sys, self.storage.root(), run];
        // Only read, but `buildah` makes its mount points in it.
        writable.extend(
            self.settings
                .base_storage
                .as_deref()
                .filter(|base| base.is_dir()),
        );
        let confinement = Confinement {
            root: &root,
            resolver: &resolver,
            scratch: (&scratch, scratch_place),
            read_only,
            writable,
        };
        words.extend(confinement.words());
        words
    }

    /// Passes the output on until the end, a bound, or a full disk. `Ok(Err(_))` holds the reason that the
    /// program gave for its failure.
    pub(crate) async fn follow(
        &self,
        mut running: RunningCommand,
        deadline: Instant,
    ) -> Result<Result<(), String>, BuildFailure> {
        let mut ticks = interval(DISK_CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = SystemTime::now();
        let mut output = BuildOutput {
            work: self.work,
            passed: 0,
            reason: String::new(),
            together: Together::default(),
        };
        loop {
            tokio::select! {
                more = running.lines(|line| output.line(line)) => {
                    output.together.append_to(self.log);
                    if !more.map_err(|error| internal(&error))? {
                        break;
                    }
                }
                _ = ticks.tick() => {
                    if self.has_written_too_much(started).await {
                        running.kill().await;
                        return Err(self.disk_full());
                    }
                }
                () = sleep_until(deadline) => {
                    running.kill().await;
                    return Err(self.out_of_time());
                }
            }
        }
        let status = running.wait().await.map_err(|error| internal(&error))?;
        if status.success() {
            return Ok(Ok(()));
        }
        if output.reason.contains("no space left on device") {
            return Err(self.disk_full());
        }
        Ok(Err(output.reason))
    }

    pub(crate) fn failed(&self, reason: &str) -> BuildFailure {
        let reason = self.without_host_paths(reason);
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(" {reason}")
        };
        BuildFailure::sentence(
            FailureCode::ContainerBuildFailed,
            &format!("The container image build failed.{reason}"),
        )
    }

    fn out_of_time(&self) -> BuildFailure {
        self.failed(&format!(
            "It took longer than {} s.",
            self.settings.container_time.as_secs()
        ))
    }

    pub(crate) async fn has_written_too_much(&self, started: SystemTime) -> bool {
        disk_use::written_since(started, self.storage.root(), self.work).await > self.disk_bytes
    }

    pub(crate) fn disk_full(&self) -> BuildFailure {
        let text = format!(
            "the container build wrote more than {} bytes, or no space was left; \
             make the image smaller or its disk larger",
            self.disk_bytes
        );
        BuildFailure::sentence(FailureCode::DiskStorageFull, &text)
    }

    fn without_host_paths(&self, text: &str) -> String {
        let text = text.replace(&*self.work.to_string_lossy(), "");
        text.replace(&*self.storage.root().to_string_lossy(), "")
    }
}

/// The build's lines on their way to the log.
struct BuildOutput<'a> {
    work: &'a Path,
    passed: usize,
    together: Together,
    /// The line that says why it failed: the last `Error:` line.
    reason: String,
}

impl BuildOutput<'_> {
    fn line(&mut self, line: &str) {
        if let Some(reason) = line.strip_prefix("Error: ") {
            self.reason = reason.chars().take(500).collect();
        }
        let before = self.passed;
        self.passed = before.saturating_add(line.len() + 1);
        if self.passed <= MOST_OUTPUT {
            self.together
                .add(&line.replace(&*self.work.to_string_lossy(), ""));
        } else if before <= MOST_OUTPUT {
            self.together
                .add("the output exceeds 64 MiB; the rest is left out");
        }
    }
}

/// A limit, no higher than the daemon's own hard one: a user namespace may not raise it.
fn ulimit(name: &str, resource: Resource, wanted: u64) -> String {
    let limit = getrlimit(resource)
        .maximum
        .map_or(wanted, |own| own.min(wanted));
    format!("{name}={limit}:{limit}")
}

pub(crate) fn internal(error: &CommandError) -> BuildFailure {
    BuildFailure::internal("run the container build", &with_sources(error))
}

/// An error with its causes, for the daemon's log.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Path of a build's cgroup below each hierarchy's root.
fn cgroup(build_id: &str) -> String {
    format!("/colibri-build/{build_id}")
}

/// Removes the empty cgroups that the runtime leaves. The kernel empties them a moment after their
/// processes were killed, so a few attempts are made.
pub(crate) async fn remove_cgroups(build_id: &str) {
    const ATTEMPTS: u32 = 20;
    const BETWEEN: Duration = Duration::from_millis(50);
    for _ in 0..ATTEMPTS {
        if try_remove_cgroups(build_id) {
            return;
        }
        sleep(BETWEEN).await;
    }
    tracing::warn!(
        build_id,
        "could not remove the cgroups of a container build"
    );
}

/// True when none is left.
fn try_remove_cgroups(build_id: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut gone = true;
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let group = hierarchy.join(cgroup(build_id).trim_start_matches('/'));
        for below in std::fs::read_dir(&group).into_iter().flatten().flatten() {
            // Files of a cgroup cannot be removed and need not be.
            let _ = std::fs::remove_dir(below.path());
        }
        let _ = std::fs::remove_dir(&group);
        gone &= !group.exists();
    }
    gone
}
