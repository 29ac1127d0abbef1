//! Lifecycle hooks: what is asked of the application, and the reasons that its failure gives
//! (specification, sections 5.6 and 8).

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
        // The call is a POST; a body has the one content type that there is.
        let headers = body
            .as_ref()
            .map(|_| ("Content-Type".to_owned(), "application/json".to_owned()));
        HookCall {
            port,
            path: format!("{ROOT}{}", self.path()),
            body,
            headers: headers.into_iter().collect(),
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
    use super::{Hook, run_body};
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
