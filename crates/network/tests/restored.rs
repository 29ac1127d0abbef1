//! What a guest finds of the network when it goes on at another slot, and at the address that is for itself.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use colibri_guest_protocol::{METADATA_ADDRESS, METADATA_PORT};
use colibri_network::{Egress, Network, SlotPool};
use support::{Guest, Internet, PATIENCE, can_make_slots, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_another_slots_is_reset_when_it_is_used() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let silent = internet
        .namespace
        .inside(|| std::net::TcpListener::bind((internet.server, 0)))
        .unwrap();
    let address = silent.local_addr().unwrap();
    let before = pool.acquire(Egress::Internet).await.unwrap();
    let mut guest = Guest::attach(&*before).await;
    let mut stream = guest.connect(address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"still here").unwrap();

    let after = pool.acquire(Egress::Internet).await.unwrap();
    guest.move_to(&*after).await;
    stream.write_all(b"and here").unwrap();
    let told = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset);
    assert!(
        guest.connect(address, PATIENCE).is_ok(),
        "new ones are made"
    );
    before.release().await.unwrap();
    after.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_guest_reaches_its_own_listener_with_or_without_egress() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let mut slots = Vec::new();
    let mut guests = Vec::new();
    for (name, egress) in [(b'a', Egress::Internet), (b'b', Egress::Sealed)] {
        let slot = pool.acquire(egress).await.unwrap();
        let mut listener = slot.listen().await.unwrap();
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                stream.write_all(&[name]).await.unwrap();
                // Until the guest closes.
                let _ = stream.read(&mut [0; 16]).await;
            }
        });
        guests.push(Guest::attach(&*slot).await);
        slots.push(slot);
    }
    let metadata = SocketAddr::from((METADATA_ADDRESS, METADATA_PORT));
    for (guest, name) in guests.iter().zip([b'a', b'b']) {
        let mut stream = guest.connect(metadata, PATIENCE).unwrap();
        let mut heard = [0];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard[0], name);
        let elsewhere = guest.connect((METADATA_ADDRESS, 81), PATIENCE);
        assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::HostUnreachable);
    }
    for slot in slots {
        slot.release().await.unwrap();
    }
}
