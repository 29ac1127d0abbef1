//! Starting a machine from a base or from its suspension, and the process that becomes one later.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::debug;

use super::arguments::{Start, fd};
use super::capture::blocking;
use super::code_buffer;
use super::machine::QemuMachine;
use super::rewind::TranslatedCode;
use super::{Plan, Qemu, open_for_writing, remove};
use crate::accelerator::Accelerator;
use crate::machine::{LaunchSpec, NetworkAttachment, SpareSpec, VmmError};
use crate::manifest::{BaseManifest, SuspensionManifest};
use crate::snapshot::{
    DEVICES, DISK, EMPTY_OVERLAY, MEMORY_BASE, MEMORY_DELTA, ROOT_DISK, bad, check_base, read_base,
    read_suspension,
};
use crate::working_set;

impl Qemu {
    /// See [`crate::Vmm::launch`].
    pub(super) async fn launch_machine(
        &self,
        spec: LaunchSpec,
    ) -> Result<Arc<QemuMachine>, VmmError> {
        let (manifest, base_hash) = self.usable_base(&spec.base, spec.network.as_ref())?;
        let suspension = if spec.resume {
            Some(read_suspension(&spec.directory, &base_hash)?)
        } else {
            None
        };
        let (resume, rewindable) = (spec.resume, spec.rewindable);
        let directory = spec.directory.clone();
        let spare = SpareSpec {
            id: spec.id,
            directory: spec.directory,
            base: spec.base,
            network: spec.network,
            isolation: spec.isolation,
        };
        let started = self.start_launch(spare, &manifest, resume, rewindable);
        let machine = started.await?;
        if let Err(error) = load(&machine, &directory, suspension).await {
            remove(&machine).await;
            return Err(error);
        }
        Ok(machine)
    }

    /// See [`crate::Vmm::prepare`].
    pub(super) async fn prepare_machine(
        &self,
        spec: SpareSpec,
    ) -> Result<Arc<QemuMachine>, VmmError> {
        let (manifest, _) = self.usable_base(&spec.base, spec.network.as_ref())?;
        let machine = self.start_launch(spec, &manifest, false, false).await?;
        if self.installation.accelerator == Accelerator::Tcg {
            let pid = machine.pid();
            if let Err(error) = blocking(move || code_buffer::prepare(pid)).await {
                debug!(pid, %error, "a spare's code buffer is left to be filled when it is used");
            }
        }
        Ok(machine)
    }

    fn usable_base(
        &self,
        base: &Path,
        network: Option<&NetworkAttachment>,
    ) -> Result<(BaseManifest, String), VmmError> {
        let (manifest, base_hash) = read_base(base, &self.installation.description)?;
        check_base(base, &manifest)?;
        if network.is_some() != manifest.has_network {
            let reason = if manifest.has_network {
                "its guest has a network card, none was given"
            } else {
                "its guest has no network card, one was given"
            };
            return Err(bad(base, reason.to_owned()));
        }
        Ok((manifest, base_hash))
    }

    /// Starts the process, everything but its state given to it.
    async fn start_launch(
        &self,
        spec: SpareSpec,
        manifest: &BaseManifest,
        resume: bool,
        rewindable: bool,
    ) -> Result<Arc<QemuMachine>, VmmError> {
        let SpareSpec {
            id,
            directory,
            base,
            network,
            isolation,
        } = spec;
        let io = |source| VmmError::io(format!("prepare machine {id}"), source);
        let overlay = directory.join(DISK);
        if !resume {
            fs::copy(base.join(EMPTY_OVERLAY), &overlay).map_err(io)?;
        }
        let of_state = if resume { &directory } else { &base };
        let open = |path: &Path| File::open(path).map(OwnedFd::from).map_err(io);
        let memory = File::open(base.join(MEMORY_BASE)).map_err(io)?;
        self.read_ahead(
            memory.try_clone().map_err(io)?,
            base.clone(),
            resume.then(|| directory.clone()),
        );
        let mut descriptors = vec![
            (fd::MEMORY, memory.into()),
            (fd::ROOT, open(&base.join(ROOT_DISK))?),
            (fd::FROZEN, open(&base.join(DISK))?),
            (fd::OVERLAY, open_overlay(&directory)?),
            (fd::DEVICES_IN, open_devices(of_state)?),
        ];
        let mut code = None;
        if rewindable {
            let (own, theirs) = TranslatedCode::pair(manifest.shape).map_err(io)?;
            descriptors.push((fd::CODE, theirs));
            code = Some(own);
        }
        let plan = Plan {
            id: &id,
            directory: &directory,
            base: Some(&base),
            shape: manifest.shape,
            network,
            isolation,
            start: Start::Launch { rewindable },
            descriptors,
        };
        let machine = self.start(plan).await?;
        if let Some(code) = code {
            machine.keep_code(code, false);
        }
        Ok(machine)
    }

    /// Has the kernel read what a launch will need, where it is not in the page cache, while QEMU starts.
    fn read_ahead(&self, memory: File, base: PathBuf, suspended: Option<PathBuf>) {
        let program = self.installation.program.clone();
        tokio::task::spawn_blocking(move || {
            working_set::read_file_ahead(&program);
            read_suspension_ahead(&memory, &base, suspended.as_deref());
        });
    }
}

/// Has the kernel read a suspension, and what its machine will need of its base.
pub(super) fn read_suspension_ahead(memory: &File, base: &Path, suspended: Option<&Path>) {
    if let Some(directory) = suspended {
        working_set::read_file_ahead(&directory.join(MEMORY_DELTA));
    }
    working_set::read_ahead(memory, base, suspended);
}

async fn load(
    machine: &QemuMachine,
    directory: &Path,
    suspension: Option<SuspensionManifest>,
) -> Result<(), VmmError> {
    if let Some(suspension) = suspension {
        machine
            .inject(directory, suspension, None)
            .await
            .map(drop)?;
    }
    machine.load_devices(fd::DEVICES_IN).await
}

/// The disk of a machine, to be written.
pub(super) fn open_overlay(directory: &Path) -> Result<OwnedFd, VmmError> {
    open_part(directory, DISK, open_for_writing)
}

/// The state of devices in a snapshot.
pub(super) fn open_devices(directory: &Path) -> Result<OwnedFd, VmmError> {
    open_part(directory, DEVICES, |path| Ok(File::open(path)?.into()))
}

/// Tells a part of a snapshot that is missing from one that cannot be opened.
fn open_part(
    directory: &Path,
    name: &str,
    open: impl FnOnce(&Path) -> std::io::Result<OwnedFd>,
) -> Result<OwnedFd, VmmError> {
    open(&directory.join(name)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => bad(directory, format!("{name} is missing")),
        _ => VmmError::io(format!("open {name} in {}", directory.display()), error),
    })
}
