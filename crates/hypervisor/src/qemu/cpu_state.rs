//! What QEMU calls `cpu_common` in the saved state of devices and CPUs: whether a CPU is halted, and which
//! kinds of events it has not noticed yet. Loading it drops all translated code (QEMU, `cpu_common_post_load`). A CPU
//! that is interrupted after the loading finds out both by itself, so the section can be left out.

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

/// An interrupt waits at the CPU's interrupt controller, or may (QEMU, `CPU_INTERRUPT_HARD`, `CPU_INTERRUPT_POLL`).
/// The controller's own state says which.
const INTERRUPTS: u32 = 0x12;

/// The state without the sections of its CPUs, each of which is to be interrupted when it has been loaded; nothing
/// where one has to notice something else.
///
/// A reset precedes the loading. It leaves the first CPU running, which then goes on behind its `hlt` if it was
/// halted, as after any interrupt, and the others halted, which the interrupt ends. An interrupt that waited is
/// found with the one that comes.
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
        is_regained_by_interrupt(section, cpu).then_some(())?;
        kept.extend_from_slice(state.get(done..start)?);
        done = start + LENGTH;
    }
    kept.extend_from_slice(&state[done..]);
    Some(kept)
}

fn is_regained_by_interrupt(section: &[u8], cpu: u32) -> bool {
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
        && number(content).is_some_and(|halted| halted <= 1)
        && number(content + 4).is_some_and(|events| events & !INTERRUPTS == 0)
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
    fn sections_that_an_interrupt_makes_up_for_are_left_out() {
        let without = state(&[vec![], vec![]]);
        for (halted, interrupts) in [(0, 0), (1, 0), (0, 2), (1, 16), (1, 18)] {
            let other = section(5, 1, halted, interrupts);
            let whole = state(&[section(3, 0, halted, interrupts), other]);
            assert_eq!(without_common(&whole, 2), Some(without.clone()));
        }
    }

    #[test]
    fn other_events_and_other_forms_are_loaded() {
        for other in [
            section(5, 1, 1, 0x200),
            section(5, 1, 2, 0),
            section(5, 2, 1, 0),
            section(5, 1, 1, 0)[..30].to_vec(),
        ] {
            assert_eq!(
                without_common(&state(&[section(3, 0, 1, 0), other]), 2),
                None
            );
        }
        assert_eq!(without_common(&state(&[section(3, 0, 1, 0x42)]), 1), None);
    }

    #[test]
    fn a_section_that_the_guest_made_up_is_not_taken_for_one() {
        let whole = state(&[section(3, 0, 1, 0), section(5, 1, 1, 0)]);
        assert_eq!(without_common(&whole, 1), None);
        assert_eq!(without_common(&whole, 3), None);
        assert_eq!(without_common(b"\x0acpu_common", 1), None);
    }
}
