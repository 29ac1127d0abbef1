//! A guest's memory as its VMM process holds it, reached from outside: which pages differ from the
//! base file (`pagemap`), their bytes (`process_vm_readv`, `process_vm_writev`).
//!
//! The guest's memory is moved as bytes and never interpreted.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::pagemap::{Mapping, Pages};
use crate::delta::{CHUNK_PAGES, DeltaSummary, DeltaWriter, PAGE_SIZE};
use crate::working_set::PageRun;

/// Pieces of memory that are read ahead of their being written. What a suspend holds at most beside the guest
/// itself: as many MiB.
const PIECES_AHEAD: usize = 64;

/// Runs of pages that one call moves at most: the kernel's `UIO_MAXIOV`.
const MOST_RUNS: usize = 1024;

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

/// Runs of pages, ascending, and what is in them.
#[derive(Debug, Default)]
struct Piece {
    runs: Vec<PageRun>,
    bytes: Vec<u8>,
}

impl GuestMemory {
    /// Finds the mappings of `file` in a process.
    pub(super) fn of(pid: u32, file: &Path) -> io::Result<Self> {
        let file = File::open(file)?;
        let length = file.metadata()?.len();
        let identity = MappedFile::of(&file)?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut mappings: Vec<Mapping> = maps
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
        mappings.sort_by_key(|mapping| mapping.offset);
        Ok(Self { pid, mappings })
    }

    /// Writes every page of `copied` that differs from `base` into a delta. The guest must be stopped since
    /// before its pages were looked up. Also the moment when the last page had been taken: pages are taken as
    /// they are, ahead of their being compared, compressed and written.
    pub(super) fn write_delta(
        &self,
        copied: &[PageRun],
        base: &File,
        delta: File,
    ) -> io::Result<(DeltaSummary, Instant)> {
        let (ahead, taken) = mpsc::sync_channel(PIECES_AHEAD);
        thread::scope(|scope| {
            let taking = scope.spawn(move || {
                for runs in pieces(copied) {
                    // Whoever writes has given up, and tells why.
                    if ahead.send(self.take(runs)?).is_err() {
                        break;
                    }
                }
                Ok::<_, io::Error>(Instant::now())
            });
            let written = write_pieces(taken, base, delta);
            let captured = taking.join();
            let captured = captured.map_err(|_| io::Error::other("taking memory panicked"))??;
            Ok((written?, captured))
        })
    }

    /// Copies some pages.
    fn take(&self, runs: Vec<PageRun>) -> io::Result<Piece> {
        let mut remote = Vec::with_capacity(runs.len());
        for &(first, count) in &runs {
            let page = PAGE_SIZE as u64;
            self.locate(first * page, count * page, &mut remote)?;
        }
        let length = remote.iter().map(|range| range.iov_len).sum();
        let mut bytes = vec![0; length];
        let mut done = 0;
        for ranges in remote.chunks(MOST_RUNS) {
            let wanted: usize = ranges.iter().map(|range| range.iov_len).sum();
            if vm_read(self.pid, ranges, &mut bytes[done..done + wanted])? != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += wanted;
        }
        Ok(Piece { runs, bytes })
    }

