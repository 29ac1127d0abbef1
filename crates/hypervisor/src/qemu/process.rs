//! The QEMU process: started in its own session, namespace, cgroup and user, with nothing but the
//! descriptors that it is given; found again by process id and start time.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::cgroup::Cgroup;

/// How much sooner than others the kernel ends a VMM when the host is out of memory (`proc(5)`, -1000 to
/// 1000): one MicroVM ends rather than the daemon or somebody else's program.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// File in a machine's directory that takes QEMU's error output.
pub(super) const LOG_FILE: &str = "vmm.log";

/// How much of the error output is worth repeating, bytes.
const LOG_TAIL: u64 = 2048;

/// Length at which the error output is cut, bytes.
const LOG_LENGTH: u64 = 1024 * 1024;

/// Ticks a second in what the kernel says of times: `USER_HZ`, a part of the ABI on x86-64 and ARM64.
const USER_TICKS: u32 = 100;

/// Everything about the process that is not its command line.
pub(super) struct Surroundings<'a> {
    pub(super) directory: &'a Path,
    pub(super) cgroup: &'a Cgroup,
    pub(super) namespace: Option<OwnedFd>,
    pub(super) uid: Option<u32>,
    /// Group of `/dev/kvm`, where the process needs it.
    pub(super) kvm_group: Option<u32>,
}

/// A running (or ended) QEMU.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    /// Where it works; moves with the machine.
    directory: Mutex<PathBuf>,
    pidfd: OwnedFd,
    ended: watch::Receiver<bool>,
}

impl Process {
    /// Starts QEMU. `descriptors` appear in it under the numbers given with them.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[String],
        descriptors: Vec<(i32, OwnedFd)>,
        surroundings: Surroundings<'_>,
    ) -> io::Result<Self> {
        let Surroundings {
            directory,
            cgroup,
            namespace,
            uid,
            kvm_group,
        } = surroundings;
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join(LOG_FILE))?;
        let doors = cgroup.doors()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing,
        // takes no lock, and touches no memory but what it owns.
        unsafe {
            command.pre_exec(move || enter(&doors, namespace.as_ref(), uid, kvm_group));
        }
        let mappings = descriptors
            .into_iter()
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        let child = command.spawn()?;
        let pid = child.id();
        // Raising it is always allowed; a process that is gone already has no need of it.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE_ADJUSTMENT);
        // The watcher below reaps it; `Child` itself has no destructor that would.
        Self::watch(pid, directory, true)
    }

    /// Takes over a process of an earlier daemon; `NotFound` when it is gone.
    pub(super) fn find(pid: u32, start_ticks: u64, directory: &Path) -> io::Result<Self> {
        let process = Self::watch(pid, directory, false)?;
        if process.start_ticks != start_ticks {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(process)
    }

    fn watch(pid: u32, directory: &Path, child: bool) -> io::Result<Self> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(not_found)?;
        let start_ticks = start_ticks(pid)?;
        let (sender, ended) = watch::channel(false);
        // SAFETY: the duplicate is owned by the `AsyncFd` alone and never exchanged or closed before it.
        let watched =
            unsafe { AsyncFd::register_with_interest(pidfd.try_clone()?, Interest::READABLE) }
                .map_err(io::Error::from)?;
        tokio::spawn(async move {
            let _ = watched.readable().await;
            if child {
                let _ = waitpid(Some(raw), WaitOptions::NOHANG);
            }
            sender.send_replace(true);
        });
        Ok(Self {
            pid,
            start_ticks,
            directory: Mutex::new(directory.to_owned()),
            pidfd,
            ended,
        })
    }

    /// Its working directory, as far as the daemon is concerned.
    pub(super) fn directory(&self) -> PathBuf {
        let directory = self.directory.lock();
        directory.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves its working directory; a process follows its directory by itself.
    pub(super) fn relocate(&self, to: &Path) -> io::Result<()> {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        fs::rename(&*directory, to)?;
        to.clone_into(&mut directory);
        Ok(())
    }

    /// CPU time that all of its threads have taken.
    pub(super) fn cpu_time(&self) -> io::Result<Duration> {
        let [user, system] = stat_fields(self.pid, [14, 15])?;
        Ok(Duration::from_secs(user.saturating_add(system)) / USER_TICKS)
    }

    /// Exchanges its working directory with another one.
    pub(super) fn exchange(&self, with: &Path) -> io::Result<()> {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        renameat_with(CWD, &*directory, CWD, with, RenameFlags::EXCHANGE)?;
        with.clone_into(&mut directory);
        Ok(())
    }

    /// Kills it, if it still runs.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Completes when it has ended.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the watcher is gone, which it is only after the end.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Empties its error output when it has grown too long; QEMU appends, so it goes on from there.
    pub(super) fn bound_log(&self) {
        let path = self.directory().join(LOG_FILE);
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_LENGTH) {
            let _ = File::options()
                .write(true)
                .open(path)
                .and_then(|log| log.set_len(0));
        }
    }

    /// The end of its error output.
    pub(super) fn log_tail(&self) -> String {
        log_tail(&self.directory()).unwrap_or_default()
    }
}

