//! The host's session with a build machine's agent: its application's output goes to the log, its
//! exit is remembered, its calls fail in words for the image's owner.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use colibri_guest_protocol::client::{ClientError, GuestClient, GuestEvent};
use colibri_guest_protocol::message::{
    ApplicationExit, ApplicationSpec, Event, HookCall, HookOutcome, Identity,
};
use colibri_hypervisor::{ExitCause, Machine};
use rand::RngCore as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::container::with_sources;
use crate::hooks::HookedGuest;
use crate::output::{BuildLog, LineSplitter, Together};
use crate::request::BuildFailure;

/// Bound of one attempt to open a session; a guest that still boots answers a later one.
const ATTEMPT: Duration = Duration::from_secs(15);
/// Between two attempts.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(250);
/// Bounds of calls, generous for software emulation.
const IDENTITY_TIME: Duration = Duration::from_secs(30);
const START_TIME: Duration = Duration::from_secs(60);
/// What a hook call's way to the guest and back may take beyond the hook's own bound.
const HOOK_SLACK: Duration = Duration::from_secs(5);
/// For the last output to reach the log when a session ends.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// Events that wait for the log.
const WAITING_EVENTS: usize = 256;
/// Bytes of fresh entropy for a machine (the protocol asks for 32 at least).
const ENTROPY: usize = 64;

/// A session with the agent of a build's machine.
pub(crate) struct Guest {
    client: GuestClient,
    exit: watch::Receiver<Option<ApplicationExit>>,
    reader: JoinHandle<()>,
}

impl Guest {
    /// Opens a session as soon as the agent answers, within `bound`.
    ///
    /// # Errors
    /// When it does not, or the machine ends.
    pub(crate) async fn connect(
        machine: &Arc<dyn Machine>,
        log: Arc<dyn BuildLog>,
        bound: Duration,
    ) -> Result<Self, BuildFailure> {
        let (events, received) = mpsc::channel(WAITING_EVENTS);
        let client = tokio::select! {
            biased;
            cause = machine.exited() => Err(ended(&cause)),
            client = open(machine, events, bound) => client,
        }?;
        let (ended, exit) = watch::channel(client.hello().application_exit);
        let reader = tokio::spawn(read_events(received, log, ended));
        Ok(Self {
            client,
            exit,
            reader,
        })
    }

    /// Makes the machine its own, with a clock, a random pool and names that no other has.
    pub(crate) async fn assume_fresh_identity(&self) -> Result<(), BuildFailure> {
        let assumed = self
            .client
            .assume_identity(fresh_identity(), IDENTITY_TIME)
            .await;
        assumed.map(drop).map_err(|error| {
            BuildFailure::internal("set the build's machine up", &with_sources(&error))
        })
    }

    /// Starts the application.
    ///
    /// # Errors
    /// In the agent's words where the image is at fault: no such program, no such user.
    pub(crate) async fn start_application(
        &self,
        application: ApplicationSpec,
    ) -> Result<(), BuildFailure> {
        match self.client.start_application(application, START_TIME).await {
            Ok(pid) => {
                tracing::debug!(pid, "the application started");
                Ok(())
            }
            Err(ClientError::Failed(failure)) => {
                let told: String = failure.to_string().chars().take(500).collect();
                Err(BuildFailure::application(format!(
                    "The container's main process could not be started: {told}"
                )))
            }
            Err(error) => Err(BuildFailure::internal(
                "start the application",
                &with_sources(&error),
            )),
        }
    }

    /// Ends the session and waits for its last output.
    pub(crate) async fn close(self) {
        drop(self.client);
        let _ = timeout(LAST_OUTPUT, self.reader).await;
    }
}

#[async_trait]
impl HookedGuest for Guest {
    async fn call_hook(&self, call: HookCall) -> Result<HookOutcome, BuildFailure> {
        let outcome = self.client.call_hook(call, HOOK_SLACK).await;
        outcome.map_err(|error| {
            BuildFailure::internal("call a hook of the application", &with_sources(&error))
        })
    }

    async fn application_exit(&self) -> ApplicationExit {
        let mut exit = self.exit.clone();
        let ended = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit);
        match ended {
            Some(exit) => exit,
            // The session is over; whatever waits beside this learns that from its own call.
            None => std::future::pending().await,
        }
    }
}

