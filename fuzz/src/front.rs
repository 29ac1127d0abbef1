//! The HTTP front on hostile bytes: a request's head, its signature, its path, query and JSON. Pure:
//! no socket, no state, no clock. The bytes are a request of HTTP/1.1 as it stands on the wire.
//!
//! Nothing may panic, and what must be true of every request is asserted. The fuzz target `front` and
//! a test of `colibri-server`, which tries the corpus again, share this file.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use colibri_iam::{
    Credential, Expectation, Identity, PayloadHash, PayloadRule, Rejection, Secret, service_of,
    verify,
};
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::check::run::{LifetimeBound, RunPlan};
use colibri_wire::check::{image_identifier, token};
use colibri_wire::id::microvm::MicrovmId;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::page::{ListScope, PageKey};
use colibri_wire::{ApiError, Operation, Reply, Request, Route};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Time and key of the requests that botocore signed, which are part of the corpus.
const NOW: Duration = Duration::from_secs(1_795_348_800);
const KEY: &str = "AKIAEXAMPLEEXAMPLE00";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "a-session-token//==";
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";
/// Header fields that a server reads, as hyper has it.
const MAX_HEADERS: usize = 100;

/// Tries a request. Bytes that are no head of a request never come as far as the front.
pub(crate) fn front(bytes: &[u8]) {
    let Some((parts, body)) = read(bytes) else {
        return;
    };
    as_it_came(&parts, body);
    signed_anew(&parts, body);
    routed(&parts, body);
}

