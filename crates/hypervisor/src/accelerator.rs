//! Which accelerator really starts a guest here. `/dev/kvm` may exist, open and answer, and yet never
//! boot an ordinary kernel (hosts that take only paravirtual guests): so a guest is started on it
//! once, and the verdict remembered until the host, its kernel or QEMU change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

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
    /// What the verdict holds for: boot id, kernel release, QEMU version.
    pub host: String,
    /// Whether a guest started.
    pub usable: bool,
    /// What was seen.
    pub reason: String,
}

/// The remembered verdict on KVM, or a new one from a guest started now.
///
/// # Errors
/// When the verdict cannot be stored; a probe that fails is a verdict, not an error.
pub async fn probe_kvm(
    program: &Path,
    qemu_version: &str,
    kernel: &Path,
    remembered_in: &Path,
) -> io::Result<Verdict> {
    let host = format!(
        "{} {} {qemu_version}",
        fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim(),
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
    );
    if let Ok(text) = fs::read(remembered_in)
        && let Ok(verdict) = serde_json::from_slice::<Verdict>(&text)
        && verdict.host == host
    {
        return Ok(verdict);
    }
    let (usable, reason) = match start_guest(program, kernel).await {
        Ok(()) => (true, "a guest started on it".to_owned()),
        Err(reason) => (false, reason),
    };
    let verdict = Verdict {
        host,
        usable,
        reason,
    };
    fs::write(remembered_in, serde_json::to_vec_pretty(&verdict)?)?;
    Ok(verdict)
}

/// Starts a kernel without user space on KVM and waits until it looks for one.
async fn start_guest(program: &Path, kernel: &Path) -> Result<(), String> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => {
                "/dev/kvm does not exist: this host offers no hardware virtualization".to_owned()
            }
            _ => format!("/dev/kvm cannot be opened: {error}"),
        });
    }
    let mut command = Command::new(program);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-vga",
            "none",
        ])
        .args([
            "-machine",
            "pc,usb=off",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "256M",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
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
pub fn find_program(architecture: crate::machine::Architecture) -> io::Result<PathBuf> {
    let name = match architecture {
        crate::machine::Architecture::X86_64 => "qemu-system-x86_64",
        crate::machine::Architecture::Aarch64 => "qemu-system-aarch64",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed")))
}
