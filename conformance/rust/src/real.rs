//! The main path on a real machine. Its endpoint is asked with curl: an HTTPS client that trusts a given
//! authority would be the largest part of this program.

use std::env::var;
use std::process::Command;
use std::time::Duration;

use aws_sdk_lambdamicrovms::Client;
use aws_sdk_lambdamicrovms::types::{
    CodeArtifact, HookState, Hooks, IdlePolicy, MicrovmImageHooks, MicrovmImageState, MicrovmState,
    PortSpecification, Resources,
};

use crate::report::{Outcome, check, equal, holds, wait_as_long};
use crate::{BASE_IMAGE, ROLE};

const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:real-rust";
/// A build on an emulated machine takes its time.
const PATIENCE: Duration = Duration::from_secs(400);

/// What one step leaves to the next; where it failed, those fail by themselves.
#[derive(Default)]
struct Made {
    id: String,
    endpoint: String,
    token: String,
}

pub async fn drive(api: &Client) {
    let mut made = Made::default();
    check("CreateMicrovmImage", create(api)).await;
    check("RunMicrovm", run(api, &mut made)).await;
    check("CreateMicrovmAuthToken", mint(api, &mut made)).await;
    check("a request", async { equal("visits", visits(&made)?, 1) }).await;
    check("SuspendMicrovm", suspend(api, &made)).await;
    check("a request that wakes it", async { equal("visits", visits(&made)?, 2) }).await;
    check("ResumeMicrovm", resume(api, &made)).await;
    check("TerminateMicrovm", terminate(api, &made)).await;
}

async fn create(api: &Client) -> Outcome {
    let hooks = MicrovmImageHooks::builder()
        .ready(HookState::Enabled)
        .ready_timeout_in_seconds(120);
    api.create_microvm_image()
        .name("real-rust")
        .base_image_arn(BASE_IMAGE)
        .build_role_arn(ROLE)
        .code_artifact(CodeArtifact::Uri(var("COLIBRI_ARTIFACT")?))
        .resources(Resources::builder().minimum_memory_in_mib(512).build()?)
        .hooks(Hooks::builder().port(8080).microvm_image_hooks(hooks.build()).build())
        .send()
        .await?;
    wait_as_long("the image", PATIENCE, || async {
        let image = api.get_microvm_image().image_identifier(IMAGE).send().await?;
        let failed = *image.state() == MicrovmImageState::CreateFailed;
        holds("the build did not fail", !failed)?;
        Ok((*image.state() == MicrovmImageState::Created).then_some(()))
    })
    .await
}

async fn run(api: &Client, made: &mut Made) -> Outcome {
    let policy = IdlePolicy::builder()
        .max_idle_duration_seconds(3600)
        .suspended_duration_seconds(3600)
        .auto_resume_enabled(true)
        .build()?;
    let call = api.run_microvm().image_identifier(IMAGE).idle_policy(policy);
    let microvm = call.send().await?;
    made.id = microvm.microvm_id().to_owned();
    made.endpoint = microvm.endpoint().to_owned();
    reached(api, made, MicrovmState::Running).await
}

async fn mint(api: &Client, made: &mut Made) -> Outcome {
    let call = api
        .create_microvm_auth_token()
        .microvm_identifier(&made.id)
        .expiration_in_minutes(30)
        .allowed_ports(PortSpecification::Port(8080));
    let token = call.send().await?;
    let value = token.auth_token().get("X-aws-proxy-auth").ok_or("no token")?;
    made.token = value.to_owned();
    Ok(())
}

async fn suspend(api: &Client, made: &Made) -> Outcome {
    api.suspend_microvm().microvm_identifier(&made.id).send().await?;
    reached(api, made, MicrovmState::Suspended).await
}

async fn resume(api: &Client, made: &Made) -> Outcome {
    suspend(api, made).await?;
    api.resume_microvm().microvm_identifier(&made.id).send().await?;
    reached(api, made, MicrovmState::Running).await?;
    equal("visits", visits(made)?, 3)
}

async fn terminate(api: &Client, made: &Made) -> Outcome {
    api.terminate_microvm().microvm_identifier(&made.id).send().await?;
    reached(api, made, MicrovmState::Terminated).await
}

async fn reached(api: &Client, made: &Made, state: MicrovmState) -> Outcome {
    wait_as_long(&format!("{} {state}", made.id), PATIENCE, || async {
        let microvm = api.get_microvm().microvm_identifier(&made.id).send().await?;
        let ended = *microvm.state() == MicrovmState::Terminated && state != MicrovmState::Terminated;
        holds("it lives", !ended)?;
        Ok((*microvm.state() == state).then_some(()))
    })
    .await
}

fn visits(made: &Made) -> Outcome<u64> {
    let output = Command::new("curl")
        .args(["-sS", "--fail-with-body", "--max-time", "120", "--cacert", &var("COLIBRI_CA")?])
        .args(["-H", &format!("X-aws-proxy-auth: {}", made.token)])
        .arg(format!("https://{}/", made.endpoint))
        .output()?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(said["visits"].as_u64().ok_or_else(|| said.to_string())?)
}
