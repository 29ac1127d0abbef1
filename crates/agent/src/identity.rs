//! What makes a machine itself: random pool, machine-id, boot_id and host name.
//!
//! The files of it are the agent's own, on a tmpfs, and bound into the application's container. They
//! are rewritten in place, so that every mount of them shows the new content at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use colibri_guest_protocol::message::{AgentFailure, Identity, WallClock};
use rustix::ioctl::{self, NoArg, Opcode, Setter, opcode};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::failure::{Attempt, failure};
use crate::{clock, connections};

/// Where the files are.
const DIRECTORY: &str = "/run/identity";
/// The host name until the machine assumes an identity; the real service's.
const FIRST_HOSTNAME: &str = "localhost";
/// Longest name that the kernel takes, bytes.
const MAX_HOSTNAME: usize = 63;
/// Entropy that one request may carry, bytes.
const MAX_ENTROPY: usize = 512;
/// Least entropy that is worth the name, bytes.
const MIN_ENTROPY: usize = 32;
/// Of the application's `/etc/hosts`, as much is kept as this, bytes.
const MAX_HOSTS: u64 = 64 * 1024;

/// A file that the application sees and the agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdentityFile {
    /// `/etc/hostname`
    Hostname,
    /// `/etc/hosts`
    Hosts,
    /// `/etc/resolv.conf`
    ResolvConf,
    /// `/etc/machine-id`
    MachineId,
    /// `/proc/sys/kernel/random/boot_id`
    BootId,
}

impl IdentityFile {
    /// Every one of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Hostname,
        Self::Hosts,
        Self::ResolvConf,
        Self::MachineId,
        Self::BootId,
    ];

    /// The agent's own file.
    pub(crate) fn source(self) -> PathBuf {
        let name = match self {
            Self::Hostname => "hostname",
            Self::Hosts => "hosts",
            Self::ResolvConf => "resolv.conf",
            Self::MachineId => "machine-id",
            Self::BootId => "boot_id",
        };
        Path::new(DIRECTORY).join(name)
    }

    /// Where the application sees it.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Hostname => "/etc/hostname",
            Self::Hosts => "/etc/hosts",
            Self::ResolvConf => "/etc/resolv.conf",
            Self::MachineId => "/etc/machine-id",
            Self::BootId => "/proc/sys/kernel/random/boot_id",
        }
    }

    /// Overwrites first and shortens then: the file keeps the page that it has, so that an application
    /// that fills the tmpfs through `/etc/hosts` cannot keep the rest from being written.
    fn write(self, content: &str) -> Result<(), AgentFailure> {
        let path = self.source();
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .and_then(|mut file: File| {
                file.write_all(content.as_bytes())?;
                file.set_len(content.len() as u64)
            });
        written.attempt(|| format!("write {}", path.display()))
    }
}

/// Makes the files for the time before the machine has an identity.
pub(crate) fn create_files() -> Result<(), AgentFailure> {
    fs::create_dir_all(DIRECTORY).attempt(|| format!("make the directory {DIRECTORY}"))?;
    let boot_id =
        fs::read_to_string(IdentityFile::BootId.target()).attempt(|| "read boot_id".to_owned())?;
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty()).attempt(|| "get random bytes".to_owned())?;
    IdentityFile::MachineId.write(&format!("{:032x}\n", u128::from_ne_bytes(random)))?;
    IdentityFile::BootId.write(&boot_id)?;
    IdentityFile::ResolvConf.write("")?;
    IdentityFile::Hosts.write(&format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}",
        own_line(FIRST_HOSTNAME)
    ))?;
    set_hostname(FIRST_HOSTNAME)
}

/// Writes the application's name servers.
pub(crate) fn set_name_servers(servers: &[String]) -> Result<(), AgentFailure> {
    let lines: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    IdentityFile::ResolvConf.write(&lines)
}

/// Puts all of an identity in force.
pub(crate) fn assume(identity: &Identity) -> Result<(), AgentFailure> {
    let entropy = check(identity)?;
    clock::set(WallClock {
        unix_nanos: identity.wall_clock_unix_nanos,
    })?;
    if identity.reset_connections {
        connections::reset();
    }
    reseed(&entropy)?;
    IdentityFile::MachineId.write(&format!("{}\n", identity.machine_id))?;
    IdentityFile::BootId.write(&format!("{}\n", identity.boot_id))?;
    set_hostname(&identity.hostname)
}

/// Refuses an identity before any of it is in force; gives back its entropy.
fn check(identity: &Identity) -> Result<Vec<u8>, AgentFailure> {
    let refuse = |reason: &str| Err(failure("assume the identity", reason));
    let name = &identity.hostname;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > MAX_HOSTNAME || !name.bytes().all(allowed) {
        return refuse("the host name is not one of at most 63 letters, digits, '-' and '.'");
    }
    let hexadecimal = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if identity.machine_id.len() != 32 || !hexadecimal(&identity.machine_id) {
        return refuse("the machine-id is not 32 lower-case hexadecimal digits");
    }
    let groups: Vec<&str> = identity.boot_id.split('-').collect();
    if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        || !groups.iter().all(|g| hexadecimal(g))
    {
        return refuse("the boot_id is not a lower-case UUID");
    }
    match STANDARD.decode(&identity.entropy) {
        Ok(entropy) if (MIN_ENTROPY..=MAX_ENTROPY).contains(&entropy.len()) => Ok(entropy),
        _ => refuse("the entropy is not base64 of 32 to 512 bytes"),
    }
}

