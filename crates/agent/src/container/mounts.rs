//! The file systems that a container sees, built as Docker builds them, and the move into them.
//!
//! Every path of the image is resolved after the move: the process's root is the image's, so no
//! symbolic link of a hostile image leads anywhere else. What comes from outside (the identity files,
//! the device nodes) is opened before the move and mounted by descriptor after it.

use std::fs::{self, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use colibri_guest_protocol::message::AgentFailure;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, mount_move, mount_remount, move_mount, open_tree, unmount,
};

use crate::boot::{ROOT_DISK, set};
use crate::failure::{Attempt, failure};
use crate::identity::IdentityFile;

/// The device nodes that a container has (Docker's list). Each is bound from the agent's devtmpfs; a
/// node that the application makes itself opens nothing, because all else is mounted `nodev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// One more for an application with every capability.
const FUSE: &str = "fuse";

/// Docker's defaults (moby, `oci/defaults.go`): what a container must not read…
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// …and what it must not write.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Builds the container's file systems and makes them this process's.
pub(super) fn enter(all_capabilities: bool) -> Result<(), AgentFailure> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .attempt(|| "make the mounts private".to_owned())?;
    if !all_capabilities {
        // Docker's seccomp profile refuses user namespaces to a container; here the limit does. (A
        // process can give itself every capability inside one of its own.)
        set("/proc/sys/user/max_user_namespaces", "0");
    }
    let identity = open_identity_files()?;
    let devices = open_devices(all_capabilities)?;
    move_into_root_disk()?;

    mount_proc_and_sys(all_capabilities)?;
    mount_dev(devices, all_capabilities)?;
    if !all_capabilities {
        restrict_proc_and_sys()?;
    }
    place_identity_files(identity)?;
    if !Path::new("/etc/mtab").is_symlink() && !Path::new("/etc/mtab").exists() {
        // As Docker does; an image without a writable /etc does without.
        let _ = symlink("/proc/mounts", "/etc/mtab");
    }
    Ok(())
}

/// A mount of one file, not yet anywhere.
fn detached(path: &Path) -> Result<OwnedFd, AgentFailure> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .attempt(|| format!("open {}", path.display()))
}

fn open_identity_files() -> Result<Vec<(IdentityFile, OwnedFd)>, AgentFailure> {
    IdentityFile::ALL
        .into_iter()
        .map(|file| Ok((file, detached(&file.source())?)))
        .collect()
}

fn open_devices(all_capabilities: bool) -> Result<Vec<(&'static str, OwnedFd)>, AgentFailure> {
    let fuse = (all_capabilities && Path::new("/dev").join(FUSE).exists()).then_some(FUSE);
    DEVICES
        .into_iter()
        .chain(fuse)
        .map(|name| Ok((name, detached(&Path::new("/dev").join(name))?)))
        .collect()
}

/// Makes the root disk this namespace's root. `pivot_root` refuses while the root is the initramfs
/// (`man 2 pivot_root`), so this is what `switch_root` does: the disk is moved over the root. From
/// inside, `..` of the root ends at the root, and nothing of the initramfs has a name.
fn move_into_root_disk() -> Result<(), AgentFailure> {
    // The agent's own mounts would stay in the namespace, hidden.
    for target in ["/sys/fs/cgroup", "/sys", "/proc", "/dev", "/run"] {
        unmount(target, UnmountFlags::DETACH).attempt(|| format!("leave {target}"))?;
    }
    let attempted = || "move into the image's root file system".to_owned();
    rustix::process::chdir(ROOT_DISK).attempt(attempted)?;
    mount_move(".", "/").attempt(attempted)?;
    rustix::process::chroot(".").attempt(attempted)?;
    rustix::process::chdir("/").attempt(attempted)
}