/// Runs in the child between fork and exec.
fn enter(
    doors: &[File],
    namespace: Option<&OwnedFd>,
    uid: Option<u32>,
    kvm_group: Option<u32>,
) -> io::Result<()> {
    for door in doors {
        rustix::io::write(door, b"0")?;
    }
    rustix::process::setsid()?;
    if let Some(namespace) = namespace {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(namespace),
            Some(LinkNameSpaceType::Network),
        )?;
    }
    // A core file would hold the guest's memory.
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    if let Some(uid) = uid {
        let (user, group) = (
            rustix::process::Uid::from_raw(uid),
            rustix::process::Gid::from_raw(uid),
        );
        let groups = kvm_group.map(rustix::process::Gid::from_raw);
        rustix::thread::set_thread_groups(groups.as_slice())?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Field 22 of `/proc/PID/stat`: the process's start in clock ticks since boot.
pub(super) fn start_ticks(pid: u32) -> io::Result<u64> {
    let [start] = stat_fields(pid, [22])?;
    Ok(start)
}

/// Fields of `/proc/PID/stat` by their numbers in `man 5 proc`, from the third on.
fn stat_fields<const N: usize>(pid: u32, numbers: [usize; N]) -> io::Result<[u64; N]> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path)?;
    // The second field, the name in parentheses, may hold spaces: count from its end.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = [0; N];
    for (field, number) in fields.iter_mut().zip(numbers) {
        let text = rest.split_ascii_whitespace().nth(number - 3);
        *field = text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            let message = format!("{path} is not understood");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
    }
    Ok(fields)
}

/// The last bytes of the machine's VMM log.
pub(super) fn log_tail(directory: &Path) -> io::Result<String> {
    let mut file = File::open(directory.join(LOG_FILE))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A QEMU that runs, as it can be told from outside.
pub(super) struct Found {
    pub(super) pid: u32,
    /// The name that it was given.
    pub(super) name: String,
    /// Its working directory.
    pub(super) directory: PathBuf,
}

/// The QEMU processes whose working directory lies below `root`, a path without symbolic links.
pub(super) fn below(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(directory) = fs::read_link(entry.path().join("cwd")) else {
            continue;
        };
        if !directory.starts_with(root) {
            continue;
        }
        if !is_qemu(&entry.path()) {
            continue;
        }
        let Ok(command_line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let named = command_line
            .split(|byte| *byte == 0)
            .skip_while(|argument| *argument != b"-name")
            .nth(1);
        let name = named.map(|name| String::from_utf8_lossy(name).into_owned());
        let last = directory.file_name();
        let name = name.or_else(|| last.map(|last| last.to_string_lossy().into_owned()));
        found.extend(name.map(|name| Found {
            pid,
            name,
            directory,
        }));
    }
    Ok(found)
}

/// Whether a process runs QEMU's program, whatever it calls itself: a machine that was taken over could hide
/// behind another name, and another program has ours by chance.
fn is_qemu(process: &Path) -> bool {
    fs::read_link(process.join("exe")).is_ok_and(|program| {
        let name = program.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("qemu-system-"))
    })
}

fn not_found(errno: rustix::io::Errno) -> io::Error {
    if errno == rustix::io::Errno::SRCH {
        io::ErrorKind::NotFound.into()
    } else {
        errno.into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;
    use std::process::{Child, Command};

    use super::below;

    /// A process that waits, started in a directory; ended when it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(program: &Path, called: &str, directory: &Path) -> Self {
            let mut command = Command::new(program);
            command.arg0(called).arg("600").current_dir(directory);
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn only_qemu_below_the_root_is_found_whatever_it_and_others_call_themselves() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        let (ours, elsewhere) = (root.join("data/microvm-1"), root.join("data-of-another"));
        fs::create_dir_all(&ours).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        let qemu = root.join("qemu-system-test");
        fs::copy("/bin/sleep", &qemu).unwrap();
        let sleep = Path::new("/bin/sleep");
        let machine = Sleeper::start(&qemu, "something-else", &ours);
        let _look_alike = Sleeper::start(sleep, "qemu-system-x86_64", &ours);
        let _others = Sleeper::start(&qemu, "qemu-system-x86_64", &elsewhere);
        let found = below(&root.join("data")).unwrap();
        let found: Vec<_> = found.iter().map(|it| (it.pid, it.name.as_str())).collect();
        assert_eq!(found, [(machine.0.id(), "microvm-1")]);
    }
}
