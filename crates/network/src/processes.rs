//! Ends what still runs inside a slot's namespace when the slot is removed: a VMM that outlived the
//! daemon which would have ended it. Normally there is nothing.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long killed processes may take to be gone, all together.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// Kills every process whose network namespace is the one at `namespace` and waits until they are
/// gone. Blocks. Never this process itself, whose threads only visit.
///
/// # Errors
/// When `/proc` cannot be read, or a killed process stays for longer than five seconds.
pub(crate) fn end_processes_in(namespace: &Path) -> io::Result<()> {
    let Ok(wanted) = std::fs::metadata(namespace) else {
        return Ok(());
    };
    let mut ended = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = process_id(&entry?.file_name()) else {
            continue;
        };
        if let Some(pidfd) = kill_if_inside(pid, &wanted) {
            tracing::warn!(
                pid = pid.as_raw_nonzero().get(),
                namespace = %namespace.display(),
                "killed a process that a released slot still held"
            );
            ended.push(pidfd);
        }
    }
    wait_until_gone(&ended)
}

fn process_id(name: &std::ffi::OsStr) -> Option<Pid> {
    let number: i32 = name.to_str()?.parse().ok()?;
    Pid::from_raw(number).filter(|pid| *pid != rustix::process::getpid())
}

fn kill_if_inside(pid: Pid, wanted: &Metadata) -> Option<OwnedFd> {
    if !is_inside(pid, wanted) {
        return None;
    }
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Looked at again now that the number cannot pass to another process.
    if !is_inside(pid, wanted) {
        return None;
    }
    pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
    Some(pidfd)
}

fn is_inside(pid: Pid, wanted: &Metadata) -> bool {
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    std::fs::metadata(path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

fn wait_until_gone(ended: &[OwnedFd]) -> io::Result<()> {
    let deadline = Instant::now() + GONE_LIMIT;
    for pidfd in ended {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        // A pidfd becomes readable when its process has ended.
        if poll(
            &mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)],
            Some(&limit),
        )? == 0
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
