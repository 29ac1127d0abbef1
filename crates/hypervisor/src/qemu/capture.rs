//! A machine's state on its way to disk and back: freezing a base, writing a suspension, putting one
//! in place. Which order is safe against a crash at any point is decided here.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tracing::{debug, warn};

use super::arguments::{fd, reopened};
use super::machine::QemuMachine;
use super::memory::GuestMemory;
use super::rewind::TranslatedCode;
use crate::delta::PAGE_SIZE;
use crate::machine::{Machine, Suspension, VmmError};
use crate::manifest::{FORMAT_VERSION, FileEntry, MANIFEST_FILE, SuspensionManifest};
use crate::snapshot::{
    DEVICES, DEVICES_NEXT, DISK, MEMORY_BASE, MEMORY_DELTA, ROOT_DISK, bad, read_base,
    remove_if_there, sync_directory, write_manifest,
};
use crate::sparse;
use crate::working_set::{self, WORKING_SET};

/// Delta file while it is written.
const MEMORY_DELTA_NEXT: &str = "memory.next";

/// Room that devices' state needs at most, bytes; it takes 55 to 100 KB.
const DEVICES_ROOM: u64 = 1024 * 1024;

/// Longest devices' state that is taken from a process, bytes.
const MOST_DEVICES: u64 = 64 * 1024 * 1024;

/// What is at hand before a guest is stopped for its suspension.
#[derive(Debug)]
pub(super) struct Preparation {
    base_hash: String,
    base: File,
    memory: GuestMemory,
    delta: File,
}

