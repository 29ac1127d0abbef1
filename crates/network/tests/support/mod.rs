//! A laboratory of namespaces: a guest made of the kernel's own network stack on the other end of a
//! slot's tap, and an internet with a server, reached through the host. Everything goes when it is
//! dropped.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of several programs")]
#![allow(
    clippy::unwrap_used,
    reason = "a laboratory that cannot be built fails its test"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says why")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use colibri_guest_protocol::{
    AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, FORWARD_PORT, GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC,
    LINK_PREFIX, TAP_MAC,
};
use colibri_network::namespace::{self, in_namespace};
use colibri_network::tap::{TAP, open_tap};
use colibri_network::{NetworkSettings, Slot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long something that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long something that must not happen is waited for.
pub const GLIMPSE: Duration = Duration::from_millis(300);

/// False, with the reason printed, where slots cannot be made.
pub fn can_make_slots() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("COLIBRI_TEST_REQUIRED").is_none(),
            "making network namespaces needs root"
        );
        eprintln!("skipped: making network namespaces needs root");
    }
    root
}

/// A fresh data directory and settings without spare slots for it.
pub fn settings() -> (tempfile::TempDir, NetworkSettings) {
    let directory = tempfile::tempdir().unwrap();
    let settings = NetworkSettings {
        spare_slots: 0,
        slots: 8,
        ..NetworkSettings::new(directory.path())
    };
    (directory, settings)
}

/// The names that slots of this data directory have.
pub struct Traces {
    mark: String,
}

impl Traces {
    pub fn of(directory: &Path) -> Self {
        let path = directory.canonicalize().unwrap();
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
        Self {
            mark: hash.to_hex()[..8].to_owned(),
        }
    }

    pub fn mark(&self) -> &str {
        &self.mark
    }

    pub fn veth(&self, index: u32) -> String {
        format!("cb{}v{index}", self.mark)
    }

    pub fn namespace(&self, index: u32) -> String {
        format!("colibri-{}-{index}", self.mark)
    }

    pub fn table(&self) -> String {
        format!("colibri_{}", self.mark)
    }

    /// Everything on this host that carries the mark.
    pub fn all(&self) -> Vec<String> {
        let listed = [
            output("ip", &["netns", "list"]),
            output("ip", &["-o", "link", "show"]),
            output("nft", &["list", "tables"]),
        ];
        listed
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| line.contains(&self.mark))
            .map(str::to_owned)
            .collect()
    }

    pub fn host_address(&self, index: u32) -> Ipv4Addr {
        let listed = output(
            "ip",
            &["-4", "-o", "addr", "show", "dev", &self.veth(index)],
        );
        let after = listed.split("inet ").nth(1).unwrap();
        after.split('/').next().unwrap().parse().unwrap()
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let finished = Command::new(program).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&finished.stderr);
    assert!(
        finished.status.success(),
        "{program} {arguments:?}: {printed}"
    );
}

pub fn output(program: &str, arguments: &[&str]) -> String {
    let finished = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(finished.stdout).unwrap()
}

/// A namespace that goes with this value.
pub struct Namespace {
    pub name: String,
    pub fd: OwnedFd,
}