    /// Adds where a part of guest memory is in the process.
    fn locate(
        &self,
        mut offset: u64,
        mut length: u64,
        found: &mut Vec<libc::iovec>,
    ) -> io::Result<()> {
        while length > 0 {
            let (address, room) = self.address(offset)?;
            let part = length.min(room as u64);
            found.push(libc::iovec {
                iov_base: address as *mut libc::c_void,
                iov_len: usize::try_from(part).map_err(io::Error::other)?,
            });
            (offset, length) = (offset + part, length - part);
        }
        Ok(())
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

    /// Gives every page that differs from `base` the base's content; how many there were. `before` is told of each
    /// run of pages before it is written. The guest must be stopped.
    pub(super) fn restore(
        &self,
        base: &File,
        mut before: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut restored = 0;
        let mut wanted = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
        for runs in pieces(&self.pages()?.copied) {
            let Piece { runs, bytes } = self.take(runs)?;
            let mut rest = bytes.as_slice();
            for (first, count) in runs {
                let length = usize::try_from(count).map_err(io::Error::other)? * PAGE_SIZE;
                let (run, after) = rest.split_at(length);
                base.read_exact_at(&mut wanted[..length], first * PAGE_SIZE as u64)?;
                for (first, pages) in differing(first, run, &wanted[..length]) {
                    let count = (pages.len() / PAGE_SIZE) as u64;
                    before(first, count)?;
                    self.write(first, pages)?;
                    restored += count;
                }
                rest = after;
            }
        }
        Ok(restored)
    }

    /// Where a page of guest memory is in the process.
    pub(super) fn place_of(&self, page: u64) -> io::Result<u64> {
        Ok(self.address(page * PAGE_SIZE as u64)?.0)
    }

    /// The pages that are in memory, and whose they are.
    pub(super) fn pages(&self) -> io::Result<Pages> {
        Pages::of(self.pid, &self.mappings)
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

/// Runs of pages in which `is` is not what is wanted: the first page of each, and its wanted content.
fn differing<'a>(first: u64, is: &[u8], wanted: &'a [u8]) -> Vec<(u64, &'a [u8])> {
    let mut runs: Vec<(u64, std::ops::Range<usize>)> = Vec::new();
    let pages = is.chunks(PAGE_SIZE).zip(wanted.chunks(PAGE_SIZE));
    for (index, _) in pages.enumerate().filter(|(_, (is, wanted))| is != wanted) {
        let start = index * PAGE_SIZE;
        match runs.last_mut() {
            Some((_, run)) if run.end == start => run.end += PAGE_SIZE,
            _ => runs.push((first + index as u64, start..start + PAGE_SIZE)),
        }
    }
    runs.into_iter()
        .map(|(first, run)| (first, &wanted[run]))
        .collect()
}

/// The runs as pieces of [`CHUNK_PAGES`] at most.
fn pieces(runs: &[PageRun]) -> impl Iterator<Item = Vec<PageRun>> {
    let mut left = runs.iter().copied();
    let mut begun = None;
    std::iter::from_fn(move || {
        let mut piece = Vec::new();
        let mut room = CHUNK_PAGES as u64;
        while room > 0
            && let Some((first, count)) = begun.take().or_else(|| left.next())
        {
            let part = count.min(room);
            piece.push((first, part));
            room -= part;
            if part < count {
                begun = Some((first + part, count - part));
            }
        }
        (!piece.is_empty()).then_some(piece)
    })
}

fn write_pieces(taken: Receiver<Piece>, base: &File, delta: File) -> io::Result<DeltaSummary> {
    let mut writer = DeltaWriter::new(delta)?;
    let mut before = vec![0_u8; CHUNK_PAGES * PAGE_SIZE];
    for Piece { runs, bytes } in taken {
        let mut rest = bytes.as_slice();
        for (first, count) in runs {
            let length = usize::try_from(count).map_err(io::Error::other)? * PAGE_SIZE;
            let (run, after) = rest.split_at(length);
            base.read_exact_at(&mut before[..length], first * PAGE_SIZE as u64)?;
            writer.add(first, run, &before[..length])?;
            rest = after;
        }
    }
    writer.finish()
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

fn vm_read(pid: u32, remote: &[libc::iovec], into: &mut [u8]) -> io::Result<usize> {
    let mut local = [IoSliceMut::new(into)];
    // SAFETY: `local` describes one buffer that we hold exclusively, layout-compatible with iovec
    // (guaranteed by IoSliceMut); the remote ranges are checked by the kernel, in the other process.
    let moved = unsafe {
        libc::process_vm_readv(
            pid.cast_signed(),
            local.as_mut_ptr().cast(),
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
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

/// Writes a zero at the start of each page.
pub(super) fn vm_touch(pid: u32, pages: &[u64]) -> io::Result<()> {
    let zeros = [0_u8; MOST_RUNS];
    for pages in pages.chunks(MOST_RUNS) {
        let at = |page: &u64| libc::iovec {
            iov_base: (page * PAGE_SIZE as u64) as *mut libc::c_void,
            iov_len: 1,
        };
        let remote: Vec<_> = pages.iter().map(at).collect();
        let local = [IoSlice::new(&zeros[..pages.len()])];
        // SAFETY: `local` describes one buffer that outlives the call, layout-compatible with iovec
        // (guaranteed by IoSlice); the remote ranges are checked by the kernel, in the other process.
        let moved = unsafe {
            libc::process_vm_writev(
                pid.cast_signed(),
                local.as_ptr().cast(),
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        if progress(moved)? != pages.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
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
    use super::{MappedFile, Mapping, differing, parse_mapping, pieces};
    use crate::delta::PAGE_SIZE;

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
    fn only_pages_that_differ_are_written_together_where_they_adjoin() {
        let wanted = [
            [1_u8; PAGE_SIZE],
            [2; PAGE_SIZE],
            [3; PAGE_SIZE],
            [4; PAGE_SIZE],
        ]
        .concat();
        let mut is = wanted.clone();
        assert_eq!(differing(7, &is, &wanted), []);
        for page in [0, 1, 3] {
            is[page * PAGE_SIZE + 5] = 9;
        }
        let last = (10, &wanted[3 * PAGE_SIZE..]);
        assert_eq!(
            differing(7, &is, &wanted),
            [(7, &wanted[..2 * PAGE_SIZE]), last]
        );
    }

    #[test]
    fn pieces_hold_every_page_once_and_no_more_than_fit() {
        let cut: Vec<_> = pieces(&[(0, 2), (10, 300), (1000, 1)]).collect();
        assert_eq!(cut, [vec![(0, 2), (10, 254)], vec![(264, 46), (1000, 1)]]);
        assert_eq!(pieces(&[]).count(), 0);
    }
}
