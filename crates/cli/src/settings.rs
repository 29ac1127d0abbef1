//! What an operator sets: the configuration file, and the command line above it. Everything has a
//! default; an unknown key is an error, so that a typing mistake is not a silent default.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit::Audit;
use crate::base_versions::BaseVersionSetting;
use crate::quotas::Quotas;
use crate::vpc::VpcSection;

/// The configuration file (TOML). All sections and keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where state lives; `./colibri-data` by default.
    pub(crate) data_dir: Option<PathBuf>,
    /// Kernel and initramfs of the guests, one directory an architecture.
    pub(crate) guest_dir: Option<PathBuf>,
    /// Users, roles and policies that are declared at every start; see `colibri iam apply`.
    pub(crate) iam_file: Option<PathBuf>,
    /// `[api]`
    pub(crate) api: Api,
    /// `[ingress]`
    pub(crate) ingress: Ingress,
    /// `[network]`
    pub(crate) network: Network,
    /// `[hypervisor]`
    pub(crate) hypervisor: Hypervisor,
    /// `[images]`
    pub(crate) images: Images,
    /// `[microvms]`
    pub(crate) microvms: Microvms,
    /// `[pool]`
    pub(crate) pool: Pool,
    /// `[spares]`
    pub(crate) spares: Spares,
    /// `[hot]`
    pub(crate) hot: Hot,
    /// `[quotas]`
    pub(crate) quotas: Quotas,
    /// `[audit]`
    pub(crate) audit: Audit,
    /// Whether oddities of the live service are reproduced.
    pub(crate) aws_quirks: bool,
    /// `[vpc]`
    pub(crate) vpc: VpcSection,
    /// `[capacity]`
    pub(crate) capacity: Capacity,
}

/// `[api]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    /// Address of the AWS API; `127.0.0.1:4570` by default.
    pub(crate) listen: SocketAddr,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4570)),
        }
    }
}

/// `[ingress]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ingress {
    /// Address of the MicroVMs' endpoints; `127.0.0.1:8443` (both loopbacks) by default.
    pub(crate) listen: Option<String>,
    /// Domain that endpoints' names end in; `microvm.localhost` by default.
    pub(crate) domain: Option<String>,
    /// What RunMicrovm gives out as endpoint.
    pub(crate) endpoints: Endpoints,
    /// Port in the endpoints given out, where clients reach the ingress by another than it listens
    /// on (a load balancer, say).
    pub(crate) advertised_port: Option<u16>,
    /// Connections that one client address may have open.
    pub(crate) connections_per_client: Option<std::num::NonZeroUsize>,
}

/// What RunMicrovm gives out as endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Endpoints {
    /// A host name of the MicroVM's own.
    #[default]
    Name,
    /// The address that the ingress listens on, the same for all: the token says which MicroVM is
    /// meant. For clients without name service.
    Address,
}

/// `[network]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// How many MicroVMs and builds can run at once.
    pub(crate) slots: Option<u32>,
    /// How many slots wait ready.
    pub(crate) spare_slots: Option<u32>,
    /// Addresses of the links between host and slots: `100.64.0.0/20`.
    pub(crate) address_block: Option<String>,
    /// The VMM of slot n runs under this user id plus n.
    pub(crate) base_uid: Option<u32>,
    /// Name servers that guests' queries go to: `192.0.2.1:53`.
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// More networks that no guest may reach.
    pub(crate) refused_ranges: Vec<String>,
    /// Connections that one guest may have open to the outside.
    pub(crate) flows_per_slot: Option<u32>,
}

/// `[hypervisor]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hypervisor {
    /// What machines run on.
    pub(crate) accelerator: AcceleratorChoice,
}

