//! Processes that wait and become a machine: what they become must be what a launch would have made.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use colibri_hypervisor::{Machine, Vmm, VmmError};

use crate::qemu_img_check;
use crate::world::{Guest, Session, World, say, world};

/// How a spare comes to wait.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// It has run nothing.
    Fresh,
    /// It has run a machine of its base and was rewound.
    Rewound,
}

async fn spare(world: &World, name: &str) -> Arc<dyn Machine> {
    world.place(&world.root, name).prepare().await.unwrap()
}

/// A spare of a kind that there is on this host.
async fn spare_of(world: &World, kind: Kind) -> Option<Arc<dyn Machine>> {
    let guest = world.place(&world.root, "spare");
    match kind {
        Kind::Fresh => Some(guest.prepare().await.unwrap()),
        Kind::Rewound if world.qemu.rewinds(Some(&world.base)) => {
            Some(guest.prepare_by_running().await.unwrap())
        }
        Kind::Rewound => {
            say("skipped: nothing is rewound on this accelerator");
            None
        }
    }
}

async fn suspended<'a>(world: &'a World, name: &str) -> (Guest<'a>, u64) {
    let (guest, machine) = world.clone_of_base(name).await;
    let mut session = Session::open(machine.as_ref()).await;
    session.assume(name, 11).await;
    let pass = session.pass_as(name).await.number;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    (guest, pass)
}

#[tokio::test]
async fn a_spare_becomes_a_suspended_machine_again_and_again_and_loses_no_byte() {
    becomes_a_suspended_machine_again_and_again(Kind::Fresh).await;
}

#[tokio::test]
async fn a_rewound_process_becomes_a_suspended_machine_again_and_again_and_loses_no_byte() {
    becomes_a_suspended_machine_again_and_again(Kind::Rewound).await;
}

async fn becomes_a_suspended_machine_again_and_again(kind: Kind) {
    let Some(world) = world().await else { return };
    let (guest, mut last) = suspended(world, "sleeper").await;
    for _ in 0..4 {
        let Some(machine) = spare_of(world, kind).await else {
            return;
        };
        let own = machine.record().directory;
        let (started, taken) = (Instant::now(), machine.cpu_time().await.unwrap());
        machine.take_up(&guest.directory, true).await.unwrap();
        let took = started.elapsed();
        assert!(!own.exists(), "its own directory became the machine's");
        assert_eq!(machine.record().directory, guest.directory);
        assert!(!machine.is_running().await.unwrap());
        machine.forget_suspension().await.unwrap();
        machine.resume().await.unwrap();
        let mut session = Session::open(machine.as_ref()).await;
        last = session.pass_after(last + 2).await.number;
        let worked = machine.cpu_time().await.unwrap() - taken;
        say(&format!(
            "{kind:?}: taken up in {took:?}, {worked:?} of CPU time to the second pass"
        ));
        drop(session);
        machine.suspend().await.unwrap();
        machine.kill().await.unwrap();
        guest.check_gone(Some(machine.record().pid));
    }
    // What a spare wrote is an ordinary suspension.
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.pass_after(last + 2).await;
    machine.kill().await.unwrap();
    qemu_img_check(&guest.directory.join("disk.qcow2"));
    world.check_base();
}

#[tokio::test]
async fn a_spare_becomes_a_new_machine_of_its_base() {
    becomes_a_new_machine(Kind::Fresh).await;
}

#[tokio::test]
async fn a_rewound_process_becomes_a_new_machine_of_its_base() {
    becomes_a_new_machine(Kind::Rewound).await;
}

async fn becomes_a_new_machine(kind: Kind) {
    let Some(world) = world().await else { return };
    let guest = world.place(&world.root, "new");
    fs::remove_dir(&guest.directory).unwrap();
    let Some(machine) = spare_of(world, kind).await else {
        return;
    };
    machine.take_up(&guest.directory, false).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("new", 12).await;
    session.pass_as("new").await;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    guest.check_gone(Some(machine.record().pid));
    qemu_img_check(&guest.directory.join("disk.qcow2"));
}

#[tokio::test]
async fn code_that_a_machine_changed_before_it_slept_runs_as_it_changed_it() {
    let Some(world) = world().await else { return };
    if !world.qemu.rewinds(Some(&world.base)) {
        return say("skipped: nothing is rewound on this accelerator");
    }
    let (guest, machine) = world.clone_of_base("changing").await;
    let mut session = Session::open(machine.as_ref()).await;
    assert_eq!(session.answer().await, 7);
    session.assume("changed", 14).await;
    while session.answer().await != 8 {}
    // It is not to be written again: the second pass under this name has begun under it.
    session.assume("resting", 14).await;
    let first = session.pass_as("resting").await;
    session.pass_after(first.number + 1).await;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();

    // This process has translated the program as the base has it, in the same page.
    let machine = spare_of(world, Kind::Rewound).await.unwrap();
    machine.take_up(&guest.directory, true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    for _ in 0..3 {
        assert_eq!(session.answer().await, 8);
    }
    machine.kill().await.unwrap();
    world.check_base();
}

fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    ["memory.delta", "devices.state", "manifest.json"]
        .map(|name| (name.to_owned(), fs::read(directory.join(name)).unwrap()))
        .into()
}

#[tokio::test]
async fn a_spare_refuses_a_damaged_suspension_and_leaves_it_as_it_is() {
    let Some(world) = world().await else { return };
    let (guest, last) = suspended(world, "broken").await;
    let delta = guest.directory.join("memory.delta");
    let good = fs::read(&delta).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&delta, &bad).unwrap();
    let before = content(&guest.directory);
    let machine = spare(world, "spare").await;
    let refused = machine.take_up(&guest.directory, true).await;
    assert!(
        matches!(refused, Err(VmmError::BadSnapshot { .. })),
        "{refused:?}"
    );
    machine.kill().await.unwrap();
    assert_eq!(content(&guest.directory), before);

    fs::write(&delta, &good).unwrap();
    let machine = spare(world, "spare").await;
    machine.take_up(&guest.directory, true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.pass_after(last + 2).await;
    machine.kill().await.unwrap();
}
