//! A guest's memory as its VMM process holds it, reached from outside: which pages differ from the
//! base file (`/proc/PID/pagemap`), their bytes (`process_vm_readv`, `process_vm_writev`).
//!
//! The guest's memory is moved as bytes and never interpreted.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::delta::{CHUNK_PAGES, DeltaSummary, DeltaWriter, PAGE_SIZE};
use crate::working_set::PageRun;

/// A page is in memory.
const PRESENT: u64 = 1 << 63;
/// A page is in swap.
const SWAPPED: u64 = 1 << 62;
/// A page belongs to a file, or is shared: it was not copied.
const FILE_OR_SHARED: u64 = 1 << 61;

/// One mapping of the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    /// Address in the process.
    address: u64,
    /// Offset in the file, bytes.
    offset: u64,
    /// Length, bytes.
    length: u64,
}

/// A file as `/proc/PID/maps` names it: the device of the file system itself, which on btrfs and
/// overlayfs is another than `stat` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MappedFile {
    device: String,
    inode: u64,
}

impl MappedFile {
    /// Maps a page of the file, without any access to it, and looks how the kernel names it.
    fn of(file: &File) -> io::Result<Self> {
        // SAFETY: a new mapping at a place that the kernel chooses; nobody can read or write it.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                PAGE_SIZE,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
                file,
                0,
            )
        }?;
        let maps = fs::read_to_string("/proc/self/maps");
        // SAFETY: the mapping made above, which nothing refers to.
        unsafe { munmap(page, PAGE_SIZE) }?;
        let address = page.addr() as u64;
        maps?
            .lines()
            .filter_map(parse_mapping)
            .find(|(mapping, _)| mapping.address == address)
            .map(|(_, file)| file)
            .ok_or_else(|| io::Error::other("/proc/self/maps does not list a fresh mapping"))
    }
}

/// The memory of one guest, mapped in one process.
#[derive(Debug)]
pub(super) struct GuestMemory {
    pid: u32,
    mappings: Vec<Mapping>,
}

/// Pages of a guest that are in memory: runs, ascending.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Copied from the base, and so the process's own.
    copied: Vec<PageRun>,
    /// The base's.
    pub(super) shared: Vec<PageRun>,
}

impl GuestMemory {
    /// Finds the mappings of `file` in a process.
    pub(super) fn of(pid: u32, file: &Path) -> io::Result<Self> {
        let file = File::open(file)?;
        let length = file.metadata()?.len();
        let identity = MappedFile::of(&file)?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mappings: Vec<Mapping> = maps
            .lines()
            .filter_map(parse_mapping)
            .filter(|(_, mapped)| *mapped == identity)
            .map(|(mapping, _)| mapping)
            .collect();
        let mapped: u64 = mappings.iter().map(|mapping| mapping.length).sum();
        if mapped != length {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} maps {mapped} of the {length} bytes of guest memory"),
            ));
        }
        Ok(Self { pid, mappings })
    }

    /// Writes every page that differs from `base` into a delta. The guest must be stopped since before
    /// its pages were looked up.
    pub(super) fn write_delta(
        &self,
        pages: &Pages,
        base: &File,
        delta: File,
    ) -> io::Result<DeltaSummary> {
        let mut writer = DeltaWriter::new(delta)?;
        let mut memory = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
        let mut before = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
        for &(first, count) in &pages.copied {
            let mut page = first;
            let end = first + count;
            while page < end {
                let pages = (end - page).min(CHUNK_PAGES as u64);
                let bytes = usize::try_from(pages).map_err(io::Error::other)? * PAGE_SIZE;
                self.read(page, &mut memory[..bytes])?;
                base.read_exact_at(&mut before[..bytes], page * PAGE_SIZE as u64)?;
                writer.add(page, &memory[..bytes], &before[..bytes])?;
                page += pages;
            }
        }
        writer.finish()
    }

    /// Puts pages in place. The guest must be stopped.
    pub(super) fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (address, room) = self.address(first_page * PAGE_SIZE as u64 + done as u64)?;
            let length = room.min(bytes.len() - done);
            done += vm_write(self.pid, address, &bytes[done..done + length])?;
        }
        Ok(())
    }

    fn read(&self, first_page: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (address, room) = self.address(first_page * PAGE_SIZE as u64 + done as u64)?;
            let length = room.min(bytes.len() - done);
            done += vm_read(self.pid, address, &mut bytes[done..done + length])?;
        }
        Ok(())
    }

    /// The pages that are in memory, and whose they are.
    pub(super) fn pages(&self) -> io::Result<Pages> {
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid))?;
        let mut found = Pages::default();
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut ordered = self.mappings.clone();
        ordered.sort_by_key(|mapping| mapping.offset);
        for mapping in ordered {
            let pages = mapping.length / PAGE_SIZE as u64;
            let mut done = 0;
            while done < pages {
                let count = (pages - done).min(buffer.len() as u64 / 8);
                let bytes = usize::try_from(count * 8).map_err(io::Error::other)?;
                pagemap.read_exact_at(
                    &mut buffer[..bytes],
                    (mapping.address / PAGE_SIZE as u64 + done) * 8,
                )?;
                let first = mapping.offset / PAGE_SIZE as u64 + done;
                for (index, entry) in buffer[..bytes].as_chunks::<8>().0.iter().enumerate() {
                    let (entry, page) = (u64::from_ne_bytes(*entry), first + index as u64);
                    if is_copied(entry) {
                        push(&mut found.copied, page);
                    } else if entry & PRESENT != 0 {
                        push(&mut found.shared, page);
                    }
                }
                done += count;
            }
        }
        Ok(found)
    }

    /// Where an offset of guest memory is in the process, and how far that mapping goes on.
    fn address(&self, offset: u64) -> io::Result<(u64, usize)> {
        self.mappings
            .iter()
            .find(|mapping| (mapping.offset..mapping.offset + mapping.length).contains(&offset))
            .map(|mapping| {
                let into = offset - mapping.offset;
                (
                    mapping.address + into,
                    usize::try_from(mapping.length - into).unwrap_or(usize::MAX),
                )
            })
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a page beyond the guest's memory",
                )
            })
    }
}

