//! A QEMU on this host: where it is, its version, and what differs between versions.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::arguments::{self, fd};
use crate::accelerator::{Accelerator, find_program};
use crate::machine::{Architecture, VmmDescription, VmmError};

/// Oldest machine type that snapshots are pinned to; hosts with an older QEMU pin their own newest.
const MACHINE_TYPE_RELEASE: (u32, u32) = (7, 2);

/// Translated code that one TCG guest may hold, MiB. 32, 64 and 128 measured alike.
const TCG_BUFFER_MIB: u32 = 128;

/// A QEMU on this host.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The program.
    pub program: PathBuf,
    /// What its machines run on.
    pub description: VmmDescription,
    pub(super) accelerator: Accelerator,
    release: (u32, u32),
}

impl Installation {
    /// Looks at the QEMU for guests of `architecture`.
    ///
    /// # Errors
    /// When it is not installed or does not tell its version.
    pub async fn find(
        architecture: Architecture,
        accelerator: Accelerator,
    ) -> Result<Self, VmmError> {
        let program =
            find_program(architecture).map_err(|source| VmmError::io("find QEMU", source))?;
        let version = version(&program).await?;
        let release = release(&version);
        let pinned = release.min(MACHINE_TYPE_RELEASE);
        let family = match architecture {
            Architecture::X86_64 => "pc-i440fx",
            Architecture::Aarch64 => "virt",
        };
        let cpu_model = match (accelerator, architecture) {
            (Accelerator::Kvm, _) => "host",
            (Accelerator::Tcg, Architecture::X86_64) => "max",
            // The full pointer authentication algorithm is slow in software.
            (Accelerator::Tcg, Architecture::Aarch64) => "max,pauth-impdef=on",
        };
        let description = VmmDescription {
            driver: "qemu".to_owned(),
            version,
            accelerator: accelerator.name().to_owned(),
            architecture,
            cpu_model: cpu_model.to_owned(),
            machine_type: format!("{family}-{}.{}", pinned.0, pinned.1),
        };
        Ok(Self {
            program,
            description,
            accelerator,
            release,
        })
    }

    /// Whether it can map a base privately that it has open for reading only (`rom=off`). Where it
    /// cannot, it insists on opening the base for writing, which a user of its own may not.
    pub(super) fn has_readonly_private_memory(&self) -> bool {
        self.release >= (8, 2)
    }

    pub(super) fn accelerator_option(&self) -> String {
        match self.accelerator {
            Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TCG_BUFFER_MIB}"),
            Accelerator::Kvm if self.has_kvm_by_descriptor() => {
                format!("kvm,device={}", arguments::set(fd::KVM))
            }
            Accelerator::Kvm => "kvm".to_owned(),
        }
    }

    /// QEMU 8.2 and later warn of a plain file behind a descriptor, earlier ones know nothing else.
    pub(super) fn devices_uri(&self) -> String {
        if self.release >= (8, 2) {
            format!("file:{}", arguments::set(fd::DEVICES_IN))
        } else {
            format!("fd:{}", fd::DEVICES_IN)
        }
    }

    /// Whether machines are given `/dev/kvm` as a descriptor, which QEMU takes since 9.0.
    pub(super) fn has_kvm_by_descriptor(&self) -> bool {
        self.accelerator == Accelerator::Kvm && self.release >= (9, 0)
    }
}

/// The version of a QEMU: `10.0.2`.
///
/// # Errors
/// When the program cannot be run or prints something else.
pub async fn version(program: &Path) -> Result<String, VmmError> {
    let attempted = || format!("ask {} for its version", program.display());
    let output = Command::new(program)
        .arg("--version")
        .output()
        .await
        .map_err(|source| VmmError::io(attempted(), source))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_ascii_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .map(|version| {
            version
                .trim_end_matches(|c: char| !c.is_ascii_digit())
                .to_owned()
        })
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(|| VmmError::io(attempted(), std::io::Error::other(text.into_owned())))
}

fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn a_release_is_the_first_two_numbers() {
        assert_eq!(release("10.0.2"), (10, 0));
        assert_eq!(release("7.2"), (7, 2));
    }
}
