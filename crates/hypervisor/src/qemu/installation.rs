//! A QEMU on this host: where it is, its version, and what differs between versions.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::arguments::{self, fd};
use super::rewind;
use crate::accelerator::{Accelerator, find_program};
use crate::machine::{Architecture, VmmDescription, VmmError};

/// Machine type that snapshots are pinned to, whatever the QEMU.
const MACHINE_TYPE_RELEASE: &str = "7.2";

/// Oldest QEMU that will do: the first that maps a base privately while it has it open for reading
/// only (`rom=off`). Older ones insist on opening a base for writing, which a machine's own user may
/// not, and which would let a taken-over machine write its neighbours' memory.
const OLDEST_RELEASE: (u32, u32) = (8, 2);

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
    /// When it is not installed, does not tell its version, or is too old.
    pub async fn find(
        architecture: Architecture,
        accelerator: Accelerator,
    ) -> Result<Self, VmmError> {
        let program =
            find_program(architecture).map_err(|source| VmmError::io("find QEMU", source))?;
        let version = version(&program).await?;
        let release = release(&version);
        if release < OLDEST_RELEASE {
            return Err(VmmError::TooOld {
                version,
                oldest: format!("{}.{}", OLDEST_RELEASE.0, OLDEST_RELEASE.1),
            });
        }
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
            machine_type: format!("{family}-{MACHINE_TYPE_RELEASE}"),
        };
        Ok(Self {
            program,
            description,
            accelerator,
            release,
        })
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

    /// Whether its processes can be rewound. Where a processor runs the guest itself there is nothing to be kept by it.
    pub(super) fn rewinds(&self) -> bool {
        self.accelerator == Accelerator::Tcg
            && rewind::is_known(self.description.architecture, self.release)
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
