//! Changes of state as events of the audit trail: what a call brought about after it was answered, and
//! what happened without one.

use colibri_audit::{EventType, Record, Resource, Trail, UserIdentity};
use colibri_control::{Cause, Change, Observer, Subject};
use serde_json::{Value, json};

/// The service that changes things by itself.
const SOURCE: &str = "lambda.amazonaws.com";

/// Records every change in a trail.
#[derive(Debug)]
pub struct LifecycleAudit {
    trail: Trail,
    region: String,
    account: String,
}

impl LifecycleAudit {
    /// For the changes of this place.
    #[must_use]
    pub fn new(trail: Trail, region: &str, account: &str) -> Self {
        Self {
            trail,
            region: region.to_owned(),
            account: account.to_owned(),
        }
    }

    fn record(&self, change: Change) -> Record {
        let (name, arn, kind) = match &change.subject {
            Subject::Microvm { id, .. } => (
                "MicrovmStateChange",
                format!(
                    "arn:aws:lambda:{}:{}:microvm:{id}",
                    self.region, self.account
                ),
                "AWS::Lambda::Microvm",
            ),
            Subject::Image { arn } => (
                "MicrovmImageStateChange",
                arn.clone(),
                "AWS::Lambda::MicrovmImage",
            ),
            Subject::Build { image_arn, .. } => (
                "MicrovmImageBuildStateChange",
                image_arn.clone(),
                "AWS::Lambda::MicrovmImage",
            ),
        };
        let mut record = Record::new(
            EventType::AwsServiceEvent,
            SOURCE,
            name,
            &self.region,
            &self.account,
        );
        record.user_identity = UserIdentity {
            kind: "AWSService".to_owned(),
            invoked_by: Some(SOURCE.to_owned()),
            ..UserIdentity::default()
        };
        record.resources = vec![Resource {
            arn,
            account_id: self.account.clone(),
            kind: kind.to_owned(),
        }];
        record.service_event_details = Some(details(change));
        record
    }
}

impl Observer for LifecycleAudit {
    fn changed(&self, change: Change) {
        self.trail.record_now(self.record(change));
    }
}

fn details(change: Change) -> Value {
    let mut details = match change.subject {
        Subject::Microvm {
            id,
            image_arn,
            image_version,
        } => json!({ "microvmId": id, "imageArn": image_arn, "imageVersion": image_version }),
        Subject::Image { arn } => json!({ "imageArn": arn }),
        Subject::Build {
            id,
            image_arn,
            image_version,
        } => json!({ "buildId": id, "imageArn": image_arn, "imageVersion": image_version }),
    };
    details["state"] = change.state.into();
    if let Some(phase) = change.phase {
        details["phase"] = phase.into();
    }
    if let Some(reason) = change.reason {
        details["stateReason"] = reason.into();
    }
    details["cause"] = match change.cause {
        Cause::Request(id) => json!({ "type": "Request", "requestID": id }),
        Cause::Idle => json!({ "type": "Idle" }),
        Cause::Traffic => json!({ "type": "Traffic" }),
        Cause::Guest => json!({ "type": "Guest" }),
        Cause::Service => json!({ "type": "Service" }),
        Cause::Recovery => json!({ "type": "Recovery" }),
    };
    details
}

#[cfg(test)]
mod tests {
    use colibri_control::{Cause, Change, Subject};
    use serde_json::json;

    use super::details;

    #[test]
    fn a_change_says_what_it_is_now_and_which_call_brought_it() {
        let change = Change {
            subject: Subject::Microvm {
                id: "microvm-1".into(),
                image_arn: "arn".into(),
                image_version: "1.0".into(),
            },
            state: "TERMINATING".into(),
            phase: Some("terminating"),
            reason: Some("Success.".into()),
            cause: Cause::Request("r".into()),
        };
        let expected = json!({
            "microvmId": "microvm-1", "imageArn": "arn", "imageVersion": "1.0", "state": "TERMINATING",
            "phase": "terminating", "stateReason": "Success.", "cause": { "type": "Request", "requestID": "r" },
        });
        assert_eq!(details(change), expected);
    }
}
