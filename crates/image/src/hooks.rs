//! Polls the hooks of a build (specification, section 8): `/ready` before the snapshot, `/validate`
//! on a clone. Runtime hooks are the control plane's.

use std::time::Duration;

use async_trait::async_trait;
use colibri_guest_protocol::message::{ApplicationExit, HookCall, HookOutcome};
use tokio::time::{Instant, sleep_until};

use crate::duration::iso8601;
use crate::request::BuildFailure;

/// Time between two calls of a hook that is not ready yet. The live service's is unknown; the guide's
/// examples fit anything from one to several seconds.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Hooks that a build calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildHook {
    /// The application is ready to be frozen.
    Ready,
    /// The application works after a restore.
    Validate,
}

impl BuildHook {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Validate => "Validate",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/aws/lambda-microvms/runtime/v1/ready",
            Self::Validate => "/aws/lambda-microvms/runtime/v1/validate",
        }
    }
}

/// What polling needs of a guest.
#[async_trait]
pub(crate) trait HookedGuest: Send + Sync {
    /// Calls a hook over the guest's loopback.
    async fn call_hook(&self, call: HookCall) -> Result<HookOutcome, BuildFailure>;

    /// Returns when the application has ended, at once where it already has.
    async fn application_exit(&self) -> ApplicationExit;
}

/// Calls `hook` until it answers 200, for at most `bound`. 503, a refused or a broken connection and
/// a call that ran out of time count as "not yet". Returns how many calls it took.
///
/// # Errors
/// Any other status, the bound, and an application that ends meanwhile, in the live service's words.
pub(crate) async fn poll(
    hook: BuildHook,
    guest: &dyn HookedGuest,
    port: u16,
    bound: Duration,
) -> Result<u32, BuildFailure> {
    let deadline = Instant::now() + bound;
    tokio::select! {
        biased;
        exit = guest.application_exit() => Err(stopped(exit)),
        polled = poll_until(hook, guest, port, deadline) => polled,
        () = sleep_until(deadline) => Err(timed_out(hook, bound)),
    }
}

/// An application that ended while it was needed.
pub(crate) fn stopped(exit: ApplicationExit) -> BuildFailure {
    BuildFailure::application(format!("Container Stopped with Exit Code: {}", exit.code))
}

fn timed_out(hook: BuildHook, bound: Duration) -> BuildFailure {
    BuildFailure::application(format!(
        "{} hook invocation timed out after {}",
        hook.name(),
        iso8601(bound)
    ))
}

/// Without an end of its own: [`poll`] bounds it.
async fn poll_until(
    hook: BuildHook,
    guest: &dyn HookedGuest,
    port: u16,
    deadline: Instant,
) -> Result<u32, BuildFailure> {
    for calls in 1.. {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let call = HookCall {
            port,
            path: hook.path().to_owned(),
            body: None,
            headers: Vec::new(),
            timeout_ms: u64::try_from(remaining.as_millis())
                .unwrap_or(u64::MAX)
                .max(1),
        };
        let next = Instant::now() + POLL_INTERVAL;
        match guest.call_hook(call).await? {
            HookOutcome::Status { status: 200 } => return Ok(calls),
            HookOutcome::Status { status: 503 }
            | HookOutcome::Refused
            | HookOutcome::TimedOut
            | HookOutcome::Broken { .. } => {}
            HookOutcome::Status { status } => return Err(refused(hook, status)),
        }
        sleep_until(next).await;
    }
    Ok(u32::MAX)
}

