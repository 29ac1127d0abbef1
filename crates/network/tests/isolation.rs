//! What a guest can reach, and what it cannot. Each refusal stands beside a proof that the way is
//! open for somebody else.

mod support;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use colibri_guest_protocol::{AGENT_ADDRESS, GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, TAP_MAC};
use colibri_network::{Egress, Network, SlotPool};
use support::{
    GLIMPSE, Guest, Internet, PATIENCE, Traces, answer_with_peer, assert_datagrams_pass,
    can_make_slots, output, read_all, receive, settings,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_the_internet_from_the_hosts_address() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let port = internet.serve_tcp();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;

    let stream = guest.connect((internet.server, port), PATIENCE).unwrap();
    assert_eq!(read_all(stream), internet.host.to_string());

    assert_datagrams_pass(&guest, &internet);
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_neither_the_host_nor_another_guest() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let internet_port = internet.serve_tcp();
    let slots = [
        pool.acquire(Egress::Internet).await.unwrap(),
        pool.acquire(Egress::Internet).await.unwrap(),
    ];
    let guests = [
        Guest::attach(&*slots[0]).await,
        Guest::attach(&*slots[1]).await,
    ];

    // A service on every address of the host, and one on every address of the other guest.
    let on_host = TcpListener::bind("0.0.0.0:0").unwrap();
    let host_port = on_host.local_addr().unwrap().port();
    thread::spawn(move || answer_with_peer(&on_host));
    let in_other = guests[1]
        .namespace
        .inside(|| TcpListener::bind("0.0.0.0:0"))
        .unwrap();
    let other_port = in_other.local_addr().unwrap().port();
    thread::spawn(move || answer_with_peer(&in_other));

    let mut of_host: Vec<Ipv4Addr> = output("ip", &["-4", "-o", "addr", "show"])
        .lines()
        .filter(|line| !line.contains("cb") || line.contains(&traces.veth(0)))
        .filter_map(|line| line.split("inet ").nth(1)?.split('/').next()?.parse().ok())
        .collect();
    of_host.push(traces.host_address(slots[1].index()));
    assert!(of_host.contains(&internet.host) && of_host.contains(&Ipv4Addr::LOCALHOST));
    for address in of_host {
        // Another test's lab may be gone by now; then there is nobody to be kept from.
        if TcpStream::connect_timeout(&(address, host_port).into(), PATIENCE).is_err() {
            continue;
        }
        let reached = guests[0].connect((address, host_port), GLIMPSE);
        assert!(reached.is_err(), "a guest reached the host at {address}");
    }
    let other_link = Ipv4Addr::from(u32::from(traces.host_address(slots[1].index())) + 1);
    for address in [other_link, GATEWAY_ADDRESS] {
        let reached = guests[0].connect((address, other_port), GLIMPSE);
        assert!(
            reached.is_err(),
            "a guest reached another guest at {address}"
        );
    }
    // The other guest's own address leads a guest to itself, where nothing listens.
    let itself = guests[0]
        .connect((GUEST_ADDRESS, other_port), PATIENCE)
        .unwrap_err();
    assert_eq!(itself.kind(), ErrorKind::ConnectionRefused);

    for guest in &guests {
        assert!(
            guest
                .connect((internet.server, internet_port), PATIENCE)
                .is_ok()
        );
    }
    for slot in slots {
        slot.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_ranges_are_refused_at_once() {
    if !can_make_slots() {
        return;
    }
    let (_directory, mut settings) = settings();
    let operators_own = Ipv4Addr::new(203, 0, 113, 200);
    settings.refused_ranges = vec!["203.0.113.192/27".parse().unwrap()];
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let port = internet.serve_tcp();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    assert!(guest.connect((internet.server, port), PATIENCE).is_ok());

    let private = [
        Ipv4Addr::new(10, 213, 7, 9),
        Ipv4Addr::new(172, 29, 7, 9),
        Ipv4Addr::new(192, 168, 213, 9),
        Ipv4Addr::new(100, 127, 213, 9),
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(198, 19, 213, 9),
        operators_own,
    ];
    for address in private {
        internet.also_at(address);
        let target = SocketAddr::from((address, port));
        assert!(
            TcpStream::connect_timeout(&target, PATIENCE).is_ok(),
            "the host reaches {address}"
        );
        let began = Instant::now();
        let refused = guest
            .connect(target, PATIENCE)
            .expect_err("a guest reached a private range");
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{address}");
        assert!(began.elapsed() < PATIENCE / 2);
    }
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_from_an_address_that_is_not_the_guests_goes_nowhere() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let server = internet.udp();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    let spoofed = Ipv4Addr::new(203, 0, 113, 66);
    guest.namespace.ip(&format!("addr add {spoofed}/32 dev lo"));

    let target = server.local_addr().unwrap();
    for source in [spoofed, AGENT_ADDRESS] {
        guest.udp(source).send_to(b"spoofed", target).unwrap();
    }
    // Frames keep their order, so what was spoofed would have come first.
    guest.udp(GUEST_ADDRESS).send_to(b"honest", target).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = receive(&server, &mut buffer);
    assert_eq!(&buffer[..length], b"honest");

    let gateway = format!("neigh replace {GATEWAY_ADDRESS} lladdr {TAP_MAC} dev tap0");
    guest
        .namespace
        .ip("link set tap0 address 02:00:5e:10:00:99");
    guest.namespace.ip(&gateway);
    guest
        .udp(GUEST_ADDRESS)
        .send_to(b"foreign", target)
        .unwrap();
    guest
        .namespace
        .ip(&format!("link set tap0 address {GUEST_MAC}"));
    guest.namespace.ip(&gateway);
    guest.udp(GUEST_ADDRESS).send_to(b"own", target).unwrap();
    let (length, _) = receive(&server, &mut buffer);
    assert_eq!(&buffer[..length], b"own");
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_guest_reaches_nothing() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let port = internet.serve_tcp();
    let slot = pool.acquire(Egress::Sealed).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    assert!(guest.connect((internet.server, port), GLIMPSE).is_err());
    assert!(guest.connect((internet.host, port), GLIMPSE).is_err());
    assert!(guest.connect((GATEWAY_ADDRESS, 53), GLIMPSE).is_err());
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_no_more_flows_than_its_share() {
    if !can_make_slots() {
        return;
    }
    let (_directory, mut settings) = settings();
    settings.flows_per_slot = 2;
    let pool = SlotPool::open(&settings).await.unwrap();
    let internet = Internet::new();
    let server = internet.udp();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    let flow = || {
        let socket = guest.udp(GUEST_ADDRESS);
        let target = server.local_addr().unwrap();
        guest.namespace.inside(|| socket.connect(target)).unwrap();
        socket.send(b"x").unwrap();
        socket
    };
    let _open = [flow(), flow()];
    let mut buffer = [0; 16];
    for _ in 0..2 {
        receive(&server, &mut buffer);
    }
    let refused = flow().recv(&mut buffer).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::HostUnreachable);
    slot.release().await.unwrap();
}
