//! The QEMU driver with real guests and the real agent: what a snapshot, a clone, a suspension and an
//! end must be. `COLIBRI_TEST_ACCELERATOR` chooses `tcg` (default) or `kvm`; `COLIBRI_TEST_PATIENCE`
//! multiplies every bound; without the guest's files, root or QEMU the tests say so and pass, unless
//! `COLIBRI_TEST_REQUIRED` is set.
#![allow(clippy::unwrap_used)] // A test's panic is its report.

mod confinement;
mod damage;
mod sessions;
mod spares;
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use colibri_hypervisor::accelerator::{find_program, probe_kvm};
use colibri_hypervisor::qemu::version;
use colibri_hypervisor::{Architecture, ExitCause, Machine, Vmm, VmmError};
use tokio::time::timeout;

use crate::world::{MEMORY_MIB, Session, bound, guest_directory, say, world};

const CYCLES: u64 = 15;
const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn a_frozen_machine_is_a_base_of_sane_size_with_nothing_left_beside_it() {
    let Some(world) = world().await else { return };
    let manifest = &world.manifest;
    assert_eq!(manifest.memory.length, u64::from(MEMORY_MIB) * MIB);
    assert!((8 * MIB..manifest.memory.length * 3 / 4).contains(&manifest.memory.stored));
    assert!((10_000..MIB).contains(&manifest.devices.length));
    assert!((64 * 1024..32 * MIB).contains(&manifest.disk.stored));
    assert!(manifest.has_network);
    let left: Vec<_> = fs::read_dir(world.root.join("boot"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["vmm.log"], "the boot machine's directory");
    world.check_base();
}

#[tokio::test]
async fn two_clones_launched_at_once_are_each_their_own() {
    let Some(world) = world().await else { return };
    let ((one_guest, one), (other_guest, other)) =
        tokio::join!(world.clone_of_base("one"), world.clone_of_base("other"));
    let (mut one_session, mut other_session) =
        tokio::join!(Session::open(one.as_ref()), Session::open(other.as_ref()));
    one_session.assume("one", 1).await;
    other_session.assume("other", 2).await;
    let (first, second) = tokio::join!(one_session.pass_as("one"), other_session.pass_as("other"));
    assert_eq!(first.machine_id, format!("{:032x}", 1));
    assert_eq!(second.machine_id, format!("{:032x}", 2));
    for (guest, machine) in [(one_guest, one), (other_guest, other)] {
        machine.kill().await.unwrap();
        guest.check_gone(Some(machine.record().pid));
    }
    world.check_base();
}

/// What one suspend and the resume after it took.
struct Cycle {
    stopped: Duration,
    suspend: Duration,
    launch: Duration,
    answer: Duration,
    pages: u64,
    delta: u64,
}

#[tokio::test]
async fn fifteen_suspensions_lose_no_byte_and_do_not_pile_up() {
    let Some(world) = world().await else { return };
    let (guest, mut machine) = world.clone_of_base("cycles").await;
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("cycles", 3).await;
    let mut last = session.pass_as("cycles").await.number;
    let mut cycles = Vec::new();
    for _ in 0..CYCLES {
        drop(session);
        let started = Instant::now();
        let suspension = machine.suspend().await.unwrap();
        let suspend = started.elapsed();
        machine.kill().await.unwrap();
        guest.check_gone(Some(machine.record().pid));
        let started = Instant::now();
        machine = guest.launch(true).await.unwrap();
        let launch = started.elapsed();
        machine.forget_suspension().await.unwrap();
        machine.resume().await.unwrap();
        session = Session::open(machine.as_ref()).await;
        cycles.push(Cycle {
            stopped: Duration::from_micros(suspension.stopped_micros),
            suspend,
            launch,
            answer: started.elapsed(),
            pages: suspension.manifest.pages,
            delta: suspension.manifest.memory.length,
        });
        // Two on: one that was begun, checked and ended after the resume.
        last = session.pass_after(last + 2).await.number;
    }
    report(&cycles, last);
    // The 4 MiB that it rewrites, and what the kernel's caches wander over.
    let bound_on_pages = cycles[4].pages * 2;
    assert!(cycles.iter().all(|cycle| cycle.pages > 1024));
    assert!(cycles[5..].iter().all(|cycle| cycle.pages < bound_on_pages));
    let console = machine.console().await.unwrap();
    for complaint in ["EXT4-fs error", "I/O error", "BUG:", "Oops"] {
        assert!(!console.contains(complaint), "{console}");
    }
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    qemu_img_check(&guest.directory.join("disk.qcow2"));
    world.check_base();
}

/// Fails when a machine's overlay is not sound.
fn qemu_img_check(overlay: &Path) {
    let image = format!(
        r#"json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{}"}}}}"#,
        overlay.display()
    );
    let check = Command::new("qemu-img").args(["check", &image]).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}

fn report(cycles: &[Cycle], last: u64) {
    let median = |of: &dyn Fn(&Cycle) -> f64| {
        let mut values: Vec<f64> = cycles.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[values.len() - 1])
    };
    let millis = |of: fn(&Cycle) -> Duration| {
        let (middle, most) = median(&|cycle| of(cycle).as_secs_f64() * 1e3);
        format!("{middle:.1} ms (most {most:.1})")
    };
    let (middle, most) = median(&|cycle| cycle.delta as f64 / MIB as f64);
    say(&format!(
        "{} cycles to pass {last}: guest stopped until captured {}, suspend {}, launch from it {}, to the \
         agent's answer {}, delta {middle:.1} MiB (most {most:.1})",
        cycles.len(),
        millis(|cycle| cycle.stopped),
        millis(|cycle| cycle.suspend),
        millis(|cycle| cycle.launch),
        millis(|cycle| cycle.answer),
    ));
}

