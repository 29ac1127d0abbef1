//! The real [`ImageBuilder`]: the seven stages in order, each told to the log and to [`Progress`], and
//! everything undone that must not stay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use colibri_hypervisor::Vmm;
use colibri_hypervisor::manifest::BaseManifest;
use colibri_network::Network;
use tokio_util::sync::CancellationToken;

use crate::archive::{ArchiveLimits, unpack};
use crate::container::{ContainerBuild, remove_cgroups, with_sources};
use crate::disk::{DiskBuild, RootDisk};
use crate::hooks::{self, BuildHook};
use crate::leftovers::{Leftovers, empty_directory, remove_directory};
use crate::machines::{BuildMachine, Machines, application};
use crate::output::{BuildLog, BuildLogs, Discarded};
use crate::request::{
    ArtifactError, Artifacts, BuildFailure, BuildRequest, BuildStage, BuiltImage, FailureCode,
    ImageBuilder, Progress,
};
use crate::settings::{BuilderSettings, GuestAssets, GuestFiles};
use crate::storage::ContainerStorage;

/// File in a base's directory with the [`colibri_guest_protocol::message::ApplicationSpec`] of its
/// application, as JSON. It holds the image version's environment variables: as secret as the base.
pub const APPLICATION_FILE: &str = "application.json";

/// Builds images with `buildah`, `mkfs.ext4` and real machines. Needs root. Cheap to clone.
#[derive(Clone)]
pub struct ContainerImageBuilder {
    parts: Arc<Parts>,
}

struct Parts {
    settings: BuilderSettings,
    storage: ContainerStorage,
    vmm: Arc<dyn Vmm>,
    network: Arc<dyn Network>,
    artifacts: Arc<dyn Artifacts>,
    guest: GuestAssets,
    logs: Arc<dyn BuildLogs>,
}

impl ContainerImageBuilder {
    /// A builder over these parts.
    #[must_use]
    pub fn new(
        settings: BuilderSettings,
        vmm: Arc<dyn Vmm>,
        network: Arc<dyn Network>,
        artifacts: Arc<dyn Artifacts>,
        guest: GuestAssets,
        logs: Arc<dyn BuildLogs>,
    ) -> Self {
        let storage = ContainerStorage::new(&settings);
        Self {
            parts: Arc::new(Parts {
                settings,
                storage,
                vmm,
                network,
                artifacts,
                guest,
                logs,
            }),
        }
    }
}

#[async_trait]
impl ImageBuilder for ContainerImageBuilder {
    async fn build(
        &self,
        request: BuildRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<BuiltImage, BuildFailure> {
        let cancel = CancellationToken::new();
        // Dropping this future cancels the task, which then cleans up on its own time.
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let parts = Arc::clone(&self.parts);
        let task = tokio::spawn(async move { parts.build(&request, progress, &cancel).await });
        task.await
            .unwrap_or_else(|error| Err(BuildFailure::internal("finish the build", &error)))
    }

    async fn sweep(&self) {
        let parts = &self.parts;
        let scratch = &parts.settings.work_directory;
        if !parts.settings.storage_directory.exists() && !scratch.exists() {
            return;
        }
        let prepared = make_private(scratch).and_then(|()| parts.storage.prepare());
        if let Err(error) = prepared {
            tracing::warn!(%error, "could not look for leftovers of interrupted builds");
            return;
        }
        if let Err(error) = parts.storage.sweep(scratch).await {
            let error = with_sources(&error);
            tracing::warn!(
                error,
                "could not remove the containers of interrupted builds"
            );
        }
        empty_directory(scratch.clone()).await;
    }
}

/// One build at work.
struct Build<'a> {
    parts: &'a Parts,
    request: &'a BuildRequest,
    progress: &'a Arc<dyn Progress>,
    leftovers: &'a Arc<Leftovers>,
    work: &'a Path,
    streams: Streams,
}

/// The build's log streams.
struct Streams {
    container: Arc<dyn BuildLog>,
    snapshot: Arc<dyn BuildLog>,
    validation: Arc<dyn BuildLog>,
}

/// A stage and when it began.
struct Stage {
    number: u8,
    name: &'static str,
    since: Instant,
}