/// What machines run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AcceleratorChoice {
    /// KVM where a guest really starts on it, software emulation elsewhere.
    #[default]
    Auto,
    /// KVM, or no start.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// `[images]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Images {
    /// Builds at once.
    pub(crate) concurrent_builds: Option<usize>,
    /// What to do with builds that ask for ARM64 on a host of another architecture.
    pub(crate) arm64_requests: Arm64Requests,
    /// Bound of one build, seconds; two hours by default.
    pub(crate) build_seconds: Option<u64>,
    /// What fetched base images may take on disk, MiB.
    pub(crate) base_images_mib: Option<u64>,
    /// Age at which a fetched base image is fetched anew, hours.
    pub(crate) base_image_hours: Option<u64>,
    /// Versions of the managed base image.
    pub(crate) base_versions: Vec<BaseVersionSetting>,
}

/// What to do with builds that ask for ARM64 on a host of another architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arm64Requests {
    /// Refuse them.
    #[default]
    Refuse,
    /// Build for the host instead, and say so in the build's record.
    Native,
}

/// `[microvms]`: their lives.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Microvms {
    /// Longest lifetime that a run call may ask for, seconds; the service's by default.
    pub(crate) maximum_duration_seconds: Option<u32>,
    /// Lifetime of a MicroVM whose run call names none; the service's by default, or the longest where
    /// that is shorter.
    pub(crate) default_duration_seconds: Option<u32>,
    /// What counts as activity where the image does not say: `traffic,cpu,connections`.
    pub(crate) idle_signals: Option<String>,
    /// What becomes of a MicroVM whose suspend hook fails.
    pub(crate) suspend_hook_failure: SuspendHookFailure,
    /// Most of a disk that is copied at a wake to keep the suspension as the last good one, MiB; 64 by default, 0
    /// keeps none.
    pub(crate) keep_last_good_mib: Option<u64>,
}

/// What becomes of a MicroVM whose suspend hook fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SuspendHookFailure {
    /// It ends, as on the live service.
    #[default]
    Terminate,
    /// It runs on, as the service's guide says.
    KeepRunning,
}

/// `[pool]`: machines that have run and wait, paused, for launches of their image version.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pool {
    /// Whether there are any; true by default.
    pub(crate) enabled: Option<bool>,
    /// Most of one image version; 4 by default.
    pub(crate) machines_per_version: Option<usize>,
    /// Memory for all of them, MiB, 96 counted for each; a tenth of the host's by default.
    pub(crate) memory_mib: Option<u64>,
}

/// `[spares]`: processes that wait without a machine, for wakes from the disk and launches beyond the pool.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Spares {
    /// Whether there are any; true by default.
    pub(crate) enabled: Option<bool>,
    /// Most of one image version; 2 by default.
    pub(crate) processes_per_version: Option<usize>,
    /// Memory for all of them, MiB, 32 counted for each; a fortieth of the host's by default.
    pub(crate) memory_mib: Option<u64>,
}

/// `[hot]`: processes of suspended MicroVMs that are kept, stopped, for a faster wake.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hot {
    /// Whether there are any; true by default.
    pub(crate) enabled: Option<bool>,
    /// Most of them, and never more than half of the network slots, which is the default.
    pub(crate) machines: Option<usize>,
    /// Memory for all of them, MiB; a tenth of the host's by default.
    pub(crate) memory_mib: Option<u64>,
    /// Longest time that one is kept, seconds; 600 by default.
    pub(crate) seconds: Option<u64>,
}

/// `[capacity]`: what the host takes; the rest is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Capacity {
    /// Most MicroVMs with a process; 1000 by default.
    pub(crate) microvms: Option<u32>,
    /// Baseline memory of those, as a multiple of the host's; 4.0 by default.
    pub(crate) memory_overcommit: Option<f64>,
    /// Memory that one more machine leaves available, MiB; a twentieth of the host's by default.
    pub(crate) reserve_mib: Option<u64>,
    /// Room on the disk that what is begun leaves free, MiB; a twentieth of it by default, at most 2 GiB.
    pub(crate) disk_reserve_mib: Option<u64>,
    /// Processors that a machine may take for each of its vCPUs; no bound by default.
    pub(crate) processors_per_vcpu: Option<f64>,
    /// Most vCPUs that a guest sees, whatever its size; no bound by default.
    pub(crate) vcpus_at_most: Option<NonZeroU8>,
}

