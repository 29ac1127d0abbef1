//! Processes that wait and become a machine: what they become must be what a launch would have made.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use colibri_hypervisor::{Machine, VmmError};

use crate::qemu_img_check;
use crate::world::{Guest, Session, World, say, world};

async fn spare(world: &World, name: &str) -> Arc<dyn Machine> {
    world.place(&world.root, name).prepare().await.unwrap()
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
    let Some(world) = world().await else { return };
    let (guest, mut last) = suspended(world, "sleeper").await;
    for _ in 0..4 {
        let machine = spare(world, "spare").await;
        let own = machine.record().directory;
        let started = Instant::now();
        machine.take_up(&guest.directory, true).await.unwrap();
        say(&format!("taken up in {:?}", started.elapsed()));
        assert!(!own.exists(), "its own directory became the machine's");
        assert_eq!(machine.record().directory, guest.directory);
        assert!(!machine.is_running().await.unwrap());
        machine.forget_suspension().await.unwrap();
        machine.resume().await.unwrap();
        let mut session = Session::open(machine.as_ref()).await;
        last = session.pass_after(last + 2).await.number;
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
    let Some(world) = world().await else { return };
    let guest = world.place(&world.root, "new");
    fs::remove_dir(&guest.directory).unwrap();
    let machine = spare(world, "spare").await;
    machine.take_up(&guest.directory, false).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("new", 12).await;
    session.pass_as("new").await;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    guest.check_gone(Some(machine.record().pid));
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
