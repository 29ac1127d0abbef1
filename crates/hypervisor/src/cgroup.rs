//! One cgroup per machine, on hosts with version 2, version 1, or both (hybrid): bounds on memory and
//! processes, a share of the CPU. A host where the daemon may not write cgroups runs machines without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::debug;

use crate::machine::{Architecture, MachineShape};

/// Parent of all of Colibri's cgroups.
const PARENT: &str = "colibri";

/// What QEMU itself may take beside the guest's memory, bytes: its heap, its devices' buffers and up
/// to 128 MiB of translated code under TCG, with room to spare.
const VMM_OVERHEAD: u64 = 512 * 1024 * 1024;

/// Threads of one VMM: its vCPUs, the main loop, the disk's worker pool (64 at most).
const MAX_TASKS: u32 = 256;

/// The kernel's own period of processor time, microseconds.
const CPU_PERIOD_MICROS: u32 = 100_000;

/// The shortest quota that the kernel takes, microseconds.
const SHORTEST_QUOTA_MICROS: u64 = 1_000;

/// Controllers that version 1 keeps in hierarchies of their own.
const V1_CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// A machine's cgroup: one directory on version 2, one a controller on version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes (or finds) the cgroup of a machine and sets its bounds.
    pub fn create(id: &str, shape: MachineShape, cpu: CpuBound) -> Self {
        let directories = Self::locations(id)
            .into_iter()
            .filter(|(directory, _)| match fs::create_dir_all(directory) {
                Ok(()) => true,
                Err(error) => {
                    debug!(?directory, %error, "machine runs without this cgroup");
                    false
                }
            })
            .map(|(directory, version)| {
                for (file, value) in bounds(shape, cpu, version) {
                    if directory.join(file).exists()
                        && let Err(error) = fs::write(directory.join(file), &value)
                    {
                        debug!(?directory, file, value, %error, "cgroup bound not set");
                    }
                }
                directory
            })
            .collect();
        Self { directories }
    }

    /// The cgroup of a machine that an earlier daemon made.
    #[must_use]
    pub fn existing(id: &str) -> Self {
        let directories = Self::locations(id)
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path.is_dir())
            .collect();
        Self { directories }
    }

    /// Files that a process writes `0` into to move itself there.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn doors(&self) -> io::Result<Vec<fs::File>> {
        self.directories
            .iter()
            .map(|directory| {
                fs::File::options()
                    .write(true)
                    .open(directory.join("cgroup.procs"))
            })
            .collect()
    }

    /// Removes it once its last process has ended; a process that was just reaped may keep it busy
    /// for a moment.
    pub async fn remove(&self) {
        for directory in &self.directories {
            for _ in 0..50 {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    _ => break,
                }
            }
        }
    }

    fn locations(id: &str) -> Vec<(PathBuf, Version)> {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            enable_v2(root);
            return vec![(root.join(PARENT).join(id), Version::Two)];
        }
        V1_CONTROLLERS
            .iter()
            .map(|controller| root.join(controller))
            .filter(|hierarchy| hierarchy.join("cgroup.procs").exists())
            .map(|hierarchy| (hierarchy.join(PARENT).join(id), Version::One))
            .collect()
    }
}

/// What machines cannot be bounded in on this host: names of controllers, none where all is well. Makes a
/// cgroup and removes it again.
#[must_use]
pub fn unavailable_bounds() -> Vec<&'static str> {
    let id = format!("probe-{}", std::process::id());
    let locations = Cgroup::locations(&id);
    let shape = MachineShape {
        architecture: Architecture::X86_64,
        vcpus: 1,
        memory_mib: 512,
    };
    let mut missing = V1_CONTROLLERS.to_vec();
    for (directory, version) in locations {
        if fs::create_dir_all(&directory).is_err() {
            continue;
        }
        for (file, value) in bounds(shape, CpuBound::default(), version) {
            let controller = file.split('.').next().unwrap_or_default();
            if fs::write(directory.join(file), value).is_ok() {
                missing.retain(|missing| *missing != controller);
            }
        }
        // It is empty, so it goes; one that stays is swept with the others.
        let _ = fs::remove_dir(&directory);
    }
    missing
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// How much of the host's processors a machine may take when they are idle. What it gets when they are not
/// follows from its weight, which its vCPUs give.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuBound {
    /// Processors for each vCPU: 1.0 lets a machine of two vCPUs take two, with all that QEMU does for it.
    /// Without a bound it takes two and what its devices' threads need.
    pub processors_per_vcpu: Option<f64>,
}

