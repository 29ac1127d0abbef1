//! Calls of the application's lifecycle hooks: HTTP/1.1 over the guest's loopback, a fresh connection
//! for each call.
//!
//! A few threads wait for calls from boot on. Starting one for each call would run the kernel's
//! whole fork path on the way that a launch waits for.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use colibri_guest_protocol::message::{AgentFailure, Answer, HookCall, HookOutcome};

use crate::failure::{Attempt, failure};
use crate::mailbox::{Letter, Mailbox};

/// Hook calls made at once; more wait their turn, their time running.
const CALLERS: usize = 4;
/// Hook calls that may wait.
const WAITING: usize = 32;
/// Longest status line and headers of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most headers of an answer.
const MAX_HEADERS: usize = 100;
/// How long, and how much, of an answer's body is read away after the call is over, so that an
/// application does not see its connection break while it writes.
const BODY_BOUND: Duration = Duration::from_secs(1);
const BODY_LENGTH: usize = 1024 * 1024;

struct Job {
    session: u64,
    id: u32,
    call: HookCall,
    deadline: Instant,
}

/// The threads that make the calls.
pub(crate) struct HookCallers {
    jobs: SyncSender<Job>,
}

impl HookCallers {
    pub(crate) fn start(mailbox: &Arc<Mailbox>) -> Result<Self, AgentFailure> {
        let (jobs, waiting) = sync_channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..CALLERS {
            let (waiting, mailbox) = (Arc::clone(&waiting), Arc::clone(mailbox));
            std::thread::Builder::new()
                .name("hook".to_owned())
                .spawn(move || make_calls(&waiting, &mailbox))
                .attempt(|| "start a thread".to_owned())?;
        }
        Ok(Self { jobs })
    }

    /// Has a hook called; the outcome arrives in the mailbox.
    pub(crate) fn call(&self, session: u64, id: u32, call: HookCall) -> Result<(), AgentFailure> {
        check(&call)?;
        let deadline = Instant::now()
            .checked_add(Duration::from_millis(call.timeout_ms))
            .ok_or_else(|| failure("call the hook", "its time limit is beyond the clock"))?;
        self.jobs
            .try_send(Job {
                session,
                id,
                call,
                deadline,
            })
            .map_err(|refused| {
                let reason = match refused {
                    TrySendError::Full(_) => format!("{WAITING} hook calls are waiting"),
                    TrySendError::Disconnected(_) => "no thread is left to call it".to_owned(),
                };
                failure("call the hook", reason)
            })
    }
}

fn make_calls(waiting: &Mutex<Receiver<Job>>, mailbox: &Mailbox) {
    loop {
        let job = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(Job {
            session,
            id,
            call,
            deadline,
        }) = job
        else {
            return;
        };
        let (outcome, connection) = call_hook(&call, deadline);
        mailbox.post(Letter::Outcome {
            session,
            id,
            result: Ok(Answer::Hook(outcome)),
        });
        if let Some(connection) = connection {
            read_away(connection);
        }
    }
}

/// Nothing of a call may end a line of the request's head early.
fn check(call: &HookCall) -> Result<(), AgentFailure> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t')
    };
    let path = call.path.starts_with('/') && call.path.bytes().all(|byte| byte.is_ascii_graphic());
    let headers = call.headers.iter().all(|(name, value)| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && plain(value)
    });
    if path && headers && call.port != 0 {
        return Ok(());
    }
    Err(failure(
        "call the hook",
        "its port, path or a header cannot be part of an HTTP request",
    ))
}

/// The outcome, and the connection where an answer came.
fn call_hook(call: &HookCall, deadline: Instant) -> (HookOutcome, Option<TcpStream>) {
    let mut connection = match connect(call.port, deadline) {
        Ok(connection) => connection,
        Err(refused) => return (outcome_of(&refused, "connect"), None),
    };
    if let Err(broken) = send(&mut connection, &request(call), deadline) {
        // An application may answer, and close, before it has read everything.
        if timed_out(&broken) {
            return (HookOutcome::TimedOut, None);
        }
    }
    match receive_status(&mut connection, deadline) {
        Ok(status) => (HookOutcome::Status { status }, Some(connection)),
        Err(broken) => (outcome_of(&broken, "read the answer"), None),
    }
}

