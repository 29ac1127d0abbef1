//! The one operation of STS that clients call to learn their account: `GetCallerIdentity`.

use colibri_iam::{Identity, Rejection};
use http::Response;

use crate::answer::{AnswerBody, answer};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Answers a call of the query protocol: form-encoded in, XML out.
pub(crate) fn answer_action(
    body: &[u8],
    identity: &Identity,
    request_id: &str,
) -> Response<AnswerBody> {
    let action = form_urlencoded::parse(body)
        .find(|(key, _)| key == "Action")
        .map(|(_, value)| value);
    match action.as_deref() {
        Some("GetCallerIdentity") => xml(200, caller_identity(identity, request_id)),
        _ => failure(
            400,
            "InvalidAction",
            "Colibri serves GetCallerIdentity of STS, and nothing else of it.",
            request_id,
        ),
    }
}

/// A request that nobody known has signed, in the words of STS.
pub(crate) fn refuse(rejection: &Rejection, request_id: &str) -> Response<AnswerBody> {
    let code = match rejection {
        Rejection::MissingToken => "MissingAuthenticationToken",
        Rejection::Incomplete(_) => "IncompleteSignature",
        Rejection::UnknownClient => "InvalidClientTokenId",
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
    let message = escaped(message);
    xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        ),
    )
}

fn xml(status: u16, body: String) -> Response<AnswerBody> {
    answer(
        status,
        [("content-type", "text/xml".to_owned())],
        body.into_bytes(),
    )
}

fn caller_identity(identity: &Identity, request_id: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>",
        escaped(&identity.principal_arn),
        escaped(&identity.principal_id),
        escaped(&identity.account),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn names_cannot_break_out_of_the_answer() {
        assert_eq!(escaped("<a>&</a>"), "&lt;a&gt;&amp;&lt;/a&gt;");
    }
}
