//! Snapshots that must not be used: each is refused as such, and leaves no process behind.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use colibri_hypervisor::delta::{self, DeltaWriter, PAGE_SIZE};
use colibri_hypervisor::{Machine, Vmm, VmmError};

use crate::qemu_img_check;
use crate::world::{Guest, Session, say, world};

/// A file of a snapshot, and what happens to its bytes; `None` removes it.
type Damage = (&'static str, fn(&[u8]) -> Option<Vec<u8>>);

fn flip_middle(good: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = good.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    Some(bytes)
}

fn cut(good: &[u8]) -> Option<Vec<u8>> {
    Some(good[..good.len() * 2 / 3].to_vec())
}

fn remove(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn name_another_base(good: &[u8]) -> Option<Vec<u8>> {
    edit(good, "base", serde_json::json!("0".repeat(64)))
}

fn name_another_format(good: &[u8]) -> Option<Vec<u8>> {
    edit(good, "format_version", serde_json::json!(99))
}

fn edit(bytes: &[u8], key: &str, value: serde_json::Value) -> Option<Vec<u8>> {
    let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    manifest[key] = value;
    Some(serde_json::to_vec(&manifest).unwrap())
}

fn inflict(path: &Path, damage: fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let good = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    if let Some(bad) = damage(&good) {
        fs::write(path, bad).unwrap();
    }
    good
}

#[tokio::test]
async fn a_damaged_or_foreign_suspension_is_refused_and_a_mended_one_goes_on() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("damaged").await;
    let mut session = Session::open(machine.as_ref()).await;
    let reached = session.pass_after(1).await.number;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    let damages: [Damage; 9] = [
        ("memory.delta", flip_middle),
        ("memory.delta", cut),
        ("memory.delta", remove),
        ("devices.state", flip_middle),
        ("devices.state", remove),
        ("disk.qcow2", remove),
        ("manifest.json", name_another_base),
        ("manifest.json", name_another_format),
        ("manifest.json", cut),
    ];
    for (number, (name, damage)) in damages.into_iter().enumerate() {
        let path = guest.directory.join(name);
        let good = inflict(&path, damage);
        let refused = guest.launch(true).await.map(|_| ());
        assert!(
            matches!(refused, Err(VmmError::BadSnapshot { .. })),
            "damage {number} to {name}: {refused:?}"
        );
        guest.check_gone(None);
        fs::write(&path, good).unwrap();
    }
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    session.pass_after(reached + 2).await;
    machine.kill().await.unwrap();
}

/// How a suspended machine came to run again, when its suspension was kept.
#[derive(Debug, Clone, Copy)]
enum Woken {
    InItsOwnProcess,
    FromTheDisk,
    InASpare,
}

/// Suspends a machine, wakes it again and keeps what it woke from.
async fn woken(guest: &Guest<'_>, machine: Arc<dyn Machine>, way: Woken) -> Arc<dyn Machine> {
    let world = world().await.unwrap();
    machine.suspend().await.unwrap();
    let machine = match way {
        Woken::InItsOwnProcess => machine,
        Woken::FromTheDisk => {
            machine.kill().await.unwrap();
            guest.launch(true).await.unwrap()
        }
        Woken::InASpare => {
            machine.kill().await.unwrap();
            let spare = world.place(&world.root, "spare").prepare().await.unwrap();
            spare.take_up(&guest.directory, true).await.unwrap();
            spare
        }
    };
    let started = Instant::now();
    assert!(machine.keep_suspension(64 << 20).await.unwrap());
    say(&format!("{way:?}: kept in {:?}", started.elapsed()));
    machine.forget_suspension().await.unwrap();
    machine.resume().await.unwrap();
    machine
}

#[tokio::test]
async fn a_machine_goes_back_to_its_last_good_suspension_with_memory_and_disk_of_that_moment() {
    let Some(world) = world().await else { return };
    for way in [Woken::InItsOwnProcess, Woken::FromTheDisk, Woken::InASpare] {
        let (guest, machine) = world.clone_of_base("returns").await;
        let mut session = Session::open(machine.as_ref()).await;
        let before = session.pass_after(2).await.number;
        drop(session);
        let machine = woken(&guest, machine, way).await;
        let mut session = Session::open(machine.as_ref()).await;
        // It rewrites its memory and its file.
        let newest = session.pass_after(before + 4).await.number;
        drop(session);
        machine.suspend().await.unwrap();
        machine.kill().await.unwrap();
        inflict(&guest.directory.join("memory.delta"), flip_middle);
        let refused = guest.launch(true).await.map(|_| ());
        assert!(matches!(refused, Err(VmmError::BadSnapshot { .. })));
        let kept = world
            .qemu
            .previous(&guest.directory, &world.base)
            .await
            .unwrap();
        let taken = world
            .qemu
            .go_back(&guest.directory, &world.base)
            .await
            .unwrap();
        assert_eq!(kept, taken);
        let machine = guest.launch(true).await.unwrap();
        machine.resume().await.unwrap();
        let mut session = Session::open(machine.as_ref()).await;
        let first = session.pass_after(before).await.number;
        assert!(first < newest, "{way:?}: {first}");
        session.pass_after(first + 2).await;
        drop(session);
        machine.suspend().await.unwrap();
        machine.kill().await.unwrap();
        qemu_img_check(&guest.directory.join("disk.qcow2"));
        let nothing = world.qemu.go_back(&guest.directory, &world.base).await;
        assert!(matches!(nothing, Err(VmmError::BadSnapshot { .. })));
    }
    world.check_base();
}

/// A page that looks like the application's random data.
fn is_random(page: &[u8]) -> bool {
    page.iter().collect::<HashSet<_>>().len() > 250
}

/// Writes the delta again, with right checksums, but without one in sixteen pages of random data.
fn lose_pages(directory: &Path, memory_pages: u64) -> usize {
    let path = directory.join("memory.delta");
    let mut pages = Vec::new();
    delta::read(File::open(&path).unwrap(), memory_pages, |first, bytes| {
        pages.extend((first..).zip(bytes.chunks(PAGE_SIZE).map(<[u8]>::to_vec)));
        Ok(())
    })
    .unwrap();
    pages.sort_by_key(|(number, _)| *number);
    let mut writer = DeltaWriter::new(File::create(&path).unwrap()).unwrap();
    let (mut random, mut lost) = (0, 0);
    for (number, page) in pages {
        random += usize::from(is_random(&page));
        if is_random(&page) && random % 16 == 0 {
            lost += 1;
        } else {
            let other: Vec<u8> = page.iter().map(|byte| !byte).collect();
            writer.add(number, &page, &other).unwrap();
        }
    }
    let summary = writer.finish().unwrap();
    let manifest = directory.join("manifest.json");
    let mut value: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    value["memory"]["blake3"] = summary.blake3.into();
    value["memory"]["length"] = summary.length.into();
    value["pages"] = summary.pages.into();
    fs::write(manifest, value.to_string()).unwrap();
    lost
}

/// Keeps the other tests honest: what they look for can be seen.
#[tokio::test]
async fn pages_that_a_suspension_lost_would_be_noticed() {
    let Some(world) = world().await else { return };
    let (guest, machine) = world.clone_of_base("forgetful").await;
    let mut session = Session::open(machine.as_ref()).await;
    session.assume("forgetful", 7).await;
    session.pass_as("forgetful").await;
    drop(session);
    machine.suspend().await.unwrap();
    machine.kill().await.unwrap();
    let lost = lose_pages(&guest.directory, world.manifest.memory.length / 4096);
    assert!(lost > 32, "{lost} pages");
    let machine = guest.launch(true).await.unwrap();
    machine.resume().await.unwrap();
    let mut session = Session::open(machine.as_ref()).await;
    let failure = session.failure().await;
    assert!(failure.contains("FAIL memory"), "{failure}");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_damaged_base_is_refused() {
    let Some(world) = world().await else { return };
    let base = world.root.join("damaged-base");
    fs::create_dir(&base).unwrap();
    for entry in fs::read_dir(&world.base).unwrap() {
        let (from, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .unwrap();
        fs::hard_link(from, base.join(name)).unwrap();
    }
    let guest = world.place(&world.root, "baseless");
    let damages: [Damage; 5] = [
        ("devices.state", flip_middle),
        ("devices.state", cut),
        ("disk.qcow2", cut),
        ("root.raw", remove),
        ("manifest.json", cut),
    ];
    for (number, (name, damage)) in damages.into_iter().enumerate() {
        let path = base.join(name);
        inflict(&path, damage);
        let refused = guest.launch_from(&base, false).await.map(|_| ());
        assert!(
            matches!(refused, Err(VmmError::BadSnapshot { .. })),
            "damage {number} to {name}: {refused:?}"
        );
        guest.check_gone(None);
        let _ = fs::remove_file(&path);
        fs::hard_link(world.base.join(name), &path).unwrap();
    }
    let machine = guest.launch_from(&base, false).await.unwrap();
    machine.kill().await.unwrap();
    world.check_base();
}
