//! `[quotas.endpoints]`: what the size of a MicroVM allows at its endpoint.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};

use colibri_ingress::{Quota, SizeLimits};
use colibri_wire::id::memory::MemorySize;
use serde::Deserialize;

use crate::settings::SettingsError;

/// AWS's limits, by baseline memory: connections, and requests a second. Of the latter its quotas name those of
/// 2048 and 8192 MiB alone; smaller ones have the former's (a MicroVM of 1024 MiB was first refused at about 50),
/// the one between has half of the latter's.
const AWS: [(u32, usize, u32); 5] = [
    (512, 8, 40),
    (1024, 16, 40),
    (2048, 32, 40),
    (4096, 64, 80),
    (8192, 128, 160),
];

/// `512 = { connections = 8, requests_per_second = 40 }`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointSetting {
    /// Client connections that are open to one MicroVM.
    connections: Option<NonZeroUsize>,
    /// Requests that one MicroVM gets a second, in the long run and at once.
    requests_per_second: Option<NonZeroU32>,
}

/// The limits of each size, by its baseline memory in MiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EndpointLimits(BTreeMap<u32, SizeLimits>);

impl EndpointLimits {
    /// AWS's.
    pub(crate) fn aws() -> Self {
        let of_size = |(mib, connections, requests)| {
            let limits = SizeLimits {
                connections: NonZeroUsize::new(connections),
                requests: NonZeroU32::new(requests).map(Quota::per_second),
            };
            (mib, limits)
        };
        Self(AWS.into_iter().map(of_size).collect())
    }

    /// With these in the place of what there was.
    pub(crate) fn with(
        mut self,
        settings: &BTreeMap<String, EndpointSetting>,
    ) -> Result<Self, SettingsError> {
        for (size, setting) in settings {
            let limits = self.0.entry(size_of(size)?).or_default();
            limits.connections = setting.connections.or(limits.connections);
            let requests = setting.requests_per_second.map(Quota::per_second);
            limits.requests = requests.or(limits.requests);
        }
        Ok(self)
    }

    /// Those of a size; none where nothing is said of it.
    pub(crate) fn of(&self, memory_mib: u32) -> SizeLimits {
        self.0.get(&memory_mib).copied().unwrap_or_default()
    }
}

fn size_of(text: &str) -> Result<u32, SettingsError> {
    let sizes = MemorySize::ALL.map(MemorySize::baseline_mib);
    let size = text.parse().ok().filter(|size| sizes.contains(size));
    size.ok_or_else(|| SettingsError::Refused {
        setting: "quotas.endpoints",
        problem: format!("`{text}` is no size of MicroVMs; they are {sizes:?}, MiB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EndpointLimits, SettingsError> {
        let settings: BTreeMap<String, EndpointSetting> = toml::from_str(text).unwrap();
        EndpointLimits::aws().with(&settings)
    }

    #[test]
    fn what_is_set_of_a_size_takes_the_place_of_the_presets() {
        let limits =
            read("512 = { requests_per_second = 7 }\n1024 = { connections = 1000 }").unwrap();
        let quota = |rate| NonZeroU32::new(rate).map(Quota::per_second);
        let small = SizeLimits {
            connections: NonZeroUsize::new(8),
            requests: quota(7),
        };
        assert_eq!(limits.of(512), small);
        let middle = SizeLimits {
            connections: NonZeroUsize::new(1000),
            requests: quota(40),
        };
        assert_eq!(limits.of(1024), middle);
        assert_eq!(EndpointLimits::default().of(512), SizeLimits::default());
    }

    #[test]
    fn a_size_that_there_is_not_is_an_error_that_names_those_that_there_are() {
        let error = read("768 = { connections = 1 }").unwrap_err().to_string();
        assert!(error.contains("768") && error.contains("512"), "{error}");
        let nothing = "512 = { connections = 0 }";
        assert!(toml::from_str::<BTreeMap<String, EndpointSetting>>(nothing).is_err());
    }
}
