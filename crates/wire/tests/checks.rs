//! What is refused beyond the model's constraints, in the service's words, and what is filled in.

use std::time::Duration;

use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::check::run::{LifetimeBound, RunPlan, WantedVersion};
use colibri_wire::check::{image_identifier, token};
use colibri_wire::id::memory::MemorySize;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::id::version::{BaseImageVersion, ImageVersion};
use colibri_wire::shape::common::Architecture;
use colibri_wire::shape::configuration::ImageConfiguration;
use colibri_wire::shape::microvm::RunMicrovmRequest;
use serde_json::{Value, json};

const BASE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
const CONNECTOR: &str = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:";

fn place() -> Place {
    Place {
        region: Region::parse("us-east-1").expect("a region"),
        account: Account::parse("000000000000").expect("an account"),
    }
}

fn merged(mut base: Value, extra: &Value) -> Value {
    base.as_object_mut()
        .expect("an object")
        .extend(extra.as_object().expect("an object").clone());
    base
}

fn configuration(extra: &Value) -> ImageConfiguration {
    let base = json!({
        "baseImageArn": BASE, "buildRoleArn": "arn:aws:iam::000000000000:role/build",
        "codeArtifact": {"uri": "s3://bucket/app.zip"},
    });
    serde_json::from_value(merged(base, extra)).expect("a configuration")
}

fn build_refusal(extra: &Value) -> String {
    BuildPlan::of(&configuration(extra), &place())
        .expect_err("a refusal")
        .to_string()
}

fn run_request(extra: &Value) -> RunMicrovmRequest {
    let base = json!({"imageIdentifier": "arn:aws:lambda:us-east-1:000000000000:microvm-image:a"});
    serde_json::from_value(merged(base, extra)).expect("a request")
}

fn run_refusal(extra: &Value) -> String {
    RunPlan::of(&run_request(extra), &place(), LifetimeBound::default())
        .expect_err("a refusal")
        .to_string()
}

#[test]
fn an_image_that_asks_for_nothing_gets_the_defaults_and_sees_them() {
    let given = configuration(&json!({"description": "mine"}));
    let plan = BuildPlan::of(&given, &place()).expect("a plan");
    assert_eq!(plan.memory, MemorySize::Mib2048);
    assert_eq!(
        (plan.artifact.bucket(), plan.artifact.key()),
        ("bucket", "app.zip")
    );
    assert_eq!(plan.architectures, []);
    let echo = plan.echoed(&given, BaseImageVersion::of_number(1), Architecture::X86_64);
    let expected = json!({
        "baseImageArn": BASE, "baseImageVersion": "1.0", "buildRoleArn": "arn:aws:iam::000000000000:role/build",
        "codeArtifact": {"uri": "s3://bucket/app.zip"}, "description": "mine",
        "egressNetworkConnectors": [format!("{CONNECTOR}INTERNET_EGRESS")],
        "cpuConfigurations": [{"architecture": "X86_64"}], "resources": [{"minimumMemoryInMiB": 2048}],
    });
    assert_eq!(serde_json::to_value(echo).expect("JSON"), expected);
}

#[test]
fn a_memory_size_that_is_not_offered_is_refused_with_the_list() {
    assert_eq!(
        build_refusal(&json!({"resources": [{"minimumMemoryInMiB": 256}]})),
        format!(
            "The requested memory size of 256 MiB is not supported by base MicroVM image {BASE}. \
             Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
        )
    );
}

#[test]
fn hooks_of_life_need_ready_and_every_hook_needs_a_port() {
    let run = json!({"hooks": {"port": 80, "microvmHooks": {"run": "ENABLED"}}});
    assert!(build_refusal(&run).contains("/ready hook must be enabled"));
    let no_port = json!({"hooks": {"microvmImageHooks": {"ready": "ENABLED"}}});
    assert!(build_refusal(&no_port).contains("port must be specified"));
    let disabled =
        json!({"hooks": {"microvmHooks": {"run": "DISABLED", "runTimeoutInSeconds": 5}}});
    let plan = BuildPlan::of(&configuration(&disabled), &place()).expect("a plan");
    assert_eq!(plan.hooks.run, None);
    let enabled = json!({"hooks": {
        "port": 80, "microvmHooks": {"run": "ENABLED", "suspend": "ENABLED", "suspendTimeoutInSeconds": 9},
        "microvmImageHooks": {"ready": "ENABLED"},
    }});
    let hooks = BuildPlan::of(&configuration(&enabled), &place())
        .expect("a plan")
        .hooks;
    assert_eq!(hooks.ready, Some(Duration::from_secs(30)));
    assert_eq!(hooks.run, Some(Duration::from_secs(1)));
    assert_eq!(hooks.suspend, Some(Duration::from_secs(9)));
}

