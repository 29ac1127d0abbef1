//! Archives that attack, each of which must be refused before anything lands outside its directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::{ArchiveLimits, unpack};
use crate::request::{BuildFailure, FailureCode};

const LIMITS: ArchiveLimits = ArchiveLimits {
    entries: 100,
    unpacked_bytes: 1 << 30,
    ratio: 50,
};

struct Archive {
    directory: TempDir,
    writer: ZipWriter<File>,
}

impl Archive {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("out")).unwrap();
        let writer = ZipWriter::new(File::create(directory.path().join("in.zip")).unwrap());
        Self { directory, writer }
    }

    fn with_dockerfile() -> Self {
        Self::new().file("Dockerfile", b"FROM scratch\n")
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, content, 0o644)
    }

    fn entry(mut self, name: &str, content: &[u8], mode: u32) -> Self {
        self.writer
            .start_file(name, SimpleFileOptions::default().unix_permissions(mode))
            .unwrap();
        self.writer.write_all(content).unwrap();
        self
    }

    fn finish(self) -> Packed {
        self.writer.finish().unwrap();
        Packed {
            directory: self.directory,
        }
    }
}

struct Packed {
    directory: TempDir,
}

impl Packed {
    fn zip(&self) -> PathBuf {
        self.directory.path().join("in.zip")
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// Replaces bytes of the packed file, everywhere: what no honest packer writes.
    fn patched(self, from: &[u8], to: &[u8]) -> Self {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(self.zip()).unwrap();
        let places: Vec<usize> = (0..bytes.len() - from.len())
            .filter(|at| bytes[*at..].starts_with(from))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        fs::write(self.zip(), bytes).unwrap();
        self
    }

    fn unpack(&self) -> Result<u64, BuildFailure> {
        self.unpack_within(&LIMITS)
    }

    fn unpack_within(&self, limits: &ArchiveLimits) -> Result<u64, BuildFailure> {
        unpack(&self.zip(), &self.out(), limits).map_err(BuildFailure::from)
    }

    fn refusal(&self) -> String {
        let failure = self.unpack().unwrap_err();
        assert_eq!(failure.code, FailureCode::ArchiveInvalid, "{failure}");
        assert_eq!(
            fs::read_dir(self.out()).unwrap().count(),
            0,
            "checked before anything is written"
        );
        failure.to_string()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Offset of the `n`-th central directory header.
fn central_headers(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"PK\x01\x02"))
        .collect()
}

#[test]
fn an_honest_archive_unpacks_with_its_executable_bits_and_without_set_user_id() {
    let packed = Archive::with_dockerfile()
        .file("app/deep/er/data.bin", &[7; 100_000])
        .entry("run.sh", b"#!/bin/sh\n", 0o755)
        .entry("sudo", b"x", 0o4755)
        .finish();
    assert_eq!(packed.unpack().unwrap(), 13 + 100_000 + 10 + 1);
    assert_eq!(
        fs::read(packed.out().join("app/deep/er/data.bin")).unwrap(),
        [7; 100_000]
    );
    assert_eq!(mode(&packed.out().join("run.sh")), 0o755);
    assert_eq!(mode(&packed.out().join("sudo")), 0o755);
    assert_eq!(mode(&packed.out().join("Dockerfile")), 0o644);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../evil",
        "a/../../evil",
        "/evil",
        "a\\..\\evil",
        "C:evil",
        "a//b",
    ] {
        let placeholder = "x".repeat(name.len());
        let packed = Archive::with_dockerfile()
            .file(&placeholder, b"evil")
            .finish();
        let refusal = packed
            .patched(placeholder.as_bytes(), name.as_bytes())
            .refusal();
        assert!(
            refusal.starts_with("ARCHIVE_INVALID: The archive's entry"),
            "{refusal}"
        );
    }
    let with_zero = Archive::with_dockerfile()
        .file("name", b"")
        .finish()
        .patched(b"name", b"na\0e");
    assert!(with_zero.refusal().contains("zero byte"));
    let not_utf8 = Archive::with_dockerfile()
        .file("name", b"")
        .finish()
        .patched(b"name", b"na\xffe");
    assert!(not_utf8.refusal().contains("not UTF-8"));
}

#[test]
fn a_symbolic_link_is_refused_with_the_cure() {
    let mut archive = Archive::with_dockerfile();
    archive
        .writer
        .add_symlink("link", "/etc/shadow", SimpleFileOptions::default())
        .unwrap();
    assert!(archive.finish().refusal().contains("RUN ln -s"));
}

#[test]
fn a_device_is_refused() {
    let packed = Archive::with_dockerfile().file("disk", b"").finish();
    let mut bytes = fs::read(packed.zip()).unwrap();
    let header = central_headers(&bytes)[1];
    let block_device = 0o060_644_u32 << 16;
    bytes[header + 38..header + 42].copy_from_slice(&block_device.to_le_bytes());
    fs::write(packed.zip(), bytes).unwrap();
    assert!(packed.refusal().contains("neither a file nor a directory"));
}

