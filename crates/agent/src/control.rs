//! The thread that serves the control channel: it reads requests, sends answers, events and output,
//! and hands whatever takes time to another thread.
//!
//! It sleeps in one `epoll_wait` and never polls on a timer. While the host is not connected the
//! port reports a hang-up all the time, which a level-triggered wait would spin on; an edge-triggered
//! one is woken by the driver when the host opens or closes its end
//! (`drivers/char/virtio_console.c`, `VIRTIO_CONSOLE_PORT_OPEN`), after a restore just the same.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use colibri_guest_protocol::frame::FrameKind;
use colibri_guest_protocol::message::{
    AgentFailure, Answer, ApplicationExit, Call, Event, Hello, HelloAnswer, Request, Response,
};
use colibri_guest_protocol::{CLOCK_VERSION, PROTOCOL_VERSION};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::application::Application;
use crate::clock;
use crate::console;
use crate::failure::{Attempt, failure};
use crate::forward::Forwarder;
use crate::hook::HookCallers;
use crate::identity;
use crate::inbox::{Arrival, Inbox};
use crate::mailbox::{Letter, Mailbox};
use crate::outbox::Outbox;
use crate::port::{ControlPort, PortRead};

/// Requests under way at once, over all sessions; more are refused.
const MAX_UNDER_WAY: usize = 64;
/// Read from the port or a pipe at once, bytes.
const SCRATCH: usize = 32 * 1024;
/// Reads of what a dead application left in a pipe: more than a pipe holds.
const LAST_READS: usize = 64;

/// How long a host that came back has for its first word. A new one says at once that it begins a
/// session; the session's own host, whom the driver missed for a moment, may have nothing to say.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

const PORT: u64 = 0;
const BELL: u64 = 1;
const STDOUT: u64 = 2;
const STDERR: u64 = 3;

/// The control thread's state.
pub(crate) struct Control {
    port: ControlPort,
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    application: Arc<Application>,
    forwarder: Option<Forwarder>,
    hooks: HookCallers,
    inbox: Inbox,
    outbox: Outbox,
    outputs: Vec<Output>,
    /// Counts sessions, so that an answer never reaches a session that did not ask.
    session: u64,
    /// The newest version that this session's host speaks.
    host_version: u16,
    under_way: usize,
    /// When a host that came back without a word is taken for the session's own.
    believed_at: Option<Instant>,
    scratch: Vec<u8>,
}

/// The reading end of one of the application's output pipes.
struct Output {
    token: u64,
    pipe: OwnedFd,
    /// Whether it is being waited for; not while the application is held back.
    watched: bool,
}

impl Output {
    fn stream(&self) -> FrameKind {
        if self.token == STDOUT {
            FrameKind::Stdout
        } else {
            FrameKind::Stderr
        }
    }
}

