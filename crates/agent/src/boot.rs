//! Everything between the kernel's hand-over and the first session, but for modules and network.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use colibri_guest_protocol::message::AgentFailure;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::console;
use crate::failure::{Attempt, failure};

/// Where the application's root file system is mounted in the agent's namespace.
pub(crate) const ROOT_DISK: &str = "/root-disk";
/// Where cgroup2 is mounted in the agent's namespace.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// The application's control group, below [`CONTROL_GROUPS`]. The name is the one that the real
/// service shows in `/proc/self/cgroup`.
pub(crate) const APPLICATION_GROUP: &str = "/sys/fs/cgroup/system.slice/app";

const ROOT_DEVICE: &str = "/dev/vda";
/// How long to wait for a device that the kernel announces in its own time. Emulated, the probe of
/// all virtio devices takes well under a second.
const DEVICE_BOUND: Duration = Duration::from_secs(30);
/// Devices appear without a signal that an init could wait for cheaply; this runs at a cold boot only.
const DEVICE_POLL: Duration = Duration::from_millis(5);

/// Open files of the agent: two for each of the forwarder's connections, and some more.
const OPEN_FILES: u64 = 4096;

/// Mounts `/dev`, `/proc`, `/sys` and `/run` of the agent's own namespace.
pub(crate) fn mount_kernel_file_systems() -> Result<(), AgentFailure> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at("devtmpfs", "/dev", safe, "mode=0755")?;
    mount_at("proc", "/proc", safe | MountFlags::NODEV, "")?;
    mount_at("sysfs", "/sys", safe | MountFlags::NODEV, "")?;
    mount_at(
        "tmpfs",
        "/run",
        safe | MountFlags::NODEV,
        "mode=0755,size=2m",
    )?;
    mount_at("cgroup2", CONTROL_GROUPS, safe | MountFlags::NODEV, "")
}

fn mount_at(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), AgentFailure> {
    fs::create_dir_all(target).attempt(|| format!("make the directory {target}"))?;
    let options = std::ffi::CString::new(options).attempt(|| format!("mount {target}"))?;
    mount(kind, target, kind, flags, options.as_c_str())
        .attempt(|| format!("mount {kind} on {target}"))
}

/// Lets the agent open enough files, keeps the kernel from killing it first when memory runs out,
/// and gives the application the network settings that a container has.
pub(crate) fn set_limits() {
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    if let Err(refused) = setrlimit(Resource::Nofile, limit) {
        console::warn(&format!(
            "could not raise the limit of open files: {refused}"
        ));
    }
    set("/proc/self/oom_score_adj", "-1000");
    // As Docker sets them in a container's network namespace: low ports and ping for every user.
    set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    set("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}

/// Writes a kernel setting that the machine can do without.
pub(crate) fn set(path: &str, value: &str) {
    if let Err(refused) = fs::write(path, value) {
        console::warn(&format!("could not write {value} to {path}: {refused}"));
    }
}

/// Makes the application's control group.
pub(crate) fn set_up_control_groups() -> Result<(), AgentFailure> {
    fs::create_dir_all(APPLICATION_GROUP)
        .attempt(|| format!("make the control group {APPLICATION_GROUP}"))
}

/// Hands every controller down to the application's group, for an application that may make groups
/// of its own.
pub(crate) fn delegate_controllers() {
    for group in [CONTROL_GROUPS, "/sys/fs/cgroup/system.slice"] {
        let Ok(controllers) = fs::read_to_string(format!("{group}/cgroup.controllers")) else {
            continue;
        };
        for controller in controllers.split_whitespace() {
            set(
                &format!("{group}/cgroup.subtree_control"),
                &format!("+{controller}"),
            );
        }
    }
}

/// Waits for the root disk and mounts it. `nodev`, so that a node made with `mknod` opens nothing.
pub(crate) fn mount_root_disk() -> Result<(), AgentFailure> {
    wait_for_device(Path::new(ROOT_DEVICE))?;
    fs::create_dir_all(ROOT_DISK).attempt(|| format!("make the directory {ROOT_DISK}"))?;
    mount(
        ROOT_DEVICE,
        ROOT_DISK,
        "ext4",
        MountFlags::NOATIME | MountFlags::NODEV,
        None,
    )
    .attempt(|| format!("mount the root disk {ROOT_DEVICE} (ext4)"))
}

fn wait_for_device(device: &Path) -> Result<(), AgentFailure> {
    wait_until(|| device.exists().then_some(())).ok_or_else(|| {
        failure(
            format!("find the root disk {}", device.display()),
            format!("it did not appear within {} s", DEVICE_BOUND.as_secs()),
        )
    })
}

/// Asks again until there is an answer; `None` when there was none within [`DEVICE_BOUND`].
pub(crate) fn wait_until<T>(mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEVICE_BOUND;
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(DEVICE_POLL);
    }
}