impl Namespace {
    pub fn new(purpose: &str) -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lab-{purpose}-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let fd = namespace::open(&Path::new(namespace::NAMESPACES).join(&name)).unwrap();
        Self { name, fd }
    }

    pub fn ip(&self, command: &str) {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(command.split_whitespace());
        run("ip", &arguments);
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(self.fd.as_fd(), work).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// A guest: the addresses that every guest has, on a tap that is wired to a slot's.
pub struct Guest {
    pub namespace: Namespace,
    stop: Option<io::PipeWriter>,
    wire: Option<JoinHandle<()>>,
}

impl Guest {
    pub async fn attach(slot: &dyn Slot) -> Self {
        let (slot_tap, _) = slot.attach().await.unwrap().unwrap();
        let namespace = Namespace::new("guest");
        namespace.ip(&format!("tuntap add dev {TAP} mode tap vnet_hdr"));
        namespace.ip(&format!("link set dev {TAP} address {GUEST_MAC}"));
        namespace.ip(&format!("addr add {GUEST_ADDRESS}/{LINK_PREFIX} dev {TAP}"));
        namespace.ip(&format!("addr add {AGENT_ADDRESS}/{LINK_PREFIX} dev {TAP}"));
        namespace.ip("link set lo up");
        namespace.ip(&format!("link set {TAP} up"));
        // As the ARP cache in a snapshot has it; the gateway itself is asked for.
        namespace.ip(&format!(
            "neigh replace {AGENT_GATEWAY_ADDRESS} lladdr {TAP_MAC} dev {TAP} nud permanent"
        ));
        namespace.ip(&format!("route add default via {GATEWAY_ADDRESS}"));
        let mut guest = Self {
            namespace,
            stop: None,
            wire: None,
        };
        guest.wire_to(slot_tap);
        guest
    }

    /// Goes on at another slot, as a guest does that is resumed.
    pub async fn move_to(&mut self, slot: &dyn Slot) {
        self.unplug();
        let (slot_tap, _) = slot.attach().await.unwrap().unwrap();
        self.wire_to(slot_tap);
    }

    fn wire_to(&mut self, slot_tap: OwnedFd) {
        let guest_tap = self.namespace.inside(open_tap).unwrap();
        let (stopped, stop) = io::pipe().unwrap();
        let wire = thread::spawn(move || copy_frames(&slot_tap, &guest_tap, &stopped));
        (self.stop, self.wire) = (Some(stop), Some(wire));
    }

    fn unplug(&mut self) {
        drop(self.stop.take());
        if let Some(wire) = self.wire.take() {
            wire.join().unwrap();
        }
    }

    pub fn connect(
        &self,
        address: impl Into<SocketAddr>,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        let address = address.into();
        self.namespace
            .inside(|| TcpStream::connect_timeout(&address, limit))
    }

    pub fn udp(&self, from: impl Into<IpAddr>) -> UdpSocket {
        let from = from.into();
        let socket = self
            .namespace
            .inside(|| UdpSocket::bind((from, 0)))
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// An agent for one connection: it answers `answer` and then echoes.
    pub fn agent(&self, answer: u8) -> JoinHandle<[u8; 4]> {
        let listener = self
            .namespace
            .inside(|| TcpListener::bind((AGENT_ADDRESS, FORWARD_PORT)))
            .unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut preamble = [0; 4];
            stream.read_exact(&mut preamble).unwrap();
            stream.write_all(&[answer]).unwrap();
            let mut copy = stream.try_clone().unwrap();
            let _ = io::copy(&mut stream, &mut copy);
            preamble
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// The wire between two taps, until the pipe's writer is dropped.
fn copy_frames(one: &OwnedFd, other: &OwnedFd, stopped: &io::PipeReader) {
    let mut frame = vec![0; 1 << 17];
    loop {
        let mut ready = [
            PollFd::new(one, PollFlags::IN),
            PollFd::new(other, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        let limit = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        if poll(&mut ready, Some(&limit)).unwrap() == 0 || !ready[2].revents().is_empty() {
            return;
        }
        let [from_one, from_other] = [ready[0].revents(), ready[1].revents()];
        for (readable, from, to) in [(from_one, one, other), (from_other, other, one)] {
            if readable.contains(PollFlags::IN)
                && let Ok(length) = rustix::io::read(from, frame.as_mut_slice())
            {
                let _ = rustix::io::write(to, &frame[..length]);
            } else if readable.contains(PollFlags::ERR) {
                return; // The slot is released; its tap is gone.
            }
        }
    }
}

/// The internet: a server in a namespace, on a documentation address, behind the host.
pub struct Internet {
    pub namespace: Namespace,
    link: String,
    pub host: Ipv4Addr,
    pub server: Ipv4Addr,
}

impl Internet {
    pub fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(4, Ordering::Relaxed);
        let namespace = Namespace::new("internet");
        let link = format!("lab{}n{number}", std::process::id() % 1_000_000);
        let host = Ipv4Addr::new(198, 51, 100, number + 1);
        let server = Ipv4Addr::new(198, 51, 100, number + 2);
        let name = &namespace.name;
        run(
            "ip",
            &[
                "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name,
            ],
        );
        run("ip", &["addr", "add", &format!("{host}/30"), "dev", &link]);
        run("ip", &["link", "set", &link, "up"]);
        namespace.ip("link set lo up");
        namespace.ip(&format!("addr add {server}/30 dev eth0"));
        namespace.ip("link set eth0 up");
        Self {
            namespace,
            link,
            host,
            server,
        }
    }

    /// Another address of the server, which the host routes to it.
    pub fn also_at(&self, address: Ipv4Addr) {
        self.namespace
            .ip(&format!("addr add {address}/32 dev eth0"));
        let (target, via) = (format!("{address}/32"), self.server.to_string());
        run(
            "ip",
            &["route", "add", &target, "via", &via, "dev", &self.link],
        );
    }

    /// A server on all addresses that answers every connection with the address that it came from.
    pub fn serve_tcp(&self) -> u16 {
        let listener = self
            .namespace
            .inside(|| TcpListener::bind("0.0.0.0:0"))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || answer_with_peer(&listener));
        port
    }

    /// A socket for datagrams on the server.
    pub fn udp(&self) -> UdpSocket {
        let socket = self
            .namespace
            .inside(|| UdpSocket::bind((self.server, 0)))
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.link])
            .status();
    }
}

/// Answers connections until none came for a minute.
pub fn answer_with_peer(listener: &TcpListener) {
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    while poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit)).unwrap() > 0 {
        let (mut stream, peer) = listener.accept().unwrap();
        let _ = stream.write_all(peer.ip().to_string().as_bytes());
    }
}

