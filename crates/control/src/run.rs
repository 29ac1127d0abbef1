//! `RunMicrovm`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use colibri_store::{
    Build, BuildState, ClientToken, Microvm, NewMicrovm, RunOutcome, TokenRecord, VersionState,
    VersionStatus,
};
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::check::run::{RunPlan, WantedVersion};
use colibri_wire::fault;
use colibri_wire::id::connector::{ConnectorArn, ManagedConnector};
use colibri_wire::id::memory::MemorySize;
use colibri_wire::id::microvm::MicrovmId;
use colibri_wire::idempotency::fingerprint;
use colibri_wire::shape::common::Logging;
use colibri_wire::shape::configuration::ImageConfiguration;
use colibri_wire::shape::microvm::{MicrovmDescription, RunMicrovmRequest};
use colibri_wire::{ApiError, api_error::ResourceName};
use serde::Serialize;
use uuid::Uuid;

use crate::acceptance::quota;
use crate::actor::Actor;
use crate::control::Control;
use crate::documents::{self, LaunchSettings, LifeHooks, LogTarget};
use crate::failure::store_failed;
use crate::idle::{self, IdleSignals, UnknownSignal};
use crate::image_variables;

/// Builds of a version that are looked at; there is one for each class of host.
const BUILDS: usize = 50;

/// What a run call launches.
struct Source {
    image_name: String,
    version: u32,
    build: Build,
    memory: MemorySize,
    hooks: LifeHooks,
    egress: ConnectorArn,
}

/// What a MicroVM's ingress connectors mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) closed: bool,
    pub(crate) shell: bool,
}

/// Reads stored connectors. `SHELL_INGRESS` beside `ALL_INGRESS` gives no shell (specification, section 12).
pub(crate) fn ingress_of(connectors: &[String]) -> Ingress {
    let managed: Vec<ManagedConnector> = connectors
        .iter()
        .filter_map(|text| ConnectorArn::parse(text).ok())
        .filter_map(|connector| connector.as_managed())
        .collect();
    let has = |connector| managed.contains(&connector);
    Ingress {
        closed: has(ManagedConnector::NoIngress),
        shell: has(ManagedConnector::ShellIngress) && !has(ManagedConnector::AllIngress),
    }
}

