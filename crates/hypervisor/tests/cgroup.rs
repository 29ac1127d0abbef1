//! A cgroup's bounds hold for a process that was put there, and for nobody else.
#![allow(clippy::unwrap_used)] // A test's panic is its report.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};

use colibri_hypervisor::cgroup::{Cgroup, CpuBound};
use colibri_hypervisor::{Architecture, MachineShape};

/// Runs a shell script inside a fresh cgroup of a machine with 1 MiB; `None` where there are none.
async fn run_bounded(name: &str, script: &str) -> Option<Output> {
    let shape = MachineShape {
        architecture: Architecture::X86_64,
        vcpus: 1,
        memory_mib: 1,
    };
    let cgroup = Cgroup::create(
        &format!("test-{}-{name}", std::process::id()),
        shape,
        CpuBound::default(),
    );
    let doors = cgroup.doors().unwrap();
    if doors.is_empty() {
        let _ = writeln!(std::io::stderr(), "skipped: cgroups cannot be made here");
        return None;
    }
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    // SAFETY: the closure makes system calls only.
    unsafe {
        command.pre_exec(move || {
            for mut door in &doors {
                door.write_all(b"0")?;
            }
            Ok(())
        });
    }
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    cgroup.remove().await;
    let id = format!("test-{}-{name}", std::process::id());
    assert_eq!(Cgroup::existing(&id), Cgroup::default(), "it is gone");
    Some(output)
}

#[tokio::test]
async fn a_process_that_outgrows_its_memory_is_killed() {
    let script = "exec tail -n 1 </dev/zero";
    let Some(output) = run_bounded("memory", script).await else {
        return;
    };
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
}

#[tokio::test]
async fn a_process_cannot_multiply_without_end() {
    let script = "for each in $(seq 300); do sleep 0.5 & done; wait; echo all";
    let Some(output) = run_bounded("tasks", script).await else {
        return;
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("fork"), "{output:?}");
}
