//! What a slot whose egress is granted reaches: that, and nothing else, until it is withdrawn. Each refusal
//! stands beside a proof that the way is open for somebody else.
#![allow(
    clippy::unwrap_used,
    reason = "a laboratory that cannot be built fails its test"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use colibri_guest_protocol::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use colibri_network::namespace::in_namespace;
use colibri_network::{
    Allow, Egress, Grant, Network, NetworkError, NetworkSettings, Protocol, SlotPool,
};
use ipnet::Ipv4Net;
use support::{
    GLIMPSE, Guest, Internet, PATIENCE, assert_datagrams_pass, can_make_slots, dns_query,
    dns_upstream, read_all, receive, settings,
};

/// A server with two private addresses, and the settings of an operator who declared both.
struct Laboratory {
    internet: Internet,
    settings: NetworkSettings,
    office: Ipv4Addr,
    beside: Ipv4Addr,
    directory: tempfile::TempDir,
}

impl Laboratory {
    fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Tests run at once, and the host has one table of routes.
        let of_process = u8::try_from(std::process::id() % 100).unwrap() + 100;
        let office = Ipv4Addr::new(10, of_process, number, 9);
        let beside = Ipv4Addr::new(10, of_process, number, 200);
        let (directory, mut settings) = settings();
        settings.declared_ranges = vec![Ipv4Net::new(office, 16).unwrap().trunc()];
        let internet = Internet::new();
        internet.also_at(office);
        internet.also_at(beside);
        Self {
            internet,
            settings,
            office,
            beside,
            directory,
        }
    }

    async fn pool(&self) -> SlotPool {
        SlotPool::open(&self.settings).await.unwrap()
    }

    fn to_office(&self, name: &str, protocol: Protocol, ports: Option<(u16, u16)>) -> Grant {
        grant(name, self.office, protocol, ports)
    }

    fn to_beside(&self, name: &str) -> Grant {
        grant(name, self.beside, Protocol::Tcp, None)
    }
}

fn grant(name: &str, to: Ipv4Addr, protocol: Protocol, ports: Option<(u16, u16)>) -> Grant {
    let allow = Allow {
        to: Ipv4Net::new(to, 25).unwrap(),
        internet_only: false,
        protocol,
        ports,
    };
    Grant {
        name: name.into(),
        allow: vec![allow],
    }
}

fn refused(guest: &Guest, address: Ipv4Addr, port: u16) -> bool {
    let error = guest.connect((address, port), PATIENCE).unwrap_err();
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_what_it_is_granted_and_nothing_else() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let (pool, internet) = (lab.pool().await, &lab.internet);
    let (port, other_port) = (internet.serve_tcp(), internet.serve_tcp());
    let only_office = lab.to_office("nc-1:1", Protocol::Tcp, Some((port, port)));
    let slot = pool
        .acquire(Egress::Granted(vec![only_office]))
        .await
        .unwrap();
    let guest = Guest::attach(&*slot).await;

    let stream = guest.connect((lab.office, port), PATIENCE).unwrap();
    assert_eq!(read_all(stream), internet.host.to_string());
    assert!(refused(&guest, lab.office, other_port), "another port");
    assert!(refused(&guest, lab.beside, port), "another address");
    assert!(refused(&guest, internet.server, port), "the internet");
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    assert!(refused(&guest, metadata, 80), "a metadata service");

    // A slot with the internet reaches the internet, and nothing that the operator declared.
    let free = pool.acquire(Egress::Internet).await.unwrap();
    let free_guest = Guest::attach(&*free).await;
    assert!(
        free_guest
            .connect((internet.server, port), PATIENCE)
            .is_ok()
    );
    assert!(refused(&free_guest, lab.office, port));
    for slot in [slot, free] {
        slot.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_the_slot_beside_the_guest_is_held_to_the_same() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let (pool, internet) = (lab.pool().await, &lab.internet);
    let port = internet.serve_tcp();
    let only_office = lab.to_office("nc-1:1", Protocol::Any, None);
    let granted = pool
        .acquire(Egress::Granted(vec![only_office]))
        .await
        .unwrap();
    let free = pool.acquire(Egress::Internet).await.unwrap();
    for (slot, reached, unreached) in [
        (&granted, lab.office, [lab.beside, internet.server]),
        (&free, internet.server, [lab.office, lab.beside]),
    ] {
        let (_tap, namespace) = slot.attach().await.unwrap().unwrap();
        let connect = |address: Ipv4Addr| {
            let connect = || TcpStream::connect_timeout(&(address, port).into(), PATIENCE);
            in_namespace(namespace.as_fd(), connect).unwrap()
        };
        assert_eq!(
            read_all(connect(reached).unwrap()),
            internet.host.to_string()
        );
        for address in unreached {
            assert!(connect(address).is_err(), "{address}");
        }
    }
    for slot in [granted, free] {
        slot.release().await.unwrap();
    }
}

/// Connects as another user, which only a process of its own can be.
fn reaches_as(user: u32, namespace: &str, address: Ipv4Addr, port: u16) -> bool {
    let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
    let arguments = ["netns", "exec", namespace, "setpriv", "--reuid"];
    let status = std::process::Command::new("ip")
        .args(arguments)
        .arg(user.to_string())
        .args(["--clear-groups", "timeout", "5", "bash", "-c", &connect])
        .stderr(std::process::Stdio::null())
        .status();
    status.unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmms_user_opens_no_connection_from_its_namespace() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let pool = lab.pool().await;
    let port = lab.internet.serve_tcp();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let namespace = support::Traces::of(lab.directory.path()).namespace(slot.index());
    let address = lab.internet.server;
    // A build's containers have such users.
    assert!(reaches_as(1_000_000, &namespace, address, port));
    assert!(!reaches_as(slot.uid().unwrap(), &namespace, address, port));
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internet_can_be_granted_without_what_is_private() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let (pool, internet) = (lab.pool().await, &lab.internet);
    let port = internet.serve_tcp();
    let everywhere = Allow {
        to: Ipv4Net::default(),
        internet_only: true,
        protocol: Protocol::Any,
        ports: None,
    };
    let granted = Grant {
        name: "internet".into(),
        allow: vec![everywhere],
    };
    let slot = pool.acquire(Egress::Granted(vec![granted])).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    assert!(guest.connect((internet.server, port), PATIENCE).is_ok());
    assert!(refused(&guest, lab.office, port));
    assert_datagrams_pass(&guest, internet);
    slot.release().await.unwrap();
}

/// A server that sends and receives for as long as the other end does.
fn echo_at(internet: &Internet) -> u16 {
    let listener = internet
        .namespace
        .inside(|| TcpListener::bind("0.0.0.0:0"))
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut copy);
    });
    port
}

