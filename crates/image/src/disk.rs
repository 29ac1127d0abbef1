//! Makes the root disk: the built image, mounted, copied into an ext4 file system in a sparse file.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::command::{CommandError, HostCommand};
use crate::container::with_sources;
use crate::container_config::ContainerConfig;
use crate::disk_use::walk;
use crate::request::{BuildFailure, FailureCode};
use crate::storage::{ContainerStorage, STORAGE_TIME, container_name};

/// Bound for copying an image into a file system; 32 GiB at 20 MB/s.
const COPY_TIME: Duration = Duration::from_secs(1800);

/// Disk bytes for each inode that ext4 makes by itself (mke2fs.conf(5), `inode_ratio`).
const BYTES_PER_INODE: u64 = 16_384;

/// Inodes left free on every disk for what the application will create.
const SPARE_INODES: u64 = 65_536;

/// Share of a disk that an image may fill, in percent: the rest is the file system's own tables, its
/// journal, and some room.
const MOST_FILLED_PERCENT: u64 = 95;

/// Journal, MiB: small, because a frozen machine's memory and disk are one instant's anyway; it is
/// there for guests whose VMM was killed.
const JOURNAL_MIB: u64 = 16;

/// A root disk and what the image says about running.
#[derive(Debug)]
pub(crate) struct RootDisk {
    pub(crate) path: PathBuf,
    pub(crate) config: ContainerConfig,
}

/// The built image on its way to a disk.
pub(crate) struct DiskBuild<'a> {
    pub(crate) storage: &'a ContainerStorage,
    pub(crate) build_id: &'a str,
    pub(crate) work: &'a Path,
    pub(crate) disk_bytes: u64,
    /// First host id of the containers that built it.
    pub(crate) first_container_id: u32,
}

/// What a mounted image holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes of its files and links as they say, hard links once.
    pub(crate) bytes: u64,
    /// Bytes that they take in blocks of 4 KiB.
    pub(crate) block_bytes: u64,
    /// Files, directories and everything else.
    pub(crate) inodes: u64,
}

impl DiskBuild<'_> {
    /// Mounts the image; returns where.
    pub(crate) async fn mount(&self) -> Result<PathBuf, BuildFailure> {
        let container = container_name(self.build_id);
        let image = ContainerStorage::image_name(self.build_id);
        let from = ["from", "--pull-never", "--name", &container, &image];
        self.buildah(from).await?;
        let path = self.buildah(["mount", &container]).await?;
        Ok(PathBuf::from(path.trim()))
    }

    /// Reads what the image says about running.
    pub(crate) async fn config(&self) -> Result<ContainerConfig, BuildFailure> {
        let image = ContainerStorage::image_name(self.build_id);
        ContainerConfig::from_inspection(
            &self.buildah(["inspect", "--type", "image", &image]).await?,
        )
    }

    /// Measures the mounted image and makes its file capabilities the guest's.
    pub(crate) async fn measure(&self, mounted: &Path) -> Result<Contents, BuildFailure> {
        let (tree, first_id) = (mounted.to_owned(), self.first_container_id);
        let measured = tokio::task::spawn_blocking(move || contents(&tree, first_id)).await;
        measured
            .map_err(|error| BuildFailure::internal("measure the container image", &error))?
            .map_err(|error| BuildFailure::io("prepare the container image", &error))
    }

    /// Copies the mounted image into a new file system.
    ///
    /// # Errors
    /// `DISK_STORAGE_FULL` when it does not fit.
    pub(crate) async fn make(
        &self,
        mounted: &Path,
        contents: Contents,
    ) -> Result<PathBuf, BuildFailure> {
        if contents.block_bytes > self.disk_bytes / 100 * MOST_FILLED_PERCENT {
            return Err(self.full(contents));
        }
        let path = self.work.join("root.raw");
        let file = File::create_new(&path).and_then(|file| file.set_len(self.disk_bytes));
        file.map_err(|error| BuildFailure::io("create the root disk", &error))?;
        let inodes = (self.disk_bytes / BYTES_PER_INODE).max(contents.inodes + SPARE_INODES);
        let mkfs = HostCommand::new("mkfs.ext4", &self.work.join("tmp"))
            .args(["-q", "-F", "-m", "0", "-L", "root", "-b", "4096"])
            .args([
                "-N",
                &inodes.to_string(),
                "-J",
                &format!("size={JOURNAL_MIB}"),
            ])
            // Nothing left to initialise in the guest: that would grow every clone's overlay.
            .args([
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
            ])
            .arg("-d")
            .arg(mounted)
            .arg(&path);
        match mkfs.output(COPY_TIME).await {
            Ok(_) => Ok(path),
            Err(CommandError::Failed { output, .. }) if is_full(&output) => {
                Err(self.full(contents))
            }
            Err(error) => Err(BuildFailure::internal(
                "make the root disk",
                &with_sources(&error),
            )),
        }
    }

    async fn buildah<const N: usize>(&self, arguments: [&str; N]) -> Result<String, BuildFailure> {
        let output = self
            .storage
            .buildah(&self.work.join("tmp"))
            .args(arguments)
            .output(STORAGE_TIME)
            .await;
        output.map_err(|error| {
            BuildFailure::internal("open the container image", &with_sources(&error))
        })
    }

    fn full(&self, contents: Contents) -> BuildFailure {
        let text = format!(
            "the container image takes {} bytes in {} files, which does not fit the root disk of {} bytes; \
             make the image smaller or choose a larger memory size, which has a larger disk",
            contents.block_bytes, contents.inodes, self.disk_bytes
        );
        BuildFailure::sentence(FailureCode::DiskStorageFull, &text)
    }
}

