//! What the audit trail is told of calls: who called what, on what, with what result.
//!
//! A service's answer carries what only that service knows of the call ([`Told`]) in its extensions;
//! the front takes it out again before the answer goes to the client.

use std::net::IpAddr;

use bytes::Bytes;
use colibri_audit::record::HIDDEN;
use colibri_audit::{EventCategory, EventType, Record, Resource, Trail, UserIdentity};
use colibri_iam::{Identity, Principal};
use colibri_wire::{Operation, Route, recordable};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use serde_json::{Map, Value, json};

use crate::answer::AnswerBody;
use crate::extension::IF_DAMAGED;

/// Characters of a client's own words that are kept.
const MAX_WORDS: usize = 512;
/// Bytes of parameters or elements that are kept; CloudTrail cuts at 100 KB.
const MAX_MEMBERS: usize = 64 * 1024;
/// Parameters of STS calls that are written down; some of the others are secret.
const STS_PARAMETERS: [&str; 4] = ["RoleArn", "RoleSessionName", "DurationSeconds", "Policy"];

/// Whether and what the trail is told.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// Whether calls that only read, and succeed, are recorded.
    pub reads: bool,
}

/// What a service says of a call that it answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Who called.
    pub(crate) identity: Option<Identity>,
    /// What was answered, without secrets.
    pub(crate) elements: Option<Value>,
    /// Name and message of the error.
    pub(crate) error: Option<(String, String)>,
}

/// Adds to what is told of a call.
pub(crate) fn tell(response: &mut Response<AnswerBody>, words: impl FnOnce(&mut Told)) {
    words(response.extensions_mut().get_or_insert_default::<Told>());
}

/// The trail, and where this server is.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) trail: Trail,
    pub(crate) settings: AuditSettings,
    pub(crate) region: String,
    pub(crate) account: String,
}

/// A call as far as it is known before it is answered.
pub(crate) struct Call {
    source: String,
    name: String,
    read_only: bool,
    category: EventCategory,
    parameters: Option<Value>,
    claimed_key: Option<String>,
    user_agent: Option<String>,
    peer: IpAddr,
    request_id: String,
}

impl Call {
    /// What a request says, whoever sent it.
    pub(crate) fn of(
        service: &str,
        parts: &Parts,
        body: &Bytes,
        peer: IpAddr,
        request_id: &str,
    ) -> Self {
        let mut call = Self {
            source: event_source(service),
            name: "Unknown".to_owned(),
            read_only: parts.method == Method::GET || parts.method == Method::HEAD,
            category: EventCategory::Management,
            parameters: None,
            claimed_key: claimed_key(&parts.headers),
            user_agent: user_agent(&parts.headers),
            peer,
            request_id: request_id.to_owned(),
        };
        match service {
            "lambda" => call.of_lambda(parts, body),
            "logs" => call.of_logs(parts, body),
            "sts" => call.of_sts(body),
            _ => {}
        }
        call
    }

    fn of_lambda(&mut self, parts: &Parts, body: &[u8]) {
        let Some(route) = Route::find(parts.method.as_str(), parts.uri.path()) else {
            return;
        };
        route.operation().name().clone_into(&mut self.name);
        self.category = category(route.operation());
        self.parameters = recordable::parameters(&route, parts.uri.query(), body, HIDDEN);
        let said = parts.headers.get(IF_DAMAGED);
        if let (Some(Value::Object(parameters)), Some(said)) = (&mut self.parameters, said) {
            let said = shortened(&String::from_utf8_lossy(said.as_bytes()));
            parameters.insert(IF_DAMAGED.to_owned(), Value::String(said));
        }
    }

    fn of_logs(&mut self, parts: &Parts, body: &[u8]) {
        let target = parts.headers.get("x-amz-target");
        let operation = target
            .and_then(|target| target.to_str().ok())
            .and_then(|target| target.split_once('.'))
            .map(|(_, operation)| operation);
        let Some(operation) = operation.filter(|name| is_name(name)) else {
            return;
        };
        operation.clone_into(&mut self.name);
        self.read_only = ["Describe", "Get", "Filter", "List", "Start"]
            .iter()
            .any(|start| operation.starts_with(start));
        // Nothing that a client says to this service is secret; events are not written through it.
        self.parameters = serde_json::from_slice(body).ok().filter(Value::is_object);
    }

    fn of_sts(&mut self, body: &[u8]) {
        let mut parameters = Map::new();
        for (key, value) in form_urlencoded::parse(body) {
            if key == "Action" && is_name(&value) {
                self.name = value.into_owned();
            } else if STS_PARAMETERS.contains(&key.as_ref()) {
                parameters.insert(key.into_owned(), Value::String(value.into_owned()));
            }
        }
        self.read_only = true;
        self.parameters = (!parameters.is_empty()).then_some(Value::Object(parameters));
    }

    /// A call of S3, as the object store says of it.
    pub(crate) fn of_s3(mut self, seen: &colibri_objects::Seen) -> Self {
        if let Some(operation) = &seen.operation {
            operation.clone_into(&mut self.name);
        }
        let mut parameters = Map::new();
        for (name, value) in [("bucketName", &seen.bucket), ("key", &seen.key)] {
            if let Some(value) = value {
                parameters.insert(name.to_owned(), Value::String(value.clone()));
            }
        }
        if seen.key.is_some() {
            self.category = EventCategory::Data;
        }
        self.parameters = (!parameters.is_empty()).then_some(Value::Object(parameters));
        self
    }
}

