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

/// The state of a machine with one CPU without that section. The CPU is to be interrupted when the rest has been
/// loaded. Nothing where it has to notice something else.
///
/// A reset precedes the loading and leaves the CPU running: if it was halted, it goes on behind its `hlt`, as after any
/// interrupt. An interrupt that waited is found with the one that comes.
///
/// Other CPUs are halted by a reset, and one that ran with its interrupts off would never be woken: a machine of
/// several loads its state whole.
///
/// Everything else in the state is the guest's to choose, names of sections too. The name must therefore be found
/// once: then it is the true one.
pub(super) fn without_common(state: &[u8]) -> Option<Vec<u8>> {
    let mut names = state.windows(NAME.len());
    let at = names.position(|bytes| bytes == NAME)?;
    if names.any(|bytes| bytes == NAME) {
        return None;
    }
    let start = at.checked_sub(5)?;
    let section = state.get(start..start + LENGTH)?;
    is_regained_by_interrupt(section).then(|| [&state[..start], &state[start + LENGTH..]].concat())
}

fn is_regained_by_interrupt(section: &[u8]) -> bool {
    let number = |at: usize| {
        section
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let content = AROUND;
    section[0] == SECTION_FULL
        && number(AROUND - 8) == Some(0)
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
    fn a_section_that_an_interrupt_makes_up_for_is_left_out() {
        for (halted, interrupts) in [(0, 0), (1, 0), (0, 2), (1, 16), (1, 18)] {
            let whole = state(&[section(3, 0, halted, interrupts)]);
            assert_eq!(without_common(&whole), Some(state(&[vec![]])));
        }
    }

    #[test]
    fn other_events_and_other_forms_are_loaded() {
        for other in [
            section(5, 0, 1, 0x200),
            section(5, 0, 1, 0x42),
            section(5, 0, 2, 0),
            section(5, 1, 1, 0),
        ] {
            assert_eq!(without_common(&state(&[other])), None);
        }
        assert_eq!(without_common(&section(5, 0, 1, 0)[..30]), None);
    }

    #[test]
    fn a_section_that_the_guest_made_up_is_not_taken_for_one() {
        let whole = state(&[section(3, 0, 1, 0), section(5, 1, 1, 0)]);
        assert_eq!(without_common(&whole), None);
        assert_eq!(without_common(b"\x0acpu_common"), None);
    }
}