impl QemuMachine {
    /// Puts the pages of a suspension in place, checking them. Of a process that has run, what it translated of
    /// them is void; the way to it comes back.
    pub(super) async fn inject(
        &self,
        suspended: &Path,
        suspension: SuspensionManifest,
        mut code: Option<TranslatedCode>,
    ) -> Result<Option<TranslatedCode>, VmmError> {
        let memory = self.memory()?;
        let pages = u64::from(self.shape().memory_mib) * 256;
        let path = suspended.join(MEMORY_DELTA);
        let directory = suspended.to_owned();
        let devices = directory.join(DEVICES);
        let result = blocking(move || {
            if blake3::hash(&fs::read(devices)?).to_hex().to_string() != suspension.devices.blake3 {
                return Ok(Err("its devices' state does not match its checksum"));
            }
            let hash = crate::delta::read(File::open(path)?, pages, |first, bytes| {
                if let Some(code) = &mut code {
                    code.forget(first, (bytes.len() / PAGE_SIZE) as u64)?;
                }
                memory.write(first, bytes)
            })?;
            if hash != suspension.memory.blake3 {
                return Ok(Err("its memory does not match its checksum"));
            }
            Ok(Ok(code))
        });
        match result.await {
            Ok(Ok(code)) => Ok(code),
            Ok(Err(reason)) => Err(bad(&directory, reason.to_owned())),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(bad(&directory, error.to_string()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(bad(&directory, format!("{MEMORY_DELTA} is missing")))
            }
            Err(source) => Err(self.io("put its memory in place", source)),
        }
    }

    /// Stops the machine and writes its suspension; on an error it runs again, and nothing is left of that.
    pub(super) async fn write_suspension(&self) -> Result<Suspension, VmmError> {
        self.base()?;
        self.previous_recorded().await;
        if self.directory().join(MANIFEST_FILE).exists() {
            // The guest has run since: what it describes is no state that ever was.
            self.forget_suspension().await?;
        }
        let id = &self.record_ref().id;
        let preparation = self.prepare_capture().await?;
        let stopped = Instant::now();
        if let Err(error) = self.pause().await {
            // It may have been carried out all the same, too late for an answer.
            if let Err(error) = self.resume().await {
                warn!(id, %error, "could not let a machine go on that could not be stopped");
            }
            return Err(error);
        }
        match self.capture(preparation).await {
            Ok((manifest, captured)) => {
                let stopped_micros =
                    u64::try_from((captured - stopped).as_micros()).unwrap_or(u64::MAX);
                debug!(id, pages = manifest.pages, stopped_micros, "suspended");
                Ok(Suspension {
                    manifest,
                    stopped_micros,
                })
            }
            Err(error) => {
                if let Err(cleanup) = self.drop_suspension().await {
                    warn!(id, %cleanup, "what a failed suspend wrote was not removed");
                }
                self.resume().await?;
                Err(error)
            }
        }
    }

    /// Saves devices and CPUs into `devices.next`.
    pub(super) async fn save_devices(&self) -> Result<(), VmmError> {
        let arguments = json!({ "filename": reopened(fd::DEVICES_OUT), "live": false });
        let attempted = "save its devices";
        let saved = self
            .execute(attempted, "xen-save-devices-state", arguments)
            .await;
        match saved {
            // QEMU does not say why it could not write.
            Err(VmmError::Refused { .. }) if !has_room(&self.directory(), DEVICES_ROOM) => {
                Err(VmmError::StorageFull {
                    attempted: attempted.to_owned(),
                })
            }
            other => other,
        }
    }

    /// What a capture needs and a running guest has: it is not stopped for that. What it has written to its
    /// disk goes to the host's, so that less of it is left for the moment when it is stopped.
    pub(super) async fn prepare_capture(&self) -> Result<Preparation, VmmError> {
        let base = self.base()?.to_owned();
        let (_, base_hash) = read_base(&base, self.description())?;
        let memory = self.memory()?;
        let directory = self.directory();
        let prepared = blocking(move || {
            File::open(directory.join(DISK))?.sync_data()?;
            Ok(Preparation {
                base_hash,
                base: File::open(base.join(MEMORY_BASE))?,
                memory,
                delta: create(&directory.join(MEMORY_DELTA_NEXT))?,
            })
        });
        prepared
            .await
            .map_err(|source| self.io("prepare its suspension", source))
    }

    /// Writes the suspension of the stopped machine; also the moment when all of its memory had been
    /// taken.
    pub(super) async fn capture(
        &self,
        preparation: Preparation,
    ) -> Result<(SuspensionManifest, Instant), VmmError> {
        self.save_devices().await?;
        let directory = self.directory();
        let written = blocking(move || {
            let Preparation {
                base_hash,
                base,
                memory,
                delta,
            } = preparation;
            let pages = memory.pages()?;
            let (summary, captured) =
                memory.write_delta(&pages.copied, &base, delta.try_clone()?)?;
            delta.sync_data()?;
            let state = read_devices(&directory.join(DEVICES_NEXT))?;
            let manifest = SuspensionManifest {
                format_version: FORMAT_VERSION,
                base: base_hash,
                memory: entry(MEMORY_DELTA, summary.length, summary.blake3),
                pages: summary.pages,
                devices: entry(
                    DEVICES,
                    state.len() as u64,
                    blake3::hash(&state).to_hex().to_string(),
                ),
            };
            fs::rename(
                directory.join(MEMORY_DELTA_NEXT),
                directory.join(MEMORY_DELTA),
            )?;
            // A copy, not a rename: QEMU keeps its descriptor, and a machine whose suspend is
            // cancelled saves through it again.
            let mut devices = create(&directory.join(DEVICES))?;
            devices.write_all(&state)?;
            devices.sync_data()?;
            if let Err(error) = working_set::write(&directory, &pages.shared) {
                debug!(?directory, %error, "a suspension goes without its working set");
            }
            write_manifest(&directory, &manifest)?;
            Ok((manifest, captured))
        });
        written
            .await
            .map_err(|source| self.io("write its suspension", source))
    }

    /// Removes every trace of a suspension, complete or not.
    pub(super) async fn drop_suspension(&self) -> io::Result<()> {
        let directory = self.directory();
        blocking(move || {
            // The manifest first: without it the rest is not a suspension.
            remove_if_there(&directory.join(MANIFEST_FILE))?;
            sync_directory(&directory)?;
            for name in [
                MEMORY_DELTA,
                MEMORY_DELTA_NEXT,
                DEVICES,
                WORKING_SET,
                "manifest.json.next",
            ] {
                remove_if_there(&directory.join(name))?;
            }
            // QEMU keeps this one open; what is in it can go.
            match File::options()
                .write(true)
                .open(directory.join(DEVICES_NEXT))
            {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                opened => opened?.set_len(0),
            }
        })
        .await
    }

    /// Writes the working set of this machine beside its base.
    pub(super) async fn describe_working_set(&self) -> Result<(), VmmError> {
        let base = self.base()?.to_owned();
        let memory = self.memory()?;
        blocking(move || working_set::write(&base, &memory.pages()?.shared))
            .await
            .map_err(|source| self.io("describe its working set", source))
    }

    pub(super) fn memory(&self) -> Result<GuestMemory, VmmError> {
        let base = self.record_ref().base.clone();
        let file = base.unwrap_or_else(|| self.directory()).join(MEMORY_BASE);
        GuestMemory::of(self.pid(), &file).map_err(|source| self.io("find its memory", source))
    }

    pub(super) fn base(&self) -> Result<&Path, VmmError> {
        self.record_ref()
            .base
            .as_deref()
            .ok_or_else(|| VmmError::Refused {
                id: self.record_ref().id.clone(),
                attempted: "suspend".to_owned(),
                reason: "it was not launched from a base".to_owned(),
            })
    }
}

/// Moves what an ended process left in its directory `own` into a base.
pub(super) fn gather(own: &Path, directory: &Path, root_disk: &Path) -> io::Result<()> {
    let memory = own.join(MEMORY_BASE);
    sparse::punch_zero_pages(&File::options().read(true).write(true).open(&memory)?)?;
    for (from, to) in [
        (memory.as_path(), MEMORY_BASE),
        (&own.join(DEVICES_NEXT), DEVICES),
        (&own.join(DISK), DISK),
        (root_disk, ROOT_DISK),
    ] {
        let to = directory.join(to);
        if from != to {
            fs::rename(from, &to)?;
        }
        let file = File::open(&to)?;
        // Directories keep other users out; the mode lets a machine's own user open what it is
        // given a descriptor of, for reading.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&file, Some(0), Some(0))?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Devices' state as the process left it. The file is the process's own: one that was taken over can make
/// it as long as it likes.
fn read_devices(path: &Path) -> io::Result<Vec<u8>> {
    let mut state = Vec::new();
    let read = File::open(path)?
        .take(MOST_DEVICES + 1)
        .read_to_end(&mut state)?;
    if read as u64 > MOST_DEVICES {
        let reason = format!("the devices' state is longer than {MOST_DEVICES} bytes");
        return Err(io::Error::new(ErrorKind::InvalidData, reason));
    }
    Ok(state)
}

/// An empty file for a guest's memory or registers: the daemon's alone.
fn create(path: &Path) -> io::Result<File> {
    remove_if_there(path)?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Whether an ordinary user may still write `bytes` there; true where the file system does not say.
fn has_room(directory: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(directory).map_or(true, |space| {
        space.f_bavail.saturating_mul(space.f_frsize) >= bytes
    })
}

fn entry(name: &str, length: u64, blake3: String) -> FileEntry {
    FileEntry {
        name: name.to_owned(),
        length,
        stored: length,
        blake3,
    }
}

/// Runs file work away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{MOST_DEVICES, read_devices};

    #[test]
    fn an_endless_devices_state_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.next");
        let file = File::create(&path).unwrap();
        file.set_len(1000).unwrap();
        assert_eq!(read_devices(&path).unwrap().len(), 1000);
        file.set_len(MOST_DEVICES * 10_000).unwrap();
        assert!(read_devices(&path).is_err());
    }
}
