//! Deltas written, read, damaged.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{CHUNK_PAGES, DeltaWriter, PAGE_SIZE, is_zero, read};
use crate::manifest::SuspensionManifest;

fn pages(content: &[u8]) -> Vec<u8> {
    content
        .iter()
        .flat_map(|byte| vec![*byte; PAGE_SIZE])
        .collect()
}

#[test]
fn only_pages_that_differ_are_kept_and_all_of_them_come_back() {
    let base = pages(&[1, 2, 3, 0, 5, 6]);
    let memory = pages(&[1, 9, 0, 0, 5, 7]);
    let file = tempfile::tempfile().unwrap();
    let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
    writer.add(100, &memory, &base).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(summary.pages, 3);

    let mut restored = base;
    let hash = read(file, 106, |first, bytes| {
        let at = usize::try_from(first - 100).unwrap() * PAGE_SIZE;
        restored[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(hash, summary.blake3);
    assert_eq!(restored, memory);
}

/// Bytes that no compression makes shorter.
fn noise(pages: usize) -> Vec<u8> {
    let mut noise = vec![0; pages * PAGE_SIZE];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

fn restored(file: &File, memory_pages: usize) -> (Vec<u8>, String) {
    let mut memory = vec![0; memory_pages * PAGE_SIZE];
    let file = file.try_clone().unwrap();
    let hash = read(file, memory_pages as u64, |first, bytes| {
        let at = usize::try_from(first).unwrap() * PAGE_SIZE;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    });
    (memory, hash.unwrap())
}

#[test]
fn blocks_are_compressed_where_it_shrinks_them_and_come_back_as_they_were() {
    // More than two blocks of each kind, and a border between them inside a block.
    let count = 2 * CHUNK_PAGES + 20;
    let mut memory = noise(count);
    memory.extend(pages(&vec![7; count]));
    let base = vec![0; memory.len()];
    let file = tempfile::tempfile().unwrap();
    let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
    for (index, chunk) in memory.chunks(100 * PAGE_SIZE).enumerate() {
        writer
            .add(index as u64 * 100, chunk, &base[..chunk.len()])
            .unwrap();
    }
    let summary = writer.finish().unwrap();
    assert_eq!(summary.length, file.metadata().unwrap().len());
    let noise_length = (count * PAGE_SIZE) as u64;
    assert!((noise_length..noise_length + noise_length / 16).contains(&summary.length));
    assert_eq!(restored(&file, 2 * count), (memory, summary.blake3));
}

#[test]
fn a_suspension_that_version_1_wrote_is_read() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/suspension-1");
    let manifest = crate::snapshot::read_suspension(&directory, &"b".repeat(64));
    let SuspensionManifest {
        memory,
        pages: count,
        ..
    } = manifest.unwrap();
    assert_eq!(count, 4);
    let (found, hash) = restored(&File::open(directory.join("memory.delta")).unwrap(), 12);
    let mut expected = pages(&[0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0, 0]);
    expected[12 * PAGE_SIZE - 1] = 77;
    assert_eq!(hash, memory.blake3);
    assert_eq!(found, expected);
}

#[test]
fn a_changed_byte_changes_the_checksum_and_a_cut_file_is_refused() {
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
    writer.add(0, &noise(2), &pages(&[0, 0])).unwrap();
    let summary = writer.finish().unwrap();
    file.seek(SeekFrom::Start(20)).unwrap();
    file.write_all(&[77]).unwrap();
    let hash = read(file.try_clone().unwrap(), 2, |_, _| Ok(())).unwrap();
    assert_ne!(hash, summary.blake3);
    assert!(
        read(file.try_clone().unwrap(), 1, |_, _| Ok(())).is_err(),
        "pages beyond memory"
    );
    file.set_len(summary.length - 1).unwrap();
    assert!(read(file, 2, |_, _| Ok(())).is_err());
}

#[test]
fn zero_is_told_from_almost_zero() {
    let mut page = vec![0; PAGE_SIZE];
    assert!(is_zero(&page));
    page[PAGE_SIZE - 1] = 1;
    assert!(!is_zero(&page));
}

/// Numbers from a fixed seed (xorshift).
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    }
}

#[test]
fn a_file_damaged_anywhere_is_refused_or_has_another_checksum_and_stays_within_memory() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = DeltaWriter::new(file.try_clone().unwrap()).unwrap();
    let memory = pages(&[1, 0, 3, 4, 0, 6, 7, 7]);
    writer
        .add(0, &memory, &pages(&[0, 1, 3, 0, 2, 2, 7, 0]))
        .unwrap();
    let summary = writer.finish().unwrap();
    let mut whole = Vec::new();
    let mut written = file;
    written.rewind().unwrap();
    written.read_to_end(&mut whole).unwrap();
    let mut number = numbers();
    for round in 0..3000 {
        let mut bytes = whole.clone();
        // Half of the rounds aim at the index and the footer, which say where everything else is.
        let from = if round % 2 == 0 { bytes.len() - 120 } else { 0 };
        for _ in 0..=number(3) {
            let at = from + number(bytes.len() - from);
            bytes[at] = [0, 1, 0x7f, 0xff, u8::try_from(number(256)).unwrap()][number(5)];
        }
        if number(4) == 0 {
            bytes.truncate(number(bytes.len()));
        }
        if bytes == whole {
            continue;
        }
        let mut damaged = tempfile::tempfile().unwrap();
        damaged.write_all(&bytes).unwrap();
        let read = read(damaged, 8, |first, content| {
            assert!(first + (content.len() / PAGE_SIZE) as u64 <= 8);
            Ok(())
        });
        assert!(read.is_err() || read.unwrap() != summary.blake3);
    }
}
