//! Room for translated code, made before it is used. A process in software emulation has its code buffer
//! cleared, huge page by huge page, while its first code is translated: on the way that a wake waits for. In
//! one that waits without a machine the pages can be there already.

use std::fs;
use std::io;

use super::memory::vm_touch;
use super::pagemap::{Mapping, Pages};
use crate::delta::PAGE_SIZE;
use crate::working_set::PageRun;

/// What a machine surely has translated by its first answer, in huge pages (measured: 16 to 22 MiB). More would be
/// memory that a clone may never use.
const PREPARED: u64 = 16 * 1024 * 1024;

/// Gives a process that waits the first pages of its code buffer. Nothing of it may translate meanwhile. Only
/// pages that nobody has ever touched are written to, with the zeros that they would show anyway.
pub(super) fn prepare(pid: u32) -> io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut left = PREPARED / PAGE_SIZE as u64;
    for (address, length) in maps.lines().filter_map(parse) {
        let offset = address;
        let mapping = Mapping {
            address,
            offset,
            length,
        };
        let there = Pages::of(pid, &[mapping])?;
        let (first, pages) = (address / PAGE_SIZE as u64, length / PAGE_SIZE as u64);
        let wanted = (first, pages.min(left));
        vm_touch(pid, &untouched(wanted, there))?;
        left -= wanted.1;
    }
    Ok(())
}

/// The pages of a run that are not there.
fn untouched((first, count): PageRun, there: Pages) -> Vec<u64> {
    let mut runs = [there.copied, there.shared].concat();
    runs.sort_unstable();
    let mut runs = runs.into_iter().peekable();
    (first..first + count)
        .filter(|page| {
            while runs
                .next_if(|(start, length)| start + length <= *page)
                .is_some()
            {}
            runs.peek().is_none_or(|(start, _)| page < start)
        })
        .collect()
}

/// Address and length of anonymous memory that may be written and executed, of a line of `/proc/PID/maps`.
fn parse(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "rwxp" && fields.nth(2)? == "0";
    let address = u64::from_str_radix(start, 16).ok()?;
    let length = u64::from_str_radix(end, 16).ok()?.checked_sub(address)?;
    is_code.then_some((address, length))
}

#[cfg(test)]
mod tests {
    use super::{Pages, parse, untouched};

    #[test]
    fn only_anonymous_memory_for_code_is_found() {
        let code = "7f0000000000-7f0008000000 rwxp 00000000 00:00 0 ";
        assert_eq!(parse(code), Some((0x7f00_0000_0000, 0x800_0000)));
        assert_eq!(parse(&code.replace("rwxp", "rw-p")), None);
        let of_a_file = "7f0000000000-7f0008000000 rwxp 00000000 fe:01 12 /lib/code";
        assert_eq!(parse(of_a_file), None);
    }

    #[test]
    fn pages_that_are_there_are_left_alone() {
        let there = Pages {
            copied: vec![(0, 11), (14, 1)],
            shared: vec![(12, 1)],
        };
        assert_eq!(untouched((10, 6), there), [11, 13, 15]);
        assert_eq!(untouched((3, 2), Pages::default()), [3, 4]);
    }
}
