//! STS: who am I, and temporary keys. The query protocol: form-encoded in, XML out.

use std::borrow::Cow;
use std::time::SystemTime;

use colibri_audit::record::HIDDEN;
use colibri_iam::policy::Decision;
use colibri_iam::session::{RoleRequest, SessionError, TemporaryKey};
use colibri_iam::{Identity, Principal, Rejection};
use http::Response;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{error, info};

use crate::answer::{AnswerBody, answer};
use crate::audit::tell;
use crate::authorization::{Caller, Denied};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Parameters that ask for what is not done here. Left out silently they would give a key other rights
/// than its caller thinks.
const UNSUPPORTED: [&str; 6] = [
    "PolicyArns.",
    "Tags.",
    "TransitiveTagKeys.",
    "ProvidedContexts.",
    "SourceIdentity",
    "TokenCode",
];

/// The actions that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Always allowed.
    GetCallerIdentity,
    /// The role and the caller's policies must allow it.
    AssumeRole,
    /// Always allowed to a lasting key: it gives no right that the key has not.
    GetSessionToken,
}

impl Action {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [
        Self::GetCallerIdentity,
        Self::AssumeRole,
        Self::GetSessionToken,
    ];

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "GetCallerIdentity" => Self::GetCallerIdentity,
            "AssumeRole" => Self::AssumeRole,
            "GetSessionToken" => Self::GetSessionToken,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::AssumeRole => "AssumeRole",
            Self::GetSessionToken => "GetSessionToken",
        }
    }
}

/// A call that fails, in the words of STS. `Display` is the message that the client reads.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(
        "Colibri serves GetCallerIdentity, AssumeRole and GetSessionToken of STS, and nothing else of it."
    )]
    UnknownAction,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    MalformedPolicy(SessionError),
    #[error("{0}")]
    Denied(Denied),
    #[error("{0}")]
    NotForSessions(SessionError),
    #[error("{0}")]
    TooMany(SessionError),
    #[error("a temporary key could not be made")]
    Failed(SessionError),
}

impl Fault {
    fn code(&self) -> (u16, &'static str) {
        match self {
            Self::UnknownAction => (400, "InvalidAction"),
            Self::Invalid(_) => (400, "ValidationError"),
            Self::MalformedPolicy(_) => (400, "MalformedPolicyDocument"),
            Self::Denied(_) | Self::NotForSessions(_) => (403, "AccessDenied"),
            Self::TooMany(_) => (400, "Throttling"),
            Self::Failed(_) => (500, "InternalFailure"),
        }
    }
}

/// The parameters of a call.
struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Form<'a> {
    fn read(body: &'a [u8]) -> Self {
        Self(form_urlencoded::parse(body).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        let found = pairs.find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    fn required(&self, name: &str) -> Result<&str, Fault> {
        let missing = || Fault::Invalid(format!("the parameter {name} is missing"));
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(missing)
    }

    fn seconds(&self) -> Result<Option<u32>, Fault> {
        let read = |text: &str| {
            let wrong = || Fault::Invalid(format!("DurationSeconds is no number: {text}"));
            text.parse().map_err(|_| wrong())
        };
        self.get("DurationSeconds").map(read).transpose()
    }

    fn refuse_unsupported(&self) -> Result<(), Fault> {
        let asked = self.0.iter().map(|(key, _)| key);
        let mut unsupported =
            asked.filter(|key| UNSUPPORTED.iter().any(|name| key.starts_with(name)));
        unsupported.next().map_or(Ok(()), |key| {
            Err(Fault::Invalid(format!(
                "the parameter {key} is not supported here"
            )))
        })
    }
}

/// What an answer holds, and what of it may be written down.
type Answered = (String, Option<Value>);

/// Answers a call.
pub(crate) async fn answer_action(
    body: &[u8],
    caller: &Caller,
    request_id: &str,
) -> Response<AnswerBody> {
    let form = Form::read(body);
    let action = form.get("Action").and_then(Action::parse);
    let outcome = match action {
        Some(Action::GetCallerIdentity) => Ok((caller_identity(&caller.identity), None)),
        Some(Action::AssumeRole) => assume_role(&form, caller).await,
        Some(Action::GetSessionToken) => session_token(&form, caller).await,
        None => Err(Fault::UnknownAction),
    };
    let operation = action.map_or("unknown", Action::name);
    match outcome {
        Ok((result, elements)) => {
            info!(request_id, operation, status = 200, "answered");
            let response = format!(
                "<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>{result}</{operation}Result>\
                 <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
            );
            let mut response = xml(200, response);
            tell(&mut response, |told| told.elements = elements);
            response
        }
        Err(fault) => {
            let (status, code) = fault.code();
            if let Fault::Failed(cause) = &fault {
                error!(request_id, operation, ?cause, "an operation failed");
            }
            info!(request_id, operation, status, "answered");
            failure(status, code, &fault.to_string(), request_id)
        }
    }
}

fn caller_identity(identity: &Identity) -> String {
    format!(
        "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
        escaped(&identity.principal_arn),
        escaped(&identity.principal_id),
        escaped(&identity.account),
    )
}

async fn assume_role(form: &Form<'_>, caller: &Caller) -> Result<Answered, Fault> {
    form.refuse_unsupported()?;
    let role_arn = form.required("RoleArn")?;
    let mut context = caller.circumstances.clone();
    let session_name = form.required("RoleSessionName")?;
    context.set("sts:RoleSessionName", session_name);
    if let Some(id) = form.get("ExternalId") {
        context.set("sts:ExternalId", id);
    }
    let request = RoleRequest {
        role_arn: role_arn.to_owned(),
        session_name: session_name.to_owned(),
        duration_seconds: form.seconds()?,
        policy: form.get("Policy").map(str::to_owned),
        context,
    };
    let made = caller
        .principals
        .assume_role(&caller.identity, request, SystemTime::now())
        .await;
    let key = made.map_err(|error| fault(error, caller, role_arn))?;
    let Principal::AssumedRole { .. } = key.identity.principal else {
        return Err(Fault::Failed(SessionError::Untrusted));
    };
    let answer = format!(
        "<AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>{}</AssumedRoleId></AssumedRoleUser>{}",
        escaped(&key.identity.principal_arn),
        escaped(&key.identity.principal_id),
        credentials(&key)
    );
    Ok((answer, Some(assumed(&key))))
}

async fn session_token(form: &Form<'_>, caller: &Caller) -> Result<Answered, Fault> {
    form.refuse_unsupported()?;
    let made = caller
        .principals
        .session_token(&caller.identity, form.seconds()?, SystemTime::now())
        .await;
    let key = made.map_err(|error| fault(error, caller, "*"))?;
    let elements = json!({ "credentials": recordable(&key) });
    Ok((credentials(&key), Some(elements)))
}

/// What of a role's session may be written down.
pub(crate) fn assumed(key: &TemporaryKey) -> Value {
    json!({
        "credentials": recordable(key),
        "assumedRoleUser": {
            "arn": key.identity.principal_arn,
            "assumedRoleId": key.identity.principal_id,
        },
    })
}

/// What of a temporary key may be written down: which it is, and when it ends.
fn recordable(key: &TemporaryKey) -> Value {
    json!({
        "accessKeyId": key.identity.access_key_id,
        "sessionToken": HIDDEN,
        "expiration": expiration(key),
    })
}

fn expiration(key: &TemporaryKey) -> String {
    let expires = OffsetDateTime::from(key.expires_at);
    expires.format(&Rfc3339).unwrap_or_default()
}

fn credentials(key: &TemporaryKey) -> String {
    format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>",
        escaped(&key.identity.access_key_id),
        escaped(key.secret.expose()),
        escaped(key.token.expose()),
        expiration(key),
    )
}