impl Parts {
    /// Runs the build, and undoes what it leaves, whichever way it ends.
    async fn build(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<BuiltImage, BuildFailure> {
        let leftovers = Leftovers::new(Arc::clone(&progress));
        let work = self
            .settings
            .work_directory
            .join(work_name(&request.build_id)?);
        let streams = self.streams(request);
        let log = Arc::clone(&streams.container);
        let build = Build {
            parts: self,
            request,
            progress: &progress,
            leftovers: &leftovers,
            work: &work,
            streams,
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(BuildFailure::internal("finish the build", &"it was cancelled")),
            outcome = build.run() => outcome,
        };
        leftovers.clear().await;
        self.remove_containers(request, &work).await;
        remove_directory(work).await;
        match &outcome {
            Ok(_) => log.append("the image version is ready"),
            Err(failure) => {
                log.append(&format!("the build failed: {failure}"));
                empty_directory(request.directory.clone()).await;
            }
        }
        outcome
    }

    /// Where nothing was made nothing is looked for: a build that failed early needs no `buildah`.
    async fn remove_containers(&self, request: &BuildRequest, work: &Path) {
        let scratch = work.join("tmp");
        if scratch.is_dir() {
            self.storage.remove_build(&request.build_id, &scratch).await;
            self.storage.prune(&scratch).await;
            remove_cgroups(&request.build_id).await;
        }
    }

    /// The streams of a build (specification, section 17): a configured name is used for all phases;
    /// the default name, which holds the version in brackets, gets a suffix for each machine.
    fn streams(&self, request: &BuildRequest) -> Streams {
        let Some(stream) = &request.log_stream else {
            return Streams {
                container: Arc::new(Discarded),
                snapshot: Arc::new(Discarded),
                validation: Arc::new(Discarded),
            };
        };
        let is_default = stream.contains(&format!("[{}]", request.image_version));
        let name = |suffix: &str| {
            if is_default {
                format!("{stream}-{suffix}")
            } else {
                stream.clone()
            }
        };
        let open = |name: &str| self.logs.open(&request.log_group, name);
        Streams {
            container: open(stream),
            snapshot: open(&name("snapshot")),
            validation: open(&name("validation")),
        }
    }
}

impl Build<'_> {
    /// The stages.
    async fn run(&self) -> Result<BuiltImage, BuildFailure> {
        let files = self.guest_files()?;
        let context = self.artifact().await?;
        self.container(&context).await?;
        let (disk, code_bytes) = self.disk().await?;
        self.release_container().await;
        let machine = self.boot(files, &disk).await?;
        self.ready(&machine, &disk).await?;
        let manifest = self.snapshot(machine).await?;
        self.describe_application(&disk).await?;
        self.validate().await?;
        Ok(BuiltImage {
            manifest,
            code_bytes,
        })
    }

    fn guest_files(&self) -> Result<&GuestFiles, BuildFailure> {
        let architecture = self.request.shape.architecture;
        self.parts
            .guest
            .of_version(self.request.base_version)
            .of_architecture(architecture)
            .ok_or_else(|| {
                let reason = format!("no guest kernel for {architecture:?} is installed");
                BuildFailure::internal("start machines of the image's architecture", &reason)
            })
    }

