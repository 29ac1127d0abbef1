//! Chooses the hypervisor driver: KVM only where a guest has really started on it.

use std::path::Path;

use colibri_hypervisor::accelerator::{Accelerator, Verdict, find_program, probe_kvm};
use colibri_hypervisor::qemu::{Installation, version};
use colibri_hypervisor::{Architecture, VmmError};

use crate::settings::{AcceleratorChoice, Settings};

/// Where the verdict on KVM is remembered, in the data directory.
pub(crate) const VERDICT_FILE: &str = "accelerator.json";

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// Colibri has no guests for this host.
    #[error("hosts of architecture {0} are not supported; x86_64 and aarch64 are")]
    Architecture(&'static str),
    /// The operator insists on KVM.
    #[error("`hypervisor.accelerator` is \"kvm\", but no guest starts on it: {0}")]
    NoKvm(String),
    /// The guests' kernel is missing.
    #[error(
        "the guests' files are not in {0}; run scripts/setup, or name their directory with --guest-dir"
    )]
    NoGuest(String),
    /// QEMU is missing or broken.
    #[error(transparent)]
    Qemu(#[from] VmmError),
}

/// The QEMU to use, and what the probe of KVM said where one was made.
pub(crate) async fn choose(
    settings: &Settings,
    kernel: &Path,
) -> Result<(Installation, Option<Verdict>), DriverError> {
    let architecture =
        Architecture::of_host().ok_or(DriverError::Architecture(std::env::consts::ARCH))?;
    if settings.hypervisor.accelerator == AcceleratorChoice::Tcg {
        return Ok((
            Installation::find(architecture, Accelerator::Tcg).await?,
            None,
        ));
    }
    let program = find_program(architecture).map_err(|source| VmmError::io("find QEMU", source))?;
    let qemu = version(&program).await?;
    let remembered_in = settings.data_dir().join(VERDICT_FILE);
    let verdict = probe_kvm(architecture, &program, &qemu, kernel, &remembered_in).await;
    let accelerator = match (verdict.usable, settings.hypervisor.accelerator) {
        (true, _) => Accelerator::Kvm,
        (false, AcceleratorChoice::Kvm) => return Err(DriverError::NoKvm(verdict.reason)),
        (false, _) => Accelerator::Tcg,
    };
    Ok((
        Installation::find(architecture, accelerator).await?,
        Some(verdict),
    ))
}
