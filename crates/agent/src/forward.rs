//! The forward port: the host's way to the application's loopback ports. One thread, one epoll, every
//! socket non-blocking; a connection costs no thread and, while idle, no buffer.
//!
//! What a connection does is in [`connection`]; this file accepts, waits and dispatches.

mod connection;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use colibri_guest_protocol::message::AgentFailure;
use colibri_guest_protocol::{AGENT_ADDRESS, AGENT_GATEWAY_ADDRESS, FORWARD_PORT};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrV4, SocketFlags, SocketType, acceptfrom_with, bind, listen,
    socket_with,
};

use self::connection::{Connection, Fate, Side};
use crate::console;
use crate::failure::Attempt;

/// Connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// The listener's queue.
const BACKLOG: i32 = 128;
/// Events taken from the kernel at once.
const EVENTS: usize = 64;
/// Read from a connection at once, bytes.
const SCRATCH: usize = 64 * 1024;

const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// The control thread's hold on the forwarder.
pub(crate) struct Forwarder {
    open: Arc<AtomicUsize>,
    bell: Arc<OwnedFd>,
}

impl Forwarder {
    /// Breaks every connection: a machine that gets a new identity was restored, and nobody is at
    /// the other end of what its snapshot had open.
    pub(crate) fn drop_connections(&self) {
        if self.open.load(Ordering::Acquire) > 0 {
            let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// Listens on the agent's address and starts the thread.
pub(crate) fn start() -> Result<Forwarder, AgentFailure> {
    let attempted = || format!("listen on {AGENT_ADDRESS}:{FORWARD_PORT}");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).attempt(attempted)?;
    bind(&listener, &SocketAddrV4::new(AGENT_ADDRESS, FORWARD_PORT)).attempt(attempted)?;
    listen(&listener, BACKLOG).attempt(attempted)?;
    serve_on(listener, Some(AGENT_GATEWAY_ADDRESS))
}

/// Serves connections of `listener`; only those from `peer`, where one is named.
fn serve_on(
    listener: OwnedFd,
    peer: Option<std::net::Ipv4Addr>,
) -> Result<Forwarder, AgentFailure> {
    let attempted = || "set up the forwarder".to_owned();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).attempt(attempted)?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).attempt(attempted)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(LISTENER),
        readable,
    )
    .attempt(attempted)?;
    epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), readable).attempt(attempted)?;
    let forwarder = Forwarder {
        open: Arc::default(),
        bell: Arc::new(bell),
    };
    let service = Service {
        epoll,
        listener,
        listening: true,
        peer,
        bell: Arc::clone(&forwarder.bell),
        open: Arc::clone(&forwarder.open),
        connections: Vec::new(),
        free: Vec::new(),
        waiting: 0,
        scratch: vec![0; SCRATCH],
    };
    std::thread::Builder::new()
        .name("forward".to_owned())
        .spawn(move || service.serve())
        .attempt(attempted)?;
    Ok(forwarder)
}

struct Service {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// Whether the listener is waited for; not while all connections are taken.
    listening: bool,
    peer: Option<std::net::Ipv4Addr>,
    bell: Arc<OwnedFd>,
    open: Arc<AtomicUsize>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that have a time limit: those that do not carry the application's bytes yet.
    waiting: usize,
    scratch: Vec<u8>,
}

