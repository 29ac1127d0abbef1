//! A process in software emulation that has run a machine of its base, and becomes another machine of it with the
//! code that it translated: what a first answer costs there is translation, nearly all of it.
//!
//! QEMU drops all translated code when a CPU's state is loaded, as it does not see which pages were written from
//! outside. Here it is told: each page that gets other content is overwritten through QEMU first, which drops what
//! it translated of that page and no more ([`TranslatedCode`]). Then the state can be loaded without the part that
//! drops everything ([`super::cpu_state`]), into a process that is not waiting for a migration any more
//! ([`super::state_image`]).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::debug;

use super::arguments::{fd, set};
use super::capture::blocking;
use super::launch::open_overlay;
use super::machine::{LOAD_BOUND, QemuMachine};
use super::memory::GuestMemory;
use super::{cpu_state, state_image};
use crate::delta::PAGE_SIZE;
use crate::machine::{Architecture, MachineShape, VmmError};
use crate::snapshot::{DISK, EMPTY_OVERLAY, MEMORY_BASE, remove_if_there};

/// The overlay of a process that was rewound.
const FRESH_NODE: &str = "fresh";
/// The state that is loaded, and the job that does it.
const STATE_NODE: &str = "state";

/// Oldest QEMU that this was tried on.
const OLDEST_RELEASE: (u32, u32) = (10, 0);

/// Bound of one answer of the process.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// Pages at 640 KiB to 1 MiB: the firmware's and the display's. The guest's memory is not seen there as it is in its
/// file, and no kernel that Colibri starts runs code from there.
const FIRMWARE: std::ops::Range<u64> = 0xa0..0x100;

/// A part of guest memory: first page in its file, pages, first page where the guest sees it.
type Region = (u64, u64, u64);

/// Where interrupts for the first CPU are written to (Intel's manual of system programming, "Message Signalled
/// Interrupts").
const FIRST_CPU: u64 = 0xfee0_0000;
/// The vector by which Linux has a CPU look whether it should run something else (`asm/irq_vectors.h`).
const RESCHEDULE: u8 = 0xfd;

/// The way to tell a process that translated code is void: QEMU's test protocol (`-object qtest`), of which two
/// commands are used. They write to memory as a device does, so that QEMU drops what it translated of it, and to the
/// address of interrupts.
#[derive(Debug)]
pub(super) struct TranslatedCode {
    stream: BufReader<UnixStream>,
    regions: Vec<Region>,
}

impl TranslatedCode {
    /// The daemon's end, and the process's.
    pub(super) fn pair(shape: MachineShape) -> io::Result<(Self, OwnedFd)> {
        let (own, theirs) = UnixStream::pair()?;
        own.set_read_timeout(Some(ANSWER_BOUND))?;
        own.set_write_timeout(Some(ANSWER_BOUND))?;
        let code = Self {
            stream: BufReader::new(own),
            regions: regions(shape),
        };
        Ok((code, theirs.into()))
    }

    /// Voids what was translated of some pages, whose content is lost. The guest must be stopped.
    pub(super) fn forget(&mut self, first: u64, count: u64) -> io::Result<()> {
        for (first, count) in seen_by_guest(&self.regions, (first, count)) {
            let (address, length) = (first * PAGE_SIZE as u64, count * PAGE_SIZE as u64);
            self.command(&format!("memset {address:#x} {length:#x} 0x0"))?;
        }
        Ok(())
    }

    /// Interrupts the CPU as another CPU of the guest does that has nothing to say: it looks which interrupts wait,
    /// where it is halted too.
    fn interrupt(&mut self) -> io::Result<()> {
        self.command(&format!("writel {FIRST_CPU:#x} {RESCHEDULE:#x}"))
    }

    fn command(&mut self, command: &str) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        if answer.trim_end() == "OK" {
            return Ok(());
        }
        let answer = answer.trim_end();
        Err(io::Error::other(format!(
            "QEMU answered '{answer}' to '{command}'"
        )))
    }
}

/// Where a guest sees its memory (QEMU, `hw/i386/pc_piix.c`: from 3.5 GiB on, what is beyond 3 GiB is seen
/// from 4 GiB on).
fn regions(shape: MachineShape) -> Vec<Region> {
    let pages_of = |mib: u32| u64::from(mib) * 256;
    let (pages, low) = (pages_of(shape.memory_mib), pages_of(3072));
    if pages < pages_of(3584) {
        vec![(0, pages, 0)]
    } else {
        vec![(0, low, 0), (low, pages - low, pages_of(4096))]
    }
}

