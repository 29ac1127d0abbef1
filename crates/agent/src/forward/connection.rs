//! One forwarded connection: the preamble, the connection to the application's port, then bytes both
//! ways with each half closed on its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use colibri_guest_protocol::forward::{ForwardAnswer, PREAMBLE_LENGTH, requested_port};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};

/// Bound of the preamble and of the connection to the application together.
const OPENING_BOUND: Duration = Duration::from_secs(10);
/// When to ask whether the host is still there, how often, and how many times: the host end of a
/// connection that a snapshot cut answers with a reset.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Host,
    Application,
}

/// What becomes of a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    Over,
}

/// A forwarded connection.
#[derive(Debug)]
pub(super) struct Connection {
    host: End,
    application: Option<End>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Preamble {
        deadline: Instant,
        received: Vec<u8>,
    },
    Connecting {
        deadline: Instant,
        port: u16,
        address: IpAddr,
    },
    Streaming,
}

/// One end's socket, and the way of the bytes that come out of it.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    token: u64,
    /// What epoll waits for; none when the socket is not in it.
    watched: Option<EventFlags>,
    /// Read here, not yet taken by the other end.
    unsent: Vec<u8>,
    sent: usize,
    /// No more will come from here.
    read_closed: bool,
    /// No more will go to here.
    write_closed: bool,
}

impl End {
    fn new(socket: OwnedFd, token: u64) -> Self {
        Self {
            socket,
            token,
            watched: None,
            unsent: Vec::new(),
            sent: 0,
            read_closed: false,
            write_closed: false,
        }
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Waits for `wanted`, and for nothing, hang-ups included, once the socket is done with.
    fn watch(&mut self, epoll: &OwnedFd, wanted: EventFlags) -> Result<(), Errno> {
        let wanted = (!(self.read_closed && self.write_closed)).then_some(wanted);
        if self.watched == wanted {
            return Ok(());
        }
        let data = EventData::new_u64(self.token);
        match (self.watched, wanted) {
            (None, Some(flags)) => epoll::add(epoll, &self.socket, data, flags)?,
            (Some(_), Some(flags)) => epoll::modify(epoll, &self.socket, data, flags)?,
            (_, None) => epoll::delete(epoll, self.socket.as_fd())?,
        }
        self.watched = wanted;
        Ok(())
    }
}

impl Connection {
    /// A connection that the host has just made; its events carry `token`, the application's the next.
    pub(super) fn new(socket: OwnedFd, epoll: &OwnedFd, token: u64) -> Result<Self, Errno> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        let mut host = End::new(socket, token);
        host.watch(epoll, EventFlags::IN)?;
        let deadline = Instant::now() + OPENING_BOUND;
        let received = Vec::with_capacity(PREAMBLE_LENGTH);
        Ok(Self {
            host,
            application: None,
            stage: Stage::Preamble { deadline, received },
        })
    }

