//! The messages of the control channel, as JSON inside frames.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A request of the host, with the number under which its [`Response`] comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, unique in a session.
    pub id: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// What the host can ask of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "call", content = "arguments", rename_all = "snake_case")]
pub enum Call {
    /// Opens a session; always the first request.
    Hello(Hello),
    /// Starts the image's application. Answered when the process exists.
    StartApplication(ApplicationSpec),
    /// Makes the machine its own: clock, random pool, machine-id, boot_id, hostname. Answered when
    /// all of it is in force: with [`Answer::Clock`] since version 2, with [`Answer::Done`] before.
    AssumeIdentity(Identity),
    /// Sets the wall clock alone; answered with [`Answer::Clock`]. Since version 2.
    SetClock(WallClock),
    /// Calls a lifecycle hook of the application over the guest's loopback.
    CallHook(HookCall),
    /// Stops the application in order (its stop signal, then a kill after the grace time) and syncs
    /// the disk. The host ends the machine afterwards.
    Stop(Stop),
    /// Answers at once; proves that the agent runs.
    Ping,
}

/// The agent's answer to the request of the same number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    /// The request's number.
    pub id: u32,
    /// What came of it.
    pub result: Result<Answer, AgentFailure>,
}

/// What a request brings back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Call::Hello`].
    Hello(HelloAnswer),
    /// To [`Call::StartApplication`]: the process id in the agent's namespace.
    Started {
        /// Process id.
        pid: u32,
    },
    /// To [`Call::CallHook`].
    Hook(HookOutcome),
    /// To [`Call::SetClock`] and [`Call::AssumeIdentity`]: the guest's wall clock, read when the answer
    /// was made. What passed on the host's clock since then, and no more, the guest's can be behind.
    Clock(WallClock),
    /// To everything else.
    Done,
}

/// A request that the agent could not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the guest agent could not {attempted}: {reason}")]
pub struct AgentFailure {
    /// What was attempted, as a verb phrase: "start the application /app/run".
    pub attempted: String,
    /// Why it failed.
    pub reason: String,
}

/// Opens a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version that the host speaks.
    pub protocol_version: u16,
    /// Random; echoed, so that an answer of an earlier session is not taken for this one's.
    pub session: u64,
}

/// The agent's side of [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The version that the agent speaks, at most the host's.
    pub protocol_version: u16,
    /// The session's number, echoed.
    pub session: u64,
    /// Version of the agent's build, for logs.
    pub agent_version: String,
    /// How the application ended, where it already has: the event may have been lost with the
    /// session that it was sent in.
    pub application_exit: Option<ApplicationExit>,
}

/// The application as the container image and the image version describe it.
#[derive(Clone, Serialize, Deserialize)]
pub struct ApplicationSpec {
    /// Entry point and command, at least one element. Looked up in the `PATH` of `environment`
    /// inside the root file system when it holds no slash.
    pub arguments: Vec<String>,
    /// `KEY=value` entries; later ones win.
    pub environment: Vec<String>,
    /// Working directory inside the root file system; created when missing, as Docker does.
    pub working_directory: String,
    /// `user[:group]`, names or numbers, resolved in the image's own `/etc/passwd`; empty means root.
    pub user: String,
    /// Every capability instead of the container default set (`a80425fb`).
    pub all_capabilities: bool,
    /// Signal number for an orderly stop (15 unless the image says otherwise).
    pub stop_signal: i32,
    /// Name servers for `/etc/resolv.conf`.
    pub name_servers: Vec<String>,
}

/// What makes a machine itself after a restore.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The MicroVM's id, for the agent's log.
    pub microvm_id: String,
    /// New host name, at most 63 bytes.
    pub hostname: String,
    /// 32 lower-case hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// UUID for `/proc/sys/kernel/random/boot_id` as the application sees it.
    pub boot_id: String,
    /// Fresh entropy of the host, base64, at least 32 bytes, credited to the guest's pool.
    pub entropy: String,
    /// The host's wall clock, nanoseconds since the Unix epoch, read just before sending.
    pub wall_clock_unix_nanos: u64,
    /// The machine was restored: nobody is at the other end of its TCP connections to the outside, and
    /// those who wait for one are told.
    #[serde(default)]
    pub reset_connections: bool,
}

/// A wall clock's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallClock {
    /// Nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
}

/// One call of a lifecycle hook.
#[derive(Clone, Serialize, Deserialize)]
pub struct HookCall {
    /// TCP port of the application's hook server.
    pub port: u16,
    /// Path, starting with a slash.
    pub path: String,
    /// JSON body; none sends an empty one.
    pub body: Option<String>,
    /// More request headers.
    pub headers: Vec<(String, String)>,
    /// Bound of the whole call, milliseconds.
    pub timeout_ms: u64,
}

/// How a hook call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum HookOutcome {
    /// The application answered with this HTTP status.
    Status {
        /// HTTP status code.
        status: u16,
    },
    /// Nobody listens on the port.
    Refused,
    /// No answer within the bound.
    TimedOut,
    /// The connection broke or the answer was not HTTP.
    Broken {
        /// What was seen.
        reason: String,
    },
}

/// Asks for an orderly stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stop {
    /// Time between the stop signal and the kill, milliseconds.
    pub grace_ms: u64,
}

/// Something that happened in the guest, unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "value", rename_all = "snake_case")]
pub enum Event {
    /// The application's main process ended. Comes after all of its output; a session that begins
    /// after the exit hears of it twice, here and in [`HelloAnswer::application_exit`].
    ApplicationExited(ApplicationExit),
    /// Output was dropped because no host read it and the agent's buffer was full.
    OutputDropped {
        /// Bytes lost.
        bytes: u64,
    },
}

/// How the application's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationExit {
    /// Exit code; 128 plus the signal's number where a signal ended it, as a shell reports it.
    pub code: i32,
}

// What may be secret (variables, payloads, entropy) is not shown by `Debug`, which logs may use.

impl fmt::Debug for ApplicationSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApplicationSpec")
            .field("arguments", &self.arguments.len())
            .field("environment", &self.environment.len())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("microvm_id", &self.microvm_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HookCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HookCall")
            .field("port", &self.port)
            .field("path", &self.path)
            .field("body", &self.body.as_ref().map(String::len))
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}
