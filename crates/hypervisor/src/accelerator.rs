//! Which accelerator really starts a guest here. `/dev/kvm` may exist, open and answer, and yet never
//! boot an ordinary kernel (hosts that take only paravirtual guests): so a guest is started on it
//! once, and the verdict remembered until the host, its kernel or QEMU change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tracing::debug;

use crate::machine::Architecture;

const KVM: &str = "/dev/kvm";

/// How long the probe's guest may take until its kernel is up. On KVM it takes under a second, under
/// nested emulation up to ten.
const PROBE_BOUND: Duration = Duration::from_secs(30);

/// How long it may say nothing at all: a guest that will never run does not print a line.
const SILENCE_BOUND: Duration = Duration::from_secs(12);

/// What kernels print when they have started everything of their own and look for user space.
const KERNEL_UP: [&str; 3] = [
    "Run /init as init process",
    "VFS: Unable to mount root fs",
    "No working init found",
];

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The host's hardware, through Linux KVM.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl Accelerator {
    /// Its name on QEMU's command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What the probe of KVM found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What the verdict holds for: boot id, kernel release, QEMU version, `/dev/kvm` as it is, user id.
    pub host: String,
    /// Whether a guest started.
    pub usable: bool,
    /// What was seen.
    pub reason: String,
}

/// How long a verdict against KVM is believed: a host that was busy at the wrong moment must not run in
/// software for ever.
const REFUSAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The remembered verdict on KVM, or a new one from a guest started now. It is remembered where the
/// directory of `remembered_in` exists and can be written; a host without a `/dev/kvm` that opens is asked
/// each time.
pub async fn probe_kvm(
    architecture: Architecture,
    program: &Path,
    qemu_version: &str,
    kernel: &Path,
    remembered_in: &Path,
) -> Verdict {
    let host = host_key(qemu_version);
    if let Err(reason) = open_kvm() {
        return Verdict {
            host,
            usable: false,
            reason,
        };
    }
    if let Some(verdict) = remembered(remembered_in, &host) {
        return verdict;
    }
    let (usable, reason) = match start_guest(architecture, program, kernel).await {
        Ok(()) => (true, "a guest started on it".to_owned()),
        Err(reason) => (false, reason),
    };
    let verdict = Verdict {
        host,
        usable,
        reason,
    };
    let written = serde_json::to_vec_pretty(&verdict)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(remembered_in, text));
    if let Err(error) = written {
        debug!(path = %remembered_in.display(), %error, "the verdict on KVM is not remembered");
    }
    verdict
}

/// What a verdict holds for: this boot, this kernel, this QEMU, this device and who may open it.
fn host_key(qemu_version: &str) -> String {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let device = fs::metadata(KVM).map_or_else(
        |_| "absent".to_owned(),
        |kvm| {
            format!(
                "{:x}/{:o}/{}/{}",
                kvm.rdev(),
                kvm.mode(),
                kvm.uid(),
                kvm.gid()
            )
        },
    );
    format!(
        "{} {} {qemu_version} {device} {}",
        line("/proc/sys/kernel/random/boot_id").trim(),
        line("/proc/sys/kernel/osrelease").trim(),
        rustix::process::geteuid().as_raw(),
    )
}

fn remembered(path: &Path, host: &str) -> Option<Verdict> {
    let verdict: Verdict = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let age = fs::metadata(path).ok()?.modified().ok()?.elapsed();
    let is_fresh = verdict.usable || age.is_ok_and(|age| age < REFUSAL_AGE);
    (verdict.host == host && is_fresh).then_some(verdict)
}

fn open_kvm() -> Result<(), String> {
    match fs::File::options().read(true).write(true).open(KVM) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            "/dev/kvm does not exist: this host offers no hardware virtualization, or its module \
             (kvm_intel, kvm_amd) is not loaded"
                .to_owned(),
        ),
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

/// Starts a kernel without user space on KVM and waits until it looks for one.
async fn start_guest(
    architecture: Architecture,
    program: &Path,
    kernel: &Path,
) -> Result<(), String> {
    let (machine, console) = match architecture {
        Architecture::X86_64 => ("pc,usb=off", "ttyS0"),
        Architecture::Aarch64 => ("virt,gic-version=host", "ttyAMA0"),
    };
    let mut command = Command::new(program);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-vga", "none"])
        .args(["-machine", machine, "-accel", "kvm", "-cpu", "host"])
        .args(["-m", "256M", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-append")
        .arg(format!("console={console} panic=-1"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
    let (Some(mut console), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the probe's console cannot be read".to_owned());
    };
    let mut seen = String::new();
    let watch = async {
        let mut buffer = [0_u8; 4096];
        loop {
            let read = tokio::time::timeout(SILENCE_BOUND, console.read(&mut buffer));
            match read.await {
                Ok(Ok(0) | Err(_)) => return false,
                Ok(Ok(length)) => seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(_) => return false,
            }
            if KERNEL_UP.iter().any(|line| seen.contains(line)) {
                return true;
            }
        }
    };
    if tokio::time::timeout(PROBE_BOUND, watch)
        .await
        .unwrap_or(false)
    {
        return Ok(());
    }
    let _ = child.kill().await;
    let mut complaint = String::new();
    let _ = tokio::time::timeout(
        Duration::from_secs(1),
        errors.read_to_string(&mut complaint),
    )
    .await;
    let last = seen.lines().last().unwrap_or("nothing at all").trim();
    Err(format!(
        "a guest started on /dev/kvm but its kernel did not come up; it printed last: {last}; QEMU said: {}",
        complaint.lines().last().unwrap_or("nothing"),
    ))
}

/// Where a QEMU for an architecture is found.
///
/// # Errors
/// When none is installed.
pub fn find_program(architecture: Architecture) -> io::Result<PathBuf> {
    let name = match architecture {
        Architecture::X86_64 => "qemu-system-x86_64",
        Architecture::Aarch64 => "qemu-system-aarch64",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed")))
}
