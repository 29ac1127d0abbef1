//! Snapshot directories on disk: names of their files, reading and writing manifests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::machine::{VmmDescription, VmmError};
use crate::manifest::{BaseManifest, FORMAT_VERSION, MANIFEST_FILE, SuspensionManifest};
use crate::sparse;

/// Guest memory of a base (and of a machine at its first boot).
pub const MEMORY_BASE: &str = "memory.base";
/// Pages of a suspended machine that differ from its base.
pub const MEMORY_DELTA: &str = "memory.delta";
/// State of devices and CPUs.
pub const DEVICES: &str = "devices.state";
/// State of devices and CPUs while it is written.
pub const DEVICES_NEXT: &str = "devices.next";
/// Raw root file system of a base.
pub const ROOT_DISK: &str = "root.raw";
/// Overlay: of a base, as frozen; of a machine, its own.
pub const DISK: &str = "disk.qcow2";
/// Empty overlay of the right size, copied for every launch.
pub const EMPTY_OVERLAY: &str = "overlay.qcow2";

/// Reads the manifest of a base and checks that this host can use it.
///
/// # Errors
/// [`VmmError::BadSnapshot`] when it is missing or of an unknown format, [`VmmError::ForeignSnapshot`] when it
/// was frozen on something else.
pub fn read_base(
    directory: &Path,
    here: &VmmDescription,
) -> Result<(BaseManifest, String), VmmError> {
    let (manifest, hash) = read_checked(directory)?;
    if !compatible(&manifest.vmm, here) {
        return Err(VmmError::ForeignSnapshot {
            path: directory.to_owned(),
            frozen_on: name(&manifest.vmm),
            here: name(here),
        });
    }
    Ok((manifest, hash))
}

/// Reads the manifest of a base, whatever it was frozen on.
///
/// # Errors
/// [`VmmError::BadSnapshot`] when it is missing or of an unknown format.
pub fn read_base_of_any_host(directory: &Path) -> Result<BaseManifest, VmmError> {
    read_checked(directory).map(|(manifest, _)| manifest)
}

fn read_checked(directory: &Path) -> Result<(BaseManifest, String), VmmError> {
    let (manifest, hash): (BaseManifest, String) = read(directory)?;
    check_format(directory, manifest.format_version)?;
    Ok((manifest, hash))
}

/// Checks what can be checked of a base in no time: lengths, and the devices' state as a whole.
///
/// # Errors
/// [`VmmError::BadSnapshot`] when a file is missing, has another length or another content.
pub fn check_base(directory: &Path, manifest: &BaseManifest) -> Result<(), VmmError> {
    for file in [&manifest.memory, &manifest.root_disk, &manifest.disk] {
        let length = fs::metadata(directory.join(&file.name))
            .map_err(|error| unreadable(directory, &file.name, error))?
            .len();
        if length != file.length {
            let reason = format!("{} is {length} bytes, not {}", file.name, file.length);
            return Err(bad(directory, reason));
        }
    }
    let devices = sparse::describe(directory, &manifest.devices.name)
        .map_err(|error| unreadable(directory, &manifest.devices.name, error))?;
    if devices.blake3 != manifest.devices.blake3 {
        let reason = "its devices' state does not match its checksum".to_owned();
        return Err(bad(directory, reason));
    }
    Ok(())
}

/// Reads the manifest of a suspended machine and checks that it belongs to the base.
///
/// # Errors
/// [`VmmError::BadSnapshot`] when it is missing, of an unknown format or of another base.
pub fn read_suspension(directory: &Path, base_hash: &str) -> Result<SuspensionManifest, VmmError> {
    let (manifest, _): (SuspensionManifest, String) = read(directory)?;
    check_format(directory, manifest.format_version)?;
    if manifest.base != base_hash {
        return Err(bad(directory, "it belongs to another base".to_owned()));
    }
    Ok(manifest)
}

/// Writes a manifest: with it, the directory is complete. Everything it names is durable before.
///
/// # Errors
/// As the file system reports.
pub fn write_manifest(directory: &Path, manifest: &impl Serialize) -> io::Result<()> {
    let temporary = directory.join("manifest.json.next");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(manifest)?)?;
    file.sync_all()?;
    // The names of the other files first, so that no crash leaves a manifest without them.
    sync_directory(directory)?;
    fs::rename(temporary, directory.join(MANIFEST_FILE))?;
    sync_directory(directory)
}

/// Makes renames in a directory durable.
///
/// # Errors
/// As the file system reports.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file that may not be there.
///
/// # Errors
/// As the file system reports.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read<M: DeserializeOwned>(directory: &Path) -> Result<(M, String), VmmError> {
    let bytes = fs::read(directory.join(MANIFEST_FILE)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => bad(
            directory,
            "it has no manifest: it was never completed".to_owned(),
        ),
        _ => VmmError::io(
            format!("read the manifest in {}", directory.display()),
            error,
        ),
    })?;
    let manifest = serde_json::from_slice(&bytes).map_err(|error| {
        bad(
            directory,
            format!("its manifest is not understood: {error}"),
        )
    })?;
    Ok((manifest, blake3::hash(&bytes).to_hex().to_string()))
}

fn check_format(directory: &Path, version: u32) -> Result<(), VmmError> {
    if (1..=FORMAT_VERSION).contains(&version) {
        return Ok(());
    }
    Err(bad(
        directory,
        format!(
            "its format version {version} is none of 1 to {FORMAT_VERSION}, which this program reads"
        ),
    ))
}

/// Patch releases of a VMM load each other's state; anything else may not.
fn compatible(frozen: &VmmDescription, here: &VmmDescription) -> bool {
    fn release(version: &str) -> Vec<&str> {
        version.split('.').take(2).collect()
    }
    let same_release = release(&frozen.version) == release(&here.version);
    let patched = VmmDescription {
        version: here.version.clone(),
        ..frozen.clone()
    };
    same_release && patched == *here
}

fn name(vmm: &VmmDescription) -> String {
    format!(
        "{} {} ({}, {}, {})",
        vmm.driver, vmm.version, vmm.accelerator, vmm.cpu_model, vmm.machine_type
    )
}

/// A file of a snapshot that cannot be read; one that is missing makes the snapshot unusable.
pub(crate) fn unreadable(directory: &Path, name: &str, error: io::Error) -> VmmError {
    if error.kind() == io::ErrorKind::NotFound {
        bad(directory, format!("{name} is missing"))
    } else {
        VmmError::io(format!("read {name} in {}", directory.display()), error)
    }
}

/// A snapshot that cannot be used.
pub(crate) fn bad(directory: &Path, reason: String) -> VmmError {
    VmmError::BadSnapshot {
        path: directory.to_owned(),
        reason,
    }
}