impl Control {
    /// `RunMicrovm`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn run_microvm(
        self: &Arc<Self>,
        request: RunMicrovmRequest,
    ) -> Result<MicrovmDescription, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.admit_and_launch(request).await })
            .await
    }

    async fn admit_and_launch(
        self: &Arc<Self>,
        request: RunMicrovmRequest,
    ) -> Result<MicrovmDescription, ApiError> {
        let settings = &self.shared.settings;
        let plan = RunPlan::of(&request, &settings.place, settings.lifetime)?;
        let token = self.client_token("RunMicrovm", request.client_token.as_deref(), &request)?;
        if let Some(replay) = self.replayed(token.as_ref()).await? {
            return self.replay_run(&replay).await;
        }
        if let Some(chosen) = &plan.egress {
            self.shared.check_egress(chosen).await?;
        }
        let source = self.source_of(&plan).await?;
        if plan.egress.is_none() {
            let own = std::slice::from_ref(&source.egress);
            self.shared.check_egress(own).await?;
        }
        if plan.run_hook_payload.is_some() && source.hooks.run_ms.is_none() {
            return Err(fault::run_hook_needed());
        }
        let idle_signals = self.idle_signals(&plan, &source).await;
        let new = self.new_microvm(plan, &source, idle_signals)?;
        if !self.shared.has_memory_left().await {
            return Err(ApiError::InsufficientCapacity {
                message: self.shared.no_memory(),
            });
        }
        if !self.shared.has_disk_left() {
            return Err(ApiError::InsufficientCapacity {
                message: self.shared.no_disk(),
            });
        }
        let shared = Arc::clone(&self.shared);
        let hash = token.as_ref().map(|token| token.request_hash.clone());
        let describe = move |row: &Microvm| match shared.describe(row) {
            Ok(description) => documents::write(&description),
            Err(_) => serde_json::Value::Null,
        };
        let outcome = loop {
            let limit = self.shared.admission();
            let admitted = self.shared.store.admit_microvm(
                new.clone(),
                limit,
                token.clone(),
                describe.clone(),
            );
            match admitted.await.map_err(|error| store_failed(&error))? {
                // Every turn gives up one that is kept for speed.
                RunOutcome::NoCapacity(_) if self.shared.give_up_kept().await => {}
                outcome => break outcome,
            }
        };
        match outcome {
            RunOutcome::Admitted(row) => self.admitted(*row),
            RunOutcome::Replayed(record) => {
                same_request(&record, hash.as_deref().unwrap_or_default())?;
                self.replay_run(&record).await
            }
            RunOutcome::NoBuild => {
                Err(fault::no_active_version(&self.own_arn(&source.image_name)?))
            }
            RunOutcome::OverQuota(in_use) => Err(quota(
                format!(
                    "The MicroVMs of this account, suspended ones included, and its image builds have {} MiB of \
                     memory; {} MiB more would exceed the quota of {} MiB. Terminate some, or raise the quota",
                    in_use.kept_memory_mib,
                    source.memory.baseline_mib(),
                    settings.max_kept_memory_mib
                ),
                ResourceName {
                    kind: Some("MicroVM".into()),
                    id: None,
                },
                "L-CD1C0CC4",
            )),
            RunOutcome::TooMany(in_use) => Err(quota(
                format!(
                    "This account has {} MicroVMs that have not ended, suspended ones included; the quota is {}. \
                     Terminate some, or raise `microvms` in [quotas]",
                    in_use.kept, settings.max_microvms
                ),
                ResourceName {
                    kind: Some("MicroVM".into()),
                    id: None,
                },
                "L-CD1C0CC4",
            )),
            RunOutcome::NoCapacity(in_use) => Err(ApiError::InsufficientCapacity {
                message: self.shared.no_room(in_use),
            }),
        }
    }

    fn admitted(self: &Arc<Self>, row: Microvm) -> Result<MicrovmDescription, ApiError> {
        let description = self.shared.describe(&row)?;
        let (actor, handle) = Actor::of(&self.shared, row).map_err(|error| store_failed(&error))?;
        self.shared.registry.insert(handle);
        let image = (actor.image_name.as_str(), actor.version);
        let cause = actor.cause.clone();
        self.shared
            .tell_of_microvm(&actor.id, image, actor.phase, None, cause);
        self.spawn(actor.run());
        Ok(description)
    }

    async fn source_of(&self, plan: &RunPlan) -> Result<Source, ApiError> {
        let none = || fault::no_active_version(&plan.image);
        if !plan.image.is_of(&self.shared.settings.place) {
            return Err(none());
        }
        let store = &self.shared.store;
        let name = plan.image.name().as_str().to_owned();
        let failed = |error| store_failed(&error);
        let image = store.image(name).await.map_err(failed)?.ok_or_else(none)?;
        let number = match plan.version {
            WantedVersion::Latest => image.latest_active.ok_or_else(none)?,
            WantedVersion::Exact(version) => version.major(),
            WantedVersion::Impossible => return Err(none()),
        };
        let version = store
            .version(image.id, number)
            .await
            .map_err(failed)?
            .ok_or_else(none)?;
        if version.state != VersionState::Successful || version.status != VersionStatus::Active {
            return Err(none());
        }
        let key = format!("{}/{number}", image.id);
        let configuration: ImageConfiguration =
            documents::read("image_versions", &key, &version.config).map_err(failed)?;
        self.check_base(&plan.image, number, &configuration)?;
        let configuration = configuration_as_given(configuration);
        let built = BuildPlan::of(&configuration, &self.shared.settings.place)?;
        let hooks = LifeHooks::of(
            built.hooks,
            configuration.hooks.as_ref(),
            self.shared.settings.hook_bound,
        );
        let build = self.build_for_host(image.id, number, &image.name).await?;
        Ok(Source {
            image_name: image.name,
            version: number,
            build,
            memory: built.memory,
            hooks,
            egress: built.egress,
        })
    }

    /// The build that this host can run: a base belongs to the accelerator and CPU model that it was frozen on.
    async fn build_for_host(
        &self,
        image_id: i64,
        version: u32,
        name: &str,
    ) -> Result<Build, ApiError> {
        let builds = self
            .shared
            .store
            .builds(image_id, version, None, BUILDS)
            .await;
        let builds = builds.map_err(|error| store_failed(&error))?;
        let host = &self.shared.host;
        let mut built = builds
            .rows
            .into_iter()
            .filter(|build| build.state == BuildState::Successful);
        built.find(|build| build.chipset_generation == host.generation).ok_or_else(|| {
            ApiError::InsufficientCapacity {
                message: format!(
                    "Version {version}.0 of image {name} was not built for this host's processors ({}); update the \
                     image to build it anew",
                    host.generation
                ),
            }
        })
    }

    /// What counts as activity: as the image says, or else the operator.
    async fn idle_signals(&self, plan: &RunPlan, source: &Source) -> IdleSignals {
        let settings = &self.shared.settings;
        if plan.idle_policy.is_none() {
            return IdleSignals::default();
        }
        let base = settings.base_directory(&source.image_name, source.version, &source.build.id);
        let wanted = match image_variables::of_base(&base, idle::VARIABLE).await {
            Ok(Some(text)) => text
                .parse()
                .map_err(|error: UnknownSignal| error.to_string()),
            Ok(None) => Ok(settings.idle_signals),
            Err(error) => Err(error.to_string()),
        };
        wanted.unwrap_or_else(|error| {
            tracing::warn!(
                image = source.image_name,
                error,
                "the image's {} cannot be used",
                idle::VARIABLE
            );
            settings.idle_signals
        })
    }

    fn new_microvm(
        &self,
        plan: RunPlan,
        source: &Source,
        idle_signals: IdleSignals,
    ) -> Result<NewMicrovm, ApiError> {
        let now = self.shared.clock.now();
        let id = MicrovmId::from_random(Uuid::new_v4().into_bytes()).to_string();
        let egress = plan.egress.unwrap_or_else(|| vec![source.egress.clone()]);
        let log = log_target(
            plan.logging.as_ref(),
            &source.image_name,
            source.version,
            &id,
            now,
        );
        let settings = LaunchSettings {
            idle_policy: plan.idle_policy,
            maximum_duration_seconds: plan.maximum_duration_seconds,
            ingress: plan.ingress.iter().map(ToString::to_string).collect(),
            egress: egress.iter().map(ToString::to_string).collect(),
            execution_role: plan.execution_role.map(|role| role.to_string()),
            log,
            hooks: source.hooks,
            idle_signals,
            began: Some(self.shared.clock.moment()),
        };
        Ok(NewMicrovm {
            id,
            label: Uuid::new_v4().to_string(),
            image_name: source.image_name.clone(),
            version: source.version,
            build_id: source.build.id.clone(),
            settings: documents::write(&settings),
            run_payload: plan.run_hook_payload.map(|payload| payload.0),
            memory_mib: source.memory.baseline_mib(),
            at: now,
        })
    }

    /// The first call's answer, with the state of now.
    async fn replay_run(&self, record: &TokenRecord) -> Result<MicrovmDescription, ApiError> {
        let row = self.shared.store.microvm(record.resource_id.clone()).await;
        match row.map_err(|error| store_failed(&error))? {
            // The service itself repeats its first answer, whatever became of the MicroVM.
            Some(_) if self.shared.settings.aws_quirks => {
                documents::read("client_tokens", &record.resource_id, &record.response)
                    .map_err(|error| store_failed(&error))
            }
            Some(row) => self.shared.describe(&row),
            None => Err(fault::microvm_not_found(&record.resource_id)),
        }
    }

    pub(crate) fn client_token<T: Serialize>(
        &self,
        operation: &'static str,
        token: Option<&str>,
        request: &T,
    ) -> Result<Option<ClientToken>, ApiError> {
        let Some(token) = token else { return Ok(None) };
        let hash = fingerprint(request)
            .map_err(|_| ApiError::internal("The request could not be fingerprinted"))?;
        Ok(Some(ClientToken {
            account: self.shared.settings.place.account.as_str().to_owned(),
            operation,
            token: token.to_owned(),
            request_hash: STANDARD.encode(hash),
            at: self.shared.clock.now(),
        }))
    }

    /// What an earlier call under the same token brought; refused when that was another request.
    pub(crate) async fn replayed(
        &self,
        token: Option<&ClientToken>,
    ) -> Result<Option<TokenRecord>, ApiError> {
        let Some(token) = token else { return Ok(None) };
        let found = self
            .shared
            .store
            .token(token.account.clone(), token.operation, token.token.clone())
            .await;
        let found = found.map_err(|error| store_failed(&error))?;
        if let Some(record) = &found {
            same_request(record, &token.request_hash)?;
        }
        Ok(found)
    }
}