async fn open(
    machine: &Arc<dyn Machine>,
    events: mpsc::Sender<GuestEvent>,
    bound: Duration,
) -> Result<GuestClient, BuildFailure> {
    let deadline = Instant::now() + bound;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let opened = match machine.control().await {
            Ok(stream) => GuestClient::connect(stream, events.clone(), remaining.min(ATTEMPT))
                .await
                .map_err(|error| with_sources(&error)),
            Err(error) => Err(with_sources(&error)),
        };
        match opened {
            Ok(client) => return Ok(client),
            Err(reason) if Instant::now() >= deadline => {
                let reason = format!("no session within {} s: {reason}", bound.as_secs());
                return Err(BuildFailure::internal(
                    "reach the agent of the build's machine",
                    &reason,
                ));
            }
            Err(reason) => tracing::debug!(reason, "the agent does not answer yet"),
        }
        sleep(BETWEEN_ATTEMPTS).await;
    }
}

fn ended(cause: &ExitCause) -> BuildFailure {
    let reason = match cause {
        ExitCause::Killed => "it was killed",
        ExitCause::Ended(output) => output,
    };
    BuildFailure::internal("boot the build's machine, which ended on its own", &reason)
}

/// Passes output on and remembers the exit, until the session is over.
async fn read_events(
    mut events: mpsc::Receiver<GuestEvent>,
    log: Arc<dyn BuildLog>,
    exit: watch::Sender<Option<ApplicationExit>>,
) {
    let (mut output, mut errors) = (LineSplitter::default(), LineSplitter::default());
    let mut together = Together::default();
    while let Some(event) = events.recv().await {
        match event {
            GuestEvent::Stdout(bytes) => output.push(&bytes, |line| together.add(line)),
            GuestEvent::Stderr(bytes) => errors.push(&bytes, |line| together.add(line)),
            GuestEvent::Event(Event::OutputDropped { bytes }) => {
                together.add(&format!("{bytes} bytes of output were dropped"));
            }
            GuestEvent::Event(Event::ApplicationExited(how)) => {
                exit.send_replace(Some(how));
            }
            GuestEvent::Disconnected(_) => break,
        }
        together.append_to(&*log);
    }
    output.finish(|line| together.add(line));
    errors.finish(|line| together.add(line));
    together.append_to(&*log);
}

/// An identity of a build's own machine: nothing of it is meant to outlive the build.
fn fresh_identity() -> Identity {
    let mut entropy = [0_u8; ENTROPY];
    rand::rng().fill_bytes(&mut entropy);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let id = uuid::Uuid::new_v4();
    Identity {
        microvm_id: format!("build-{id}"),
        hostname: "localhost".to_owned(),
        machine_id: id.simple().to_string(),
        boot_id: uuid::Uuid::new_v4().to_string(),
        entropy: STANDARD.encode(entropy),
        wall_clock_unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        reset_connections: true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use colibri_guest_protocol::client::GuestEvent;
    use colibri_guest_protocol::message::{ApplicationExit, Event};
    use tokio::sync::{mpsc, watch};

    use super::{fresh_identity, read_events};
    use crate::output::BuildLog;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl BuildLog for Kept {
        fn append(&self, lines: &str) {
            self.0
                .lock()
                .unwrap()
                .extend(lines.lines().map(str::to_owned));
        }
    }

    #[tokio::test]
    async fn both_outputs_reach_the_log_as_whole_lines_and_the_exit_is_remembered() {
        let (events, received) = mpsc::channel(8);
        let (ended, exit) = watch::channel(None);
        for event in [
            GuestEvent::Stdout(b"hel".to_vec()),
            GuestEvent::Stderr(b"oops\n".to_vec()),
            GuestEvent::Stdout(b"lo\nlast".to_vec()),
            GuestEvent::Event(Event::ApplicationExited(ApplicationExit { code: 3 })),
            GuestEvent::Disconnected("gone".into()),
        ] {
            events.send(event).await.unwrap();
        }
        let log = Arc::new(Kept::default());
        read_events(received, log.clone(), ended).await;
        assert_eq!(*log.0.lock().unwrap(), ["oops", "hello", "last"]);
        assert_eq!(exit.borrow().map(|exit| exit.code), Some(3));
    }

    #[test]
    fn no_two_machines_are_the_same() {
        let (one, other) = (fresh_identity(), fresh_identity());
        assert!(
            one.machine_id.len() == 32 && one.machine_id.chars().all(|c| c.is_ascii_hexdigit())
        );
        assert!(
            one.machine_id != other.machine_id
                && one.boot_id != other.boot_id
                && one.entropy != other.entropy
        );
    }
}