fn fault(error: SessionError, caller: &Caller, resource: &str) -> Fault {
    let arn = &caller.identity.principal_arn;
    match error {
        SessionError::Denied(decision @ Decision::Denied(..)) => {
            Fault::Denied(Denied::new(arn, "sts:AssumeRole", resource, &decision))
        }
        SessionError::Untrusted | SessionError::Denied(_) => {
            Fault::Denied(Denied::plain(arn, "sts:AssumeRole", resource))
        }
        SessionError::FromSession => Fault::NotForSessions(error),
        SessionError::Name(_) | SessionError::Duration { .. } => Fault::Invalid(error.to_string()),
        SessionError::Policy(_) | SessionError::PolicyTooLong(_) => Fault::MalformedPolicy(error),
        SessionError::TooMany => Fault::TooMany(error),
        SessionError::Random(_) | SessionError::Store(_) => Fault::Failed(error),
    }
}

/// A request that nobody known has signed, in the words of STS.
pub(crate) fn refuse(rejection: &Rejection, request_id: &str) -> Response<AnswerBody> {
    let code = match rejection {
        Rejection::MissingToken => "MissingAuthenticationToken",
        Rejection::Incomplete(_) => "IncompleteSignature",
        Rejection::UnknownClient => "InvalidClientTokenId",
        Rejection::Ended => "ExpiredToken",
        Rejection::Mismatch | Rejection::OutOfScope(_) => "SignatureDoesNotMatch",
    };
    failure(rejection.status(), code, &rejection.to_string(), request_id)
}

/// An error as every service of the query protocol gives it.
pub(crate) fn failure(
    status: u16,
    code: &str,
    message: &str,
    request_id: &str,
) -> Response<AnswerBody> {
    let escaped = escaped(message);
    let mut response = xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{escaped}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        ),
    );
    tell(&mut response, |told| {
        told.error = Some((code.to_owned(), message.to_owned()));
    });
    response
}

fn xml(status: u16, body: String) -> Response<AnswerBody> {
    answer(
        status,
        [("content-type", "text/xml".to_owned())],
        body.into_bytes(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Form, escaped};

    #[test]
    fn names_cannot_break_out_of_the_answer() {
        assert_eq!(escaped("<a>&</a>"), "&lt;a&gt;&amp;&lt;/a&gt;");
    }

    #[test]
    fn what_would_change_a_keys_rights_is_not_left_out_silently() {
        for body in [
            "Tags.member.1.Key=a",
            "PolicyArns.member.1.arn=a",
            "TokenCode=123456",
        ] {
            assert!(
                Form::read(body.as_bytes()).refuse_unsupported().is_err(),
                "{body}"
            );
        }
        assert!(
            Form::read(b"DurationSeconds=900")
                .refuse_unsupported()
                .is_ok()
        );
    }
}
