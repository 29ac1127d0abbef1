//! Turning a child of the agent into the image's application: a process in its own mount, PID and IPC
//! namespaces, on the image's root file system, with a container's capabilities and limits. Network
//! and UTS namespace are the agent's: hooks go over loopback, and the host name applies.
//!
//! It takes two steps, each a fresh start of the agent's own program, so that neither runs between
//! `fork` and `exec` of a process with threads:
//!
//! 1. [`isolate`] joins the application's control group, makes the namespaces, starts the second step
//!    inside them as PID 1, says its process id and ends;
//! 2. [`contain`] builds the root file system's mounts, moves into it, gives up privileges and
//!    becomes the image's program.
//!
//! Both have the agent's channel as standard input: orders come in, [`Progress`] goes out as lines.

mod launch;
mod mounts;
mod users;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use colibri_guest_protocol::message::{AgentFailure, ApplicationSpec};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde::{Deserialize, Serialize};

use crate::boot::APPLICATION_GROUP;
use crate::failure::Attempt;

/// First argument of the first step.
pub(crate) const ISOLATE: &str = "isolate";
/// First argument of the second step.
pub(crate) const CONTAIN: &str = "contain";
/// The agent's program, which both steps run.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the steps report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    /// The second step runs.
    Started {
        /// Its process id in the agent's namespace, which becomes the application's.
        pid: u32,
    },
    /// There will be no application.
    Failed(AgentFailure),
}

/// The first step.
pub(crate) fn isolate() -> ExitCode {
    report(isolated().map(|pid| Some(Progress::Started { pid })))
}

/// The second step; returns only when the image's program could not be started.
pub(crate) fn contain() -> ExitCode {
    report(contained().map(|never| match never {}))
}

fn report(result: Result<Option<Progress>, AgentFailure>) -> ExitCode {
    let (progress, code) = match result {
        Ok(progress) => (progress, ExitCode::SUCCESS),
        Err(failed) => (Some(Progress::Failed(failed)), ExitCode::FAILURE),
    };
    let line = progress.and_then(|progress| serde_json::to_string(&progress).ok());
    if let (Some(line), Some(mut channel)) = (
        line,
        CHANNEL
            .get()
            .and_then(|fd| fd.try_clone().ok().map(File::from)),
    ) {
        // Without the agent at the other end there is nobody left to tell.
        let _ = channel.write_all(format!("{line}\n").as_bytes());
    }
    code
}

/// The channel to the agent, out of the way of standard input.
static CHANNEL: std::sync::OnceLock<OwnedFd> = std::sync::OnceLock::new();

fn open_channel() -> Result<File, AgentFailure> {
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .attempt(|| "open the channel to the agent".to_owned())?;
    let own = channel
        .try_clone()
        .attempt(|| "open the channel to the agent".to_owned())?;
    let _ = CHANNEL.set(channel);
    Ok(own.into())
}

fn isolated() -> Result<u32, AgentFailure> {
    open_channel()?;
    fs::write(format!("{APPLICATION_GROUP}/cgroup.procs"), "0")
        .attempt(|| "join the application's control group".to_owned())?;
    // The agent's own protection from the kernel's memory killer is not for its children.
    fs::write("/proc/self/oom_score_adj", "0").attempt(|| "reset oom_score_adj".to_owned())?;
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    // SAFETY: none of the flags touches descriptors or memory that this process shares with another.
    unsafe { unshare_unsafe(namespaces) }
        .attempt(|| "make the application's namespaces".to_owned())?;
    let second = Command::new(OWN_PROGRAM)
        .arg0("colibri-container")
        .arg(CONTAIN)
        .env_clear()
        .spawn();
    second
        .map(|child| child.id())
        .attempt(|| "start the application's first process".to_owned())
}

fn contained() -> Result<std::convert::Infallible, AgentFailure> {
    let mut channel = open_channel()?;
    let mut orders = Vec::new();
    channel
        .read_to_end(&mut orders)
        .attempt(|| "read the application's description".to_owned())?;
    let spec: ApplicationSpec = serde_json::from_slice(&orders)
        .attempt(|| "read the application's description".to_owned())?;
    mounts::enter(spec.all_capabilities)?;
    free_standard_input()?;
    launch::launch(&spec)
}

/// Nothing is read from the application's standard input, as in a container without a terminal.
fn free_standard_input() -> Result<(), AgentFailure> {
    let null = File::open("/dev/null").attempt(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(null.as_fd()).attempt(|| "replace standard input".to_owned())
}
