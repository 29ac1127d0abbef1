//! Which pages of a mapping a process holds, and whose they are: the `PAGEMAP_SCAN` call of Linux 6.7,
//! which skips what was never touched, or else an entry of `/proc/PID/pagemap` for every page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use crate::delta::PAGE_SIZE;
use crate::working_set::PageRun;

/// A page is in memory.
const PRESENT: u64 = 1 << 63;
/// A page is in swap.
const SWAPPED: u64 = 1 << 62;
/// A page belongs to a file, or is shared: it was not copied.
const FILE_OR_SHARED: u64 = 1 << 61;

/// The same of `PAGEMAP_SCAN`, from `linux/fs.h`.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// Regions that one call tells of.
const REGIONS: usize = 1024;

/// Pages of a guest that are in memory: runs, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    /// Copied from the base, and so the process's own.
    pub(super) copied: Vec<PageRun>,
    /// The base's.
    pub(super) shared: Vec<PageRun>,
}

/// One mapping of the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Address in the process.
    pub(super) address: u64,
    /// Offset in the file, bytes.
    pub(super) offset: u64,
    /// Length, bytes.
    pub(super) length: u64,
}

impl Pages {
    /// Those of some mappings, which ascend by their offset.
    pub(super) fn of(pid: u32, mappings: &[Mapping]) -> io::Result<Self> {
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut scanned = Self::default();
        // A kernel that does not know the call says so at the first one.
        if mappings
            .iter()
            .try_for_each(|mapping| scanned.scan(&pagemap, mapping))
            .is_ok()
        {
            return Ok(scanned);
        }
        let mut read = Self::default();
        for mapping in mappings {
            read.read(&pagemap, mapping)?;
        }
        Ok(read)
    }

    fn scan(&mut self, pagemap: &File, mapping: &Mapping) -> io::Result<()> {
        let end = mapping.address + mapping.length;
        let mut regions = vec![Region::default(); REGIONS];
        let mut start = mapping.address;
        while start < end {
            let mut scan = Scan::new(start, end, &mut regions);
            // SAFETY: `scan` is the kernel's structure and names as many regions as the vector holds, which
            // outlives the call.
            let found = unsafe { ioctl(pagemap, Call(&mut scan)) }?;
            let found = &regions[..found.min(REGIONS)];
            // The kernel's own word falls behind where it took several turns to fill the vector.
            let last = found.last().map_or(0, |region| region.end);
            let reached = scan.walk_end.max(last);
            if reached <= start {
                return Err(io::Error::other("PAGEMAP_SCAN did not get any further"));
            }
            start = reached;
            for region in found {
                let first = (mapping.offset + region.start - mapping.address) / PAGE_SIZE as u64;
                let count = (region.end - region.start) / PAGE_SIZE as u64;
                let is_copied = region.categories & PAGE_IS_FILE == 0;
                let whose = if is_copied {
                    &mut self.copied
                } else {
                    &mut self.shared
                };
                append(whose, (first, count));
            }
        }
        Ok(())
    }

    fn read(&mut self, pagemap: &File, mapping: &Mapping) -> io::Result<()> {
        let mut buffer = vec![0_u8; 64 * 1024];
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
                    append(&mut self.copied, (page, 1));
                } else if entry & PRESENT != 0 {
                    append(&mut self.shared, (page, 1));
                }
            }
            done += count;
        }
        Ok(())
    }
}

fn is_copied(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0
}

fn append(runs: &mut Vec<PageRun>, (first, count): PageRun) {
    match runs.last_mut() {
        Some((start, length)) if *start + *length == first => *length += count,
        _ => runs.push((first, count)),
    }
}

/// `struct page_region`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`
#[repr(C)]
#[derive(Debug)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    most_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of: u64,
    return_mask: u64,
}

impl Scan {
    /// Everything that is in memory or in swap, told apart by whether it is the file's.
    fn new(start: u64, end: u64, regions: &mut [Region]) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            regions: regions.as_mut_ptr().expose_provenance() as u64,
            regions_length: regions.len() as u64,
            most_pages: 0,
            category_inverted: 0,
            category_mask: 0,
            category_any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_FILE,
        }
    }
}

/// The call; its answer is the number of regions.
struct Call<'a>(&'a mut Scan);

// SAFETY: PAGEMAP_SCAN takes a pointer to this structure, reads and writes it, and answers a count.
unsafe impl Ioctl for Call<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // linux/fs.h: _IOWR('f', 16, struct pm_scan_arg)
        opcode::read_write::<Scan>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(
        found: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        usize::try_from(found).map_err(|_| rustix::io::Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::ptr::{read_volatile, write_volatile};

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::{FILE_OR_SHARED, Mapping, PAGE_SIZE, PRESENT, Pages, SWAPPED, append, is_copied};

    #[test]
    fn only_private_copies_count_as_copied() {
        assert!(is_copied(PRESENT));
        assert!(is_copied(SWAPPED));
        assert!(!is_copied(PRESENT | FILE_OR_SHARED));
        assert!(!is_copied(0));
    }

    #[test]
    fn consecutive_pages_make_one_run() {
        let mut runs = Vec::new();
        [3, 4, 5, 9]
            .into_iter()
            .for_each(|page| append(&mut runs, (page, 1)));
        assert_eq!(runs, [(3, 3), (9, 1)]);
    }

    #[test]
    fn pages_are_the_bases_until_they_are_written_however_the_kernel_is_asked() {
        const PAGES: usize = 4096;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; PAGES * PAGE_SIZE]).unwrap();
        // SAFETY: a new private mapping, used and removed below.
        let memory = unsafe {
            let (read, write) = (ProtFlags::READ, ProtFlags::WRITE);
            mmap(
                std::ptr::null_mut(),
                PAGES * PAGE_SIZE,
                read | write,
                MapFlags::PRIVATE,
                &file,
                0,
            )
        }
        .unwrap();
        // More regions than one call tells of, up to the very last page.
        let written: Vec<u64> = (7..10).chain((1001..PAGES as u64).step_by(2)).collect();
        for &page in &written {
            let at = usize::try_from(page).unwrap() * PAGE_SIZE;
            // SAFETY: within the mapping.
            unsafe { write_volatile(memory.cast::<u8>().add(at), 2) };
        }
        // SAFETY: within the mapping.
        unsafe { read_volatile(memory.cast::<u8>().add(500 * PAGE_SIZE)) };
        let mapping = Mapping {
            address: memory.expose_provenance() as u64,
            offset: 0,
            length: (PAGES * PAGE_SIZE) as u64,
        };
        let found = Pages::of(std::process::id(), &[mapping]).unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut read = Pages::default();
        read.read(&pagemap, &mapping).unwrap();
        // SAFETY: the mapping made above, which nothing refers to.
        unsafe { munmap(memory, PAGES * PAGE_SIZE) }.unwrap();
        let pages = |runs: &[(u64, u64)]| -> Vec<u64> {
            runs.iter()
                .flat_map(|&(first, count)| first..first + count)
                .collect()
        };
        for told in [found, read] {
            assert_eq!(pages(&told.copied), written);
            let shared = pages(&told.shared);
            assert!(shared.contains(&500) && shared.is_sorted());
        }
    }
}