fn outcome_of(error: &io::Error, attempted: &str) -> HookOutcome {
    if timed_out(error) {
        HookOutcome::TimedOut
    } else if error.kind() == ErrorKind::ConnectionRefused {
        HookOutcome::Refused
    } else {
        HookOutcome::Broken {
            reason: format!("could not {attempted}: {error}"),
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn connect(port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let to = |address: IpAddr| {
        TcpStream::connect_timeout(&SocketAddr::new(address, port), left(deadline)?)
    };
    match to(Ipv4Addr::LOCALHOST.into()) {
        Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {
            // A guest without IPv6 has no ::1 to refuse anything.
            to(Ipv6Addr::LOCALHOST.into())
                .map_err(|second| if timed_out(&second) { second } else { refused })
        }
        other => other,
    }
}

/// What is left of the call's time; an error when nothing is.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

fn request(call: &HookCall) -> Vec<u8> {
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: localhost:{}\r\n",
        call.path, call.port
    );
    head.push_str("Connection: close\r\n");
    if call.body.is_some() {
        head.push_str("Content-Type: application/json\r\n");
    }
    let body = call.body.as_deref().unwrap_or_default();
    let _ = write!(head, "Content-Length: {}\r\n", body.len());
    for (name, value) in &call.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    head.push_str(body);
    head.into_bytes()
}

fn send(connection: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        connection.set_write_timeout(Some(left(deadline)?))?;
        let count = connection.write(bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn receive_status(connection: &mut TcpStream, deadline: Instant) -> io::Result<u16> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    loop {
        connection.set_read_timeout(Some(left(deadline)?))?;
        let count = match connection.read(&mut piece) {
            Err(interrupted) if interrupted.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Err(io::Error::other("the connection closed before an answer"));
        }
        head.extend_from_slice(&piece[..count]);
        if let Some(status) = final_status(&mut head)? {
            return Ok(status);
        }
        if head.len() > MAX_HEAD {
            return Err(io::Error::other(format!(
                "the answer's headers exceed {MAX_HEAD} bytes"
            )));
        }
    }
}

/// The status of the final answer once its headers are complete; interim ones (1xx) are taken off.
fn final_status(head: &mut Vec<u8>) -> io::Result<Option<u16>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let parsed = answer
            .parse(head)
            .map_err(|bad| io::Error::other(format!("not HTTP: {bad}")))?;
        match (parsed, answer.code) {
            (httparse::Status::Complete(length), Some(100..=199)) => drop(head.drain(..length)),
            (httparse::Status::Complete(_), status) => return Ok(status),
            (httparse::Status::Partial, _) => return Ok(None),
        }
    }
}

/// Reads what is left of an answer until the application closes, within bounds. The agent's half stays
/// open: there are servers that take a half-closed connection for an abandoned one.
fn read_away(mut connection: TcpStream) {
    let end = Instant::now() + BODY_BOUND;
    let mut piece = [0; 4096];
    let mut total = 0;
    while total < BODY_LENGTH {
        let Ok(left) = left(end) else { return };
        if connection.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match connection.read(&mut piece) {
            Ok(count) if count > 0 => total += count,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use colibri_guest_protocol::message::{HookCall, HookOutcome};

    use super::{call_hook, check, request};

    fn hook(port: u16, timeout_ms: u64) -> HookCall {
        let path = "/aws/lambda-microvms/runtime/v1/run".to_owned();
        HookCall {
            port,
            path,
            body: Some("{}".to_owned()),
            headers: Vec::new(),
            timeout_ms,
        }
    }

    fn call(port: u16, timeout_ms: u64) -> HookOutcome {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        call_hook(&hook(port, timeout_ms), deadline).0
    }

    /// A listener that reads a request's head and answers with `answer`; gives back what it read.
    fn application(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = connection.read(&mut request).unwrap();
            connection.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        (port, thread)
    }

    #[test]
    fn the_request_looks_as_the_real_services_does() {
        let (port, application) = application(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(call(port, 5_000), HookOutcome::Status { status: 200 });
        let request = application.join().unwrap();
        assert_eq!(
            request,
            format!(
                "POST /aws/lambda-microvms/runtime/v1/run HTTP/1.1\r\nHost: localhost:{port}\r\n\
                 Connection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            )
        );
    }

    #[test]
    fn without_a_body_there_is_no_content_type() {
        let text = String::from_utf8(request(&HookCall {
            body: None,
            ..hook(80, 1)
        }))
        .unwrap();
        assert!(text.contains("Content-Length: 0\r\n") && !text.contains("Content-Type"));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let (port, _application) =
            application(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n");
        assert_eq!(call(port, 5_000), HookOutcome::Status { status: 503 });
    }

    #[test]
    fn every_other_end_has_its_own_outcome() {
        let (port, _application) = application(b"hello there\r\n\r\n");
        assert!(matches!(call(port, 5_000), HookOutcome::Broken { .. }));
        let (port, _application) = application(b"");
        assert!(matches!(call(port, 5_000), HookOutcome::Broken { .. }));
        let unused = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        assert_eq!(call(unused, 5_000), HookOutcome::Refused);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            call(silent.local_addr().unwrap().port(), 50),
            HookOutcome::TimedOut
        );
    }

    #[test]
    fn a_call_cannot_smuggle_lines_into_the_request() {
        assert!(check(&hook(80, 1)).is_ok());
        assert!(
            check(&HookCall {
                path: "/a b".to_owned(),
                ..hook(80, 1)
            })
            .is_err()
        );
        let headers = vec![("X-A".to_owned(), "1\r\nX-B: 2".to_owned())];
        assert!(
            check(&HookCall {
                headers,
                ..hook(80, 1)
            })
            .is_err()
        );
    }
}