/// A run of pages as the guest sees it, without the firmware's.
fn seen_by_guest(regions: &[Region], (first, count): (u64, u64)) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    for &(start, pages, address) in regions {
        let (from, to) = (first.max(start), (first + count).min(start + pages));
        let mut add = |from: u64, to: u64| {
            if from < to {
                seen.push((from - start + address, to - from));
            }
        };
        add(from, to.min(FIRMWARE.start));
        add(from.max(FIRMWARE.end), to);
    }
    seen
}

impl QemuMachine {
    /// See [`crate::Machine::rewind`].
    pub(super) async fn go_back_to_base(&self) -> Result<(), VmmError> {
        let Some(mut code) = self.take_code() else {
            return Err(VmmError::Refused {
                id: self.record_ref().id.clone(),
                attempted: "go back to its base".to_owned(),
                reason: "it was not started for that".to_owned(),
            });
        };
        let memory = self.memory()?;
        self.check_regions(&code.regions, &memory).await?;
        self.renew_disk().await?;
        let base = self.base()?.to_owned();
        let restored = blocking(move || {
            let file = File::open(base.join(MEMORY_BASE))?;
            let pages = memory.restore(&file, |first, count| code.forget(first, count))?;
            Ok((code, pages))
        });
        let restored = restored.await;
        let (code, pages) =
            restored.map_err(|source| self.io("put its base's memory in place", source))?;
        debug!(id = self.record_ref().id, pages, "went back to its base");
        self.keep_code(code, true);
        Ok(())
    }

    /// Fails where guest memory is not seen at the places that [`regions`] tells.
    async fn check_regions(
        &self,
        regions: &[Region],
        memory: &GuestMemory,
    ) -> Result<(), VmmError> {
        let attempted = "tell where its memory is";
        for &(start, pages, address) in regions {
            for page in [0, pages - 1] {
                let seen_at = (address + page) * PAGE_SIZE as u64;
                let arguments = json!({ "command-line": format!("gpa2hva {seen_at:#x}") });
                let answer = self
                    .ask(attempted, "human-monitor-command", arguments)
                    .await?;
                let wanted = memory
                    .place_of(start + page)
                    .map_err(|source| self.io(attempted, source))?;
                let answer = answer.as_str().unwrap_or_default();
                if !answer.trim_end().ends_with(&format!(" is {wanted:#x}")) {
                    return Err(VmmError::Refused {
                        id: self.record_ref().id.clone(),
                        attempted: attempted.to_owned(),
                        reason: format!("{wanted:#x} was expected: {}", answer.trim_end()),
                    });
                }
            }
        }
        Ok(())
    }

    /// Gives it an empty overlay in the place of the one that was written to.
    async fn renew_disk(&self) -> Result<(), VmmError> {
        let (directory, base) = (self.directory(), self.base()?.to_owned());
        let renewed = blocking(move || {
            remove_if_there(&directory.join(DISK))?;
            fs::copy(base.join(EMPTY_OVERLAY), directory.join(DISK)).map(drop)
        });
        renewed
            .await
            .map_err(|source| self.io("renew its disk", source))?;
        let overlay = open_overlay(&self.directory())?;
        self.give("take up a disk", fd::FRESH_OVERLAY, overlay)
            .await?;
        self.exchange_disk(FRESH_NODE, fd::FRESH_OVERLAY).await
    }

    /// Lets go of the overlay that [`Self::renew_disk`] gave it, another one being in its place.
    pub(super) async fn drop_renewed_disk(&self) -> Result<(), VmmError> {
        let attempted = "let go of a disk";
        let node = json!({ "node-name": FRESH_NODE });
        self.execute(attempted, "blockdev-del", node).await?;
        let set = json!({ "fdset-id": fd::FRESH_OVERLAY });
        self.execute(attempted, "remove-fd", set).await
    }

