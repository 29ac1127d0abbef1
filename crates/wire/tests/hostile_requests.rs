//! Requests that no client sends, many and from fixed seeds: each is refused in the model's words or
//! understood, and none is a panic.

use colibri_wire::{Request, Route};
use serde_json::{Map, Value, json};

const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:a";

/// Numbers from a fixed seed (xorshift).
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    }
}

fn text(number: &mut impl FnMut(usize) -> usize) -> String {
    let texts = [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a",
        "a\0b",
        "a\nb",
        "\u{202e}",
        "é",
        "ENABLED",
        "1.0",
        "1.",
        "$LATEST",
        "-1",
        "99999999999999999999",
        "s3://b/k",
        "s3://",
        "s3:///k",
        "s3://../..",
        IMAGE,
        "arn:aws:lambda:::",
        "arn:aws:lambda:us-east-1:000000000000:microvm-image:..",
        "arn:aws:lambda:us-east-1:000000000000:microvm-image:a:1",
        "microvm-00000000-0000-0000-0000-000000000000",
        "%2e%2e%2f",
        "microvm-",
        "{}",
        "::::::::",
    ];
    match number(6) {
        0 => "x".repeat(number(5000)),
        1 => format!(
            "{}{}",
            texts[number(texts.len())],
            texts[number(texts.len())]
        ),
        _ => texts[number(texts.len())].to_owned(),
    }
}

fn value(number: &mut impl FnMut(usize) -> usize, depth: usize) -> Value {
    match number(if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => json!(number(2) == 0),
        2 => json!([0.5, -1.0, 1e308, f64::MAX][number(4)]),
        3 => json!([i64::MIN, i64::MAX, -1, 0, 1, 8080, 65_536, 28_801][number(8)]),
        4 | 5 => json!(text(number)),
        6 => (0..number(4)).map(|_| value(number, depth - 1)).collect(),
        _ => object(number, depth - 1),
    }
}

fn object(number: &mut impl FnMut(usize) -> usize, depth: usize) -> Value {
    let names = [
        "name",
        "imageIdentifier",
        "imageVersion",
        "clientToken",
        "codeArtifact",
        "uri",
        "baseImageArn",
        "hooks",
        "port",
        "microvmHooks",
        "run",
        "runTimeoutInSeconds",
        "environmentVariables",
        "resources",
        "minimumMemoryInMiB",
        "idlePolicy",
        "maxIdleDurationSeconds",
        "logging",
        "cloudWatch",
        "logGroup",
        "disabled",
        "allowedPorts",
        "range",
        "startPort",
        "endPort",
        "expirationInMinutes",
        "Tags",
        "tags",
        "egressNetworkConnectors",
        "executionRoleArn",
        "buildRoleArn",
        "runHookPayload",
        "maximumDurationInSeconds",
        "status",
        "cpuConfigurations",
        "architecture",
        "additionalOsCapabilities",
        "description",
    ];
    let mut members = Map::new();
    for _ in 0..number(10) {
        members.insert(names[number(names.len())].to_owned(), value(number, depth));
    }
    Value::Object(members)
}

#[test]
fn every_request_is_understood_or_refused() {
    let number = &mut numbers(0x9e37_79b9_7f4a_7c15);
    let encode =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let mut routed = 0;
    for _ in 0..8_000 {
        let label = encode(&text(number));
        let paths = [
            ("POST", "/2025-09-09/microvm-images".to_owned()),
            ("GET", "/2025-09-09/microvm-images".to_owned()),
            ("GET", format!("/2025-09-09/microvm-images/{label}")),
            ("PUT", format!("/2025-09-09/microvm-images/{label}")),
            ("POST", "/2025-09-09/microvms".to_owned()),
            ("GET", format!("/2025-09-09/microvms/{label}")),
            ("DELETE", format!("/2025-09-09/microvms/{label}")),
            ("POST", format!("/2025-09-09/microvms/{label}/auth-token")),
            ("POST", format!("/2025-09-09/microvms/{label}/suspend")),
            ("POST", format!("/2017-03-31/tags/{label}")),
            ("DELETE", format!("/2017-03-31/tags/{label}")),
            ("GET", text(number)),
        ];
        let (method, path) = &paths[number(paths.len())];
        let Some(route) = Route::find(method, path) else {
            continue;
        };
        routed += 1;
        let mut body = object(number, 4).to_string().into_bytes();
        if number(8) == 0 {
            body.truncate(number(body.len() + 1));
        }
        if number(8) == 0 && !body.is_empty() {
            let at = number(body.len());
            body[at] = u8::try_from(number(256)).expect("a byte");
        }
        let query = format!(
            "maxResults={}&nextToken={}&tagKeys={}",
            text(number),
            label,
            text(number)
        );
        let query = (number(2) == 0).then_some(query.as_str());
        if let Err(refused) = Request::parse(route, query, &body) {
            assert!((400..500).contains(&refused.status()), "{refused}");
            assert!(
                refused.to_string().len() < 64 * 1024,
                "a refusal repeats too much"
            );
        }
    }
    assert!(routed > 4_000, "{routed}");
}

#[test]
fn deep_and_wide_json_is_refused_without_a_deep_stack() {
    for body in [
        "[".repeat(900_000),
        "{\"a\":".repeat(180_000),
        format!("{{\"x\":{}1{}}}", "[".repeat(200), "]".repeat(200)),
    ] {
        let route = Route::find("POST", "/2025-09-09/microvms").expect("a route");
        assert!(Request::parse(route, None, body.as_bytes()).is_err());
    }
}
