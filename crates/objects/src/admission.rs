//! The first look at a request, before its signature is computed: whether it is signed at all, in the
//! one way that is accepted, for this service and region, and whether the signature covers what it
//! must. Not for the signature itself: s3s verifies it.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;
use s3s::{S3Error, S3Result, s3_error};

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// S3: "the maximum value is 604800 seconds (seven days)".
const LONGEST_PRESIGNED_SECONDS: u32 = 604_800;

/// Headers that start with `x-amz-` and that clients or proxies add after signing.
const UNSIGNED: [&str; 2] = ["x-amz-user-agent", "x-amz-cf-id"];

/// The credential scope of a request.
#[derive(Debug, PartialEq, Eq)]
struct Scope<'a> {
    region: &'a str,
    service: &'a str,
}

impl<'a> Scope<'a> {
    /// From `<access key>/<date>/<region>/<service>/aws4_request`.
    fn parse(credential: &'a str) -> Option<Self> {
        let mut fields = credential.rsplit('/');
        let ("aws4_request", service, region, _date) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        ) else {
            return None;
        };
        fields.next().filter(|key| !key.is_empty())?;
        Some(Self { region, service })
    }
}

/// Whether a request is meant for S3: by the service that it is signed for, in its header or in its
/// query; the older signatures that only S3 knew count, too. An unsigned request is not.
#[must_use]
pub fn is_s3_request(request: &Parts) -> bool {
    let authorization = request.headers.get(header::AUTHORIZATION);
    if let Some(value) = authorization.and_then(|value| value.to_str().ok()) {
        return value.starts_with("AWS ")
            || field(value, "Credential=")
                .and_then(Scope::parse)
                .is_some_and(|scope| scope.service == "s3");
    }
    let query = request.uri.query().unwrap_or_default();
    match parameter(query, "X-Amz-Credential") {
        Some(credential) => Scope::parse(&credential).is_some_and(|scope| scope.service == "s3"),
        None => parameter(query, "AWSAccessKeyId").is_some(),
    }
}

/// Admits a request to the verification of its signature.
pub(crate) fn admit(request: &Parts, region: &str) -> Result<(), Refusal> {
    refuse_forms(request)?;
    let query = request.uri.query().unwrap_or_default();
    let presigned = has_any(query, &["X-Amz-Signature", "X-Amz-Algorithm"]);
    let presigned_before = has_any(query, &["AWSAccessKeyId", "Signature"]);
    let authorization = request.headers.get(header::AUTHORIZATION);
    match (authorization, presigned, presigned_before) {
        (Some(value), false, false) => admit_header(value, &request.headers, region),
        (None, true, false) => admit_query(query, &request.headers, region),
        (None, false, true) => admit_older_query(query),
        (None, false, false) => Err(s3_error!(AccessDenied, "Access Denied").into()),
        _ => Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature \
             query string parameter or the Authorization header should be specified"
        )
        .into()),
    }
}

/// Why a request is not admitted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: S3Error,
    /// The region to sign for instead. The AWS clients read it from the answer and try again.
    pub(crate) region: Option<String>,
}

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Self {
        Self {
            error,
            region: None,
        }
    }
}

/// The presigned form before version 4. boto3 still makes it where S3 once accepted it, which is in
/// us-east-1; in a header it has no use any more.
fn admit_older_query(query: &str) -> Result<(), Refusal> {
    let whole = ["AWSAccessKeyId", "Expires", "Signature"]
        .iter()
        .all(|name| parameter(query, name).is_some_and(|value| !value.is_empty()));
    if whole {
        return Ok(());
    }
    Err(s3_error!(
        AccessDenied,
        "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
    )
    .into())
}

fn has_any(query: &str, names: &[&str]) -> bool {
    names.iter().any(|name| parameter(query, name).is_some())
}

/// Browser uploads are held in memory by s3s, and nothing here needs them.
fn refuse_forms(request: &Parts) -> S3Result<()> {
    let content_type = request.headers.get(header::CONTENT_TYPE);
    let form = content_type.is_some_and(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"multipart/form-data")
    });
    if request.method == Method::POST && form {
        return Err(s3_error!(
            NotImplemented,
            "Uploads by an HTML form are not supported here"
        ));
    }
    Ok(())
}

fn admit_header(value: &HeaderValue, headers: &HeaderMap, region: &str) -> Result<(), Refusal> {
    let value = value.to_str().map_err(|_| malformed("it is not text"))?;
    if value.starts_with("AWS ") {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use {ALGORITHM}."
        )
        .into());
    }
    if value.split_whitespace().next() != Some(ALGORITHM) {
        return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type").into());
    }
    let (Some(credential), Some(signed), Some(_)) = (
        field(value, "Credential="),
        field(value, "SignedHeaders="),
        field(value, "Signature="),
    ) else {
        let why = "it needs the fields Credential, SignedHeaders and Signature";
        return Err(malformed(why).into());
    };
    let scope = Scope::parse(credential).ok_or_else(|| {
        malformed("the Credential must be <access key>/YYYYMMDD/<region>/s3/aws4_request")
    })?;
    check_scope(&scope, region)?;
    Ok(check_signed_headers(signed, headers, &[])?)
}

