//! What a guest remembers, and a test's view of it.

use std::sync::Arc;

use colibri_guest_protocol::message::{ApplicationExit, Event, Identity, WallClock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::faults::lock;
use crate::machine::{MachineState, ToHost};

/// The guest's memory: what a suspension saves and a resume brings back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct GuestMemory {
    pub(crate) requests: u64,
    pub(crate) identity: Option<Identity>,
    pub(crate) identities_assumed: u64,
    pub(crate) hooks: Vec<HookCalled>,
    pub(crate) application_exit: Option<ApplicationExit>,
}

/// A hook call that the application saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCalled {
    /// Last part of the path: `run`.
    pub hook: String,
    /// TCP port.
    pub port: u16,
    /// Body.
    pub body: Option<String>,
    /// Headers beside those that every call has.
    pub headers: Vec<(String, String)>,
}

/// How an application answers a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPlan {
    /// With this HTTP status.
    Status(u16),
    /// Nobody listens.
    Refused,
    /// Not within the bound of the call: the agent says so when it is over.
    Silent,
    /// The application ends instead, with this exit code.
    Exits(i32),
}

/// A test's view of a running guest.
pub struct GuestHandle {
    machine: Arc<MachineState>,
}

impl GuestHandle {
    pub(crate) fn new(machine: Arc<MachineState>) -> Self {
        Self { machine }
    }

    /// Requests that the application has answered in its life, suspensions included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.machine.memory).requests
    }

    /// The identity that it assumed last.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        lock(&self.machine.memory).identity.clone()
    }

    /// What its wall clock shows, nanoseconds since the Unix epoch; nothing before it was set.
    #[must_use]
    pub fn wall_clock(&self) -> Option<u64> {
        let (shown, at) = (*lock(&self.machine.clock))?;
        let passed = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Some(shown.unix_nanos.saturating_add(passed))
    }

    /// How often it was told its identity.
    #[must_use]
    pub fn identities_assumed(&self) -> u64 {
        lock(&self.machine.memory).identities_assumed
    }

    /// The hook calls that the application saw in its life.
    #[must_use]
    pub fn hooks(&self) -> Vec<HookCalled> {
        lock(&self.machine.memory).hooks.clone()
    }

    /// Names of the hooks that the application saw, in order.
    #[must_use]
    pub fn hook_names(&self) -> Vec<String> {
        self.hooks().into_iter().map(|call| call.hook).collect()
    }

    /// The name that its machine was started with.
    #[must_use]
    pub fn name(&self) -> String {
        self.machine.id().to_owned()
    }

    /// Whether the guest's CPUs run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.machine.running.borrow()
    }

    /// The application's main process ends with this code.
    pub fn exit_application(&self, code: i32) {
        self.machine.exit_application(code);
    }

    /// The application computes from now on, or stops to; it takes a whole CPU.
    pub fn compute(&self, computes: bool) {
        let taken = self.machine.cpu_time();
        *lock(&self.machine.computing) = (computes.then(Instant::now), taken);
    }

    /// The application prints to its standard output.
    pub fn print(&self, text: &str) {
        self.machine
            .tell_host(ToHost::Stdout(text.as_bytes().to_vec()));
    }
}

impl MachineState {
    /// Sets the wall clock; what it shows then.
    pub(crate) fn set_clock(&self, now: WallClock) -> WallClock {
        *lock(&self.clock) = Some((now, Instant::now()));
        now
    }

    pub(crate) fn exit_application(&self, code: i32) {
        let exit = ApplicationExit { code };
        lock(&self.memory).application_exit = Some(exit);
        self.tell_host(ToHost::Event(Event::ApplicationExited(exit)));
    }
}