impl Service {
    fn serve(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                spare_capacity(&mut events),
                self.time_to_wait().as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(broken) => {
                    console::error(&format!("the forwarder cannot go on: {broken}"));
                    return;
                }
            }
            let mut accept = false;
            for event in &events {
                match event.data.u64() {
                    LISTENER => accept = true,
                    BELL => self.drop_all(),
                    token => self.connection_event(token, event.flags),
                }
            }
            self.drop_late();
            // Last: a place that was freed above is not reused while its events are being read.
            if accept {
                self.accept();
            }
            self.watch_listener();
        }
    }

    fn time_to_wait(&self) -> Option<Timespec> {
        if self.waiting == 0 {
            return None;
        }
        let earliest = self
            .connections
            .iter()
            .flatten()
            .filter_map(Connection::deadline)
            .min()?;
        let left = earliest.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn accept(&mut self) {
        while self.open.load(Ordering::Relaxed) < MAX_CONNECTIONS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (socket, from) = match acceptfrom_with(&self.listener, flags) {
                Ok(accepted) => accepted,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // Nobody left, or nothing to take them with; the listener's queue keeps them.
                Err(_) => return,
            };
            let from = from.and_then(|address| SocketAddrV4::try_from(address).ok());
            // The application can reach this port as well; it needs no forwarder to its own ports.
            if self.peer.is_none() || from.map(|address| *address.ip()) == self.peer {
                self.admit(socket);
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        match Connection::new(socket, &self.epoll, place as u64 * 2) {
            Ok(connection) => {
                self.connections[place] = Some(connection);
                self.waiting += 1;
                self.open.fetch_add(1, Ordering::Release);
            }
            Err(_) => self.free.push(place),
        }
    }

    fn connection_event(&mut self, token: u64, flags: epoll::EventFlags) {
        let Ok(place) = usize::try_from(token / 2) else {
            return;
        };
        let Some(Some(connection)) = self.connections.get_mut(place) else {
            return;
        };
        let side = if token.is_multiple_of(2) {
            Side::Host
        } else {
            Side::Application
        };
        let waited = connection.deadline().is_some();
        let fate = connection.advance(side, flags, &self.epoll, &mut self.scratch);
        if waited && connection.deadline().is_none() {
            self.waiting -= 1;
        }
        if fate == Fate::Over {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        if let Some(connection) = self.connections[place].take() {
            if connection.deadline().is_some() {
                self.waiting -= 1;
            }
            self.free.push(place);
            self.open.fetch_sub(1, Ordering::Release);
        }
    }

    fn drop_late(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let now = Instant::now();
        for place in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[place] else {
                continue;
            };
            if connection.deadline().is_some_and(|end| end <= now) {
                connection.give_up();
                self.remove(place);
            }
        }
    }

    fn drop_all(&mut self) {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        for place in 0..self.connections.len() {
            if let Some(connection) = &self.connections[place] {
                connection.reset();
            }
            self.remove(place);
        }
    }

    fn watch_listener(&mut self) {
        let wanted = self.open.load(Ordering::Relaxed) < MAX_CONNECTIONS;
        if wanted == self.listening {
            return;
        }
        let changed = if wanted {
            let data = epoll::EventData::new_u64(LISTENER);
            epoll::add(&self.epoll, &self.listener, data, epoll::EventFlags::IN)
        } else {
            epoll::delete(&self.epoll, &self.listener)
        };
        if changed.is_ok() {
            self.listening = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use colibri_guest_protocol::forward::{ForwardAnswer, preamble};

    use super::{Forwarder, serve_on};

    fn forwarder() -> (Forwarder, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        (serve_on(listener.into(), None).unwrap(), port)
    }

    fn open(forwarder: u16, port: u16) -> (TcpStream, Option<ForwardAnswer>) {
        let mut host = TcpStream::connect(("127.0.0.1", forwarder)).unwrap();
        host.write_all(&preamble(port)).unwrap();
        let mut answer = [0];
        host.read_exact(&mut answer).unwrap();
        (host, ForwardAnswer::from_byte(answer[0]))
    }

    #[test]
    fn bytes_and_half_closes_pass_both_ways() {
        let (_forwarder, forward_port) = forwarder();
        let application = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut host, answer) = open(forward_port, application.local_addr().unwrap().port());
        assert_eq!(answer, Some(ForwardAnswer::Connected));
        let echo = std::thread::spawn(move || {
            let (mut connection, _) = application.accept().unwrap();
            let mut all = Vec::new();
            connection.read_to_end(&mut all).unwrap();
            // The host has closed its half; the way back is still open.
            connection.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..3_000_000_u32)
            .map(|number| number.to_le_bytes()[0])
            .collect();
        host.write_all(&sent).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        host.read_to_end(&mut received).unwrap();
        echo.join().unwrap();
        assert!(received == sent);
    }

    #[test]
    fn an_application_on_the_ipv6_loopback_only_is_found() {
        let (_forwarder, forward_port) = forwarder();
        let Ok(application) = TcpListener::bind("[::1]:0") else {
            return;
        };
        let (_host, answer) = open(forward_port, application.local_addr().unwrap().port());
        assert_eq!(answer, Some(ForwardAnswer::Connected));
    }

    #[test]
    fn nobody_listening_and_a_bad_preamble_are_told_apart() {
        let (_forwarder, forward_port) = forwarder();
        let unused = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        assert_eq!(open(forward_port, unused).1, Some(ForwardAnswer::Refused));
        let mut host = TcpStream::connect(("127.0.0.1", forward_port)).unwrap();
        host.write_all(b"GET ").unwrap();
        let mut answer = Vec::new();
        host.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [ForwardAnswer::BadPreamble as u8]);
    }

    #[test]
    fn a_new_identity_breaks_what_was_open() {
        let (forwarder, forward_port) = forwarder();
        let application = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut host, _) = open(forward_port, application.local_addr().unwrap().port());
        let (mut connection, _) = application.accept().unwrap();
        forwarder.drop_connections();
        assert!(!matches!(host.read(&mut [0]), Ok(1..)));
        assert!(!matches!(connection.read(&mut [0]), Ok(1..)));
    }
}