    /// Loads devices and CPUs from the file `devices` into a process that has run, keeping translated code where that
    /// can be.
    pub(super) async fn load_devices_again(
        &self,
        devices: &Path,
        mut code: TranslatedCode,
    ) -> Result<(), VmmError> {
        let attempted = "load its devices";
        let (path, shape) = (devices.to_owned(), self.shape());
        let image = blocking(move || {
            let state = fs::read(path)?;
            let kept = if keeps_code(shape) {
                cpu_state::without_common(&state)
            } else {
                None
            };
            state_image::create(kept.as_deref().unwrap_or(&state))
                .map(|image| (image, kept.is_some()))
        });
        let image = image.await;
        let (image, keeps) = image.map_err(|source| self.io(attempted, source))?;
        debug!(
            id = self.record_ref().id,
            keeps_code = keeps,
            "loading devices again"
        );
        self.give(attempted, fd::STATE, image).await?;
        let node = json!({
            "driver": "qcow2", "node-name": STATE_NODE,
            "file": { "driver": "file", "filename": set(fd::STATE), "locking": "off" },
        });
        self.execute(attempted, "blockdev-add", node).await?;
        let job = json!({
            "job-id": STATE_NODE, "tag": state_image::TAG, "vmstate": STATE_NODE, "devices": [STATE_NODE],
        });
        self.execute(attempted, "snapshot-load", job).await?;
        self.job_concluded(attempted).await?;
        let node = json!({ "node-name": STATE_NODE });
        self.execute(attempted, "blockdev-del", node).await?;
        let set = json!({ "fdset-id": fd::STATE });
        self.execute(attempted, "remove-fd", set).await?;
        if keeps {
            // What was left out: whether the CPU waits, and what it has yet to notice.
            let woken = blocking(move || code.interrupt());
            woken.await.map_err(|source| self.io(attempted, source))?;
        }
        Ok(())
    }

    async fn job_concluded(&self, attempted: &str) -> Result<(), VmmError> {
        let started = Instant::now();
        loop {
            let jobs = self.ask(attempted, "query-jobs", json!({})).await?;
            let job = jobs.get(0).unwrap_or(&Value::Null);
            let text = |key| job.get(key).and_then(Value::as_str);
            if text("status") == Some("concluded") {
                let failure = text("error").map(str::to_owned);
                let dismissed = json!({ "id": STATE_NODE });
                self.execute(attempted, "job-dismiss", dismissed).await?;
                return failure.map_or(Ok(()), |reason| {
                    Err(VmmError::Refused {
                        id: self.record_ref().id.clone(),
                        attempted: attempted.to_owned(),
                        reason,
                    })
                });
            }
            if started.elapsed() > LOAD_BOUND {
                return Err(VmmError::TimedOut {
                    id: self.record_ref().id.clone(),
                    attempted: attempted.to_owned(),
                    seconds: LOAD_BOUND.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The way to its translated code, where it is one that was rewound; it can be taken once.
    pub(super) fn take_rewound(&self) -> Option<TranslatedCode> {
        let mut kept = self.code().lock().unwrap_or_else(PoisonError::into_inner);
        kept.take_if(|(_, rewound)| *rewound).map(|(code, _)| code)
    }

    fn take_code(&self) -> Option<TranslatedCode> {
        let mut kept = self.code().lock().unwrap_or_else(PoisonError::into_inner);
        kept.take().map(|(code, _)| code)
    }

    pub(super) fn keep_code(&self, code: TranslatedCode, rewound: bool) {
        *self.code().lock().unwrap_or_else(PoisonError::into_inner) = Some((code, rewound));
    }
}

/// Whether machines of this shape keep their code: a part of the state that drops it can be left out where there is
/// one CPU ([`cpu_state`]).
pub(super) fn keeps_code(shape: MachineShape) -> bool {
    shape.vcpus == 1
}

/// Whether machines can be rewound, on an emulator.
pub(super) fn is_known(architecture: Architecture, release: (u32, u32)) -> bool {
    architecture == Architecture::X86_64 && release >= OLDEST_RELEASE
}

#[cfg(test)]
mod tests {
    use super::{regions, seen_by_guest};
    use crate::machine::{Architecture, MachineShape};

    fn of(memory_mib: u32) -> Vec<(u64, u64, u64)> {
        regions(MachineShape {
            architecture: Architecture::X86_64,
            vcpus: 1,
            memory_mib,
        })
    }

    #[test]
    fn memory_beyond_three_gibibytes_is_seen_beyond_four() {
        assert_eq!(of(2048), [(0, 0x8_0000, 0)]);
        assert_eq!(
            of(4096),
            [(0, 0xc_0000, 0), (0xc_0000, 0x4_0000, 0x10_0000)]
        );
        assert_eq!(
            seen_by_guest(&of(4096), (0xb_ffff, 3)),
            [(0xb_ffff, 1), (0x10_0000, 2)]
        );
    }

    #[test]
    fn the_firmwares_pages_are_left_out() {
        let seen = |run| seen_by_guest(&of(256), run);
        assert_eq!(seen((0x90, 0x100)), [(0x90, 0x10), (0x100, 0x90)]);
        assert_eq!(seen((0xb0, 2)), []);
        assert_eq!(seen((0x100, 1)), [(0x100, 1)]);
    }
}
