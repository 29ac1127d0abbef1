//! What QEMU calls `cpu_common` in the saved state of devices and CPUs: whether a CPU is halted, and which
//! interrupts it has not noticed yet. Loading it drops all translated code (QEMU, `cpu_common_post_load`). A reset
//! precedes the loading; where it leaves what the section would say, the section can be left out.

/// Type of a section that holds all of a device's state (QEMU, `migration/savevm.h`).
const SECTION_FULL: u8 = 4;
/// What ends a section; its number follows again.
const SECTION_FOOTER: u8 = 0x7e;
/// Its name, with the length before it.
const NAME: &[u8] = b"\x0acpu_common";
/// Before the name: the section's type and number. After it: the CPU's number, the format's version.
const AROUND: usize = 1 + 4 + NAME.len() + 4 + 4;
/// The whole section, with what it says in two numbers and its end.
const LENGTH: usize = AROUND + 4 + 4 + 1 + 4;

/// The state without the sections of its CPUs; nothing where they say something that a reset does not.
///
/// A reset has no interrupt waiting, the first CPU running and all others halted until one comes. A first CPU that was
/// halted in truth goes on behind its `hlt`, as after an interrupt of no concern to it: a kernel halts in a loop.
///
/// Everything else in the state is the guest's to choose, names of sections too. The name must therefore be found as
/// many times as there are CPUs: then each is a true one.
pub(super) fn without_common(state: &[u8], vcpus: u8) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = state[from..]
        .windows(NAME.len())
        .position(|bytes| bytes == NAME)
    {
        found.push((from + at).checked_sub(5)?);
        from += at + NAME.len();
    }
    if found.len() != usize::from(vcpus) {
        return None;
    }
    let mut kept = Vec::with_capacity(state.len());
    let mut done = 0;
    for (cpu, start) in (0_u32..).zip(found) {
        let section = state.get(start..start + LENGTH)?;
        is_as_after_reset(section, cpu).then_some(())?;
        kept.extend_from_slice(state.get(done..start)?);
        done = start + LENGTH;
    }
    kept.extend_from_slice(&state[done..]);
    Some(kept)
}

fn is_as_after_reset(section: &[u8], cpu: u32) -> bool {
    let number = |at: usize| {
        section
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let content = AROUND;
    section[0] == SECTION_FULL
        && number(AROUND - 8) == Some(cpu)
        && number(AROUND - 4) == Some(1)
        && (cpu == 0 || number(content) == Some(1))
        && number(content + 4) == Some(0)
        && section[content + 8] == SECTION_FOOTER
        && number(content + 9) == number(1)
}

#[cfg(test)]
mod tests {
    use super::without_common;

    fn section(number: u32, cpu: u32, halted: u32, interrupts: u32) -> Vec<u8> {
        let mut bytes = vec![4];
        bytes.extend(number.to_be_bytes());
        bytes.extend(b"\x0acpu_common");
        for field in [cpu, 1, halted, interrupts] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.push(0x7e);
        bytes.extend(number.to_be_bytes());
        bytes
    }

    fn state(sections: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"QEVM and a timer".to_vec();
        for section in sections {
            bytes.extend(section);
            bytes.extend(b" the CPU itself ");
        }
        bytes
    }

    #[test]
    fn sections_that_say_what_a_reset_leaves_are_left_out() {
        let without = state(&[vec![], vec![]]);
        for halted in [0, 1] {
            let whole = state(&[section(3, 0, halted, 0), section(5, 1, 1, 0)]);
            assert_eq!(without_common(&whole, 2), Some(without.clone()));
        }
    }

    #[test]
    fn a_cpu_that_a_reset_would_not_leave_so_keeps_its_section() {
        for other in [
            section(5, 1, 0, 0),
            section(5, 1, 1, 2),
            section(5, 2, 1, 0),
            section(5, 1, 1, 0)[..30].to_vec(),
        ] {
            assert_eq!(
                without_common(&state(&[section(3, 0, 1, 0), other]), 2),
                None
            );
        }
        assert_eq!(without_common(&state(&[section(3, 0, 1, 2)]), 1), None);
    }

    #[test]
    fn a_section_that_the_guest_made_up_is_not_taken_for_one() {
        let whole = state(&[section(3, 0, 1, 0), section(5, 1, 1, 0)]);
        assert_eq!(without_common(&whole, 1), None);
        assert_eq!(without_common(&whole, 3), None);
        assert_eq!(without_common(b"\x0acpu_common", 1), None);
    }
}
