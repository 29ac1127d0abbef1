//! The last steps before the image's program: who it runs as, what it may do, where it starts.
//!
//! All paths here are resolved inside the image's root file system: the process has moved into it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use colibri_guest_protocol::message::{AgentFailure, ApplicationSpec};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
    set_thread_gid, set_thread_groups, set_thread_uid,
};

use super::users::{self, Credentials};
use crate::failure::{Attempt, failure};

/// The set that Docker and the real service give a container: `CapEff` shows `00000000a80425fb`.
const CONTAINER_CAPABILITIES: u64 = 0xa804_25fb;
/// Open files, soft and hard; the real service's.
const OPEN_FILES: u64 = 1024;
/// Docker's, where the image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As much of `/etc/passwd` and `/etc/group` is read, bytes.
const MAX_USER_FILE: u64 = 1024 * 1024;

/// Becomes the image's program.
pub(super) fn launch(spec: &ApplicationSpec) -> Result<Infallible, AgentFailure> {
    let credentials = users::resolve(
        &spec.user,
        &read_user_file("/etc/passwd"),
        &read_user_file("/etc/group"),
    )?;
    let environment = environment(&spec.environment, &credentials.home)?;
    enter_working_directory(&spec.working_directory)?;
    let name = spec.arguments.first().ok_or_else(|| {
        failure(
            "start the application",
            "the image has neither entry point nor command",
        )
    })?;
    let program = find_program(name, environment.get("PATH").map(String::as_str))?;

    set_limits()?;
    own_output(&credentials)?;
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(&spec.arguments[1..])
        .env_clear()
        .envs(&environment);
    give_up_privileges(spec.all_capabilities, &credentials)?;
    let refused = command.exec();
    Err(failure(
        format!("start the application {}", program.display()),
        why_not(&refused),
    ))
}

/// Empty when the image has none, or something there that is no plain file.
fn read_user_file(path: &str) -> String {
    #[expect(clippy::cast_possible_wrap, reason = "the flag's bits fit")]
    let no_wait = OFlags::NONBLOCK.bits() as i32;
    let mut bytes = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(no_wait)
        .open(path);
    if let Ok(file) = file.and_then(|file: File| Ok((file.metadata()?.is_file(), file)))
        && file.0
    {
        // What could be read counts; a user that is missing then is refused in words.
        let _ = file.1.take(MAX_USER_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The variables by name, later ones winning, with what a container always has.
fn environment(entries: &[String], home: &str) -> Result<BTreeMap<String, String>, AgentFailure> {
    let mut variables = BTreeMap::new();
    for entry in entries {
        let pair = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !entry.contains('\0'));
        let Some((name, value)) = pair else {
            return Err(failure(
                "set the application's environment",
                "an entry is not of the form KEY=value",
            ));
        };
        variables.insert(name.to_owned(), value.to_owned());
    }
    variables
        .entry("PATH".to_owned())
        .or_insert_with(|| DEFAULT_PATH.to_owned());
    variables
        .entry("HOME".to_owned())
        .or_insert_with(|| home.to_owned());
    Ok(variables)
}

fn enter_working_directory(wanted: &str) -> Result<(), AgentFailure> {
    let directory = Path::new("/").join(wanted);
    fs::create_dir_all(&directory)
        .and_then(|()| std::env::set_current_dir(&directory))
        .attempt(|| format!("enter the working directory {}", directory.display()))
}

/// The program's path: as named if the name holds a slash, else the first in `PATH` that can be run.
fn find_program(name: &str, path: Option<&str>) -> Result<PathBuf, AgentFailure> {
    let attempted = || format!("start the application {name}");
    if name.is_empty() {
        return Err(failure(attempted(), "the name of the program is empty"));
    }
    if name.contains('/') {
        return runnable(Path::new(name)).map_err(|reason| failure(attempted(), reason));
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    let mut reason = format!("there is no such program in the image's PATH ({path})");
    for directory in path.split(':').filter(|directory| !directory.is_empty()) {
        match runnable(&Path::new(directory).join(name)) {
            Ok(program) => return Ok(program),
            Err(why) if !why.starts_with(NO_SUCH_FILE) => reason = why,
            Err(_) => {}
        }
    }
    Err(failure(attempted(), reason))
}

const NO_SUCH_FILE: &str = "there is no such file in the image";

fn runnable(program: &Path) -> Result<PathBuf, String> {
    match fs::metadata(program) {
        Ok(file) if file.is_dir() => Err(format!("{} is a directory", program.display())),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            Err(format!("{} is not executable", program.display()))
        }
        Ok(_) => Ok(program.to_owned()),
        Err(missing) if missing.kind() == ErrorKind::NotFound => Err(NO_SUCH_FILE.to_owned()),
        Err(other) => Err(format!("{}: {other}", program.display())),
    }
}

/// Why the kernel did not run a file that is there and executable.
fn why_not(refused: &std::io::Error) -> String {
    match refused.kind() {
        ErrorKind::NotFound => {
            "the interpreter that its first line or its ELF header names is not in the image"
                .to_owned()
        }
        ErrorKind::PermissionDenied => "the user may not execute it".to_owned(),
        _ if refused.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => format!(
            "it is neither a script with #! nor a program for this machine ({})",
            std::env::consts::ARCH
        ),
        _ => refused.to_string(),
    }
}

fn set_limits() -> Result<(), AgentFailure> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let files = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    setrlimit(Resource::Nofile, files)
        .attempt(|| "limit the application's open files".to_owned())?;
    // A session of its own, as in a container: no terminal, and signals to its group stay inside.
    rustix::process::setsid()
        .map(drop)
        .attempt(|| "make a session for the application".to_owned())
}

/// Programs open `/dev/stdout` anew (nginx does), which takes the right to the pipe itself.
fn own_output(credentials: &Credentials) -> Result<(), AgentFailure> {
    let user = Some(Uid::from_raw(credentials.user));
    for output in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        fchown(output, user, None).attempt(|| "give the application its output".to_owned())?;
    }
    Ok(())
}