#[tokio::test]
async fn a_cancelled_suspend_leaves_nothing_and_a_later_one_is_good() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("cancelled").await;
    let first = machine.suspend().await.unwrap();
    assert!(!machine.is_running().await.unwrap());
    machine.forget_suspension().await.unwrap();
    for name in ["manifest.json", "memory.delta", "devices.state"] {
        assert!(!guest.directory.join(name).exists(), "{name}");
    }
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("cancelled", 4).await;
    let reached = session.pass_as("cancelled").await.number;
    drop(session);
    let second = machine.suspend().await.unwrap();
    assert_ne!(
        first.manifest.devices.blake3,
        second.manifest.devices.blake3
    );
    machine.kill().await.unwrap();
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    let pass = session.pass_after(reached + 2).await;
    assert_eq!(pass.hostname, "cancelled");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn an_adopted_machine_goes_on_and_can_do_everything() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("adopted").await;
    let mut session = Session::open(machine.as_ref()).await;
    let reached = session.pass_after(1).await.number;
    let record = machine.record();
    drop((session, machine));
    assert!(world.qemu.lives(&record));
    let machine = world.qemu.adopt(record.clone()).await.unwrap();
    assert!(machine.is_running().await.unwrap());
    let mut session = Session::open(machine.as_ref()).await;
    let reached = session.pass_after(reached + 2).await.number;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.exited().await, ExitCause::Killed);
    guest.check_gone(Some(record.pid));
    assert!(!world.qemu.lives(&record));
    assert!(matches!(
        world.qemu.adopt(record).await,
        Err(VmmError::Gone { .. })
    ));
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.pass_after(reached + 2).await;
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_killed_machine_leaves_nothing_and_a_sweep_ends_only_the_unknown() {
    let Some(world) = world().await else { return };
    let street = world.root.join("swept");
    fs::create_dir(&street).unwrap();
    let places = ["killed", "kept", "unknown"].map(|name| world.place(&street, name));
    let [killed, kept, unknown] = &places;
    let first = killed.launch(false).await.unwrap();
    first.kill().await.unwrap();
    first.kill().await.unwrap();
    killed.check_gone(Some(first.record().pid));
    let (survivor, orphan) = tokio::join!(kept.launch(false), unknown.launch(false));
    let (survivor, orphan) = (survivor.unwrap(), orphan.unwrap());
    // A name of the directory with a detour, as a configuration may hold it.
    let detour = street.join("../swept");
    let ended = world.qemu.sweep(&detour, std::slice::from_ref(&kept.id));
    assert_eq!(ended.await.unwrap(), std::slice::from_ref(&unknown.id));
    let over = timeout(bound(10), orphan.exited()).await.unwrap();
    assert!(matches!(over, ExitCause::Ended(_)));
    survivor.resume().await.unwrap();
    assert!(survivor.is_running().await.unwrap());
    let record = survivor.record();
    world.qemu.discard(&record).await.unwrap();
    world.qemu.discard(&record).await.unwrap();
    kept.check_gone(Some(record.pid));
}

