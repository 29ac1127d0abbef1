//! `[quotas]`: how much there may be of what, and how often operations may be called.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use colibri_server::{Rate, Rates};
use serde::Deserialize;

use crate::endpoint_limits::{EndpointLimits, EndpointSetting};
use crate::settings::SettingsError;

/// `[quotas]`. What is left out is the preset's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Quotas {
    /// Where the values come from that are not set.
    preset: Preset,
    /// Most images.
    images: Option<usize>,
    /// Most versions of an image.
    versions: Option<usize>,
    /// Most builds that run or wait.
    builds: Option<usize>,
    /// Most MicroVMs that have not ended.
    microvms: Option<u32>,
    /// Most baseline memory of all MicroVMs that have not ended, MiB.
    memory_mib: Option<u64>,
    /// Calls of operations, by their names.
    rates: BTreeMap<String, RateSetting>,
    /// What the sizes of MicroVMs allow at their endpoints, by baseline memory in MiB.
    endpoints: BTreeMap<String, EndpointSetting>,
}

/// Where the values come from that are not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// Colibri's own: generous.
    #[default]
    Colibri,
    /// What AWS gives an account by default.
    Aws,
}

/// `RunMicrovm = { per_second = 5, burst = 10 }`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateSetting {
    /// Calls a second, in the long run.
    per_second: NonZeroU32,
    /// Calls at once after a rest; as many as a second by default.
    burst: Option<NonZeroU32>,
}

impl Quotas {
    /// Puts them into the control plane's choices.
    pub(crate) fn apply(&self, choices: &mut colibri_control::Settings) {
        if self.preset == Preset::Aws {
            choices.max_images = 100;
            choices.max_versions = 50;
            choices.max_builds = 5;
            choices.max_kept_memory_mib = 400 * 1024;
        }
        choices.max_images = self.images.unwrap_or(choices.max_images);
        choices.max_versions = self.versions.unwrap_or(choices.max_versions);
        choices.max_builds = self.builds.unwrap_or(choices.max_builds);
        choices.max_microvms = self.microvms.unwrap_or(choices.max_microvms);
        choices.max_kept_memory_mib = self.memory_mib.unwrap_or(choices.max_kept_memory_mib);
    }

    /// What each size of MicroVMs allows at its endpoint.
    pub(crate) fn endpoints(&self) -> Result<EndpointLimits, SettingsError> {
        let preset = match self.preset {
            Preset::Colibri => EndpointLimits::default(),
            Preset::Aws => EndpointLimits::aws(),
        };
        preset.with(&self.endpoints)
    }

    /// The rates of operations.
    pub(crate) fn rates(&self) -> Result<Rates, SettingsError> {
        let mut rates = match self.preset {
            Preset::Colibri => Rates::generous(),
            Preset::Aws => Rates::aws(),
        };
        for (operation, setting) in &self.rates {
            let rate = Rate {
                per_second: setting.per_second,
                burst: setting.burst.unwrap_or(setting.per_second),
            };
            rates
                .set(operation, rate)
                .map_err(|error| SettingsError::Refused {
                    setting: "quotas.rates",
                    problem: error.to_string(),
                })?;
        }
        Ok(rates)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use colibri_server::{Rate, Rates};

    use super::Quotas;

    #[test]
    fn one_word_brings_awss_quotas_and_a_listed_value_wins() {
        let text = "preset = \"aws\"\n[rates]\nRunMicrovm = { per_second = 7 }";
        let quotas: Quotas = toml::from_str(text).unwrap();
        let seven = NonZeroU32::new(7).unwrap();
        let mut expected = Rates::aws();
        let rate = Rate {
            per_second: seven,
            burst: seven,
        };
        expected.set("RunMicrovm", rate).unwrap();
        assert_eq!(quotas.rates().unwrap(), expected);
        assert_eq!(Quotas::default().rates().unwrap(), Rates::generous());
    }

    #[test]
    fn a_rate_of_nothing_or_of_an_unknown_operation_is_an_error() {
        let nothing = "[rates]\nRunMicrovm = { per_second = 0 }";
        assert!(toml::from_str::<Quotas>(nothing).is_err());
        let unknown: Quotas = toml::from_str("[rates]\nRunMicroVM = { per_second = 1 }").unwrap();
        let error = unknown.rates().unwrap_err().to_string();
        assert!(error.contains("RunMicroVM"), "{error}");
    }
}
