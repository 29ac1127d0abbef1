//! Lifecycle hooks: what is asked of the application, and the reasons that its failure gives
//! (specification, sections 5.6 and 8).

use std::time::Duration;

use colibri_guest_protocol::message::{HookCall, HookOutcome};
use serde::Serialize;

/// Where hooks live (section 8.1).
const ROOT: &str = "/aws/lambda-microvms/runtime/v1/";

const ADVICE: &str = "Please check your hook endpoint and application logs for more details.";

/// A hook of a MicroVM's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Run,
    Resume,
    Suspend,
    Terminate,
}

impl Hook {
    fn path(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Resume => "resume",
            Self::Suspend => "suspend",
            Self::Terminate => "terminate",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Run => "Run",
            Self::Resume => "Resume",
            Self::Suspend => "Suspend",
            Self::Terminate => "Terminate",
        }
    }

    /// The call, `timeout_ms` being its bound in milliseconds.
    pub(crate) fn call(self, port: u16, timeout_ms: u64, body: Option<String>) -> HookCall {
        HookCall {
            port,
            path: format!("{ROOT}{}", self.path()),
            body,
            // The agent adds what every call has, a body's content type included.
            headers: Vec::new(),
            timeout_ms,
        }
    }

    /// Why the MicroVM cannot go on after this outcome; nothing after a 200.
    pub(crate) fn failure(self, outcome: &HookOutcome) -> Option<String> {
        let name = self.name();
        match outcome {
            HookOutcome::Status { status: 200 } => None,
            HookOutcome::Status { status } => Some(format!(
                "{name} lifecycle hook returned HTTP status {status}. {ADVICE}"
            )),
            HookOutcome::Refused => Some(format!(
                "{name} lifecycle hook connection was refused. {ADVICE}"
            )),
            HookOutcome::TimedOut => Some(format!("{name} lifecycle hook timed out")),
            HookOutcome::Broken { .. } => Some(format!("{name} lifecycle hook failed. {ADVICE}")),
        }
    }
}

/// The header that tells `/resume` how long the machine slept: seconds, to the millisecond.
pub(crate) fn slept_header(slept: Duration) -> (String, String) {
    let value = format!("{}.{:03}", slept.as_secs(), slept.subsec_millis());
    ("X-Colibri-Slept-Seconds".to_owned(), value)
}

/// Body of the `/run` hook, members in the service's order; without a payload there is no such member.
pub(crate) fn run_body(microvm_id: &str, payload: Option<&str>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        microvm_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_hook_payload: Option<&'a str>,
    }
    // Two strings: there is nothing that could fail.
    serde_json::to_string(&Body {
        microvm_id,
        run_hook_payload: payload,
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Hook, run_body, slept_header};
    use colibri_guest_protocol::message::HookOutcome;

    #[test]
    fn the_run_hooks_body_is_the_services_with_and_without_a_payload() {
        assert_eq!(run_body("microvm-1", None), r#"{"microvmId":"microvm-1"}"#);
        let quoted = run_body("microvm-1", Some("{\"a\":1}"));
        assert_eq!(
            quoted,
            r#"{"microvmId":"microvm-1","runHookPayload":"{\"a\":1}"}"#
        );
    }

    #[test]
    fn a_sleep_is_told_in_decimal_seconds() {
        let told = |millis| slept_header(Duration::from_millis(millis)).1;
        assert_eq!((told(0), told(61_007)), ("0.000".into(), "61.007".into()));
    }

    #[test]
    fn only_a_200_is_a_success() {
        assert_eq!(
            Hook::Run.failure(&HookOutcome::Status { status: 200 }),
            None
        );
        let reason = Hook::Suspend.failure(&HookOutcome::Status { status: 204 });
        assert!(reason.is_some_and(|text| {
            text.starts_with("Suspend lifecycle hook returned HTTP status 204. ")
        }));
    }
}
