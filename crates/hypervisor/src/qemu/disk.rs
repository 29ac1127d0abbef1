//! Disk overlays: made by `qemu-img`, opened by descriptor with their backing given explicitly, so
//! that the name in their header is never followed.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::machine::VmmError;

const BOUND: Duration = Duration::from_secs(30);

/// Makes an empty overlay of `size` bytes.
pub(super) async fn create_overlay(path: &Path, size: u64) -> Result<(), VmmError> {
    let attempted = || format!("create the disk overlay {}", path.display());
    let mut command = Command::new("qemu-img");
    // The backing file's name is a placeholder, not looked up (`-u`).
    command
        .args([
            "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base",
        ])
        .arg(path)
        .arg(size.to_string())
        .kill_on_drop(true);
    let output = tokio::time::timeout(BOUND, command.output())
        .await
        .map_err(|_| VmmError::io(attempted(), std::io::ErrorKind::TimedOut.into()))?
        .map_err(|source| VmmError::io(attempted(), source))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("No space left") {
        return Err(VmmError::StorageFull {
            attempted: attempted(),
        });
    }
    Err(VmmError::io(
        attempted(),
        std::io::Error::other(text.trim().to_owned()),
    ))
}
