//! The agent's own words on the guest's console, for whoever reads a machine that did not come up.
//! Not for the application's output, which goes over the control channel.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// Kernel log levels (`include/linux/kern_levels.h`): with `quiet`, the console shows those below 4.
const ERROR: u8 = 3;
const WARNING: u8 = 4;

/// Says why the machine cannot go on, or that something the host must hear of went wrong.
pub(crate) fn error(message: &str) {
    say(ERROR, message);
}

/// Says what went wrong without stopping the machine; not shown on a quiet console.
pub(crate) fn warn(message: &str) {
    say(WARNING, message);
}

fn say(level: u8, message: &str) {
    // The kernel's log takes one record per write, of at most 1 KiB or so.
    let line: String = message
        .chars()
        .map(|c| if c == '\n' { ' ' } else { c })
        .take(800)
        .collect();
    let record = format!("<{level}>colibri-agent: {line}\n");
    let logged = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(record.as_bytes()));
    if logged.is_err() {
        // Before /dev is mounted, or when it could not be: the console is on descriptor 2.
        let _ = std::io::stderr().write_all(&record.as_bytes()[3..]);
    }
}

/// Says why and ends the machine, so that the host sees its process end.
pub(crate) fn power_off(reason: &str) -> ! {
    error(&format!("powering off: {reason}"));
    rustix::fs::sync();
    if let Err(refused) = reboot(RebootCommand::PowerOff) {
        error(&format!("the kernel refused to power off: {refused}"));
    }
    // PID 1 must never return: the kernel would panic before its last words are out.
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