fn give_up_privileges(
    all_capabilities: bool,
    credentials: &Credentials,
) -> Result<(), AgentFailure> {
    let attempted = || "give the application its privileges".to_owned();
    let groups: Vec<Gid> = credentials
        .supplementary
        .iter()
        .map(|group| Gid::from_raw(*group))
        .collect();
    if !all_capabilities {
        limit_bounding_set().attempt(attempted)?;
    }
    set_thread_groups(&groups).attempt(attempted)?;
    set_thread_gid(Gid::from_raw(credentials.group)).attempt(attempted)?;
    set_thread_uid(Uid::from_raw(credentials.user)).attempt(attempted)?;
    if credentials.user == 0 && !all_capabilities {
        // The program would get no more than the bounding set; this process shall not have more either.
        let allowed = CapabilitySet::from_bits_retain(CONTAINER_CAPABILITIES);
        let sets = CapabilitySets {
            effective: allowed,
            permitted: allowed,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).attempt(attempted)?;
    }
    Ok(())
}

fn limit_bounding_set() -> Result<(), rustix::io::Errno> {
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(63);
    for number in (0..=last.min(63)).filter(|number| CONTAINER_CAPABILITIES & (1 << number) == 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Beyond what this kernel knows, where it did not say how far that is.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{environment, find_program};

    #[test]
    fn later_variables_win_and_the_usual_ones_are_there() {
        let entries = ["A=1", "B=x=y", "A=2"].map(String::from);
        let variables = environment(&entries, "/root").unwrap();
        assert_eq!(
            (variables["A"].as_str(), variables["B"].as_str()),
            ("2", "x=y")
        );
        assert_eq!(variables["HOME"], "/root");
        assert!(variables["PATH"].contains("/usr/bin"));
        assert!(environment(&["nonsense".to_owned()], "/").is_err());
    }

    #[test]
    fn a_program_is_found_or_missed_in_words() {
        assert!(find_program("sh", Some("/nowhere:/bin")).is_ok());
        let failure = find_program("no-such-program", Some("/bin")).unwrap_err();
        assert!(failure.reason.contains("PATH (/bin)"), "{failure}");
        assert!(
            find_program("/etc/passwd", None)
                .unwrap_err()
                .reason
                .contains("not executable")
        );
        assert!(
            find_program("/etc", None)
                .unwrap_err()
                .reason
                .contains("directory")
        );
    }
}
