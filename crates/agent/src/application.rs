//! The application's life as the agent sees it: started once, stopped when asked, its end remembered.
//! How its container is made is in [`crate::container`].

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use colibri_guest_protocol::message::{
    AgentFailure, Answer, ApplicationExit, ApplicationSpec, Stop,
};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use crate::boot::{self, APPLICATION_GROUP};
use crate::container::{self, Progress};
use crate::failure::{Attempt, failure};
use crate::identity;
use crate::mailbox::{Letter, Mailbox};
use crate::{console, modules};

/// How long the container may take to come up: a few dozen mounts, emulated on a busy host.
const START_BOUND: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const KILL_BOUND: Duration = Duration::from_secs(10);
/// Longest report of the steps that make the container, bytes.
const MAX_REPORT: u64 = 64 * 1024;

/// Where the application is in its life.
#[derive(Debug)]
enum Phase {
    NotStarted,
    /// Being started. Holds what has ended meanwhile: the application itself may be among it.
    Starting {
        ended: Vec<(u32, ApplicationExit)>,
    },
    Running {
        pid: u32,
        stop_signal: i32,
    },
    Exited(ApplicationExit),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Children started so far; the reaper sleeps while it has waited for all of them.
    children: u64,
}

/// The image's application.
pub(crate) struct Application {
    state: Mutex<State>,
    changed: Condvar,
    mailbox: Arc<Mailbox>,
}

impl Application {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        let state = Mutex::new(State {
            phase: Phase::NotStarted,
            children: 0,
        });
        Self {
            state,
            changed: Condvar::new(),
            mailbox,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<ApplicationExit> {
        match self.lock().phase {
            Phase::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    /// Starts it. Returns when its main process runs the image's program, or cannot.
    pub(crate) fn start(&self, spec: &ApplicationSpec) -> Result<Answer, AgentFailure> {
        self.begin()?;
        match self.launch(spec) {
            Ok(started) => Ok(Answer::Started {
                pid: self.started(started, spec.stop_signal),
            }),
            Err(failed) => {
                self.lock().phase = Phase::NotStarted;
                Err(failed)
            }
        }
    }

    fn begin(&self) -> Result<(), AgentFailure> {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::NotStarted) {
            return Err(failure(
                "start the application",
                "it has been started already",
            ));
        }
        state.phase = Phase::Starting { ended: Vec::new() };
        Ok(())
    }

    fn launch(&self, spec: &ApplicationSpec) -> Result<Started, AgentFailure> {
        if spec.all_capabilities {
            modules::load_for_all_capabilities();
            boot::delegate_controllers();
        }
        identity::set_name_servers(&spec.name_servers)?;
        let plumbing = || "make the application's pipes".to_owned();
        let (channel, containers_end) = UnixStream::pair().attempt(plumbing)?;
        let (stdout, stdout_end) = std::io::pipe().attempt(plumbing)?;
        let (stderr, stderr_end) = std::io::pipe().attempt(plumbing)?;
        for pipe in [&stdout, &stderr] {
            ioctl_fionbio(pipe, true).attempt(plumbing)?;
        }
        Command::new(container::OWN_PROGRAM)
            .arg0("colibri-container")
            .arg(container::ISOLATE)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(containers_end)))
            .stdout(stdout_end)
            .stderr(stderr_end)
            .spawn()
            .attempt(|| "start a process for the application".to_owned())?;
        self.child_started();
        let pid = follow(&channel, spec).inspect_err(|_| clear_away())?;
        Ok(Started {
            pid,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    fn started(&self, started: Started, stop_signal: i32) -> u32 {
        let Started {
            pid,
            stdout,
            stderr,
        } = started;
        self.mailbox
            .post(Letter::ApplicationStarted { stdout, stderr });
        let mut state = self.lock();
        let already = match &state.phase {
            Phase::Starting { ended } => ended
                .iter()
                .find(|(ended, _)| *ended == pid)
                .map(|(_, exit)| *exit),
            _ => None,
        };
        state.phase = Phase::Running { pid, stop_signal };
        if let Some(exit) = already {
            self.exited(&mut state, exit);
        }
        pid
    }

    /// Stops it in order and writes the disk out. Nothing to stop is no failure.
    pub(crate) fn stop(&self, stop: &Stop) -> Result<Answer, AgentFailure> {
        let running = match self.lock().phase {
            Phase::Running { pid, stop_signal } => Some((pid, stop_signal)),
            Phase::Starting { .. } => {
                return Err(failure("stop the application", "it is being started"));
            }
            Phase::NotStarted | Phase::Exited(_) => None,
        };
        if let Some((pid, stop_signal)) = running {
            signal(pid, stop_signal)?;
            if !self.wait_for_exit(Duration::from_millis(stop.grace_ms)) {
                signal(pid, Signal::KILL.as_raw())?;
                if !self.wait_for_exit(KILL_BOUND) {
                    return Err(failure("stop the application", "it lives on after a kill"));
                }
            }
        }
        rustix::fs::sync();
        Ok(Answer::Done)
    }

    fn wait_for_exit(&self, bound: Duration) -> bool {
        let running = |state: &mut State| matches!(state.phase, Phase::Running { .. });
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), bound, running)
            .unwrap_or_else(PoisonError::into_inner);
        !matches!(state.phase, Phase::Running { .. })
    }

    /// Starts the thread that takes every ended child: PID 1 inherits all orphans.
    pub(crate) fn start_reaper(self: &Arc<Self>) -> Result<(), AgentFailure> {
        let application = Arc::clone(self);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || application.reap())
            .map(drop)
            .attempt(|| "start a thread".to_owned())
    }

