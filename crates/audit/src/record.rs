//! An event as CloudTrail records it (record format 1.11); names and nesting are its own.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

/// What stands in place of a value that nobody may read; CloudTrail's own words.
pub const HIDDEN: &str = "HIDDEN_DUE_TO_SECURITY_REASONS";

/// Version of the form.
const EVENT_VERSION: &str = "1.11";

/// Who called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `Root`, `IAMUser`, `AssumedRole`, `AWSService`, or `Unknown` for a caller whose signature was
    /// not right: what is said of it then is its own claim.
    #[serde(rename = "type")]
    pub kind: String,
    /// The principal's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The principal's ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// The principal's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The access key id that signed, or was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The service that acted by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
}

/// What was acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Its ARN.
    #[serde(rename = "ARN")]
    pub arn: String,
    /// Its account.
    #[serde(rename = "accountId")]
    pub account_id: String,
    /// `AWS::Lambda::MicrovmImage`, say.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether somebody called, or something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EventType {
    /// A call of an API.
    AwsApiCall,
    /// The service changed something, on request or by itself.
    AwsServiceEvent,
}

/// CloudTrail's two kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EventCategory {
    /// About the making and keeping of resources.
    Management,
    /// About their use.
    Data,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the form.
    pub event_version: &'static str,
    /// Who.
    pub user_identity: UserIdentity,
    /// When, UTC, to the second.
    pub event_time: String,
    /// The service: `lambda.amazonaws.com`.
    pub event_source: String,
    /// What: the operation, or the kind of change.
    pub event_name: String,
    /// The region.
    pub aws_region: String,
    /// Where from.
    #[serde(rename = "sourceIPAddress")]
    pub source_ip_address: String,
    /// With which client, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Name of the error, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Its message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// What was asked for, without secrets.
    pub request_parameters: Option<Value>,
    /// What was answered by an operation that changes something, without secrets.
    pub response_elements: Option<Value>,
    /// What has no member of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_event_data: Option<Value>,
    /// `x-amzn-RequestId` of the call.
    #[serde(rename = "requestID", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The event's own id.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// Whether the call could change nothing.
    pub read_only: bool,
    /// On what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// Call or change.
    pub event_type: EventType,
    /// Whether it is a management event.
    pub management_event: bool,
    /// The account whose event it is.
    pub recipient_account_id: String,
    /// What a change was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_event_details: Option<Value>,
    /// Management or data.
    pub event_category: EventCategory,
}

impl Record {
    /// An event of now, with a new id, that says nothing more than this yet.
    #[must_use]
    pub fn new(
        event_type: EventType,
        source: &str,
        name: &str,
        region: &str,
        account: &str,
    ) -> Self {
        Self {
            event_version: EVENT_VERSION,
            user_identity: UserIdentity::default(),
            event_time: event_time(OffsetDateTime::now_utc()),
            event_source: source.to_owned(),
            event_name: name.to_owned(),
            aws_region: region.to_owned(),
            source_ip_address: source.to_owned(),
            user_agent: None,
            error_code: None,
            error_message: None,
            request_parameters: None,
            response_elements: None,
            additional_event_data: None,
            request_id: None,
            event_id: Uuid::new_v4().to_string(),
            read_only: false,
            resources: Vec::new(),
            event_type,
            management_event: true,
            recipient_account_id: account.to_owned(),
            service_event_details: None,
            event_category: EventCategory::Management,
        }
    }

    /// As an event of this category.
    #[must_use]
    pub fn in_category(mut self, category: EventCategory) -> Self {
        self.event_category = category;
        self.management_event = category == EventCategory::Management;
        self
    }
}

fn event_time(now: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    now.format(&form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{EventCategory, EventType, Record};

    #[test]
    fn members_have_cloudtrails_names_and_absent_ones_are_left_out() {
        let mut record = Record::new(
            EventType::AwsApiCall,
            "lambda.amazonaws.com",
            "RunMicrovm",
            "us-east-1",
            "000000000000",
        )
        .in_category(EventCategory::Data);
        record.request_id = Some("r".into());
        record.source_ip_address = "192.0.2.1".into();
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["eventVersion"], "1.11");
        assert_eq!(written["eventName"], "RunMicrovm");
        assert_eq!(written["sourceIPAddress"], "192.0.2.1");
        assert_eq!(written["requestID"], "r");
        assert_eq!(written["eventType"], "AwsApiCall");
        assert_eq!(written["managementEvent"], json!(false));
        assert_eq!(written["eventCategory"], "Data");
        assert_eq!(written["requestParameters"], json!(null));
        assert!(written.get("errorCode").is_none());
        let time = written["eventTime"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    }
}