fn echoes(stream: &mut TcpStream, limit: std::time::Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_withdrawn_stops_its_connections_and_no_others() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let (pool, internet) = (lab.pool().await, &lab.internet);
    let (office_port, beside_port) = (echo_at(internet), echo_at(internet));
    let office = lab.to_office("nc-1:1", Protocol::Tcp, None);
    let beside = lab.to_beside("nc-2:1");
    let both = Egress::Granted(vec![office.clone(), beside.clone()]);
    let slot = pool.acquire(both.clone()).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    let mut to_office = guest.connect((lab.office, office_port), PATIENCE).unwrap();
    let mut to_beside = guest.connect((lab.beside, beside_port), PATIENCE).unwrap();
    assert!(echoes(&mut to_office, PATIENCE) && echoes(&mut to_beside, PATIENCE));

    pool.withdraw("nc-1:1").await.unwrap();
    assert!(
        !echoes(&mut to_office, GLIMPSE),
        "a withdrawn grant's connection goes on"
    );
    assert!(echoes(&mut to_beside, PATIENCE));
    assert!(refused(&guest, lab.office, office_port));

    // Who still asks for it gets the rest, in a new slot and in this one.
    let port = internet.serve_tcp();
    let late = pool.acquire(both).await.unwrap();
    let late_guest = Guest::attach(&*late).await;
    assert!(refused(&late_guest, lab.office, port));
    assert!(late_guest.connect((lab.beside, port), PATIENCE).is_ok());
    slot.grant(&[office, beside]).await.unwrap();
    assert!(refused(&guest, lab.office, port));
    assert!(echoes(&mut to_beside, PATIENCE));
    for slot in [slot, late] {
        slot.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_can_be_replaced_and_outlives_the_daemon() {
    if !can_make_slots() {
        return;
    }
    let lab = Laboratory::new();
    let port = lab.internet.serve_tcp();
    let pool = lab.pool().await;
    let office = lab.to_office("nc-1:1", Protocol::Tcp, None);
    let beside = lab.to_beside("nc-1:2");
    let slot = pool.acquire(Egress::Granted(vec![office])).await.unwrap();
    let (index, guest) = (slot.index(), Guest::attach(&*slot).await);
    assert!(guest.connect((lab.office, port), PATIENCE).is_ok());
    drop((slot, pool));

    let pool = lab.pool().await;
    let slot = pool.adopt(index).await.unwrap();
    pool.sweep(&[index].into()).await.unwrap();
    assert!(guest.connect((lab.office, port), PATIENCE).is_ok());
    slot.grant(&[beside]).await.unwrap();
    assert!(refused(&guest, lab.office, port));
    assert!(guest.connect((lab.beside, port), PATIENCE).is_ok());
    slot.release().await.unwrap();
    assert!(support::Traces::of(lab.directory.path()).all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_without_a_grant_still_resolves_names_for_its_guest_and_its_build() {
    if !can_make_slots() {
        return;
    }
    let (_directory, mut settings) = settings();
    let (upstream, _saw) = dns_upstream(b"answer");
    settings.dns_upstreams = vec![upstream];
    let pool = SlotPool::open(&settings).await.unwrap();
    let nothing = || Egress::Granted(Vec::new());
    let slots = [
        pool.acquire(nothing()).await.unwrap(),
        pool.acquire(nothing()).await.unwrap(),
    ];
    let guest = Guest::attach(&*slots[0]).await;
    // As a container build does, beside the tap.
    let (_tap, namespace) = slots[1].attach().await.unwrap().unwrap();
    let beside = || UdpSocket::bind("0.0.0.0:0").unwrap();
    let beside = in_namespace(namespace.as_fd(), beside).unwrap();
    beside.set_read_timeout(Some(PATIENCE)).unwrap();
    for socket in [guest.udp(GUEST_ADDRESS), beside] {
        let server = (GATEWAY_ADDRESS, 53);
        socket.send_to(&dns_query(7), server).unwrap();
        let mut buffer = [0; 512];
        let length = receive(&socket, &mut buffer).0;
        assert!(buffer[..length].ends_with(b"answer"));
    }
    for slot in slots {
        slot.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_egress_takes_no_grant() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let refusal = slot.grant(&[]).await.unwrap_err();
    assert!(matches!(refusal, NetworkError::NotGranted { .. }));
    slot.release().await.unwrap();
}
