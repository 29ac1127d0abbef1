//! What an installation decides about builds: limits, directories, and the guest's own files.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use colibri_hypervisor::machine::Architecture;
use serde::Deserialize;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Limits and places of image builds.
#[derive(Debug, Clone)]
pub struct BuilderSettings {
    /// Unpacked archives and build machines, one directory a build. On the file system of the
    /// images' directories: a frozen machine's files move there by renaming.
    pub work_directory: PathBuf,
    /// The containers' own storage; nothing else may use it.
    pub storage_directory: PathBuf,
    /// State of that storage that must not outlive the host's uptime (mount counts): below `/run`.
    /// Short, because socket paths are made below it.
    pub run_directory: PathBuf,
    /// Storage whose images a `FROM` finds besides our own, read-only: the host's, where locally made
    /// base images are. Ignored where it does not exist.
    pub base_storage: Option<PathBuf>,
    /// The host's configuration of registries: mirrors and private registries are its owner's decision.
    pub registries_file: PathBuf,
    /// OCI runtime, by name or path.
    pub runtime: PathBuf,
    /// First host user and group id of the 65,536 that a build's containers live in. No other process
    /// on the host may use them, VMMs included.
    pub first_container_id: u32,
    /// Artifact size, bytes.
    pub artifact_bytes: u64,
    /// Entries of an artifact.
    pub archive_entries: u64,
    /// Unpacked size of an artifact, bytes; the root disk's size bounds it too.
    pub unpacked_bytes: u64,
    /// Unpacked size over packed size of an artifact (64 MiB are always allowed).
    pub compression_ratio: u64,
    /// Time for the container build, base images' download included.
    pub container_time: Duration,
    /// Memory of a build's containers, bytes.
    pub container_memory_bytes: u64,
    /// CPU weight of a build's containers against the host's other cgroups (1024 is the usual one).
    pub container_cpu_shares: u32,
    /// What a container build may write, as a multiple of the root disk's size: layers, copies
    /// between stages, and the final image's archive all count.
    pub container_disk_multiple: u64,
    /// What fetched base images may take on disk when no build is at work, bytes; the least recently used
    /// go first.
    pub base_images_bytes: u64,
    /// Age at which a fetched base image is fetched anew by the next build that starts from it, unless it is
    /// named by its digest.
    pub base_image_age: Duration,
    /// Time for a booted machine's agent to answer. Software emulation is slow.
    pub agent_time: Duration,
}

impl BuilderSettings {
    /// The defaults for a data directory.
    #[must_use]
    pub fn below(data_directory: &Path) -> Self {
        Self {
            work_directory: data_directory.join("builds"),
            storage_directory: data_directory.join("containers/storage"),
            run_directory: run_directory(data_directory),
            base_storage: Some(PathBuf::from("/var/lib/containers/storage")),
            registries_file: PathBuf::from("/etc/containers/registries.conf"),
            runtime: default_runtime(),
            first_container_id: 1_000_000,
            artifact_bytes: GIB,
            archive_entries: 200_000,
            unpacked_bytes: 8 * GIB,
            compression_ratio: 250,
            container_time: Duration::from_secs(30 * 60),
            container_memory_bytes: 2 * GIB,
            container_cpu_shares: 512,
            container_disk_multiple: 4,
            base_images_bytes: 32 * GIB,
            base_image_age: Duration::from_secs(24 * 60 * 60),
            agent_time: Duration::from_secs(120),
        }
    }
}

/// One a data directory: the mount counts in it are kept by layer, and layers of one base have the same
/// names in every daemon's storage. Two daemons that shared it would take each other's mounts for their own.
fn run_directory(data_directory: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    std::path::absolute(data_directory)
        .unwrap_or_else(|_| data_directory.to_owned())
        .hash(&mut hasher);
    PathBuf::from(format!(
        "/run/colibri-containers/{:08x}",
        hasher.finish() >> 32
    ))
}

/// `runc`, or `crun` where there is no `runc`: crun 1.8 refuses hosts that mount both cgroup versions.
fn default_runtime() -> PathBuf {
    let directories = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
    let find = |name: &str| {
        directories
            .iter()
            .map(|d| Path::new(d).join(name))
            .find(|path| path.is_file())
    };
    find("runc")
        .or_else(|| find("crun"))
        .unwrap_or_else(|| PathBuf::from("runc"))
}

/// Kernel and initramfs of one architecture's guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// Architecture.
    pub architecture: Architecture,
    /// Version of the kernel, for the build's log.
    pub kernel_version: String,
    /// Kernel, in the form that the VMM boots directly.
    pub kernel: PathBuf,
    /// Initial RAM file system with the agent.
    pub initramfs: PathBuf,
    /// More of the kernel's command line.
    pub kernel_arguments: Vec<String>,
}