    /// When it must carry the application's bytes; none once it does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Preamble { deadline, .. } | Stage::Connecting { deadline, .. } => Some(deadline),
            Stage::Streaming => None,
        }
    }

    /// Tells a host whose connection was not made in time.
    pub(super) fn give_up(&mut self) {
        let answer = match self.stage {
            Stage::Preamble { .. } => ForwardAnswer::BadPreamble,
            _ => ForwardAnswer::Refused,
        };
        self.answer(answer);
    }

    /// Has both ends see a reset instead of an orderly close, when the connection is dropped next.
    pub(super) fn reset(&self) {
        for end in [Some(&self.host), self.application.as_ref()]
            .into_iter()
            .flatten()
        {
            let _ = sockopt::set_socket_linger(&end.socket, Some(Duration::ZERO));
        }
    }

    /// Goes on after an event on one of its ends.
    pub(super) fn advance(
        &mut self,
        side: Side,
        flags: EventFlags,
        epoll: &OwnedFd,
        scratch: &mut [u8],
    ) -> Fate {
        let fate = match self.stage {
            Stage::Preamble { .. } => self.read_preamble(epoll),
            Stage::Connecting { .. } if side == Side::Application => self.connected(epoll),
            // The host went away, or sends early: the latter is not waited for.
            Stage::Connecting { .. } => Ok(Fate::Over),
            Stage::Streaming => self.stream(side, flags, epoll, scratch),
        };
        fate.unwrap_or_else(|_| {
            self.reset();
            Fate::Over
        })
    }

    fn answer(&mut self, answer: ForwardAnswer) {
        // The first byte on a fresh connection always fits.
        let _ = send(&self.host.socket, &[answer as u8], SendFlags::NOSIGNAL);
    }

    fn read_preamble(&mut self, epoll: &OwnedFd) -> Result<Fate, Errno> {
        let Stage::Preamble { deadline, received } = &mut self.stage else {
            return Ok(Fate::GoesOn);
        };
        let mut rest = [0; PREAMBLE_LENGTH];
        let wanted = PREAMBLE_LENGTH - received.len();
        // No more than the preamble: what follows is the application's.
        match recv(&self.host.socket, &mut rest[..wanted], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(Fate::Over),
            Ok((count, _)) => received.extend_from_slice(&rest[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Fate::GoesOn),
            Err(broken) => return Err(broken),
        }
        let Ok(preamble) = <[u8; PREAMBLE_LENGTH]>::try_from(received.as_slice()) else {
            return Ok(Fate::GoesOn);
        };
        let Some(port) = requested_port(preamble) else {
            self.answer(ForwardAnswer::BadPreamble);
            return Ok(Fate::Over);
        };
        let address = Ipv4Addr::LOCALHOST.into();
        self.stage = Stage::Connecting {
            deadline: *deadline,
            port,
            address,
        };
        self.connect(epoll)
    }

    /// Begins to connect to the application, on one loopback address after the other.
    fn connect(&mut self, epoll: &OwnedFd) -> Result<Fate, Errno> {
        let Stage::Connecting { port, address, .. } = self.stage else {
            return Ok(Fate::GoesOn);
        };
        // Meanwhile the host's bytes stay in its socket; a hang-up is reported all the same.
        self.host.watch(epoll, EventFlags::empty())?;
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let begun = socket_with(family, SocketType::STREAM, flags, None).and_then(|socket| {
            sockopt::set_tcp_nodelay(&socket, true)?;
            match connect(&socket, &SocketAddr::new(address, port)) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(refused) => Err(refused),
            }
        });
        let Ok(socket) = begun else {
            return self.try_next_address(epoll);
        };
        let mut end = End::new(socket, self.host.token + 1);
        end.watch(epoll, EventFlags::OUT)?;
        self.application = Some(end);
        Ok(Fate::GoesOn)
    }

    fn try_next_address(&mut self, epoll: &OwnedFd) -> Result<Fate, Errno> {
        self.application = None;
        match &mut self.stage {
            Stage::Connecting { address, .. } if address.is_ipv4() => {
                *address = Ipv6Addr::LOCALHOST.into();
                self.connect(epoll)
            }
            _ => {
                self.answer(ForwardAnswer::Refused);
                Ok(Fate::Over)
            }
        }
    }

    fn connected(&mut self, epoll: &OwnedFd) -> Result<Fate, Errno> {
        let Some(end) = &self.application else {
            return Ok(Fate::Over);
        };
        if sockopt::socket_error(&end.socket)?.is_err() {
            return self.try_next_address(epoll);
        }
        self.answer(ForwardAnswer::Connected);
        self.stage = Stage::Streaming;
        self.watch(epoll)
    }

    fn stream(
        &mut self,
        side: Side,
        flags: EventFlags,
        epoll: &OwnedFd,
        scratch: &mut [u8],
    ) -> Result<Fate, Errno> {
        let Some(application) = &mut self.application else {
            return Ok(Fate::Over);
        };
        let (this, other) = match side {
            Side::Host => (&mut self.host, application),
            Side::Application => (application, &mut self.host),
        };
        if flags.contains(EventFlags::ERR) {
            return Err(Errno::CONNRESET);
        }
        if flags.contains(EventFlags::OUT) {
            flush(other, this)?;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP)
            && !this.read_closed
            && !this.has_unsent()
        {
            carry(this, other, scratch)?;
        }
        self.watch(epoll)
    }

    /// Waits for what can be done next, which is nothing once both ways are closed.
    fn watch(&mut self, epoll: &OwnedFd) -> Result<Fate, Errno> {
        let Some(application) = &mut self.application else {
            return Ok(Fate::Over);
        };
        if self.host.write_closed && application.write_closed {
            return Ok(Fate::Over);
        }
        let for_host = interest(&self.host, application);
        let for_application = interest(application, &self.host);
        self.host.watch(epoll, for_host)?;
        application.watch(epoll, for_application)?;
        Ok(Fate::GoesOn)
    }
}

/// Reading while nothing of it waits, writing while something of the other end's does.
fn interest(this: &End, other: &End) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, !this.read_closed && !this.has_unsent());
    flags.set(EventFlags::OUT, other.has_unsent());
    flags
}

/// Takes what has come from one end to the other.
fn carry(from: &mut End, to: &mut End, scratch: &mut [u8]) -> Result<(), Errno> {
    let count = match recv(&from.socket, &mut *scratch, RecvFlags::empty()) {
        Ok((count, _)) => count,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
        Err(broken) => return Err(broken),
    };
    if count == 0 {
        from.read_closed = true;
        return close_behind(from, to);
    }
    let sent = send_some(to, &scratch[..count])?;
    if sent < count {
        from.unsent.extend_from_slice(&scratch[sent..count]);
    }
    Ok(())
}

/// Sends what an earlier [`carry`] could not.
fn flush(from: &mut End, to: &mut End) -> Result<(), Errno> {
    if from.has_unsent() {
        from.sent += send_some(to, &from.unsent[from.sent..])?;
    }
    if !from.has_unsent() {
        // Gives the memory back: an idle connection holds none.
        from.unsent = Vec::new();
        from.sent = 0;
        close_behind(from, to)?;
    }
    Ok(())
}

/// Closes the way to `to` once all that came from `from` is through.
fn close_behind(from: &End, to: &mut End) -> Result<(), Errno> {
    if from.read_closed && !from.has_unsent() && !to.write_closed {
        to.write_closed = true;
        match shutdown(&to.socket, Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(broken) => return Err(broken),
        }
    }
    Ok(())
}

fn send_some(to: &End, bytes: &[u8]) -> Result<usize, Errno> {
    match send(&to.socket, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => other,
    }
}