fn refused(hook: BuildHook, status: u16) -> BuildFailure {
    let name = hook.name();
    BuildFailure::application(match status {
        400..=499 => {
            format!(
                "{name} hook check failed: the application returned a client error (HTTP 4xx) response"
            )
        }
        500..=599 => {
            format!(
                "{name} hook check failed: the application returned a server error (HTTP 5xx) response"
            )
        }
        _ => format!(
            "{name} hook check failed: the application returned HTTP status {status} instead of 200"
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;
    use colibri_guest_protocol::message::{ApplicationExit, HookCall, HookOutcome};
    use tokio::time::{Instant, sleep};

    use super::{BuildHook, HookedGuest, poll};
    use crate::request::BuildFailure;

    /// Answers from a script, its last line again and again.
    struct Scripted {
        script: Mutex<Vec<HookOutcome>>,
        calls: Mutex<Vec<HookCall>>,
        exits_after: Option<Duration>,
        hangs: bool,
    }

    fn guest(script: &[HookOutcome]) -> Scripted {
        let script = Mutex::new(script.iter().rev().cloned().collect());
        Scripted {
            script,
            calls: Mutex::default(),
            exits_after: None,
            hangs: false,
        }
    }

    #[async_trait]
    impl HookedGuest for Scripted {
        async fn call_hook(&self, call: HookCall) -> Result<HookOutcome, BuildFailure> {
            self.calls.lock().unwrap().push(call);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            let mut script = self.script.lock().unwrap();
            Ok(if script.len() > 1 {
                script.pop()
            } else {
                script.last().cloned()
            }
            .unwrap())
        }

        async fn application_exit(&self) -> ApplicationExit {
            match self.exits_after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
            ApplicationExit { code: 137 }
        }
    }

    fn status(status: u16) -> HookOutcome {
        HookOutcome::Status { status }
    }

    const MINUTES: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn a_hook_is_asked_again_until_the_application_is_up_and_ready() {
        let broken = HookOutcome::Broken {
            reason: "reset".into(),
        };
        let guest = guest(&[
            HookOutcome::Refused,
            broken,
            status(503),
            HookOutcome::TimedOut,
            status(200),
        ]);
        assert_eq!(
            poll(BuildHook::Ready, &guest, 9000, MINUTES).await.unwrap(),
            5
        );
        let calls = guest.calls.lock().unwrap();
        assert_eq!(
            (calls[0].port, calls[0].path.as_str()),
            (9000, "/aws/lambda-microvms/runtime/v1/ready")
        );
        assert!(
            calls
                .iter()
                .all(|call| call.body.is_none() && call.timeout_ms <= 300_000)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn another_error_fails_at_once_in_the_services_words() {
        for (hook, answer, text) in [
            (
                BuildHook::Ready,
                404,
                "Ready hook check failed: the application returned a client error (HTTP 4xx) response",
            ),
            (
                BuildHook::Ready,
                500,
                "Ready hook check failed: the application returned a server error (HTTP 5xx) response",
            ),
            (
                BuildHook::Validate,
                504,
                "Validate hook check failed: the application returned a server error (HTTP 5xx) response",
            ),
            (
                BuildHook::Validate,
                204,
                "Validate hook check failed: the application returned HTTP status 204 instead of 200",
            ),
        ] {
            let started = Instant::now();
            let failure = poll(hook, &guest(&[status(answer)]), 9000, MINUTES)
                .await
                .unwrap_err();
            assert_eq!(failure.to_string(), text);
            assert_eq!(started.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_ends_it_even_while_a_call_is_held_open() {
        for hangs in [false, true] {
            let mut guest = guest(&[status(503)]);
            guest.hangs = hangs;
            let failure = poll(BuildHook::Ready, &guest, 9000, MINUTES)
                .await
                .unwrap_err();
            assert_eq!(
                failure.to_string(),
                "Ready hook invocation timed out after PT5M"
            );
        }
        let failure = poll(
            BuildHook::Validate,
            &guest(&[HookOutcome::Refused]),
            1,
            MINUTES * 2,
        )
        .await
        .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "Validate hook invocation timed out after PT10M"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_ends_fails_the_build_at_once() {
        let mut guest = guest(&[HookOutcome::Refused]);
        guest.exits_after = Some(Duration::from_secs(3));
        let started = Instant::now();
        let failure = poll(BuildHook::Ready, &guest, 9000, MINUTES)
            .await
            .unwrap_err();
        assert_eq!(failure.to_string(), "Container Stopped with Exit Code: 137");
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }
}
