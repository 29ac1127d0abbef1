//! What a VMM process may do on its host, as the kernel sees it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::world::{MEMORY_MIB, Session, cgroups, world};

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field));
    line.unwrap().split_once(':').unwrap().1.trim().to_owned()
}

#[tokio::test]
async fn a_machine_runs_as_its_own_user_with_no_right_and_no_way_out() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("confined").await;
    Session::open(machine.as_ref()).await.ping().await;
    let pid = machine.record().pid;
    let everywhere = format!("{0}\t{0}\t{0}\t{0}", guest.uid);
    assert_eq!(status(pid, "Uid:"), everywhere);
    assert_eq!(status(pid, "Gid:"), everywhere);
    assert_eq!(status(pid, "Groups:"), "");
    for capabilities in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(status(pid, capabilities), "0000000000000000");
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap().file_name().to_str().unwrap().parse();
        let thread: u32 = thread.unwrap();
        assert_eq!(status(thread, "NoNewPrivs:"), "1");
        assert_eq!(status(thread, "Seccomp:"), "2");
    }
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    let interfaces = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert!(interfaces.contains("tap0:"), "{interfaces}");
    let wanted_first = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(
        wanted_first.trim(),
        "500",
        "host out of memory: it goes before the daemon"
    );
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_machine_has_its_base_open_for_reading_and_reaches_no_other_file() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("reader").await;
    let pid = machine.record().pid;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let Ok(file) = fs::read_link(entry.path()) else {
            continue;
        };
        if !file.starts_with(&world.root) {
            continue;
        }
        let number = entry.file_name().into_string().unwrap();
        let information = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = information
            .lines()
            .find_map(|line| line.strip_prefix("flags:"));
        let access = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap() & 0b11;
        assert!(
            file.starts_with(&guest.directory) || (file.starts_with(&world.base) && access == 0),
            "{} is open with access {access}",
            file.display()
        );
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory: Vec<_> = maps
        .lines()
        .filter(|line| line.ends_with("memory.base"))
        .collect();
    assert!(!memory.is_empty() && memory.iter().all(|line| line.contains(" rw-p ")));
    // The files' modes let its user read them; the way to them does not.
    for path in [
        world.base.join("memory.base"),
        guest.directory.join("disk.qcow2"),
    ] {
        let opened = Command::new("cat")
            .arg(&path)
            .uid(guest.uid)
            .gid(guest.uid)
            .output();
        let opened = opened.unwrap();
        assert!(!opened.status.success() && opened.stdout.is_empty());
    }
    // Nor does the directory that it works in, or what is beside that.
    for path in [".", "..", "disk.qcow2"] {
        let opened = Command::new("setpriv")
            .arg(format!("--reuid={}", guest.uid))
            .arg(format!("--regid={}", guest.uid))
            .args(["--clear-groups", "ls", path])
            .current_dir(format!("/proc/{pid}/cwd"))
            .output();
        let opened = opened.unwrap();
        assert!(
            !opened.status.success() && opened.stdout.is_empty(),
            "{path}"
        );
    }
    machine.kill().await.unwrap();
    world.check_base();
}

#[tokio::test]
async fn a_machine_is_in_its_cgroup_with_its_bounds() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("bounded").await;
    let pid = machine.record().pid.to_string();
    let groups = cgroups(&guest.id);
    let read = |directory: &Path, name: &str| fs::read_to_string(directory.join(name)).ok();
    let mut bounds = Vec::new();
    for directory in &groups {
        let members = read(directory, "cgroup.procs").unwrap();
        assert!(
            members.lines().any(|member| member == pid),
            "{}",
            directory.display()
        );
        for name in [
            "memory.limit_in_bytes",
            "memory.max",
            "cpu.shares",
            "cpu.weight",
            "pids.max",
        ] {
            bounds.extend(read(directory, name).map(|value| value.trim().to_owned()));
        }
    }
    let memory = (u64::from(MEMORY_MIB) + 512) * 1024 * 1024;
    let shares = if groups.len() == 1 { "100" } else { "1024" };
    bounds.sort();
    let mut expected = [memory.to_string(), shares.to_owned(), "256".to_owned()];
    expected.sort();
    assert_eq!(bounds, expected, "in {groups:?}");
    machine.kill().await.unwrap();
    guest.check_gone(None);
}