/// The next datagram, and who sent it. A read with a limit ends early when a child process ends.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.unwrap(),
        }
    }
}

/// What the server says, at once or within [`PATIENCE`].
pub fn read_all(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A DNS server on the host's loopback, over UDP and TCP, that answers each query with itself, its
/// response bit set, and `tail` behind. Says which questions came.
pub fn dns_upstream(tail: &'static [u8]) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    let (seen, saw) = mpsc::channel();
    let seen_over_tcp = seen.clone();
    thread::spawn(move || {
        udp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = seen.send(buffer[..length].to_vec());
            udp.send_to(&response(&buffer[..length], tail), peer)
                .unwrap();
        }
    });
    thread::spawn(move || {
        let limit = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        while poll(&mut [PollFd::new(&tcp, PollFlags::IN)], Some(&limit)).unwrap() > 0 {
            let (mut stream, _) = tcp.accept().unwrap();
            let query = read_dns(&mut stream);
            let _ = seen_over_tcp.send(query.clone());
            write_dns(&mut stream, &response(&query, tail));
        }
    });
    (address, saw)
}

fn response(query: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut answer = [query, tail].concat();
    answer[2] |= 0x80;
    answer
}

pub fn read_dns(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

pub fn write_dns(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

/// A query for an address of example.test.
pub fn dns_query(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut bytes = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\x07example\x04test\0\0\x01\0\x01");
    bytes
}

/// A datagram reaches the internet, and its answer the guest.
pub fn assert_datagrams_pass(guest: &Guest, internet: &Internet) {
    let server = internet.udp();
    let socket = guest.udp(GUEST_ADDRESS);
    socket
        .send_to(b"ping", server.local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 16];
    let (_, peer) = receive(&server, &mut buffer);
    server.send_to(b"pong", peer).unwrap();
    assert_eq!(receive(&socket, &mut buffer).0, 4);
}