pub(crate) fn same_request(record: &TokenRecord, hash: &str) -> Result<(), ApiError> {
    if record.request_hash == hash {
        return Ok(());
    }
    Err(ApiError::conflict(
        "The client token was used before with other parameters",
        ResourceName {
            kind: None,
            id: Some(record.resource_id.clone()),
        },
    ))
}

/// The echoed form of a base version (`1.0`) is refused on input, so it is left out: it was checked when the
/// version was made.
pub(crate) fn configuration_as_given(configuration: ImageConfiguration) -> ImageConfiguration {
    ImageConfiguration {
        base_image_version: None,
        ..configuration
    }
}

/// Group and stream of an application's output (specification, section 17).
fn log_target(
    logging: Option<&Logging>,
    image: &str,
    version: u32,
    id: &str,
    now: i64,
) -> Option<LogTarget> {
    let chosen = match logging {
        Some(Logging::Disabled(_)) => return None,
        Some(Logging::CloudWatch(chosen)) => Some(chosen),
        None => None,
    };
    let group = chosen.and_then(|chosen| chosen.log_group.clone());
    let stream = chosen.and_then(|chosen| chosen.log_stream.clone());
    Some(LogTarget {
        group: group.unwrap_or_else(|| default_group(image)),
        stream: stream.unwrap_or_else(|| format!("{}[{version}.0]{id}", day(now))),
    })
}

/// The log group of an image that names none.
pub(crate) fn default_group(image: &str) -> String {
    format!("/aws/lambda-microvms/{image}")
}

/// `YYYY/MM/DD` in UTC.
pub(crate) fn day(unix_millis: i64) -> String {
    let date = time::OffsetDateTime::from_unix_timestamp(unix_millis.div_euclid(1000))
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}/{:02}/{:02}",
        date.year(),
        u8::from(date.month()),
        date.day()
    )
}

#[cfg(test)]
mod tests {
    use super::{day, ingress_of};

    #[test]
    fn a_streams_day_is_utc() {
        assert_eq!(day(1_795_305_600_000 - 1), "2026/11/21");
    }

    #[test]
    fn a_shell_needs_its_connector_and_no_all_ingress_beside_it() {
        let arn = |name: &str| {
            format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}")
        };
        assert!(ingress_of(&[arn("HTTP_INGRESS"), arn("SHELL_INGRESS")]).shell);
        assert!(!ingress_of(&[arn("ALL_INGRESS"), arn("SHELL_INGRESS")]).shell);
        assert!(ingress_of(&[arn("NO_INGRESS")]).closed);
    }
}