/// The request as the HTTP library hands it over.
fn read(bytes: &[u8]) -> Option<(Parts, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else {
        return None;
    };
    let mut request = http::Request::builder()
        .method(head.method?)
        .uri(head.path?);
    for field in head.headers.iter() {
        let name = HeaderName::try_from(field.name).ok()?;
        request = request.header(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some((request.body(()).ok()?.into_parts().0, &bytes[length..]))
}

/// Whoever is found to have signed the request has signed this body, and no other.
fn as_it_came(parts: &Parts, body: &[u8]) {
    let service = service_of(parts).unwrap_or_else(|| "lambda".to_owned());
    for session in [None, Some(SESSION_TOKEN)] {
        let key = credential(session);
        let check = |body: &[u8]| {
            let rule = PayloadRule::Signed;
            verify(
                parts,
                &PayloadHash::of(body),
                &expected(&service, rule),
                &key,
                now(),
            )
        };
        match check(body) {
            Ok(identity) => {
                assert_eq!(identity.access_key_id, KEY);
                assert_eq!(check(&[body, b"x"].concat()), Err(Rejection::Mismatch));
            }
            Err(rejection) => {
                let (status, _, _) = rejection.render();
                assert!((400..500).contains(&status), "{status} for {rejection}");
            }
        }
    }
}

/// What the official signer signs is verified, and spoilt by any change of what it covers.
fn signed_anew(parts: &Parts, body: &[u8]) {
    let Some(signed) = signed(parts, body) else {
        return;
    };
    let key = credential(None);
    let check = |parts: &Parts, body: &[u8]| {
        let expected = expected("lambda", PayloadRule::Signed);
        verify(parts, &PayloadHash::of(body), &expected, &key, now()).map(|_| ())
    };
    assert_eq!(check(&signed, body), Ok(()), "{signed:?}");
    assert_eq!(
        check(&signed, &[body, b"x"].concat()),
        Err(Rejection::Mismatch)
    );
    let mut other = signed.clone();
    other.method = match signed.method {
        http::Method::PATCH => http::Method::GET,
        _ => http::Method::PATCH,
    };
    assert_eq!(check(&other, body), Err(Rejection::Mismatch));
    let mut other = signed;
    other
        .headers
        .insert("host", HeaderValue::from_static("other.example"));
    assert_eq!(check(&other, body), Err(Rejection::Mismatch));
}

/// The request with a signature in place of the one it had; `None` where the signer cannot take it.
fn signed(parts: &Parts, body: &[u8]) -> Option<Parts> {
    let mut signed = parts.clone();
    signed.headers = HeaderMap::new();
    signed
        .headers
        .insert("host", HeaderValue::from_static("127.0.0.1:4570"));
    // Values that are text; one a name, so that the signer and the verifier read the same.
    for (name, value) in &parts.headers {
        let taken = [
            "host",
            "authorization",
            "date",
            "x-amz-date",
            "x-amz-security-token",
            "x-amz-content-sha256",
        ];
        if !taken.contains(&name.as_str()) && value.to_str().is_ok() {
            signed.headers.insert(name.clone(), value.clone());
        }
    }
    let key = Credentials::new(KEY, SECRET, None, None, "fuzz").into();
    let parameters = v4::SigningParams::builder()
        .identity(&key)
        .region(REGION)
        .name("lambda")
        .time(now())
        .settings(SigningSettings::default())
        .build()
        .ok()?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let headers = signed
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let request = SignableRequest::new(
        parts.method.as_str(),
        target,
        headers,
        SignableBody::Bytes(body),
    )
    .ok()?;
    let (instructions, _) = sign(request, &parameters.into()).ok()?.into_parts();
    for (name, value) in instructions.headers() {
        let (name, value) = (
            HeaderName::try_from(name).ok()?,
            HeaderValue::try_from(value).ok()?,
        );
        signed.headers.insert(name, value);
    }
    Some(signed)
}

/// From path, query and body to what the operation means.
fn routed(parts: &Parts, body: &[u8]) {
    let Some(route) = Route::find(parts.method.as_str(), parts.uri.path()) else {
        return;
    };
    let operation = route.operation();
    let outcome = Request::parse(route, parts.uri.query(), body).and_then(|request| {
        assert_eq!(request.operation(), operation);
        meant(&request)
    });
    if let Err(error) = outcome {
        let reply = Reply::failure(&error);
        assert!((400..500).contains(&reply.status), "{operation:?}: {error}");
        assert_eq!(reply.status, error.status());
    }
}

/// What the service checks beyond the model.
fn meant(request: &Request) -> Result<(), ApiError> {
    let place = Place {
        region: Region::parse(REGION).expect("a region"),
        account: Account::parse(ACCOUNT).expect("an account"),
    };
    match request {
        Request::CreateMicrovmImage(r) => BuildPlan::of(&r.configuration, &place).map(|_| ()),
        Request::UpdateMicrovmImage(r) => {
            image_identifier(&r.image_identifier)?;
            BuildPlan::of(&r.configuration, &place).map(|_| ())
        }
        Request::GetMicrovmImage(r) => image_identifier(&r.image_identifier).map(|_| ()),
        Request::RunMicrovm(r) => RunPlan::of(r, &place, LifetimeBound::default()).map(|_| ()),
        Request::GetMicrovm(r) => {
            // Whatever the answer: an ARN of elsewhere is refused by the lookup.
            let _ = MicrovmId::parse_identifier(&r.microvm_identifier, &place);
            Ok(())
        }
        Request::ListMicrovms(r) => {
            continued(Operation::ListMicrovms, r.paging.next_token.as_deref())
        }
        Request::CreateMicrovmAuthToken(r) => {
            token::expiration_minutes(r.expiration_in_minutes)?;
            token::allowed_ports(&r.allowed_ports).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// A token that goes on with a list was made for it by this key: anything else is refused.
fn continued(operation: Operation, token: Option<&str>) -> Result<(), ApiError> {
    let key = PageKey::new([7; 32]);
    let list = ListScope {
        name: operation.name(),
        filters: &[],
    };
    let Some(token) = token else {
        return Ok(());
    };
    let cursor = key.cursor(&list, token)?;
    assert_eq!(key.token(&list, &cursor), token.trim_end_matches('='));
    Ok(())
}

fn credential(session_token: Option<&str>) -> Credential {
    Credential {
        identity: Identity::root(ACCOUNT, KEY),
        secret: Secret::new(SECRET.to_owned()),
        session_token: session_token.map(|token| Secret::new(token.to_owned())),
    }
}

fn expected(service: &str, payload: PayloadRule) -> Expectation<'_> {
    Expectation {
        region: REGION,
        service,
        payload,
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}
