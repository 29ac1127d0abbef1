//! The host's way into a guest, and the guest's to its DNS server.

mod support;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Instant;

use colibri_guest_protocol::forward::{ForwardAnswer, preamble};
use colibri_guest_protocol::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use colibri_network::{Egress, Network, NetworkSettings, SlotPool};
use support::{
    Guest, PATIENCE, can_make_slots, dns_query, dns_upstream, read_dns, receive, settings,
    write_dns,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn the_host_reaches_an_applications_port_through_the_agent() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    for egress in [Egress::Sealed, Egress::Internet] {
        let slot = pool.acquire(egress).await.unwrap();
        let guest = Guest::attach(&*slot).await;
        let agent = guest.agent(ForwardAnswer::Connected as u8);
        let began = Instant::now();
        let mut stream = slot.connect(8080).await.unwrap();
        assert!(
            began.elapsed().as_millis() < 900,
            "the first packet was lost"
        );
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hello");

        // A stream ends with its slot, not when TCP notices.
        slot.release().await.unwrap();
        assert_eq!(
            stream.read(&mut echo).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            slot.connect(8080).await.err().unwrap().kind(),
            ErrorKind::NotConnected
        );
        drop(stream);
        drop(guest);
        drop(agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_listener_is_told_from_a_guest_without_an_agent() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let slot = pool.acquire(Egress::Sealed).await.unwrap();
    let guest = Guest::attach(&*slot).await;

    let without_agent = slot.connect(8080).await.err().unwrap();
    assert_eq!(without_agent.kind(), ErrorKind::NotConnected);

    let agent = guest.agent(ForwardAnswer::Refused as u8);
    let refused = slot.connect(8080).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(agent.join().unwrap(), preamble(8080));

    let agent = guest.agent(77);
    let nonsense = slot.connect(8080).await.err().unwrap();
    assert_eq!(nonsense.kind(), ErrorKind::InvalidData);
    agent.join().unwrap();
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vmm_at_a_time_has_the_tap() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let pool = SlotPool::open(&settings).await.unwrap();
    let slot = pool.acquire(Egress::Sealed).await.unwrap();
    let first = slot.attach().await.unwrap();
    let second = slot.attach().await.unwrap_err().to_string();
    assert_eq!(
        second,
        format!("could not open the tap of network slot {}", slot.index())
    );
    drop(first);
    assert!(slot.attach().await.is_ok());
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_resolves_names_through_its_gateway() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    let (upstream, questions) = dns_upstream(b"the records");
    // The first server is down: its port is bound by a socket that nobody reads.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns_upstreams = vec![silent.local_addr().unwrap(), upstream];
    let pool = SlotPool::open(&NetworkSettings {
        dns_upstreams,
        ..settings
    })
    .await
    .unwrap();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;

    let mut expected = [dns_query(0xbeef), b"the records".to_vec()].concat();
    expected[2] |= 0x80;
    let socket = guest.udp(GUEST_ADDRESS);
    socket
        .send_to(&dns_query(0xbeef), (GATEWAY_ADDRESS, 53))
        .unwrap();
    let mut answer = [0; 512];
    let (length, from) = receive(&socket, &mut answer);
    assert_eq!(from, (GATEWAY_ADDRESS, 53).into());
    assert_eq!(answer[..length], expected);
    assert_eq!(questions.recv().unwrap()[2..], dns_query(0xbeef)[2..]);

    let mut stream = guest.connect((GATEWAY_ADDRESS, 53), PATIENCE).unwrap();
    for _ in 0..2 {
        write_dns(&mut stream, &dns_query(0xbeef));
        assert_eq!(read_dns(&mut stream), expected);
    }
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_told_when_no_server_answers() {
    if !can_make_slots() {
        return;
    }
    let (_directory, settings) = settings();
    // Bound and dropped: the port answers with an ICMP error.
    let gone = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = NetworkSettings {
        dns_upstreams: vec![gone],
        ..settings
    };
    let pool = SlotPool::open(&settings).await.unwrap();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    let socket = guest.udp(GUEST_ADDRESS);
    socket
        .send_to(&dns_query(3), (GATEWAY_ADDRESS, 53))
        .unwrap();
    let mut answer = [0; 512];
    let length = receive(&socket, &mut answer).0;
    assert_eq!(length, dns_query(3).len());
    assert_eq!(answer[3] & 0x0f, 2, "a server failure");
    slot.release().await.unwrap();
}
