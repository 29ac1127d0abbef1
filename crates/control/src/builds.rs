//! Image builds: a bounded queue, a few at a time, each recorded so that a crash leaves nothing behind
//! and the build starts again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use colibri_hypervisor::{MachineRecord, MachineShape};
use colibri_image::{
    BuildFailure, BuildRequest, BuildStage, BuiltImage, FailureCode, HookSettings, Progress,
};
use colibri_store::{Build, BuildOutcome, Image, StoreError, Version};
use colibri_wire::ApiError;
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::id::version::{BaseImageVersion, ImageVersion};
use colibri_wire::shape::common::{Architecture, Logging};
use colibri_wire::shape::configuration::ImageConfiguration;
use tokio::time::timeout;

use crate::changes::{Cause, cause_of, current_request};
use crate::control::{Control, Shared};
use crate::documents::{self, BuildMachine};
use crate::failure::{chain, store_failed};
use crate::launch::remove_directory;
use crate::pool::Source;
use crate::recording::until_recorded;
use crate::run::{configuration_as_given, day, default_group};

/// Builds of a version: one for the host's class.
const BUILDS: usize = 50;

impl Control {
    /// Queues the builds of a new version.
    pub(crate) async fn start_builds(
        &self,
        image: &Image,
        version: &Version,
    ) -> Result<(), ApiError> {
        let builds = self
            .shared
            .store
            .builds(image.id, version.version, None, BUILDS)
            .await;
        for build in builds.map_err(|error| store_failed(&error))?.rows {
            self.queue_build(build);
        }
        Ok(())
    }

    pub(crate) fn queue_build(&self, build: Build) {
        let cause = cause_of(current_request());
        self.spawn(carry_out(Arc::clone(&self.shared), build, cause));
    }
}

async fn carry_out(shared: Arc<Shared>, build: Build, cause: Cause) {
    // First come, first served; the semaphore is never closed.
    let Ok(turn) = Arc::clone(&shared.build_turns).acquire_owned().await else {
        return;
    };
    tracing::info!(build_id = %build.id, image = %build.image_name, version = build.version, "building");
    shared.tell_of_build(&build, "IN_PROGRESS", None, cause.clone());
    let directory = shared
        .settings
        .base_directory(&build.image_name, build.version, &build.id);
    let outcome = match attempt(&shared, &build, &directory).await {
        Ok(built) => BuildOutcome::Succeeded {
            memory_bytes: built.manifest.memory.stored,
            code_bytes: built.code_bytes,
            disk_bytes: built.manifest.disk.stored,
        },
        Err(failure) => {
            tracing::info!(build_id = %build.id, %failure, "the build failed");
            if let Err(error) = remove_directory(&directory).await {
                tracing::error!(build_id = %build.id, error = %chain(&error), "could not clean up after a build");
            }
            BuildOutcome::Failed(failure.to_string())
        }
    };
    let is_built = matches!(outcome, BuildOutcome::Succeeded { .. });
    record_end(&shared, &build, outcome.clone()).await;
    shared.tell_of_built(&build, &outcome, cause).await;
    drop(turn);
    if is_built {
        shared.pool.built(&Source {
            image_name: build.image_name,
            version: build.version,
            build_id: build.id,
        });
    }
    shared.pool.look_again();
    shared.images_changed.send_modify(|count| *count += 1);
}