#[tokio::test]
async fn a_guest_that_powers_off_or_panics_is_seen_to_end_with_its_last_words() {
    let Some(world) = world().await else { return };
    for (hostname, last_words) in [("power-off", "Power"), ("panic", "Kernel panic")] {
        let (guest, machine) = world.clone_of_base(hostname).await;
        let session = Session::open(machine.as_ref()).await;
        session.assume(hostname, 5).await;
        let over = timeout(bound(30), machine.exited()).await.unwrap();
        let ExitCause::Ended(words) = over else {
            panic!("{over:?}")
        };
        assert!(words.contains(last_words), "{words}");
        machine.kill().await.unwrap();
        guest.check_gone(Some(machine.record().pid));
    }
}

/// A small file system that goes with the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "small"])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at)
    }

    /// Writes a file that leaves `left` bytes.
    fn fill(&self, left: u64) {
        let space = rustix::fs::statvfs(&self.0).unwrap();
        let free = space.f_bavail * space.f_frsize;
        let length = usize::try_from(free.saturating_sub(left)).unwrap();
        let filled = fs::write(self.0.join(format!("ballast-{left}")), vec![1; length]);
        // The guest may have taken the last of it.
        assert!(filled.is_ok() || left == 0, "{filled:?}");
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_a_suspend_and_costs_the_guest_nothing() {
    let Some(world) = world().await else { return };
    let disk = SmallDisk::mount(world.root.join("small"));
    let guest = world.place(&disk.0, "full");
    let machine: Arc<dyn Machine> = guest.launch(false).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("full", 6).await;
    let named = session.pass_as("full").await.number;
    // One whole pass of its own: the first may have been written before the base was frozen.
    let mut reached = session.pass_after(named + 1).await.number;
    // First there is room for the devices' state but not for the memory; then there is none.
    for left in [2 * MIB, 0] {
        disk.fill(left);
        let refused = machine.suspend().await;
        assert!(
            matches!(refused, Err(VmmError::StorageFull { .. })),
            "{refused:?}"
        );
        for name in [
            "manifest.json",
            "memory.delta",
            "memory.next",
            "devices.state",
        ] {
            assert!(!guest.directory.join(name).exists(), "{name}");
        }
        let devices = fs::metadata(guest.directory.join("devices.next")).unwrap();
        assert_eq!(devices.len(), 0);
        if left > 0 {
            assert!(machine.is_running().await.unwrap());
            session.ping().await;
        }
    }
    disk.empty();
    reached = session.pass_after(reached + 2).await.number;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    let machine = guest.launch(true).await.unwrap();
    assert!(machine.keep_suspension(64 * MIB).await.unwrap());
    machine.forget_suspension().await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    reached = session.pass_after(reached + 2).await.number;
    drop(session);
    // What is kept of the last suspension gives way to the next.
    disk.fill(3 * MIB);
    machine.suspend().await.unwrap();
    assert!(!guest.directory.join("previous").exists());
    machine.kill().await.unwrap();
    disk.empty();
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.pass_after(reached + 2).await;
    machine.kill().await.unwrap();
    world.check_base();
}

/// Runs where the answer is known: `COLIBRI_TEST_EXPECT_KVM=yes` in the lab, `no` on a host without.
#[tokio::test]
async fn the_probe_of_kvm_tells_a_host_that_boots_guests_from_one_that_does_not() {
    let Ok(expected) = std::env::var("COLIBRI_TEST_EXPECT_KVM") else {
        say("skipped: the probe of KVM: COLIBRI_TEST_EXPECT_KVM says neither yes nor no");
        return;
    };
    let architecture = Architecture::of_host().unwrap();
    let program = find_program(architecture).unwrap();
    let version = version(&program).await.unwrap();
    let kernel = guest_directory().join("vmlinux");
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("verdict.json");
    let probe = || probe_kvm(architecture, &program, &version, &kernel, &memory);
    let started = Instant::now();
    let verdict = probe().await;
    say(&format!(
        "the probe took {:?}: {verdict:?}",
        started.elapsed()
    ));
    assert_eq!(verdict.usable, expected == "yes");
    assert_eq!(probe().await, verdict);
    // What was true of another device is not believed of this one.
    let mut elsewhere = verdict.clone();
    elsewhere.host.push_str(" another");
    fs::write(&memory, serde_json::to_vec(&elsewhere).unwrap()).unwrap();
    assert_eq!(probe().await.host, verdict.host);
}