    async fn artifact(&self) -> Result<PathBuf, BuildFailure> {
        let stage = self.begin(BuildStage::Artifact, 1, "artifact").await;
        let settings = &self.parts.settings;
        let context = self.work.join("context");
        let made = make_private(&settings.work_directory)
            .and_then(|()| make_private(self.work))
            .and_then(|()| std::fs::create_dir(&context));
        made.map_err(|error| BuildFailure::io("make the build's directory", &error))?;
        let archive = self.work.join("artifact.zip");
        let (bucket, key) = (&self.request.bucket, &self.request.key);
        let fetched = self
            .parts
            .artifacts
            .fetch(bucket, key, &archive, settings.artifact_bytes)
            .await;
        let packed = fetched.map_err(|error| self.artifact_failure(&error))?;
        let limits = ArchiveLimits {
            entries: settings.archive_entries,
            unpacked_bytes: settings.unpacked_bytes.min(self.request.disk_bytes),
            ratio: settings.compression_ratio,
        };
        let (from, into) = (archive.clone(), context.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&from, &into, &limits)).await;
        let unpacked =
            unpacked.map_err(|error| BuildFailure::internal("unpack the artifact", &error))??;
        let _ = tokio::fs::remove_file(&archive).await;
        self.end(&stage, &format!("{packed} bytes, {unpacked} unpacked"));
        Ok(context)
    }

    fn artifact_failure(&self, error: &ArtifactError) -> BuildFailure {
        let place = format!("s3://{}/{}", self.request.bucket, self.request.key);
        match error {
            ArtifactError::NoSuchBucket => BuildFailure::sentence(
                FailureCode::S3NoSuchBucket,
                &format!("the bucket of the code artifact {place} does not exist"),
            ),
            ArtifactError::NoSuchKey => BuildFailure::sentence(
                FailureCode::S3NoSuchKey,
                &format!("the code artifact {place} does not exist"),
            ),
            ArtifactError::TooLarge { length, limit } => BuildFailure::sentence(
                FailureCode::ArchiveInvalid,
                &format!(
                    "the code artifact {place} has {length} bytes, more than the limit of {limit}"
                ),
            ),
            ArtifactError::Io(error) => BuildFailure::io("copy the code artifact", error),
        }
    }

    async fn container(&self, context: &Path) -> Result<(), BuildFailure> {
        let stage = self
            .begin(BuildStage::Container, 2, "container image")
            .await;
        let slot = self.machines().slot().await?;
        let attached = slot.attach().await;
        let attached = attached.map_err(|error| {
            BuildFailure::internal("give the container build a network", &with_sources(&error))
        })?;
        let build = ContainerBuild {
            settings: &self.parts.settings,
            storage: &self.parts.storage,
            build_id: &self.request.build_id,
            work: self.work,
            context,
            namespace: attached.map(|(_tap, namespace)| namespace),
            disk_bytes: self
                .request
                .disk_bytes
                .saturating_mul(self.parts.settings.container_disk_multiple),
            log: &*self.streams.container,
        };
        let in_use = self.parts.storage.in_use().await;
        build.run().await?;
        drop(in_use);
        drop(build);
        self.leftovers.end_machines().await;
        self.end(&stage, "built");
        Ok(())
    }

    async fn disk(&self) -> Result<(RootDisk, u64), BuildFailure> {
        let stage = self.begin(BuildStage::Disk, 3, "root disk").await;
        let build = DiskBuild {
            storage: &self.parts.storage,
            build_id: &self.request.build_id,
            work: self.work,
            disk_bytes: self.request.disk_bytes,
            first_container_id: self.parts.settings.first_container_id,
        };
        let _in_use = self.parts.storage.in_use().await;
        let mounted = build.mount().await?;
        let contents = build.measure(&mounted).await?;
        self.progress.code_size(contents.bytes).await;
        let config = build.config().await?;
        let path = build.make(&mounted, contents).await?;
        self.end(
            &stage,
            &format!("{} bytes in {} files", contents.bytes, contents.inodes),
        );
        Ok((RootDisk { path, config }, contents.bytes))
    }

    /// The image is on the disk: what it was made from is not needed while the machine boots.
    async fn release_container(&self) {
        self.parts
            .storage
            .remove_build(&self.request.build_id, &self.work.join("tmp"))
            .await;
    }

    async fn boot(
        &self,
        files: &GuestFiles,
        disk: &RootDisk,
    ) -> Result<BuildMachine, BuildFailure> {
        let stage = self.begin(BuildStage::Boot, 4, "boot").await;
        let log = Arc::clone(&self.streams.snapshot);
        let machine = self.machines().boot(files, disk.path.clone(), log).await?;
        machine
            .guest
            .start_application(application(&disk.config, self.request))
            .await?;
        self.end(
            &stage,
            &format!("kernel {}, application started", files.kernel_version),
        );
        Ok(machine)
    }

    async fn ready(&self, machine: &BuildMachine, disk: &RootDisk) -> Result<(), BuildFailure> {
        let stage = self.begin(BuildStage::Ready, 5, "ready").await;
        let hooks = self.request.hooks;
        let outcome = match (hooks.ready, hooks.port) {
            (Some(bound), Some(port)) => {
                let calls = hooks::poll(BuildHook::Ready, &machine.guest, port, bound).await?;
                format!("/ready answered 200 at call {calls}")
            }
            _ => match machine.settle(&disk.config).await? {
                Some(port) => format!("port {port} listens"),
                None => "no port listens yet; taking the snapshot as it is".to_owned(),
            },
        };
        self.end(&stage, &outcome);
        Ok(())
    }

    async fn snapshot(&self, machine: BuildMachine) -> Result<BaseManifest, BuildFailure> {
        let stage = self.begin(BuildStage::Snapshot, 6, "snapshot").await;
        let manifest = self.machines().freeze(machine).await?;
        let outcome = format!(
            "memory {} bytes, disk {} bytes",
            manifest.memory.stored, manifest.disk.stored
        );
        self.end(&stage, &outcome);
        Ok(manifest)
    }

    /// Leaves what the machine was told to start beside the base, for whoever boots the image without
    /// its snapshot.
    async fn describe_application(&self, disk: &RootDisk) -> Result<(), BuildFailure> {
        let description = serde_json::to_vec_pretty(&application(&disk.config, self.request));
        let description = description
            .map_err(|error| BuildFailure::internal("describe the application", &error))?;
        let path = self.request.directory.join(APPLICATION_FILE);
        let written = tokio::task::spawn_blocking(move || write_private(&path, &description));
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|error| BuildFailure::io("describe the application", &error))
    }

    async fn validate(&self) -> Result<(), BuildFailure> {
        let hooks = self.request.hooks;
        let (Some(bound), Some(port)) = (hooks.validate, hooks.port) else {
            return Ok(());
        };
        let stage = self.begin(BuildStage::Validate, 7, "validate").await;
        let log = Arc::clone(&self.streams.validation);
        let clone = self.machines().clone_of_base(log).await?;
        let calls = hooks::poll(BuildHook::Validate, &clone.guest, port, bound).await?;
        if let Err(error) = clone.machine.note_working_set().await {
            tracing::debug!(error = %with_sources(&error), "an image goes without its working set");
        }
        clone.guest.close().await;
        self.leftovers.end_machines().await;
        self.end(&stage, &format!("/validate answered 200 at call {calls}"));
        Ok(())
    }

    fn machines(&self) -> Machines<'_> {
        Machines {
            vmm: &self.parts.vmm,
            network: &self.parts.network,
            leftovers: self.leftovers,
            request: self.request,
            work: self.work,
            agent_time: self.parts.settings.agent_time,
        }
    }

    async fn begin(&self, stage: BuildStage, number: u8, name: &'static str) -> Stage {
        self.progress.stage(stage).await;
        self.streams
            .container
            .append(&format!("stage {number} of 7: {name}"));
        Stage {
            number,
            name,
            since: Instant::now(),
        }
    }

    fn end(&self, stage: &Stage, outcome: &str) {
        let seconds = stage.since.elapsed().as_secs_f64();
        let (number, name) = (stage.number, stage.name);
        self.streams.container.append(&format!(
            "stage {number} of 7: {name}: {outcome} ({seconds:.1} s)"
        ));
        tracing::info!(
            build_id = self.request.build_id,
            stage = name,
            seconds,
            outcome,
            "build stage done"
        );
    }
}

/// A build's id as the name of its directory, its container, its cgroup: nothing but what a UUID holds.
fn work_name(build_id: &str) -> Result<&str, BuildFailure> {
    let safe = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if build_id.is_empty()
        || build_id.len() > 64
        || !build_id.chars().all(safe)
        || build_id.starts_with('-')
    {
        return Err(BuildFailure::internal(
            "name the build's directory",
            &format!("bad build id {build_id:?}"),
        ));
    }
    Ok(build_id)
}

/// Makes a directory that only its owner may enter; one that exists is left as it is.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Writes a file that only its owner may read: an image's variables are its secrets.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