/// Without the record of its end a build counts as interrupted, and its image as being built: tried until it is
/// written, unless the image is gone.
async fn record_end(shared: &Shared, build: &Build, outcome: BuildOutcome) {
    let recorded = until_recorded("the end of a build", || {
        let at = shared.clock.now();
        shared
            .store
            .finish_build(build.id.clone(), outcome.clone(), at)
    });
    if recorded.await {
        tracing::info!(build_id = %build.id, "the build ended");
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    build: &Build,
    directory: &Path,
) -> Result<BuiltImage, BuildFailure> {
    if !shared.has_disk_left() {
        return Err(BuildFailure {
            code: FailureCode::DiskStorageFull,
            sentence: shared.no_disk(),
        });
    }
    let request = request(shared, build, directory)
        .await
        .map_err(|error| platform_failed(build, &error))?;
    empty_directory(directory)
        .await
        .map_err(|error| platform_failed(build, &error))?;
    let begun = shared
        .store
        .begin_build(build.id.clone(), shared.clock.now())
        .await;
    begun.map_err(|error| platform_failed(build, &error))?;
    let progress = Arc::new(Recorder {
        shared: Arc::clone(shared),
        build_id: build.id.clone(),
    });
    let bound = shared.settings.build_bound;
    timeout(bound, shared.builder.build(request, progress))
        .await
        .unwrap_or_else(|_| {
            Err(BuildFailure {
                code: FailureCode::InternalPlatformError,
                sentence: format!("The build took longer than {} s.", bound.as_secs()),
            })
        })
}

/// The owner of the image learns that the platform failed; the log learns why.
fn platform_failed(build: &Build, error: &dyn std::error::Error) -> BuildFailure {
    tracing::error!(build_id = %build.id, error = %chain(error), "could not begin a build");
    BuildFailure {
        code: FailureCode::InternalPlatformError,
        sentence: "The build could not be started.".into(),
    }
}

async fn empty_directory(path: &Path) -> io::Result<()> {
    remove_directory(path).await?;
    tokio::fs::create_dir_all(path).await
}

async fn request(
    shared: &Shared,
    build: &Build,
    directory: &Path,
) -> Result<BuildRequest, StoreError> {
    let key = format!("{}/{}", build.image_id, build.version);
    let corrupt = |reason: String| StoreError::CorruptRow {
        table: "image_versions",
        key: key.clone(),
        reason,
    };
    let version = shared.store.version(build.image_id, build.version).await?;
    let version = version.ok_or_else(|| StoreError::Missing {
        what: format!("image version {key}"),
    })?;
    let configuration: ImageConfiguration =
        documents::read("image_versions", &key, &version.config)?;
    let base_version = configuration.base_image_version.as_deref();
    let base_version = base_version.and_then(BaseImageVersion::parse_echoed);
    let configuration = configuration_as_given(configuration);
    let place = &shared.settings.place;
    let plan = BuildPlan::of(&configuration, place).map_err(|error| corrupt(error.to_string()))?;
    let egress = shared.egress_of(&[plan.egress.to_string()]).await?;
    let (log_group, log_stream) = log_of(shared, build, configuration.logging.as_ref());
    let environment = configuration.environment_variables.unwrap_or_default();
    Ok(BuildRequest {
        build_id: build.id.clone(),
        image_name: build.image_name.clone(),
        image_arn: shared
            .arn_text(&build.image_name)
            .map_err(|error| corrupt(error.to_string()))?,
        image_version: ImageVersion::of_major(build.version).to_string(),
        base_version: base_version.map_or(1, BaseImageVersion::number),
        region: place.region.as_str().to_owned(),
        bucket: plan.artifact.bucket().to_owned(),
        key: plan.artifact.key().to_owned(),
        shape: MachineShape {
            architecture: match shared.host.architecture {
                Architecture::Arm64 => colibri_hypervisor::machine::Architecture::Aarch64,
                Architecture::X86_64 => colibri_hypervisor::machine::Architecture::X86_64,
            },
            vcpus: match shared.settings.vcpus_at_most {
                Some(most) => plan.memory.vcpus().min(most.get()),
                None => plan.memory.vcpus(),
            },
            memory_mib: plan.memory.guest_memory_mib(),
        },
        disk_bytes: plan.memory.disk_bytes(),
        environment: environment
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect(),
        all_capabilities: plan.all_capabilities,
        egress,
        hooks: HookSettings {
            port: plan.hooks.port,
            ready: plan.hooks.ready,
            validate: plan.hooks.validate,
        },
        directory: directory.to_owned(),
        log_group,
        log_stream,
    })
}

/// Group and stream of a build's output (specification, section 17).
fn log_of(shared: &Shared, build: &Build, logging: Option<&Logging>) -> (String, Option<String>) {
    let stream = format!(
        "{}[{}.0]build-{}",
        day(shared.clock.now()),
        build.version,
        build.id
    );
    match logging {
        Some(Logging::Disabled(_)) => (default_group(&build.image_name), None),
        Some(Logging::CloudWatch(chosen)) => (
            chosen
                .log_group
                .clone()
                .unwrap_or_else(|| default_group(&build.image_name)),
            Some(chosen.log_stream.clone().unwrap_or(stream)),
        ),
        None => (default_group(&build.image_name), Some(stream)),
    }
}

/// Writes a build's course down.
struct Recorder {
    shared: Arc<Shared>,
    build_id: String,
}

impl Recorder {
    fn report(&self, what: &str, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome {
            tracing::error!(build_id = %self.build_id, error = %chain(&error), "could not record {what} of a build");
        }
    }
}

#[async_trait]
impl Progress for Recorder {
    async fn stage(&self, stage: BuildStage) {
        let name = documents::write(&stage)
            .as_str()
            .unwrap_or_default()
            .to_owned();
        tracing::info!(build_id = %self.build_id, stage = %name, "a build goes on");
        let at = self.shared.clock.now();
        self.report(
            "the stage",
            self.shared
                .store
                .set_build_stage(self.build_id.clone(), name, at)
                .await,
        );
    }

    async fn machine_started(&self, record: &MachineRecord, slot: u32) {
        let machine = BuildMachine {
            record: record.clone(),
            slot,
        };
        let changed =
            self.shared
                .store
                .change_build_machines(self.build_id.clone(), move |machines| {
                    let mut machines = machines_of(&machines);
                    machines.push(machine);
                    documents::write(&machines)
                });
        self.report("a machine", changed.await);
    }

    async fn machine_ended(&self, record: &MachineRecord) {
        let record = record.clone();
        let changed =
            self.shared
                .store
                .change_build_machines(self.build_id.clone(), move |machines| {
                    let mut machines = machines_of(&machines);
                    machines.retain(|machine| machine.record != record);
                    documents::write(&machines)
                });
        self.report("the end of a machine", changed.await);
    }

    async fn code_size(&self, bytes: u64) {
        self.report(
            "the size",
            self.shared
                .store
                .set_build_code_size(self.build_id.clone(), bytes)
                .await,
        );
    }
}

/// Machines of a build; a list that cannot be read counts as empty, and the driver's sweep finds them.
pub(crate) fn machines_of(value: &serde_json::Value) -> Vec<BuildMachine> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}
