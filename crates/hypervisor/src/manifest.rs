//! Manifests of snapshots: written last, so that a directory with one is complete.

use serde::{Deserialize, Serialize};

use crate::machine::{MachineShape, VmmDescription};

/// Format that this version writes; it reads the ones before it too. Version 2 has blocks in its deltas,
/// compressed where that shrinks them.
pub const FORMAT_VERSION: u32 = 2;

/// File name of a manifest in its snapshot's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name in the snapshot's directory.
    pub name: String,
    /// Length, bytes.
    pub length: u64,
    /// Bytes that it takes on disk (holes excluded).
    pub stored: u64,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
}

/// A frozen machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseManifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// What it was frozen on.
    pub vmm: VmmDescription,
    /// What the guest sees.
    pub shape: MachineShape,
    /// Whether the guest has a network card.
    pub has_network: bool,
    /// Guest memory, holes where it was zero.
    pub memory: FileEntry,
    /// Devices and CPUs.
    pub devices: FileEntry,
    /// Raw root file system as built.
    pub root_disk: FileEntry,
    /// Overlay with what the guest had written until it was frozen.
    pub disk: FileEntry,
}

/// What a suspended machine has that its base has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspensionManifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// BLAKE3 of the base's manifest file: a suspension belongs to one base.
    pub base: String,
    /// Pages that differ from the base.
    pub memory: FileEntry,
    /// How many pages that is.
    pub pages: u64,
    /// Devices and CPUs.
    pub devices: FileEntry,
}