    fn reap(&self) {
        let mut waited_for = 0;
        loop {
            let children = self.lock().children;
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.ended(pid, status),
                Err(Errno::CHILD) => {
                    waited_for = waited_for.max(children);
                    let idle = |state: &mut State| state.children == waited_for;
                    drop(self.changed.wait_while(self.lock(), idle));
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn child_started(&self) {
        self.lock().children += 1;
        self.changed.notify_all();
    }

    fn ended(&self, pid: Pid, status: WaitStatus) {
        let Some(exit) = exit_of(status) else { return };
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let mut state = self.lock();
        match &mut state.phase {
            Phase::Starting { ended } => ended.push((pid, exit)),
            Phase::Running { pid: main, .. } if *main == pid => self.exited(&mut state, exit),
            _ => {}
        }
    }

    fn exited(&self, state: &mut State, exit: ApplicationExit) {
        state.phase = Phase::Exited(exit);
        self.changed.notify_all();
        self.mailbox.post(Letter::ApplicationExited(exit));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container that runs the image's program.
struct Started {
    pid: u32,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Gives the container's steps their orders and reads what came of them, until the channel closes:
/// the last step's end of it closes when the image's program replaces it.
fn follow(mut channel: &UnixStream, spec: &ApplicationSpec) -> Result<u32, AgentFailure> {
    let talk = || "talk to the application's container".to_owned();
    let orders = serde_json::to_vec(spec).attempt(talk)?;
    channel.set_read_timeout(Some(START_BOUND)).attempt(talk)?;
    channel.set_write_timeout(Some(START_BOUND)).attempt(talk)?;
    channel.write_all(&orders).attempt(talk)?;
    channel.shutdown(Shutdown::Write).attempt(talk)?;

    let end = Instant::now() + START_BOUND;
    let mut pid = None;
    for line in BufReader::new(channel.take(MAX_REPORT)).lines() {
        let line = match line {
            Err(late) if late.kind() == ErrorKind::WouldBlock => {
                return Err(failure(
                    "start the application",
                    "its container did not come up in time",
                ));
            }
            other => other.attempt(talk)?,
        };
        match serde_json::from_str(&line).attempt(talk)? {
            Progress::Started { pid: started } => pid = Some(started),
            Progress::Failed(failed) => return Err(failed),
        }
        if Instant::now() >= end {
            return Err(failure(
                "start the application",
                "its container did not come up in time",
            ));
        }
    }
    pid.ok_or_else(|| {
        failure(
            "start the application",
            "its container ended without a word",
        )
    })
}

/// Ends whatever is left of a container that did not come up.
fn clear_away() {
    boot::set(&format!("{APPLICATION_GROUP}/cgroup.kill"), "1");
}

fn signal(pid: u32, number: i32) -> Result<(), AgentFailure> {
    let attempted = || format!("send signal {number} to the application");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let (Some(pid), 1..=64) = (pid, number) else {
        return Err(failure(attempted(), "there is no such signal"));
    };
    // SAFETY: the number is within the kernel's range. Those that a C library keeps for itself matter
    // where it handles them; here it is only sent, to a process of another program.
    let signal = unsafe { Signal::from_raw_unchecked(number) };
    match kill_process(pid, signal) {
        // It ended by itself just now; the reaper will tell.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        other => other.attempt(attempted),
    }
}

fn exit_of(status: WaitStatus) -> Option<ApplicationExit> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => {
            console::warn("a child changed its state without ending");
            return None;
        }
    };
    Some(ApplicationExit { code })
}
