//! `[audit]`: whether and how the audit trail is kept.

use std::path::Path;
use std::time::Duration;

use colibri_audit::{FileSettings, OpenFailure, Trail};
use colibri_server::AuditSettings;
use serde::Deserialize;

/// `[audit]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Audit {
    /// Whether there is a trail.
    enabled: bool,
    /// Whether calls that only read, and succeed, are in it.
    reads: bool,
    /// Size of one file, MiB.
    max_file_mib: u64,
    /// Full files that are kept beside the one that grows.
    files: u32,
    /// How long one file grows, hours.
    max_age_hours: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            reads: true,
            max_file_mib: 64,
            files: 10,
            max_age_hours: 24,
        }
    }
}

impl Audit {
    /// Opens the trail below the data directory, where there is to be one.
    pub(crate) fn open(&self, data: &Path) -> Result<Option<Trail>, OpenFailure> {
        if !self.enabled {
            return Ok(None);
        }
        let settings = FileSettings {
            max_file_bytes: self.max_file_mib.max(1).saturating_mul(1024 * 1024),
            files: self.files,
            max_age: Duration::from_secs(self.max_age_hours.max(1).saturating_mul(3600)),
        };
        Trail::open(&data.join("audit"), settings).map(Some)
    }

    /// Which calls are in it.
    pub(crate) fn calls(&self) -> AuditSettings {
        AuditSettings { reads: self.reads }
    }
}