impl Control {
    pub(crate) fn new(
        port: ControlPort,
        mailbox: Arc<Mailbox>,
        application: Arc<Application>,
        forwarder: Option<Forwarder>,
    ) -> Result<Self, AgentFailure> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).attempt(|| "make an epoll".to_owned())?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&epoll, &port, epoll::EventData::new_u64(PORT), edges)
            .attempt(|| "wait for the control port".to_owned())?;
        let bell = epoll::EventData::new_u64(BELL);
        epoll::add(&epoll, mailbox.bell(), bell, epoll::EventFlags::IN)
            .attempt(|| "wait for the agent's threads".to_owned())?;
        let hooks = HookCallers::start(&mailbox)?;
        Ok(Self {
            port,
            epoll,
            mailbox,
            application,
            forwarder,
            hooks,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            outputs: Vec::new(),
            session: 0,
            host_version: 0,
            under_way: 0,
            believed_at: None,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Serves until the machine ends.
    pub(crate) fn serve(mut self) -> Result<Infallible, AgentFailure> {
        let mut events = Vec::with_capacity(8);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                spare_capacity(&mut events),
                self.time_to_wait().as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(broken) => {
                    return Err(broken).attempt(|| "wait for the control port".to_owned());
                }
            }
            for event in &events {
                match event.data.u64() {
                    PORT => self.read_port()?,
                    BELL => self.read_letters(),
                    output => self.read_output(output),
                }
            }
            self.believe_host();
            self.write_port()?;
            self.watch_outputs();
        }
    }

    fn read_port(&mut self) -> Result<(), AgentFailure> {
        loop {
            match self
                .port
                .read(&mut self.scratch)
                .attempt(|| "read the control port".to_owned())?
            {
                PortRead::Nothing => {
                    if self.outbox.is_holding() && self.believed_at.is_none() {
                        self.believed_at = Some(Instant::now() + SIGN_OF_LIFE);
                    }
                    return Ok(());
                }
                PortRead::NoHost => {
                    self.outbox.host_away();
                    self.believed_at = None;
                    return Ok(());
                }
                PortRead::Bytes(count) => {
                    for arrival in self.inbox.take(&self.scratch[..count]) {
                        self.arrived(arrival);
                    }
                }
            }
        }
    }

    /// How long to wait for events: for good, but for a host that has yet to say a word.
    fn time_to_wait(&self) -> Option<Timespec> {
        let left = self.believed_at?.saturating_duration_since(Instant::now());
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    fn believe_host(&mut self) {
        if self.believed_at.is_some_and(|end| end <= Instant::now()) {
            self.host_there();
        }
    }

    fn host_there(&mut self) {
        self.believed_at = None;
        self.outbox.host_there();
    }

    fn write_port(&mut self) -> Result<(), AgentFailure> {
        while let Some(bytes) = self.outbox.next() {
            match self
                .port
                .write(bytes)
                .attempt(|| "write to the control port".to_owned())?
            {
                // The driver wakes the edge-triggered wait when there is room, or a host, again.
                0 => return Ok(()),
                count => self.outbox.wrote(count),
            }
        }
        Ok(())
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::SessionStarted => {
                self.session += 1;
                self.believed_at = None;
                self.outbox.session_started();
            }
            Arrival::Request(request) => {
                self.host_there();
                self.carry_out(request);
            }
            Arrival::Unreadable { id, reason } => {
                self.answer(id, Err(failure("understand the request", reason)));
            }
            Arrival::Lost { reason } => {
                console::error(&format!("lost the control channel's place: {reason}"));
                self.outbox.session_ended();
            }
        }
    }

    fn answer(&mut self, id: u32, result: Result<Answer, AgentFailure>) {
        self.outbox.answer(&Response { id, result });
    }

    fn carry_out(&mut self, request: Request) {
        let Request { id, call } = request;
        match call {
            Call::Hello(hello) => {
                let answer = self.hello(&hello);
                self.answer(id, Ok(Answer::Hello(answer)));
            }
            Call::Ping => self.answer(id, Ok(Answer::Done)),
            Call::AssumeIdentity(identity) => {
                if let Some(forwarder) = &self.forwarder {
                    forwarder.drop_connections();
                }
                let result = identity::assume(&identity).map(|()| self.clock_answer());
                self.answer(id, result);
            }
            Call::SetClock(now) => {
                let result = clock::set(now).map(|()| Answer::Clock(clock::read()));
                self.answer(id, result);
            }
            Call::CallHook(_) | Call::StartApplication(_) | Call::Stop(_) => {
                self.hand_over(id, call);
            }
        }
    }

    /// A host of version 1 does not know the clock's answer.
    fn clock_answer(&self) -> Answer {
        if self.host_version >= CLOCK_VERSION {
            Answer::Clock(clock::read())
        } else {
            Answer::Done
        }
    }

    fn hello(&mut self, hello: &Hello) -> HelloAnswer {
        self.host_version = hello.protocol_version;
        HelloAnswer {
            protocol_version: PROTOCOL_VERSION.min(hello.protocol_version),
            session: hello.session,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            application_exit: self.application.exit(),
        }
    }

    /// Starts what takes time; its outcome comes back as a letter.
    fn hand_over(&mut self, id: u32, call: Call) {
        let session = self.session;
        let started = if self.under_way >= MAX_UNDER_WAY {
            Err(failure(
                "take on another request",
                format!("{MAX_UNDER_WAY} are under way"),
            ))
        } else {
            match call {
                Call::CallHook(hook) => self.hooks.call(session, id, hook),
                Call::StartApplication(spec) => {
                    self.in_thread(id, move |application| application.start(&spec))
                }
                Call::Stop(stop) => self.in_thread(id, move |application| application.stop(&stop)),
                Call::Hello(_) | Call::Ping | Call::AssumeIdentity(_) | Call::SetClock(_) => return,
            }
        };
        match started {
            Ok(()) => self.under_way += 1,
            Err(refused) => self.answer(id, Err(refused)),
        }
    }

    fn in_thread(
        &self,
        id: u32,
        work: impl FnOnce(&Application) -> Result<Answer, AgentFailure> + Send + 'static,
    ) -> Result<(), AgentFailure> {
        let (session, mailbox) = (self.session, Arc::clone(&self.mailbox));
        let application = Arc::clone(&self.application);
        std::thread::Builder::new()
            .name("request".to_owned())
            .spawn(move || {
                let result = work(&application);
                mailbox.post(Letter::Outcome {
                    session,
                    id,
                    result,
                });
            })
            .map(drop)
            .attempt(|| "start a thread".to_owned())
    }

    fn read_letters(&mut self) {
        for letter in self.mailbox.empty() {
            match letter {
                Letter::Outcome {
                    session,
                    id,
                    result,
                } => {
                    self.under_way -= 1;
                    if session == self.session {
                        self.answer(id, result);
                    }
                }
                Letter::ApplicationStarted { stdout, stderr } => {
                    self.outputs = vec![
                        Output {
                            token: STDOUT,
                            pipe: stdout,
                            watched: false,
                        },
                        Output {
                            token: STDERR,
                            pipe: stderr,
                            watched: false,
                        },
                    ];
                }
                Letter::ApplicationExited(exit) => self.application_exited(exit),
            }
        }
    }

    /// The exit comes after all that the application has written: who hears of it may end the
    /// machine at once.
    fn application_exited(&mut self, exit: ApplicationExit) {
        for token in [STDOUT, STDERR] {
            for _ in 0..LAST_READS {
                self.read_output(token);
            }
        }
        self.outbox.event(Event::ApplicationExited(exit));
    }

    fn read_output(&mut self, token: u64) {
        let Some(position) = self.outputs.iter().position(|output| output.token == token) else {
            return;
        };
        let output = &self.outputs[position];
        match rustix::io::read(&output.pipe, &mut self.scratch) {
            Ok(count) if count > 0 => self.outbox.output(output.stream(), &self.scratch[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Closing the pipe takes it out of the epoll as well.
            _ => drop(self.outputs.swap_remove(position)),
        }
    }

    /// Waits for output only while there is room for it: a pipe that nobody empties is what holds
    /// the application back.
    fn watch_outputs(&mut self) {
        let wanted = self.outbox.wants_output();
        for output in &mut self.outputs {
            if output.watched == wanted {
                continue;
            }
            let data = epoll::EventData::new_u64(output.token);
            let changed = if wanted {
                epoll::add(&self.epoll, &output.pipe, data, epoll::EventFlags::IN)
            } else {
                epoll::delete(&self.epoll, output.pipe.as_fd())
            };
            match changed {
                Ok(()) => output.watched = wanted,
                Err(refused) => console::warn(&format!(
                    "could not watch the application's output: {refused}"
                )),
            }
        }
    }
}