impl Audit {
    /// Takes what was told out of an answer and records the call.
    pub(crate) async fn record(&self, call: Call, response: &mut Response<AnswerBody>) {
        let told = response.extensions_mut().remove::<Told>();
        let told = told.unwrap_or_default();
        let status = response.status();
        let failed = status.is_client_error() || status.is_server_error();
        if call.read_only && !failed && !self.settings.reads {
            return;
        }
        let mut record = Record::new(
            EventType::AwsApiCall,
            &call.source,
            &call.name,
            &self.region,
            &self.account,
        )
        .in_category(call.category);
        record.user_identity = match &told.identity {
            Some(identity) => user_identity(identity),
            None => unknown(call.claimed_key),
        };
        record.source_ip_address = call.peer.to_string();
        record.user_agent = call.user_agent;
        if failed {
            let (code, message) = told.error.unwrap_or_else(|| {
                let code = response.headers().get("x-amzn-errortype");
                let code = code.and_then(|code| code.to_str().ok());
                (code.unwrap_or(status.as_str()).to_owned(), String::new())
            });
            record.error_code = Some(code);
            record.error_message = Some(shortened(&message)).filter(|text| !text.is_empty());
        }
        record.resources = self.resources(call.parameters.as_ref(), told.elements.as_ref());
        record.request_parameters = call.parameters.map(bounded);
        record.response_elements = told.elements.map(bounded);
        record.request_id = Some(call.request_id);
        record.read_only = call.read_only;
        self.trail.record(record).await;
    }

    /// What parameters and elements name.
    fn resources(&self, parameters: Option<&Value>, elements: Option<&Value>) -> Vec<Resource> {
        let mut resources: Vec<Resource> = Vec::new();
        let mut add = |arn: String, kind: &str| {
            let known = resources.iter().any(|resource| resource.arn == arn);
            if !known && arn.len() <= MAX_WORDS {
                resources.push(Resource {
                    arn,
                    account_id: self.account.clone(),
                    kind: kind.to_owned(),
                });
            }
        };
        for members in [parameters, elements].into_iter().flatten() {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            for name in ["imageIdentifier", "imageArn", "Resource"] {
                if let Some(arn) = text(name).filter(|arn| arn.contains(":microvm-image:")) {
                    add(arn.to_owned(), "AWS::Lambda::MicrovmImage");
                }
            }
            for name in ["microvmIdentifier", "microvmId"] {
                if let Some(id) = text(name) {
                    let id = id.rsplit(':').next().unwrap_or(id);
                    let arn = format!(
                        "arn:aws:lambda:{}:{}:microvm:{id}",
                        self.region, self.account
                    );
                    add(arn, "AWS::Lambda::Microvm");
                }
            }
            if let Some(bucket) = text("bucketName") {
                let arn = format!("arn:aws:s3:::{bucket}");
                match text("key") {
                    Some(key) => add(format!("{arn}/{key}"), "AWS::S3::Object"),
                    None => add(arn, "AWS::S3::Bucket"),
                }
            }
        }
        resources
    }
}

/// Running machines is using an image, as CloudTrail sees it; keeping images is managing.
fn category(operation: Operation) -> EventCategory {
    match operation {
        Operation::RunMicrovm
        | Operation::SuspendMicrovm
        | Operation::ResumeMicrovm
        | Operation::TerminateMicrovm
        | Operation::CreateMicrovmAuthToken
        | Operation::CreateMicrovmShellAuthToken => EventCategory::Data,
        _ => EventCategory::Management,
    }
}

fn user_identity(identity: &Identity) -> UserIdentity {
    UserIdentity {
        kind: identity.kind().to_owned(),
        principal_id: Some(identity.principal_id.clone()),
        arn: Some(identity.principal_arn.clone()),
        account_id: Some(identity.account.clone()),
        access_key_id: Some(identity.access_key_id.clone()),
        user_name: match &identity.principal {
            Principal::User { name } => Some(name.clone()),
            Principal::Root | Principal::AssumedRole { .. } => None,
        },
        invoked_by: None,
    }
}

/// Nobody whose signature was right.
fn unknown(claimed_key: Option<String>) -> UserIdentity {
    UserIdentity {
        kind: "Unknown".to_owned(),
        access_key_id: claimed_key,
        ..UserIdentity::default()
    }
}

fn claimed_key(headers: &HeaderMap) -> Option<String> {
    let signature = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = signature.split_once("Credential=")?;
    let key = credential.split(['/', ',', ' ']).next()?;
    Some(shortened(key)).filter(|key| !key.is_empty())
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(USER_AGENT)?.as_bytes();
    Some(shortened(&String::from_utf8_lossy(given)))
}

/// The service is what a signature claims: a stranger's word.
fn event_source(service: &str) -> String {
    let plain = service.len() <= 32
        && service
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let name = if plain && !service.is_empty() {
        service
    } else {
        "unknown"
    };
    format!("{name}.amazonaws.com")
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_WORDS).collect()
}

fn bounded(members: Value) -> Value {
    let length = members.to_string().len();
    if length <= MAX_MEMBERS {
        return members;
    }
    json!({ "omitted": format!("{length} bytes") })
}