fn admit_query(query: &str, headers: &HeaderMap, region: &str) -> Result<(), Refusal> {
    let text = |name| parameter(query, name).unwrap_or_default();
    let names = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    ];
    if names.iter().any(|name| text(name).is_empty()) {
        return Err(bad_query(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, \
             X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
             X-Amz-Expires parameters.",
        ));
    }
    if text("X-Amz-Algorithm") != ALGORITHM {
        return Err(bad_query(
            "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
        ));
    }
    check_expiry(&text("X-Amz-Expires"))?;
    let credential = text("X-Amz-Credential");
    let scope = Scope::parse(&credential).ok_or_else(|| {
        bad_query("Error parsing the X-Amz-Credential parameter; the Credential is mal-formed")
    })?;
    check_scope(&scope, region)?;
    // The payload of a presigned request is declared by whoever uses it, after the signing.
    let exempt = ["x-amz-content-sha256"];
    Ok(check_signed_headers(
        &text("X-Amz-SignedHeaders"),
        headers,
        &exempt,
    )?)
}

fn check_expiry(seconds: &str) -> Result<(), Refusal> {
    match seconds.parse::<u32>() {
        Ok(1..=LONGEST_PRESIGNED_SECONDS) => Ok(()),
        Ok(0) | Err(_) => Err(bad_query("X-Amz-Expires should be a positive number")),
        Ok(_) => Err(bad_query(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than 604800 seconds",
        )),
    }
}

fn check_scope(scope: &Scope<'_>, region: &str) -> Result<(), Refusal> {
    if scope.service != "s3" {
        let service = scope.service;
        let why = format!("incorrect service \"{service}\". This endpoint belongs to \"s3\"");
        return Err(malformed(&why).into());
    }
    if scope.region != region {
        let wrong = scope.region;
        let error = malformed(&format!(
            "the region '{wrong}' is wrong; expecting '{region}'"
        ));
        return Err(Refusal {
            error,
            region: Some(region.to_owned()),
        });
    }
    Ok(())
}

/// A signature that leaves out the host or an instruction to S3 would let others change it.
fn check_signed_headers(signed: &str, headers: &HeaderMap, exempt: &[&str]) -> S3Result<()> {
    let signed: Vec<String> = signed.split(';').map(str::to_ascii_lowercase).collect();
    let covered = |name: &str| signed.iter().any(|signed| signed == name);
    let uncovered = headers.keys().map(header::HeaderName::as_str).find(|name| {
        name.starts_with("x-amz-")
            && !UNSIGNED.contains(name)
            && !exempt.contains(name)
            && !covered(name)
    });
    if uncovered.is_none() && covered("host") {
        return Ok(());
    }
    Err(s3_error!(
        AccessDenied,
        "There were headers present in the request which were not signed: {}",
        uncovered.unwrap_or("host")
    ))
}

fn malformed(why: &str) -> S3Error {
    s3_error!(
        AuthorizationHeaderMalformed,
        "The authorization header is malformed; {why}."
    )
}

fn bad_query(message: &'static str) -> Refusal {
    s3_error!(AuthorizationQueryParametersError, "{message}").into()
}

/// A field of an `Authorization` header.
fn field<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value
        .split([',', ' '])
        .find_map(|part| part.trim().strip_prefix(name))
        .filter(|value| !value.is_empty())
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, \
                          SignedHeaders=host;x-amz-date, Signature=00";

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refusal(request: &Parts) -> String {
        admit(request, "us-east-1")
            .unwrap_err()
            .error
            .code()
            .as_str()
            .to_owned()
    }

    #[test]
    fn a_request_for_this_service_and_region_is_admitted() {
        let request = parts("/b/k", &[("authorization", SIGNED), ("x-amz-date", "d")]);
        assert!(admit(&request, "us-east-1").is_ok());
        assert!(is_s3_request(&request));
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let authorized = |value: &str| parts("/b/k", &[("authorization", value)]);
        assert_eq!(refusal(&parts("/b/k", &[])), "AccessDenied");
        assert_eq!(refusal(&authorized("AWS AKID:sig")), "InvalidRequest");
        assert_eq!(refusal(&authorized("Bearer x")), "InvalidArgument");
        let other_region = SIGNED.replace("us-east-1", "eu-west-1");
        assert_eq!(
            refusal(&authorized(&other_region)),
            "AuthorizationHeaderMalformed"
        );
        let other_service = SIGNED.replace("/s3/", "/sts/");
        assert_eq!(
            refusal(&authorized(&other_service)),
            "AuthorizationHeaderMalformed"
        );
        assert!(!is_s3_request(&authorized(&other_service)));
        assert_eq!(
            refusal(&authorized("AWS4-HMAC-SHA256 Credential=x")),
            "AuthorizationHeaderMalformed"
        );
    }

    #[test]
    fn an_instruction_that_is_not_signed_is_refused() {
        let request = parts(
            "/b/k",
            &[
                ("authorization", SIGNED),
                ("x-amz-copy-source", "secret/key"),
            ],
        );
        assert_eq!(refusal(&request), "AccessDenied");
        let no_host = SIGNED.replace("host;", "");
        assert_eq!(
            refusal(&parts("/b/k", &[("authorization", &no_host)])),
            "AccessDenied"
        );
    }

    #[test]
    fn a_presigned_request_is_bounded_to_a_week() {
        let query = |expires: &str| {
            format!(
                "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260101T000000Z&\
                 X-Amz-Credential=AKID%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&\
                 X-Amz-Expires={expires}&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
            )
        };
        assert!(admit(&parts(&query("3600"), &[]), "us-east-1").is_ok());
        assert!(is_s3_request(&parts(&query("3600"), &[])));
        for expires in ["604801", "0", "-1", "", "soon"] {
            let request = parts(&query(expires), &[]);
            assert_eq!(
                refusal(&request),
                "AuthorizationQueryParametersError",
                "{expires}"
            );
        }
    }
}