impl CpuBound {
    /// Microseconds of processor time that a machine may take in a period.
    fn quota(self, shape: MachineShape) -> Option<u64> {
        let processors = self.processors_per_vcpu? * f64::from(shape.vcpus);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float's cast saturates; the kernel refuses what is too small"
        )]
        let quota = (processors * f64::from(CPU_PERIOD_MICROS)) as u64;
        Some(quota.max(SHORTEST_QUOTA_MICROS))
    }
}

fn bounds(shape: MachineShape, cpu: CpuBound, version: Version) -> Vec<(&'static str, String)> {
    let memory = u64::from(shape.memory_mib) * 1024 * 1024 + VMM_OVERHEAD;
    let quota = cpu.quota(shape);
    let mut bounds = match version {
        Version::Two => vec![
            ("memory.max", memory.to_string()),
            (
                "cpu.weight",
                (u32::from(shape.vcpus) * 100).min(10_000).to_string(),
            ),
        ],
        Version::One => vec![
            ("memory.limit_in_bytes", memory.to_string()),
            ("cpu.shares", (u32::from(shape.vcpus) * 1024).to_string()),
        ],
    };
    bounds.push(("pids.max", MAX_TASKS.to_string()));
    match (version, quota) {
        (_, None) => {}
        (Version::Two, Some(quota)) => {
            bounds.push(("cpu.max", format!("{quota} {CPU_PERIOD_MICROS}")));
        }
        (Version::One, Some(quota)) => {
            bounds.push(("cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string()));
            bounds.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    bounds
}

/// Lets Colibri's children have the controllers; a host that forbids it leaves them unbounded.
fn enable_v2(root: &Path) {
    let parent = root.join(PARENT);
    let _ = fs::create_dir(&parent);
    for directory in [root, &parent] {
        for controller in ["+memory", "+cpu", "+pids"] {
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuBound, Version, bounds};
    use crate::machine::{Architecture, MachineShape};

    fn shape(vcpus: u8, memory_mib: u32) -> MachineShape {
        MachineShape {
            architecture: Architecture::X86_64,
            vcpus,
            memory_mib,
        }
    }

    fn bound(shape: MachineShape, cpu: CpuBound, version: Version, file: &str) -> Option<String> {
        let bounds = bounds(shape, cpu, version);
        let found = bounds.into_iter().find(|(name, _)| *name == file);
        found.map(|(_, value)| value)
    }

    #[test]
    fn weight_and_peak_grow_with_the_size_on_both_versions() {
        let free = CpuBound::default();
        for (vcpus, memory) in [(1, 2048), (2, 4096), (4, 8192), (8, 16_384), (16, 32_768)] {
            let shape = shape(vcpus, memory);
            let peak = (u64::from(memory) + 512) * 1024 * 1024;
            let one = |file| bound(shape, free, Version::One, file);
            let two = |file| bound(shape, free, Version::Two, file);
            assert_eq!(
                one("cpu.shares"),
                Some((u32::from(vcpus) * 1024).to_string())
            );
            assert_eq!(
                two("cpu.weight"),
                Some((u32::from(vcpus) * 100).to_string())
            );
            assert_eq!(one("memory.limit_in_bytes"), Some(peak.to_string()));
            assert_eq!(two("memory.max"), Some(peak.to_string()));
            assert_eq!((one("cpu.cfs_quota_us"), two("cpu.max")), (None, None));
        }
    }

    #[test]
    fn a_bound_on_bursts_is_a_quota_of_the_vcpus() {
        let half = CpuBound {
            processors_per_vcpu: Some(0.5),
        };
        let shape = shape(4, 8192);
        let two = bound(shape, half, Version::Two, "cpu.max");
        assert_eq!(two.as_deref(), Some("200000 100000"));
        let one = bound(shape, half, Version::One, "cpu.cfs_quota_us");
        assert_eq!(one.as_deref(), Some("200000"));
    }
}