#[test]
fn an_encrypted_entry_is_refused() {
    let packed = Archive::with_dockerfile().file("secret", b"x").finish();
    let mut bytes = fs::read(packed.zip()).unwrap();
    let header = central_headers(&bytes)[1];
    bytes[header + 8] |= 1;
    fs::write(packed.zip(), bytes).unwrap();
    assert!(packed.refusal().contains("encrypted"));
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let packed = Archive::with_dockerfile()
        .file("twinA", b"1")
        .file("twinB", b"2")
        .finish();
    assert!(
        packed
            .patched(b"twinB", b"twinA")
            .refusal()
            .contains("twice")
    );
    let spelled = Archive::with_dockerfile()
        .file("twin", b"1")
        .file("xxtwin", b"2")
        .finish();
    assert!(
        spelled
            .patched(b"xxtwin", b"./twin")
            .refusal()
            .contains("twice")
    );
}

#[test]
fn a_file_that_is_also_a_directory_is_refused() {
    let packed = Archive::with_dockerfile()
        .file("a", b"1")
        .file("a/b", b"2")
        .finish();
    assert!(packed.refusal().contains("is a file, and a directory"));
}

#[test]
fn a_bomb_is_refused_by_its_claims() {
    let packed = Archive::with_dockerfile()
        .file("zeros", &vec![0; 80 << 20])
        .finish();
    assert!(packed.refusal().contains("unpacks to more than"));
}

#[test]
fn a_bomb_that_lies_about_its_size_is_stopped_by_what_comes_out() {
    let size = 80_u32 << 20;
    let packed = Archive::with_dockerfile()
        .file("zeros", &vec![0; size as usize])
        .finish();
    let mut bytes = fs::read(packed.zip()).unwrap();
    let header = central_headers(&bytes)[1];
    assert_eq!(bytes[header + 24..header + 28], size.to_le_bytes());
    bytes[header + 24..header + 28].copy_from_slice(&10_u32.to_le_bytes());
    fs::write(packed.zip(), bytes).unwrap();
    let failure = packed.unpack().unwrap_err();
    assert_eq!(failure.code, FailureCode::ArchiveInvalid, "{failure}");
    assert!(fs::metadata(packed.out().join("zeros")).map_or(0, |file| file.len()) <= 10);
}

#[test]
fn more_entries_or_bytes_than_allowed_are_refused() {
    let many = (0..LIMITS.entries).fold(Archive::with_dockerfile(), |all, n| {
        all.file(&format!("f{n}"), b"")
    });
    assert!(many.finish().refusal().contains("more than 100 entries"));
    let large = Archive::with_dockerfile().file("f", &[1; 5000]).finish();
    let limits = ArchiveLimits {
        unpacked_bytes: 4000,
        ..LIMITS
    };
    assert!(
        large
            .unpack_within(&limits)
            .unwrap_err()
            .to_string()
            .contains("more than 4000 bytes")
    );
}

#[test]
fn entries_that_share_their_bytes_are_refused() {
    let packed = Archive::with_dockerfile()
        .file("a", &[1; 50])
        .file("b", &[1; 50])
        .finish();
    let mut bytes = fs::read(packed.zip()).unwrap();
    let headers = central_headers(&bytes);
    let (from, to) = (headers[1] + 42, headers[2] + 42);
    bytes.copy_within(from..from + 4, to);
    fs::write(packed.zip(), bytes).unwrap();
    packed.refusal();
}

#[test]
fn what_is_not_a_zip_is_refused() {
    let packed = Archive::new().finish();
    for content in [
        b"".as_slice(),
        b"FROM scratch\n",
        b"PK\x05\x06",
        &[0; 100_000],
    ] {
        fs::write(packed.zip(), content).unwrap();
        assert!(packed.refusal().contains("not a readable zip archive"));
    }
}

#[test]
fn a_damaged_entry_is_refused() {
    let packed = Archive::with_dockerfile()
        .file("text", b"the quick brown fox")
        .finish();
    let mut bytes = fs::read(packed.zip()).unwrap();
    let header = central_headers(&bytes)[1];
    bytes[header + 16] ^= 1;
    fs::write(packed.zip(), bytes).unwrap();
    let failure = packed.unpack().unwrap_err();
    assert_eq!(failure.code, FailureCode::ArchiveInvalid, "{failure}");
}

#[test]
fn a_missing_dockerfile_is_named_where_it_is() {
    let without = Archive::new()
        .file("app.py", b"")
        .finish()
        .unpack()
        .unwrap_err();
    assert_eq!(
        without.to_string(),
        "ARCHIVE_DOCKERFILE_NOT_FOUND: The archive has no file named Dockerfile at its root."
    );
    let below = Archive::new()
        .file("project/Dockerfile", b"")
        .finish()
        .unpack()
        .unwrap_err();
    assert_eq!(below.code, FailureCode::ArchiveDockerfileNotFound);
    assert!(below.sentence.contains("\"project/Dockerfile\""), "{below}");
}