/// `struct rand_pool_info` of `linux/random.h`, its buffer as long as entropy may be.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: i32,
    buf_size: i32,
    buf: [u8; MAX_ENTROPY],
}

// linux/random.h: RNDADDENTROPY is _IOW('R', 3, int[2]), RNDRESEEDCRNG is _IO('R', 7)
const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 3);
const RNDRESEEDCRNG: Opcode = opcode::none(b'R', 7);

/// Credits the host's entropy to the kernel's pool and has the generator take it up at once: two
/// machines of one snapshot would otherwise draw the same numbers.
fn reseed(entropy: &[u8]) -> Result<(), AgentFailure> {
    let attempted = || "reseed the kernel's random pool".to_owned();
    let pool = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .attempt(attempted)?;
    let mut info = RandPoolInfo {
        entropy_count: 0,
        buf_size: 0,
        buf: [0; MAX_ENTROPY],
    };
    info.buf[..entropy.len()].copy_from_slice(entropy);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "at most 512"
    )]
    let length = entropy.len() as i32;
    info.buf_size = length;
    info.entropy_count = length * 8;
    // SAFETY: the opcode is the kernel's for this structure, whose `buf_size` is not beyond `buf`.
    unsafe {
        ioctl::ioctl(
            pool.as_fd(),
            Setter::<RNDADDENTROPY, RandPoolInfo>::new(info),
        )
    }
    .attempt(attempted)?;
    // SAFETY: the opcode is the kernel's and takes no argument.
    unsafe { ioctl::ioctl(pool.as_fd(), NoArg::<RNDRESEEDCRNG>::new()) }.attempt(attempted)
}

fn set_hostname(name: &str) -> Result<(), AgentFailure> {
    let hosts =
        read_bounded(&IdentityFile::Hosts.source()).attempt(|| "read the hosts file".to_owned())?;
    let before = fs::read_to_string(IdentityFile::Hostname.source()).unwrap_or_default();
    rustix::system::sethostname(name.as_bytes()).attempt(|| format!("set the host name {name}"))?;
    IdentityFile::Hosts.write(&renamed(&hosts, before.trim(), name))?;
    IdentityFile::Hostname.write(&format!("{name}\n"))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_HOSTS).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The hosts file with the line of the machine's own name replaced, and what the application has
/// added kept.
fn renamed(hosts: &str, before: &str, name: &str) -> String {
    let old = own_line(before);
    let kept = hosts
        .lines()
        .filter(|line| *line != old.trim_end() || before == FIRST_HOSTNAME);
    let mut text: String = kept.map(|line| format!("{line}\n")).collect();
    if name != FIRST_HOSTNAME {
        text.push_str(&own_line(name));
    }
    text
}

/// The hosts file's line for a name; nothing for the one that every hosts file has.
fn own_line(name: &str) -> String {
    if name == FIRST_HOSTNAME {
        String::new()
    } else {
        format!("127.0.1.1\t{name}\n")
    }
}

#[cfg(test)]
mod tests {
    use colibri_guest_protocol::message::Identity;

    use super::{check, renamed};

    fn identity() -> Identity {
        Identity {
            microvm_id: "microvm-1".to_owned(),
            hostname: "localhost".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            boot_id: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
            entropy: "A".repeat(43) + "=",
            wall_clock_unix_nanos: 1,
            reset_connections: false,
        }
    }

    #[test]
    fn an_identity_that_would_not_hold_is_refused_whole() {
        assert_eq!(check(&identity()).unwrap(), [0; 32]);
        assert!(
            check(&Identity {
                hostname: "a\nb".to_owned(),
                ..identity()
            })
            .is_err()
        );
        assert!(
            check(&Identity {
                machine_id: "short".to_owned(),
                ..identity()
            })
            .is_err()
        );
        assert!(
            check(&Identity {
                boot_id: "0".repeat(36),
                ..identity()
            })
            .is_err()
        );
        assert!(
            check(&Identity {
                entropy: "AAAA".to_owned(),
                ..identity()
            })
            .is_err()
        );
    }

    #[test]
    fn a_new_name_replaces_the_old_line_and_nothing_else() {
        let first = "127.0.0.1\tlocalhost\n10.0.0.9\tdatabase\n";
        let second = renamed(first, "localhost", "one");
        assert_eq!(second, format!("{first}127.0.1.1\tone\n"));
        assert_eq!(
            renamed(&second, "one", "two"),
            format!("{first}127.0.1.1\ttwo\n")
        );
        assert_eq!(renamed(&second, "one", "localhost"), first);
    }
}
