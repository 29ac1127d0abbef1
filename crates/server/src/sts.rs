//! The one operation of STS that clients call to learn their account: `GetCallerIdentity`.

use colibri_iam::Identity;
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
    let (status, xml) = match action.as_deref() {
        Some("GetCallerIdentity") => (200, caller_identity(identity, request_id)),
        _ => (400, unknown_action(request_id)),
    };
    answer(
        status,
        [("content-type", "text/xml".to_owned())],
        xml.into_bytes(),
    )
}

fn caller_identity(identity: &Identity, request_id: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>",
        escaped(&identity.principal_arn),
        escaped(&identity.access_key_id),
        escaped(&identity.account),
    )
}

fn unknown_action(request_id: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>InvalidAction</Code>\
         <Message>Colibri serves GetCallerIdentity of STS, and nothing else of it.</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>"
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