#[test]
fn what_else_an_image_may_not_ask_for_is_refused_in_the_services_words() {
    for (extra, text) in [
        (
            json!({"codeArtifact": {"uri": "000000000000.dkr.ecr.us-east-1.amazonaws.com/a"}}),
            "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>",
        ),
        (
            json!({"environmentVariables": {"AWS_REGION": "x"}}),
            "Environment variable key 'AWS_REGION' is reserved",
        ),
        (
            json!({"egressNetworkConnectors": ["INTERNET_EGRESS"]}),
            "Malformed network connector ARN",
        ),
        (
            json!({"baseImageArn": "al2023-1"}),
            "Invalid ARN format: al2023-1",
        ),
    ] {
        assert_eq!(build_refusal(&extra), text);
    }
    assert!(build_refusal(&json!({"baseImageVersion": "1.0"})).contains("'1.0'"));
    assert!(
        build_refusal(&json!({"egressNetworkConnectors": [format!("{CONNECTOR}HTTP_INGRESS")]}))
            .contains("not for egress")
    );
    let own = "arn:aws:lambda:us-east-1:000000000000:microvm-image:mine";
    assert!(build_refusal(&json!({"baseImageArn": own})).contains("not a managed MicroVM image"));
}

#[test]
fn a_lifetime_is_bounded_as_on_the_service_or_as_the_operator_says() {
    let week = json!({"maximumDurationInSeconds": 604_800});
    assert_eq!(
        run_refusal(&week),
        "1 validation error detected: Value at 'maximumDurationInSeconds' failed to satisfy constraint: Member must \
         have value less than or equal to 28800"
    );
    let longer = LifetimeBound {
        default_seconds: 3600,
        maximum_seconds: 604_800,
    };
    let seconds = |extra: &Value| {
        let plan = RunPlan::of(&run_request(extra), &place(), longer);
        plan.map(|plan| plan.maximum_duration_seconds).ok()
    };
    assert_eq!(seconds(&week), Some(604_800));
    assert_eq!(seconds(&json!({})), Some(3600));
    assert_eq!(seconds(&json!({"maximumDurationInSeconds": 604_801})), None);
    let idle = |seconds: u32| {
        let policy = json!({"maxIdleDurationSeconds": seconds, "suspendedDurationSeconds": 0, "autoResumeEnabled": true});
        json!({"idlePolicy": policy})
    };
    assert_eq!(
        run_refusal(&idle(28_801)),
        "1 validation error detected: Value at 'idlePolicy.maxIdleDurationSeconds' failed to satisfy constraint: \
         Member must have value less than or equal to 28800"
    );
    assert_eq!(seconds(&idle(604_800)), Some(3600));
}

#[test]
fn a_run_call_gets_http_ingress_and_the_longest_life_by_default() {
    let plan = RunPlan::of(
        &run_request(&json!({"egressNetworkConnectors": []})),
        &place(),
        LifetimeBound::default(),
    )
    .expect("a plan");
    let ingress: Vec<String> = plan.ingress.iter().map(ToString::to_string).collect();
    assert_eq!(ingress, [format!("{CONNECTOR}HTTP_INGRESS")]);
    assert_eq!((plan.egress, plan.maximum_duration_seconds), (None, 28_800));
    assert_eq!(plan.version, WantedVersion::Latest);
    let version = |text| {
        RunPlan::of(
            &run_request(&json!({"imageVersion": text})),
            &place(),
            LifetimeBound::default(),
        )
        .expect("a plan")
        .version
    };
    assert_eq!(
        version("2"),
        WantedVersion::Exact(ImageVersion::of_major(2))
    );
    assert_eq!(version("latest"), WantedVersion::Impossible);
}

#[test]
fn a_run_call_is_refused_in_the_services_words() {
    assert_eq!(
        run_refusal(&json!({"imageIdentifier": "my-app"})),
        "Malformed ARN - doesn't start with 'arn:'"
    );
    let sealed = format!("{CONNECTOR}NO_EGRESS");
    assert_eq!(
        run_refusal(&json!({"egressNetworkConnectors": [sealed]})),
        format!("Unrecognized managed network connector ARN: {sealed}")
    );
    let elsewhere =
        "arn:aws:lambda:eu-west-1:aws:network-connector:aws-network-connector:HTTP_INGRESS";
    assert!(run_refusal(&json!({"ingressNetworkConnectors": [elsewhere]})).contains("us-east-1"));
    let error = image_identifier("my-app").expect_err("a refusal");
    assert_eq!(error.to_string(), "Invalid ARN format: my-app");
}

#[test]
fn a_token_lives_an_hour_at_most_and_its_ranges_run_upwards() {
    assert_eq!(token::expiration_minutes(60), Ok(60));
    let error = token::expiration_minutes(61).expect_err("a refusal");
    assert_eq!(
        error.to_string(),
        "ExpirationMinutes 61 exceeded max allowed of 60."
    );
    let ports =
        serde_json::from_value::<Vec<_>>(json!([{"range": {"startPort": 2, "endPort": 1}}]))
            .expect("ports");
    assert!(token::allowed_ports(&ports).is_err());
}
