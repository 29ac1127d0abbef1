//! Requests as clients send them, and what is answered to the wrong ones.

use colibri_wire::shape::common::{Architecture, Chipset, Logging};
use colibri_wire::shape::microvm::IdlePolicy;
use colibri_wire::{ApiError, Request, Route};
use serde_json::{Value, json};

const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:a";
const ENCODED_IMAGE: &str = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Amicrovm-image%3Aa";

fn parse(method: &str, target: &str, body: &Value) -> Result<Request, ApiError> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let route = Route::find(method, path).expect("a route");
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    Request::parse(route, query, &body)
}

fn refusal(method: &str, target: &str, body: &Value) -> String {
    let error = parse(method, target, body).expect_err("a refusal");
    assert_eq!(
        (error.status(), error.wire_name()),
        (400, "ValidationException")
    );
    error.to_string()
}

fn run(body: &Value) -> String {
    refusal("POST", "/2025-09-09/microvms", body)
}

#[test]
fn a_full_run_request_is_understood() {
    let body = json!({
        "imageIdentifier": IMAGE, "imageVersion": "1", "clientToken": "t", "somethingNew": {"a": [1]},
        "executionRoleArn": "arn:aws:iam::000000000000:role/run", "runHookPayload": "secret",
        "idlePolicy": {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 0, "autoResumeEnabled": true},
        "logging": {"disabled": {}}, "maximumDurationInSeconds": 28800, "egressNetworkConnectors": [],
    });
    let Ok(Request::RunMicrovm(request)) = parse("POST", "/2025-09-09/microvms", &body) else {
        panic!("not a run request");
    };
    let policy = IdlePolicy {
        max_idle_duration_seconds: 60,
        suspended_duration_seconds: 0,
        auto_resume_enabled: true,
    };
    assert_eq!(request.idle_policy, Some(policy));
    assert!(matches!(request.logging, Some(Logging::Disabled(_))));
    assert_eq!(
        request
            .run_hook_payload
            .as_ref()
            .map(|payload| payload.0.as_str()),
        Some("secret")
    );
    assert!(!format!("{request:?}").contains("secret"));
}

#[test]
fn constraint_failures_have_the_services_form() {
    assert_eq!(
        run(&json!({})),
        "1 validation error detected: Value at 'imageIdentifier' failed to satisfy constraint: \
         Member must not be null"
    );
    assert_eq!(
        run(&json!({"imageIdentifier": IMAGE, "runHookPayload": "é".repeat(4097)})),
        "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: \
         Member must have length less than or equal to 4096"
    );
    assert!(
        parse(
            "POST",
            "/2025-09-09/microvms",
            &json!({"imageIdentifier": IMAGE, "runHookPayload": "é".repeat(4096)})
        )
        .is_ok()
    );
    assert_eq!(
        run(
            &json!({"imageIdentifier": IMAGE, "idlePolicy": {"maxIdleDurationSeconds": 59, "autoResumeEnabled": false}})
        ),
        "2 validation errors detected: Value at 'idlePolicy.maxIdleDurationSeconds' failed to satisfy constraint: \
         Member must have value greater than or equal to 60; \
         Value at 'idlePolicy.suspendedDurationSeconds' failed to satisfy constraint: Member must not be null"
    );
    assert_eq!(
        run(&json!({"imageIdentifier": IMAGE, "ingressNetworkConnectors": vec!["a"; 11]})),
        "1 validation error detected: Value at 'ingressNetworkConnectors' failed to satisfy constraint: \
         Member must have length less than or equal to 10"
    );
    assert_eq!(
        run(&json!({"imageIdentifier": IMAGE, "executionRoleArn": "arn:aws:iam::0:role/x-x-x"})),
        "1 validation error detected: Value at 'executionRoleArn' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: arn:aws[a-z\\-]*:iam::[0-9]{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+"
    );
}

