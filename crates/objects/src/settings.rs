//! What of the endpoint can be set.

use std::time::Duration;

/// What of the endpoint can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The region that requests must be signed for.
    pub region: String,
    /// Owner of every bucket and object.
    pub account_id: String,
    /// Domains whose subdomains are bucket names (`<bucket>.localhost`), without a port. Clients
    /// that are given a name and not an address as endpoint put the bucket there.
    pub domains: Vec<String>,
    /// Bytes of the disk that an upload must leave free: the daemon's own state lives on it.
    pub reserved_bytes: u64,
    /// Age at which an unfinished multipart upload is dropped. Looked at when the store is opened
    /// and whenever another upload begins.
    pub abandoned_after: Duration,
}

impl Settings {
    /// The defaults, for a region: account `000000000000`, domain `localhost`, 256 MiB reserved, and
    /// seven days for a multipart upload.
    #[must_use]
    pub fn new(region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            account_id: "000000000000".to_owned(),
            domains: vec!["localhost".to_owned()],
            reserved_bytes: 256 * 1024 * 1024,
            abandoned_after: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}