impl Capacity {
    /// Refuses what no host could be run with.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let within = |value: Option<f64>, least: f64, most: f64| {
            value.is_none_or(|value| (least..=most).contains(&value))
        };
        if !within(self.memory_overcommit, 0.1, 100.0) {
            return Err(SettingsError::Refused {
                setting: "capacity.memory_overcommit",
                problem: "it is a number from 0.1 to 100".into(),
            });
        }
        if !within(self.processors_per_vcpu, 0.05, 100.0) {
            return Err(SettingsError::Refused {
                setting: "capacity.processors_per_vcpu",
                problem: "it is a number from 0.05 to 100".into(),
            });
        }
        if self.microvms == Some(0) {
            return Err(SettingsError::Refused {
                setting: "capacity.microvms",
                problem: "with none, nothing can run; leave it out for 1000".into(),
            });
        }
        Ok(())
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("could not read the configuration {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not understood.
    #[error("the configuration {path} is not understood: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: toml::de::Error,
    },
    /// A value is out of its range.
    #[error("the setting `{setting}` cannot be used: {problem}")]
    Refused {
        /// Its name in the file.
        setting: &'static str,
        /// What is wrong, and what is right.
        problem: String,
    },
}

impl Settings {
    /// Reads the file, or takes the defaults when none is named.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let Some(path) = file else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| SettingsError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// The directory of all state.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let chosen = self
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from("colibri-data"));
        std::path::absolute(&chosen).unwrap_or(chosen)
    }

    /// The directory of the guests' files: as set, or where an installation or a build tree has it.
    pub(crate) fn guest_dir(&self) -> PathBuf {
        if let Some(chosen) = &self.guest_dir {
            return std::path::absolute(chosen).unwrap_or_else(|_| chosen.clone());
        }
        let installed = PathBuf::from("/usr/lib/colibri/guest");
        // `target/release/colibri` beside `target/guest`.
        let beside = std::env::current_exe()
            .ok()
            .and_then(|program| Some(program.parent()?.parent()?.join("guest")));
        beside
            .filter(|directory| directory.is_dir())
            .unwrap_or(installed)
    }
}

/// Parses a setting that is text in the file.
pub(crate) fn parsed<T: std::str::FromStr>(
    setting: &'static str,
    text: &str,
) -> Result<T, SettingsError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|problem: T::Err| SettingsError::Refused {
            setting,
            problem: format!("{problem} (it says `{text}`)"),
        })
}

#[cfg(test)]
mod tests {
    use super::{AcceleratorChoice, Settings};

    #[test]
    fn a_capacity_that_no_host_can_be_run_with_is_refused() {
        for (text, fits) in [
            (
                "memory_overcommit = 1.5\nreserve_mib = 512\nprocessors_per_vcpu = 1.0",
                true,
            ),
            ("memory_overcommit = 0.0", false),
            ("processors_per_vcpu = -1.0", false),
            ("microvms = 0", false),
        ] {
            let settings: Settings = toml::from_str(&format!("[capacity]\n{text}")).unwrap();
            assert_eq!(settings.capacity.check().is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn an_empty_file_is_all_defaults_and_a_typing_mistake_is_an_error() {
        let settings: Settings = toml::from_str("").unwrap();
        assert_eq!(settings.api.listen.to_string(), "127.0.0.1:4570");
        assert_eq!(settings.hypervisor.accelerator, AcceleratorChoice::Auto);
        assert!(toml::from_str::<Settings>("[api]\nlissen = \"1.2.3.4:5\"").is_err());
    }
}