#[test]
fn elements_and_entries_are_reported_under_their_list_or_map() {
    let image = |extra: Value| {
        let mut body = json!({
            "baseImageArn": "a", "buildRoleArn": "arn:aws:iam::000000000000:role/b", "name": "n",
            "codeArtifact": {"uri": "s3://b/k"},
        });
        body.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        refusal("POST", "/2025-09-09/microvm-images", &body)
    };
    assert_eq!(
        image(json!({"additionalOsCapabilities": ["ALL", "SYS_ADMIN"]})),
        "1 validation error detected: Value at 'additionalOsCapabilities' failed to satisfy constraint: \
         Member must satisfy constraint: [Member must satisfy enum value set: [ALL]]"
    );
    assert_eq!(
        image(
            json!({"cpuConfigurations": [{"architecture": "ARM_64"}, {"architecture": "RISCV"}]})
        ),
        "1 validation error detected: Value at 'cpuConfigurations.2.member.architecture' failed to satisfy \
         constraint: Member must satisfy enum value set: [ARM_64, X86_64]"
    );
    assert_eq!(
        image(json!({"environmentVariables": {"A B": "x"}})),
        "1 validation error detected: Value at 'environmentVariables' failed to satisfy constraint: \
         Map keys must satisfy constraint: [Member must have length less than or equal to 256, \
         Member must have length greater than or equal to 1, \
         Member must satisfy regular expression pattern: [^\\s]+]"
    );
    assert_eq!(
        image(
            json!({"hooks": {"port": 0, "microvmHooks": {"run": "ON", "runTimeoutInSeconds": 61}}})
        ),
        "3 validation errors detected: \
         Value at 'hooks.port' failed to satisfy constraint: Member must have value greater than or equal to 1; \
         Value at 'hooks.microvmHooks.run' failed to satisfy constraint: \
         Member must satisfy enum value set: [DISABLED, ENABLED]; \
         Value at 'hooks.microvmHooks.runTimeoutInSeconds' failed to satisfy constraint: \
         Member must have value less than or equal to 60"
    );
    assert_eq!(
        image(json!({"name": "a b"})),
        "1 validation error detected: Value at 'name' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    for (body, text) in [
        (
            json!([]),
            "The request body could not be read: it must be a JSON object",
        ),
        (
            json!({"imageIdentifier": 1}),
            "The request could not be read: 'imageIdentifier' must be a string, not another number",
        ),
        (
            json!({"imageIdentifier": IMAGE, "maximumDurationInSeconds": "60"}),
            "The request could not be read: 'maximumDurationInSeconds' must be a 32-bit integer, not a string",
        ),
        (
            json!({"imageIdentifier": IMAGE, "maximumDurationInSeconds": 3_000_000_000_u32}),
            "The request could not be read: 'maximumDurationInSeconds' must be a 32-bit integer, not another number",
        ),
        (
            json!({"imageIdentifier": IMAGE, "logging": {"disabled": {}, "cloudWatch": {}}}),
            "The request could not be read: 'logging' must set exactly one of [disabled, cloudWatch], not 2",
        ),
        (
            json!({"imageIdentifier": IMAGE, "logging": {"syslog": {}}}),
            "The request could not be read: 'logging' must set exactly one of [disabled, cloudWatch], not 0",
        ),
        (
            json!({"imageIdentifier": IMAGE, "egressNetworkConnectors": [null]}),
            "The request could not be read: 'egressNetworkConnectors' must be a string, not null",
        ),
    ] {
        assert_eq!(run(&body), text);
    }
    let route = Route::find("POST", "/2025-09-09/microvms").expect("a route");
    let error =
        Request::parse(route, None, b"{\"imageIdentifier\": \"hunter2").expect_err("a refusal");
    assert!(
        error
            .to_string()
            .starts_with("The request body could not be read: it is not JSON (")
    );
    assert!(!error.to_string().contains("hunter2"));
}

#[test]
fn a_body_nested_beyond_reason_is_refused() {
    let body = format!("{{\"imageIdentifier\":{}", "[".repeat(100_000));
    let route = Route::find("POST", "/2025-09-09/microvms").expect("a route");
    assert_eq!(
        Request::parse(route, None, body.as_bytes())
            .expect_err("a refusal")
            .status(),
        400
    );
}

#[test]
fn a_request_that_breaks_everything_gets_a_bounded_answer() {
    let text = refusal(
        "POST",
        "/2025-09-09/microvms/m/auth-token",
        &json!({"expirationInMinutes": 1, "allowedPorts": vec![json!({"port": 0}); 10_000]}),
    );
    assert!(text.starts_with("10000 validation errors detected: "));
    assert!(text.len() < 4096);
}

#[test]
fn lifecycle_calls_take_any_body_or_none() {
    for body in [&b""[..], b"{}", b"  ", b"not json"] {
        let route = Route::find("POST", "/2025-09-09/microvms/m/suspend").expect("a route");
        let request = Request::parse(route, None, body).expect("a request");
        assert!(
            matches!(request, Request::SuspendMicrovm(request) if request.microvm_identifier == "m")
        );
    }
}

#[test]
fn the_query_is_read_with_its_types_and_checked() {
    let target = format!(
        "/2025-09-09/microvm-images/{ENCODED_IMAGE}/versions/1.0/builds?maxResults=7&architecture=X86_64&\
         chipset=INTEL&nextToken=a%2Bb&other=1"
    );
    let Ok(Request::ListMicrovmImageBuilds(request)) = parse("GET", &target, &Value::Null) else {
        panic!("not a list request");
    };
    assert_eq!(request.image_identifier, IMAGE);
    assert_eq!(request.paging.limit(), 7);
    assert_eq!(request.paging.next_token.as_deref(), Some("a+b"));
    assert_eq!(
        (request.architecture, request.chipset),
        (Some(Architecture::X86_64), Some(Chipset::Intel))
    );
    let list = |query: &str| {
        refusal(
            "GET",
            &format!("/2025-09-09/microvms?{query}"),
            &Value::Null,
        )
    };
    assert_eq!(
        list("maxResults=51"),
        "1 validation error detected: Value at 'maxResults' failed to satisfy constraint: \
         Member must have value less than or equal to 50"
    );
    assert_eq!(
        list("maxResults=ten"),
        "The request could not be read: 'maxResults' must be a 32-bit integer"
    );
    assert_eq!(
        list("maxResults="),
        "The request could not be read: 'maxResults' must be a 32-bit integer"
    );
}

#[test]
fn tags_are_pascal_case_and_their_keys_repeat() {
    let path = format!("/2017-03-31/tags/{ENCODED_IMAGE}");
    let Ok(Request::TagResource(request)) = parse("POST", &path, &json!({"Tags": {"team": "a b"}}))
    else {
        panic!("not a tag request");
    };
    assert_eq!(
        (request.resource.as_str(), request.tags["team"].as_str()),
        (IMAGE, "a b")
    );
    let Ok(Request::UntagResource(request)) = parse(
        "DELETE",
        &format!("{path}?tagKeys=a&tagKeys=b%20c"),
        &Value::Null,
    ) else {
        panic!("not an untag request");
    };
    assert_eq!(request.tag_keys, ["a", "b c"]);
    assert!(refusal("DELETE", &path, &Value::Null).contains("'TagKeys'"));
    let microvm = "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Amicrovm%3Am";
    assert!(refusal("GET", microvm, &Value::Null).contains("'Resource'"));
}
