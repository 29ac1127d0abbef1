//! Builds for real, down to the root disk. The machine is left out: see `common`. Skipped, with the reason
//! printed, where this machine cannot build containers.
#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::unwrap_used,
    reason = "what the tests share fails by panicking, as they do"
)]

mod base_images;
mod common;
mod container_builds;