/// What libext2fs says when blocks or inodes run out (`EXT2_ET_BLOCK_ALLOC_FAIL`,
/// `EXT2_ET_INODE_ALLOC_FAIL`), and what the host's disk says.
fn is_full(output: &str) -> bool {
    let texts = [
        "Could not allocate block",
        "Could not allocate inode",
        "No space left on device",
        "filesystem full",
    ];
    texts.iter().any(|text| output.contains(text))
}

/// Walks a mounted image. Blocks.
fn contents(tree: &Path, first_id: u32) -> std::io::Result<Contents> {
    let mut contents = Contents::default();
    let mut hard_links = std::collections::HashSet::new();
    let mut failed = None;
    walk(tree, &mut |path, metadata: &Metadata| {
        if metadata.nlink() > 1
            && !metadata.is_dir()
            && !hard_links.insert((metadata.dev(), metadata.ino()))
        {
            return false;
        }
        contents.inodes += 1;
        // A sparse file says what it likes, on some file systems up to 2^63 bytes.
        let blocks = metadata.len().div_ceil(4096).saturating_mul(4096);
        contents.block_bytes = contents.block_bytes.saturating_add(blocks);
        if !metadata.is_dir() {
            contents.bytes = contents.bytes.saturating_add(metadata.len());
        }
        if metadata.is_file()
            && let Err(error) = adopt_capabilities(path, first_id)
        {
            failed = Some(error);
        }
        true
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(contents),
    }
}

/// The attribute of file capabilities (capabilities(7)).
const CAPABILITIES: &str = "security.capability";

/// A file capability set in a user namespace names the namespace's root; in the guest that user is
/// root itself, and the capability must say so, or the guest's kernel ignores it.
fn adopt_capabilities(path: &Path, first_id: u32) -> std::io::Result<()> {
    let mut value = [0; 32];
    let Ok(length) = lgetxattr(path, CAPABILITIES, &mut value) else {
        return Ok(());
    };
    if let Some(adopted) = without_namespace(&value[..length], first_id) {
        lsetxattr(path, CAPABILITIES, &adopted, XattrFlags::REPLACE)?;
    }
    Ok(())
}

/// `struct vfs_ns_cap_data` (revision 3, with a root id) as `struct vfs_cap_data` (revision 2); `None`
/// where it is of another namespace or already has none.
fn without_namespace(value: &[u8], first_id: u32) -> Option<[u8; 20]> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    let value: [u8; 24] = value.try_into().ok()?;
    let root = u32::from_le_bytes([value[20], value[21], value[22], value[23]]);
    // The revision is the top byte of the first, little-endian word.
    if value[3] != REVISION_3 || root != first_id {
        return None;
    }
    let mut adopted = [0; 20];
    adopted.copy_from_slice(&value[..20]);
    adopted[3] = REVISION_2;
    Some(adopted)
}

#[cfg(test)]
mod tests {
    use super::without_namespace;

    #[test]
    fn a_capability_of_the_builds_namespace_becomes_the_guests() {
        let mut value = [0_u8; 24];
        value[..8].copy_from_slice(&[1, 0, 0, 3, 0, 0x20, 0, 0]);
        value[20..].copy_from_slice(&1_000_000_u32.to_le_bytes());
        let adopted = without_namespace(&value, 1_000_000).unwrap();
        assert_eq!(adopted[..8], [1, 0, 0, 2, 0, 0x20, 0, 0]);
        assert_eq!(without_namespace(&value, 5), None);
        assert_eq!(without_namespace(&adopted, 1_000_000), None);
    }
}