/// The guests' files of every architecture that is installed.
#[derive(Debug, Clone, Default)]
pub struct GuestAssets {
    files: Vec<GuestFiles>,
    /// Those of versions of the base image that have their own.
    of_versions: BTreeMap<u32, GuestAssets>,
}

/// The guests' files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GuestAssetsError {
    /// Not readable.
    #[error("could not read {path}; make the guest's files with scripts/build-guest")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error(
        "{path} does not describe a guest; make the guest's files anew with scripts/build-guest"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It names another architecture or a missing or foreign file.
    #[error("{path}: {reason}; make the guest's files anew with scripts/build-guest")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// `guest.json`.
#[derive(Deserialize)]
struct GuestDescription {
    architecture: Architecture,
    #[serde(default)]
    kernel_version: String,
    kernel_file: String,
    initramfs_file: String,
    #[serde(default)]
    kernel_arguments: Vec<String>,
}

impl GuestAssets {
    /// Reads `DIRECTORY/x86_64/guest.json` and `DIRECTORY/aarch64/guest.json`, those that are there.
    ///
    /// # Errors
    /// When one is there but cannot be used.
    pub fn load(directory: &Path) -> Result<Self, GuestAssetsError> {
        let mut files = Vec::new();
        for (name, architecture) in [
            ("x86_64", Architecture::X86_64),
            ("aarch64", Architecture::Aarch64),
        ] {
            let folder = directory.join(name);
            if folder.join("guest.json").exists() {
                files.push(load_files(&folder, architecture)?);
            }
        }
        Ok(Self::of(files))
    }

    /// Assets of known files.
    #[must_use]
    pub fn of(files: Vec<GuestFiles>) -> Self {
        Self {
            files,
            of_versions: BTreeMap::new(),
        }
    }

    /// With other files for a version of the base image.
    #[must_use]
    pub fn with_version(mut self, version: u32, assets: Self) -> Self {
        self.of_versions.insert(version, assets);
        self
    }

    /// The files for a version of the base image: its own, or those of all that have none.
    #[must_use]
    pub fn of_version(&self, version: u32) -> &Self {
        self.of_versions.get(&version).unwrap_or(self)
    }

    /// The files of an architecture, where they are installed.
    #[must_use]
    pub fn of_architecture(&self, architecture: Architecture) -> Option<&GuestFiles> {
        self.files
            .iter()
            .find(|files| files.architecture == architecture)
    }
}

fn load_files(folder: &Path, architecture: Architecture) -> Result<GuestFiles, GuestAssetsError> {
    let path = folder.join("guest.json");
    let text = std::fs::read(&path).map_err(|source| GuestAssetsError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let description: GuestDescription =
        serde_json::from_slice(&text).map_err(|source| GuestAssetsError::Malformed {
            path: path.clone(),
            source,
        })?;
    if description.architecture != architecture {
        let reason = "it names another architecture than its directory".to_owned();
        return Err(GuestAssetsError::Inconsistent { path, reason });
    }
    let file_of = |name: &str| {
        let file = folder.join(name);
        if name.is_empty() || name.contains('/') || !file.is_file() {
            let reason = format!("the file {name:?} that it names is not beside it");
            return Err(GuestAssetsError::Inconsistent {
                path: path.clone(),
                reason,
            });
        }
        Ok(file)
    };
    Ok(GuestFiles {
        architecture,
        kernel: file_of(&description.kernel_file)?,
        initramfs: file_of(&description.initramfs_file)?,
        kernel_version: description.kernel_version,
        kernel_arguments: description.kernel_arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::{GuestAssets, GuestAssetsError};
    use colibri_hypervisor::machine::Architecture;

    #[test]
    fn the_guest_files_are_found_by_architecture_and_must_exist() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("x86_64");
        std::fs::create_dir(&folder).unwrap();
        let json = r#"{"architecture":"x86_64","kernel_version":"6.1","kernel_file":"vmlinux",
            "initramfs_file":"initramfs","agent_version":"unknown to us"}"#;
        std::fs::write(folder.join("guest.json"), json).unwrap();
        std::fs::write(folder.join("vmlinux"), "k").unwrap();
        assert!(matches!(
            GuestAssets::load(directory.path()),
            Err(GuestAssetsError::Inconsistent { .. })
        ));
        std::fs::write(folder.join("initramfs"), "i").unwrap();
        let assets = GuestAssets::load(directory.path()).unwrap();
        assert_eq!(
            assets.of_architecture(Architecture::X86_64).unwrap().kernel,
            folder.join("vmlinux")
        );
        assert!(assets.of_architecture(Architecture::Aarch64).is_none());
    }
}
