//! The control channel's device: a virtio-serial port, found by its name and opened once for good.
//!
//! The descriptor is never closed. The driver gives a port to one opener at a time
//! (`drivers/char/virtio_console.c`, `port_fops_open`), so while the agent holds it, not even an
//! application with every capability can open it.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use colibri_guest_protocol::CONTROL_PORT_NAME;
use colibri_guest_protocol::message::AgentFailure;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::boot::wait_until;
use crate::failure::{Attempt, failure};

const PORTS: &str = "/sys/class/virtio-ports";

/// The opened port, in non-blocking mode: a blocking write spins in the driver with interrupts off
/// until the host has taken the data.
pub(crate) struct ControlPort {
    device: OwnedFd,
}

/// What a read of the port found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PortRead {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet, and the host's end is open.
    Nothing,
    /// Nothing, and the host's end is closed, as far as the driver knows: it learns of an opened end on
    /// another queue than the data's, and may hand out a host's first bytes before.
    NoHost,
}

/// Waits for the port and opens it.
pub(crate) fn open_control_port() -> Result<ControlPort, AgentFailure> {
    let device = wait_until(find).ok_or_else(|| {
        failure(
            format!("find the virtio-serial port {CONTROL_PORT_NAME}"),
            "the machine has none",
        )
    })?;
    #[expect(clippy::cast_possible_wrap, reason = "the flag's bits fit")]
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&device)
        .map(|file| ControlPort {
            device: file.into(),
        })
        .attempt(|| format!("open the control port {}", device.display()))
}

/// The device of the port with the right name; the kernel learns a port's name from the host some
/// time after it has made the port.
fn find() -> Option<PathBuf> {
    for port in fs::read_dir(PORTS).ok()?.flatten() {
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == CONTROL_PORT_NAME {
            let device = PathBuf::from("/dev").join(port.file_name());
            return device.exists().then_some(device);
        }
    }
    None
}

impl ControlPort {
    /// Takes what the host has sent.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<PortRead, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.device, &mut *buffer)) {
            Ok(0) => Ok(PortRead::NoHost),
            Ok(length) => Ok(PortRead::Bytes(length)),
            Err(Errno::AGAIN) => Ok(PortRead::Nothing),
            Err(other) => Err(other),
        }
    }

    /// Gives the host as much as its queue takes, which may be nothing.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.device, bytes)) {
            Err(refused) if refused.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

impl AsFd for ControlPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