fn is_copied(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0
}

fn push(runs: &mut Vec<PageRun>, page: u64) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == page => *count += 1,
        _ => runs.push((page, 1)),
    }
}

/// `address-end perms offset major:minor inode path`
fn parse_mapping(line: &str) -> Option<(Mapping, MappedFile)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let _permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let device = fields.next()?.to_owned();
    let inode = fields.next()?.parse().ok()?;
    let address = u64::from_str_radix(start, 16).ok()?;
    let length = u64::from_str_radix(end, 16).ok()?.checked_sub(address)?;
    let mapping = Mapping {
        address,
        offset,
        length,
    };
    Some((mapping, MappedFile { device, inode }))
}

fn vm_read(pid: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let length = into.len();
    let mut local = [IoSliceMut::new(into)];
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: length,
    };
    // SAFETY: `local` describes one buffer that we hold exclusively, layout-compatible with iovec
    // (guaranteed by IoSliceMut); the remote range is checked by the kernel, in the other process.
    let moved = unsafe {
        libc::process_vm_readv(
            pid.cast_signed(),
            local.as_mut_ptr().cast(),
            1,
            &raw const remote,
            1,
            0,
        )
    };
    progress(moved)
}

fn vm_write(pid: u32, address: u64, from: &[u8]) -> io::Result<usize> {
    let local = [IoSlice::new(from)];
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: from.len(),
    };
    // SAFETY: `local` describes one buffer that outlives the call, layout-compatible with iovec
    // (guaranteed by IoSlice); the remote range is checked by the kernel, in the other process.
    let moved = unsafe {
        libc::process_vm_writev(
            pid.cast_signed(),
            local.as_ptr().cast(),
            1,
            &raw const remote,
            1,
            0,
        )
    };
    progress(moved)
}

fn progress(moved: libc::ssize_t) -> io::Result<usize> {
    match usize::try_from(moved) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(moved) => Ok(moved),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        FILE_OR_SHARED, MappedFile, Mapping, PRESENT, SWAPPED, is_copied, parse_mapping, push,
    };

    #[test]
    fn only_private_copies_count_as_copied() {
        assert!(is_copied(PRESENT));
        assert!(is_copied(SWAPPED));
        assert!(!is_copied(PRESENT | FILE_OR_SHARED));
        assert!(!is_copied(0));
    }

    #[test]
    fn a_line_of_maps_names_the_mapping_and_its_file() {
        let line = "7f0000000000-7f0020000000 rw-p 00001000 fe:01 1234   /data/memory.base";
        let mapping = Mapping {
            address: 0x7f00_0000_0000,
            offset: 0x1000,
            length: 0x2000_0000,
        };
        let file = MappedFile {
            device: "fe:01".to_owned(),
            inode: 1234,
        };
        assert_eq!(parse_mapping(line), Some((mapping, file)));
    }

    #[test]
    fn two_files_are_told_apart_and_one_is_itself() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        one.set_len(4096).unwrap();
        other.set_len(4096).unwrap();
        let identity = MappedFile::of(&one).unwrap();
        assert_eq!(identity, MappedFile::of(&one).unwrap());
        assert_ne!(identity, MappedFile::of(&other).unwrap());
    }

    #[test]
    fn consecutive_pages_make_one_run() {
        let mut runs = Vec::new();
        [3, 4, 5, 9]
            .into_iter()
            .for_each(|page| push(&mut runs, page));
        assert_eq!(runs, [(3, 3), (9, 1)]);
    }
}