fn mount_proc_and_sys(all_capabilities: bool) -> Result<(), AgentFailure> {
    new_mount("proc", "/proc", SAFE, c"")?;
    let access = if all_capabilities {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    new_mount("sysfs", "/sys", SAFE | access, c"")?;
    if all_capabilities {
        new_mount("cgroup2", "/sys/fs/cgroup", SAFE, c"")?;
    }
    Ok(())
}

fn mount_dev(devices: Vec<(&str, OwnedFd)>, all_capabilities: bool) -> Result<(), AgentFailure> {
    let nodev = if all_capabilities {
        MountFlags::empty()
    } else {
        MountFlags::NODEV
    };
    new_mount(
        "tmpfs",
        "/dev",
        MountFlags::NOSUID | MountFlags::STRICTATIME | nodev,
        c"mode=755,size=65536k",
    )?;
    for (name, device) in devices {
        let target = Path::new("/dev").join(name);
        fs::write(&target, "").attempt(|| format!("make {}", target.display()))?;
        place(&device, &target)?;
    }
    // Without devices of their own: devpts's nodes are the one exception, so it cannot be `nodev`.
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    new_mount(
        "devpts",
        "/dev/pts",
        terminals,
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    new_mount("tmpfs", "/dev/shm", SAFE, c"mode=1777,size=65536k")?;
    new_mount("mqueue", "/dev/mqueue", SAFE, c"")?;
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("pts/ptmx", "/dev/ptmx"),
    ];
    for (to, link) in links {
        symlink(to, link).attempt(|| format!("make {link}"))?;
    }
    Ok(())
}

/// Mounts a new file system on a directory of the image, made if missing. A symbolic link there is
/// refused: the rest would go to wherever it leads.
fn new_mount(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &std::ffi::CStr,
) -> Result<(), AgentFailure> {
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(failure(
                format!("mount {target}"),
                "it is not a directory in the image",
            ));
        }
        Err(_) => fs::create_dir(target).attempt(|| format!("make the directory {target}"))?,
    }
    mount(kind, target, kind, flags, options).attempt(|| format!("mount {kind} on {target}"))
}

fn restrict_proc_and_sys() -> Result<(), AgentFailure> {
    for path in READ_ONLY {
        if Path::new(path).exists() {
            mount_bind(path, path)
                .and_then(|()| {
                    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | SAFE, "")
                })
                .attempt(|| format!("make {path} read-only"))?;
        }
    }
    for path in MASKED {
        let masked = match fs::symlink_metadata(path) {
            Err(_) => continue,
            Ok(found) if found.is_dir() => {
                mount("tmpfs", path, "tmpfs", SAFE | MountFlags::RDONLY, c"size=0")
            }
            Ok(_) => mount_bind("/dev/null", path),
        };
        masked.attempt(|| format!("mask {path}"))?;
    }
    Ok(())
}

fn place_identity_files(files: Vec<(IdentityFile, OwnedFd)>) -> Result<(), AgentFailure> {
    if !Path::new("/etc").exists() {
        fs::create_dir("/etc").attempt(|| "make the directory /etc".to_owned())?;
    }
    for (file, tree) in files {
        let target = Path::new(file.target());
        if file == IdentityFile::BootId {
            place(&tree, target)?;
            mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | SAFE, "")
                .attempt(|| format!("make {} read-only", target.display()))?;
        } else {
            make_file(target)?;
            place(&tree, target)?;
        }
    }
    Ok(())
}

/// Makes sure that there is a file to mount on. A symbolic link is followed inside the image, as
/// Docker does; one that leads nowhere is replaced.
fn make_file(path: &Path) -> Result<(), AgentFailure> {
    let make = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        return Ok(());
    }
    if make().is_err() && path.is_symlink() {
        let _ = fs::remove_file(path);
    }
    make()
        .and_then(|_| fs::set_permissions(path, Permissions::from_mode(0o644)))
        .attempt(|| format!("make {}", path.display()))
}

fn place(tree: &OwnedFd, target: &Path) -> Result<(), AgentFailure> {
    let attempted = || format!("mount {}", target.display());
    let target = open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).attempt(attempted)?;
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &target, "", by_descriptor).attempt(attempted)
}
