//! Requests signed by botocore itself (`fixtures/sigv4_fixtures.py`), as they are and tampered with.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use colibri_iam::{
    Credential, CredentialSource, Expectation, Identity, PayloadHash, PayloadRule, Rejection,
    Secret, Session, service_of, verify,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    now: u64,
    access_key_id: String,
    secret: String,
    cases: Vec<Case>,
}

#[derive(Deserialize, Clone)]
struct Case {
    name: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Case {
    fn parts(&self) -> Parts {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(header, _)| header != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/botocore.json")).expect("the fixture")
}

fn case(name: &str) -> Case {
    fixture()
        .cases
        .into_iter()
        .find(|case| case.name == name)
        .expect("a case")
}

fn credential(session_token: Option<&str>) -> Credential {
    let fixture = fixture();
    Credential {
        identity: Identity::root("000000000000", &fixture.access_key_id),
        secret: Secret::new(fixture.secret),
        session_token: session_token.map(|token| Secret::new(token.to_owned())),
    }
}

fn at(offset: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        + Duration::from_secs(fixture().now.checked_add_signed(offset).expect("a time"))
}

fn verified(
    case: &Case,
    parts: &Parts,
    source: &dyn CredentialSource,
    now: SystemTime,
) -> Result<Identity, Rejection> {
    let service = service_of(parts).unwrap_or_else(|| "lambda".to_owned());
    let payload = match case.name.as_str() {
        "unsigned payload" => PayloadRule::UnsignedAllowed,
        _ => PayloadRule::Signed,
    };
    let expected = Expectation {
        region: "us-east-1",
        service: &service,
        payload,
    };
    verify(
        parts,
        &PayloadHash::of(case.body.as_bytes()),
        &expected,
        source,
        now,
    )
}

fn session_token(case: &Case) -> Option<&str> {
    case.headers
        .iter()
        .find(|(name, _)| name == "x-amz-security-token")
        .map(|(_, token)| token.as_str())
}

fn check(case: &Case) -> Result<Identity, Rejection> {
    verified(case, &case.parts(), &credential(session_token(case)), at(0))
}

#[test]
fn every_request_that_botocore_signed_is_its_owners() {
    for case in fixture().cases {
        let identity =
            check(&case).unwrap_or_else(|rejection| panic!("{}: {rejection}", case.name));
        assert_eq!(identity.principal_arn, "arn:aws:iam::000000000000:root");
    }
}

#[test]
fn a_request_over_http2_carries_its_host_in_the_target() {
    let case = case("repeated query keys");
    let mut parts = case.parts();
    parts.headers.remove("host");
    parts.uri = format!("http://127.0.0.1:4570{}", case.target)
        .parse()
        .expect("a target");
    assert!(verified(&case, &parts, &credential(None), at(0)).is_ok());
}

#[test]
fn whatever_is_changed_after_signing_spoils_the_signature() {
    for case in fixture().cases {
        let changed = |name: &str, change: &dyn Fn(&mut Case)| {
            let mut changed = case.clone();
            change(&mut changed);
            let rejection = check(&changed).expect_err(name);
            assert_eq!(rejection, Rejection::Mismatch, "{name} of {}", case.name);
        };
        changed("method", &|case| case.method = "PUT".to_owned());
        changed("path", &|case| {
            case.target = case.target.replacen('/', "/x", 1);
        });
        changed("query", &|case| {
            case.target += if case.target.contains('?') {
                "&z=1"
            } else {
                "?z=1"
            }
        });
        changed("host", &|case| case.set("host", "example.com"));
        if case.name != "unsigned payload" {
            changed("body", &|case| case.body.push(' '));
        }
    }
}

#[test]
fn the_place_of_an_encoded_colon_matters_and_so_does_an_added_value_of_a_signed_header() {
    let mut encoded_twice = case("get by an ARN in the path");
    encoded_twice.target = encoded_twice.target.replace("%3A", "%253A");
    assert_eq!(check(&encoded_twice), Err(Rejection::Mismatch));
    let mut doubled = case("header with folded spaces");
    doubled
        .headers
        .push(("x-amz-note".to_owned(), "c".to_owned()));
    assert_eq!(check(&doubled), Err(Rejection::Mismatch));
}

#[test]
fn a_header_that_says_what_only_this_service_knows_must_be_signed() {
    let mut slipped_in = case("json body");
    slipped_in
        .headers
        .push(("x-colibri-if-damaged".to_owned(), "previous".to_owned()));
    let rejection = check(&slipped_in).expect_err("it is not signed");
    assert!(
        rejection
            .to_string()
            .contains("'x-colibri-if-damaged' must be"),
        "{rejection}"
    );
}

#[test]
fn order_of_the_query_does_not_matter_but_its_values_do() {
    let mut reordered = case("repeated query keys");
    reordered.target = reordered
        .target
        .replace("tagKeys=b&tagKeys=a&", "tagKeys=a&tagKeys=b&");
    assert!(check(&reordered).is_ok());
    let mut dropped = case("repeated query keys");
    dropped.target = dropped.target.replace("tagKeys=b&", "");
    assert_eq!(check(&dropped), Err(Rejection::Mismatch));
}

#[test]
fn a_wrong_secret_is_a_mismatch_and_an_unknown_key_is_no_client() {
    let case = case("json body");
    let wrong = Credential {
        secret: Secret::new("x".repeat(40)),
        ..credential(None)
    };
    let rejection = verified(&case, &case.parts(), &wrong, at(0)).expect_err("a rejection");
    let (status, headers, body) = rejection.render();
    assert_eq!((status, headers[1].1), (403, "InvalidSignatureException"));
    let text = String::from_utf8(body).expect("UTF-8");
    assert!(text.starts_with(r#"{"message":"The request signature we calculated does not match"#));
    let other = Credential {
        identity: Identity::root("000000000000", "AKIAOTHER"),
        ..credential(None)
    };
    let rejection = verified(&case, &case.parts(), &other, at(0)).expect_err("a rejection");
    assert_eq!(
        (rejection.status(), rejection.wire_name()),
        (403, "UnrecognizedClientException")
    );
    assert_eq!(
        rejection.to_string(),
        "The security token included in the request is invalid."
    );
}

#[test]
fn a_signature_is_good_for_five_minutes_either_way() {
    let case = case("list without query");
    let signed = |offset| verified(&case, &case.parts(), &credential(None), at(offset));
    for offset in [-300, 300] {
        assert!(signed(offset).is_ok());
    }
    assert_eq!(
        signed(301).expect_err("a rejection").to_string(),
        "Signature expired: 20261122T120000Z is now earlier than 20261122T120001Z (20261122T120501Z - 5 min.)"
    );
    assert_eq!(
        signed(-301).expect_err("a rejection").to_string(),
        "Signature not yet current: 20261122T120000Z is still later than 20261122T115959Z (20261122T115459Z + 5 min.)"
    );
}

#[test]
fn a_session_token_must_be_the_keys_own() {
    let with = case("session token");
    for token in [None, Some("another")] {
        let source = credential(token);
        assert_eq!(
            verified(&with, &with.parts(), &source, at(0)),
            Err(Rejection::UnknownClient)
        );
    }
    let without = case("list without query");
    let source = credential(Some("a-session-token//=="));
    assert_eq!(
        verified(&without, &without.parts(), &source, at(0)),
        Err(Rejection::UnknownClient)
    );
}

#[test]
fn only_the_holder_of_a_key_that_has_ended_learns_that_it_has() {
    let with = case("session token");
    let ended_at = |offset| {
        let mut source = credential(Some("a-session-token//=="));
        source.identity.session = Some(Session {
            issued_at: at(-3600),
            expires_at: at(offset),
            policy: None,
        });
        source
    };
    assert!(verified(&with, &with.parts(), &ended_at(1), at(0)).is_ok());
    let ended = verified(&with, &with.parts(), &ended_at(0), at(0)).expect_err("it has ended");
    assert_eq!(
        (ended.status(), ended.wire_name(), ended.to_string()),
        (
            403,
            "ExpiredTokenException",
            "The security token included in the request is expired".to_owned()
        )
    );
    let wrong = Credential {
        secret: Secret::new("x".repeat(40)),
        ..ended_at(0)
    };
    assert_eq!(
        verified(&with, &with.parts(), &wrong, at(0)),
        Err(Rejection::Mismatch)
    );
}

#[test]
fn a_body_may_be_left_unsigned_only_where_that_is_allowed() {
    let case = case("unsigned payload");
    let expected = Expectation {
        region: "us-east-1",
        service: "lambda",
        payload: PayloadRule::Signed,
    };
    let hash = PayloadHash::of(case.body.as_bytes());
    let rejection =
        verify(&case.parts(), &hash, &expected, &credential(None), at(0)).expect_err("a rejection");
    assert!(rejection.to_string().contains("x-amz-content-sha256"));
}

#[test]
fn a_signature_for_another_region_or_service_is_told_the_right_one() {
    let case = case("list without query");
    let hash = PayloadHash::of(b"");
    for (region, service, text) in [
        ("eu-west-1", "lambda", "'eu-west-1'"),
        ("us-east-1", "s3", "'s3'"),
    ] {
        let expected = Expectation {
            region,
            service,
            payload: PayloadRule::Signed,
        };
        let rejection = verify(&case.parts(), &hash, &expected, &credential(None), at(0))
            .expect_err("a rejection");
        assert_eq!(rejection.wire_name(), "InvalidSignatureException");
        assert!(rejection.to_string().contains(text));
    }
}

#[test]
fn headers_that_say_who_and_when_must_be_signed_and_come_once() {
    for (name, value) in [
        ("x-amz-security-token", "t"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ] {
        let mut added = case("list without query");
        added.set(name, value);
        let rejection = verified(&added, &added.parts(), &credential(None), at(0)).expect_err(name);
        assert_eq!(rejection.wire_name(), "IncompleteSignatureException");
        assert!(rejection.to_string().contains(name));
    }
    for name in ["x-amz-date", "host", "authorization"] {
        let mut doubled = case("list without query");
        let value = doubled
            .headers
            .iter()
            .find(|(header, _)| header == name)
            .expect(name)
            .clone();
        doubled.headers.push(value);
        assert_eq!(
            check(&doubled).expect_err(name).wire_name(),
            "IncompleteSignatureException"
        );
    }
    for missing in ["host", "x-amz-date"] {
        let mut without = case("list without query");
        without.headers.retain(|(name, _)| name != missing);
        assert_eq!(
            check(&without).expect_err(missing).wire_name(),
            "IncompleteSignatureException"
        );
    }
    let mut anonymous = case("list without query");
    anonymous
        .headers
        .retain(|(name, _)| name != "authorization");
    let rejection = check(&anonymous).expect_err("a rejection");
    assert_eq!(
        (rejection.status(), rejection.wire_name()),
        (403, "MissingAuthenticationTokenException")
    );
}

#[test]
fn a_date_of_another_day_than_its_scope_or_of_no_day_is_refused() {
    let mut other = case("list without query");
    other.set("x-amz-date", "20261121T235959Z");
    assert!(
        check(&other)
            .expect_err("a rejection")
            .to_string()
            .starts_with("Date in Credential scope")
    );
    for date in [
        "",
        "now",
        "20261322T120000Z",
        "99999999T999999Z",
        "20261122T120000",
        "20261122T120000Z ",
    ] {
        let mut bad = case("list without query");
        bad.set("x-amz-date", date);
        assert!(check(&bad).is_err() || date.ends_with(' '), "{date}");
    }
}

#[test]
fn hostile_targets_and_headers_are_rejected_and_never_panic() {
    let base = case("list without query");
    let authorization = base
        .headers
        .iter()
        .find(|(name, _)| name == "authorization")
        .expect("one")
        .1
        .clone();
    for target in [
        "/%",
        "/%zz",
        "/%ff?%ff=%",
        "*",
        "/a/../../..",
        "//",
        "/?&&&=&==",
        "/?%00",
        "/\u{e9}",
    ] {
        let Ok(uri) = target.parse() else { continue };
        let mut parts = base.parts();
        parts.uri = uri;
        assert!(
            verified(&base, &parts, &credential(None), at(0)).is_err(),
            "{target}"
        );
    }
    for signed in [
        "host;x-amz-date;x-bytes",
        "host;x-amz-date;",
        ";;;host;x-amz-date",
        "host;host;x-amz-date",
        "HOST;x-amz-date",
        "host;x-amz-date;x-absent",
        "x-amz-date;host",
    ] {
        let mut parts = base.parts();
        let value = authorization.replace("host;x-amz-date", signed);
        parts
            .headers
            .insert("authorization", value.parse().expect("a value"));
        let bytes = HeaderValue::from_bytes(b"\xff\xfe").expect("a value");
        parts
            .headers
            .insert(HeaderName::from_static("x-bytes"), bytes);
        assert!(
            verified(&base, &parts, &credential(None), at(0)).is_err(),
            "{signed}"
        );
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn not_even_the_finest_log_holds_a_token_or_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let case = case("session token");
    let mut changed = case.clone();
    changed.target += "?x=1";
    tracing::subscriber::with_default(subscriber, || {
        tracing::trace!("the log is read");
        assert!(check(&case).is_ok());
        assert!(check(&changed).is_err());
    });
    let text = String::from_utf8(log.0.lock().expect("the log").clone()).expect("UTF-8");
    assert!(text.contains("the log is read"));
    assert!(!text.contains("a-session-token") && !text.contains(&fixture().secret));
}
