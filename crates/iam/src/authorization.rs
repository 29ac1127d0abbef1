//! The `Authorization` header of a signed request, read and not yet believed.

use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;

use crate::rejection::Rejection;

/// The only algorithm that is accepted.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature claims to be good for: `KEY/DATE/REGION/SERVICE/aws4_request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialScope {
    /// Access key id.
    pub access_key_id: String,
    /// Day of the signature, `YYYYMMDD`.
    pub date: String,
    /// Region.
    pub region: String,
    /// Service: `lambda`, `s3`, `logs`, `sts`.
    pub service: String,
}

impl CredentialScope {
    fn parse(text: &str) -> Option<Self> {
        // From the right: an access key id may hold slashes, nothing after it does.
        let mut parts = text.rsplitn(5, '/');
        let (end, service, region, date) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let access_key_id = parts.next()?;
        let filled = [access_key_id, date, region, service]
            .iter()
            .all(|part| !part.is_empty());
        (end == "aws4_request" && filled).then(|| Self {
            access_key_id: access_key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
        })
    }
}

/// The parameters of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authorization {
    pub(crate) scope: CredentialScope,
    pub(crate) signed_headers: Vec<String>,
    pub(crate) signature: String,
}

impl Authorization {
    /// Reads the header.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Rejection> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(Rejection::MissingToken)?;
        if values.next().is_some() {
            return Err(incomplete("Authorization header must be given once only."));
        }
        let value = value
            .to_str()
            .map_err(|_| incomplete("Authorization header must be ASCII."))?;
        let parameters = value
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with([' ', '\t']))
            .ok_or_else(|| {
                incomplete("Authorization header requires the AWS4-HMAC-SHA256 algorithm.")
            })?;
        let (credential, signed, signature) = (
            parameter(parameters, "Credential"),
            parameter(parameters, "SignedHeaders"),
            parameter(parameters, "Signature"),
        );
        let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature)
        else {
            let missing: String = [
                ("Credential", credential),
                ("SignedHeaders", signed),
                ("Signature", signature),
            ]
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| format!("Authorization header requires '{name}' parameter. "))
            .collect();
            return Err(incomplete(missing.trim_end()));
        };
        let scope = CredentialScope::parse(credential)
            .ok_or_else(|| incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."))?;
        let signed_headers = signed.split(';').map(str::to_owned).collect();
        Ok(Self {
            scope,
            signed_headers,
            signature: signature.to_owned(),
        })
    }

    pub(crate) fn signs(&self, header: &str) -> bool {
        self.signed_headers.iter().any(|name| name == header)
    }
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
}

pub(crate) fn incomplete(message: &str) -> Rejection {
    Rejection::Incomplete(message.to_owned())
}

/// The service that a request claims to be signed for, in its `Authorization` header or, presigned,
/// in its query. A claim: good for choosing who verifies the request, and for nothing else.
#[must_use]
pub fn service_of(parts: &Parts) -> Option<String> {
    if parts.headers.contains_key(AUTHORIZATION) {
        return Authorization::of(&parts.headers)
            .ok()
            .map(|authorization| authorization.scope.service);
    }
    let query = parts.uri.query()?;
    let credential =
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "X-Amz-Credential")?;
    CredentialScope::parse(&credential.1).map(|scope| scope.service)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::header::AUTHORIZATION;

    use super::{Authorization, service_of};
    use crate::rejection::Rejection;

    fn parts(uri: &str, authorization: &[&str]) -> http::request::Parts {
        let mut request = Request::builder().uri(uri);
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    const GOOD: &str = "AWS4-HMAC-SHA256 Credential=AKIA/20261122/us-east-1/logs/aws4_request, SignedHeaders=host;x-amz-date,Signature=00";

    #[test]
    fn the_claimed_service_is_read_from_header_or_query() {
        assert_eq!(service_of(&parts("/", &[GOOD])).as_deref(), Some("logs"));
        let presigned = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261122%2Fus-east-1%2Fs3%2Faws4_request";
        assert_eq!(service_of(&parts(presigned, &[])).as_deref(), Some("s3"));
        assert_eq!(service_of(&parts("/", &[])), None);
        assert_eq!(service_of(&parts(presigned, &["Bearer x"])), None);
    }

    #[test]
    fn a_header_that_lacks_something_is_told_what() {
        let refusal = |values: &[&str]| match Authorization::of(&parts("/", values).headers) {
            Ok(_) => panic!("accepted {values:?}"),
            Err(rejection) => rejection,
        };
        assert_eq!(refusal(&[]), Rejection::MissingToken);
        let text = refusal(&["AWS4-HMAC-SHA256 Credential=a, Signature="]).to_string();
        assert_eq!(
            text,
            "Authorization header requires 'SignedHeaders' parameter. Authorization header requires 'Signature' parameter."
        );
        for values in [
            &["Bearer hunter2"][..],
            &[GOOD, GOOD],
            &["AWS4-HMAC-SHA256Credential=a"],
            &[
                "AWS4-HMAC-SHA256 Credential=AKIA/20261122/us-east-1/logs, SignedHeaders=host, Signature=00",
            ],
            &[
                "AWS4-HMAC-SHA256 Credential=AKIA//us-east-1/logs/aws4_request, SignedHeaders=host, Signature=00",
            ],
        ] {
            let rejection = refusal(values);
            assert_eq!(rejection.wire_name(), "IncompleteSignatureException");
            assert!(!rejection.to_string().contains("hunter2"));
        }
    }
}
