//! Opens a slot's tap. The kernel's `TUNSETIFF` is the only unsafe code of this crate.
#![allow(unsafe_code, reason = "an ioctl has no safe wrapper")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl;

/// The tap's name in every slot's namespace.
pub const TAP: &str = "tap0";

const NAME_LENGTH: usize = 16;
// linux/if_tun.h
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<std::ffi::c_int>(b'T', 202);

/// `struct ifreq` (netdevice(7)) as `TUNSETIFF` reads it: name and flags, padded to 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_LENGTH],
    flags: u16,
    unused: [u8; 22],
}

/// Opens the persistent [`TAP`] of the calling thread's namespace, non-blocking, for one queue, with
/// a virtio-net header before each frame. The header's length is left to the VMM.
///
/// # Errors
/// `EBUSY` when another VMM has it open.
pub fn open_tap() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut name = [0; NAME_LENGTH];
    name[..TAP.len()].copy_from_slice(TAP.as_bytes());
    let request = InterfaceRequest {
        name,
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        unused: [0; 22],
    };
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which InterfaceRequest is laid out as, and writes
    // the same 40 bytes back (tun_chr_ioctl copies sizeof(struct ifreq)). `Updater` lends exactly
    // that memory, writable, for the length of the call; `request` lives until after it.
    unsafe {
        let mut request = request;
        ioctl::ioctl(
            &tun,
            ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )?;
    }
    Ok(tun)
}

#[cfg(test)]
mod tests {
    use super::{InterfaceRequest, TUNSETIFF};

    #[test]
    fn the_request_is_what_the_kernel_reads() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        assert_eq!(TUNSETIFF, 0x4004_54ca);
    }
}
