//! Devices' state as a snapshot in a disk image: the form in which QEMU loads state into a process that has run
//! (`snapshot-load`). The image is in memory, its disk empty.
//!
//! Format: qcow2, version 3 (QEMU, `docs/interop/qcow2.rst`). The state lies beyond the disk, where the
//! snapshot's own second table starts.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

/// The snapshot's name.
pub(super) const TAG: &str = "state";

const CLUSTER_BITS: u32 = 16;
const CLUSTER: usize = 1 << CLUSTER_BITS;
/// Length of the header, bytes.
const HEADER: u32 = 104;
/// Marks a cluster that nothing else refers to.
const COPIED: u64 = 1 << 63;

/// Clusters: the header, the table of reference counts, the counts, the disk's first table, the list of snapshots, the
/// snapshot's first table, its second table, the state.
const COUNT_TABLE: u64 = 1;
const COUNTS: u64 = 2;
const DISK_TABLE: u64 = 3;
const SNAPSHOTS: u64 = 4;
const STATE_TABLE: u64 = 5;
const STATE_CLUSTERS: u64 = 6;
const STATE: u64 = 7;

/// An image of this state, open for reading and writing.
pub(super) fn create(state: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    for (cluster, bytes) in (0..).zip(clusters(state)?) {
        file.write_all_at(&bytes, offset(cluster))?;
    }
    file.write_all_at(state, offset(STATE))?;
    file.set_len(offset(STATE) + state.len().next_multiple_of(CLUSTER) as u64)?;
    Ok(file.into())
}

/// Everything before the state.
fn clusters(state: &[u8]) -> io::Result<[Vec<u8>; 7]> {
    let of_state = state.len().div_ceil(CLUSTER) as u64;
    let used = STATE + of_state;
    // One cluster of counts, and one of the second table, which is less: 8192 of 64 KiB.
    if of_state > CLUSTER as u64 / 8 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let counts = (0..used).flat_map(|_| 1_u16.to_be_bytes()).collect();
    let second = (STATE..used).flat_map(|cluster| pointer(cluster).to_be_bytes());
    Ok([
        header(),
        offset(COUNTS).to_be_bytes().to_vec(),
        counts,
        vec![0; 8],
        snapshot(state.len()),
        // The disk takes the first entry, the state begins at the next.
        [0, pointer(STATE_CLUSTERS)].map(u64::to_be_bytes).concat(),
        second.collect(),
    ])
}

fn offset(cluster: u64) -> u64 {
    cluster * CLUSTER as u64
}

fn pointer(cluster: u64) -> u64 {
    offset(cluster) | COPIED
}

fn header() -> Vec<u8> {
    let mut bytes = Bytes(b"QFI\xfb".to_vec());
    bytes.four(3);
    // No backing file.
    bytes.eight(0).four(0);
    bytes.four(CLUSTER_BITS).eight(CLUSTER as u64);
    // Not encrypted.
    bytes.four(0);
    bytes.four(1).eight(offset(DISK_TABLE));
    bytes.eight(offset(COUNT_TABLE)).four(1);
    bytes.four(1).eight(offset(SNAPSHOTS));
    // No features; counts of 1 << 4 bits.
    bytes.eight(0).eight(0).eight(0).four(4);
    bytes.four(HEADER);
    bytes.0
}

fn snapshot(length: usize) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.eight(offset(STATE_TABLE)).four(2);
    // Lengths of its id and name.
    bytes.two(1).two(TAG.len() as u16);
    // Taken at no time, and what `length` below says.
    bytes.four(0).four(0).eight(0).four(length as u32);
    bytes.four(24);
    // Length of the state, of the disk; instructions, not counted.
    bytes
        .eight(length as u64)
        .eight(CLUSTER as u64)
        .eight(u64::MAX);
    bytes.0.push(b'1');
    bytes.0.extend(TAG.as_bytes());
    bytes.0.resize(bytes.0.len().next_multiple_of(8), 0);
    bytes.0
}

/// Numbers, most significant byte first.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn two(&mut self, number: u16) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn four(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn eight(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }
}
