//! The operations on MicroVMs.

use aws_sdk_lambdamicrovms::Client;
use aws_sdk_lambdamicrovms::operation::get_microvm::GetMicrovmOutput;
use aws_sdk_lambdamicrovms::types::{
    IdlePolicy, Logging, LoggingDisabled, MicrovmState, PortRange, PortSpecification,
};

use crate::report::{Outcome, check, equal, holds, wait_for};
use crate::{FIRST, ROLE, SECOND, connector};

/// Runs three; the first of them ends. Their ids.
pub async fn drive(api: &Client) -> Vec<String> {
    let mut microvms = Vec::new();
    check("RunMicrovm", run(api, &mut microvms)).await;
    // Where nothing runs, what follows fails by itself.
    let first = microvms.first().cloned().unwrap_or_default();
    check("GetMicrovm", get(api, &microvms)).await;
    check("ListMicrovms", list(api, &first)).await;
    check("paginator ListMicrovms", page(api, &microvms)).await;
    check("CreateMicrovmAuthToken", token(api, &first)).await;
    check("CreateMicrovmShellAuthToken", shell_token(api, &first)).await;
    check("SuspendMicrovm", suspend(api, &first)).await;
    check("ResumeMicrovm", resume(api, &first)).await;
    check("TerminateMicrovm", terminate(api, &first)).await;
    microvms
}

async fn run(api: &Client, microvms: &mut Vec<String>) -> Outcome {
    let policy = IdlePolicy::builder()
        .max_idle_duration_seconds(600)
        .suspended_duration_seconds(600)
        .auto_resume_enabled(true)
        .build()?;
    let call = api
        .run_microvm()
        .image_identifier(FIRST)
        .image_version("1.0")
        .execution_role_arn(ROLE)
        .idle_policy(policy.clone())
        .logging(Logging::Disabled(LoggingDisabled::builder().build()))
        .run_hook_payload("from Rust")
        .maximum_duration_in_seconds(3600)
        .ingress_network_connectors(connector("HTTP_INGRESS"))
        .ingress_network_connectors(connector("SHELL_INGRESS"))
        .client_token("the-same-microvm");
    let microvm = call.clone().send().await?;
    microvms.push(microvm.microvm_id().to_owned());
    equal("state", microvm.state(), &MicrovmState::Pending)?;
    equal("imageArn", microvm.image_arn(), FIRST)?;
    equal("idlePolicy", microvm.idle_policy(), Some(&policy))?;
    equal("duration", microvm.maximum_duration_in_seconds(), 3600)?;
    equal(
        "egress",
        microvm.egress_network_connectors(),
        [connector("INTERNET_EGRESS")],
    )?;
    equal("replayed", call.send().await?.microvm_id(), &microvms[0])?;
    for _ in 0..2 {
        let microvm = api.run_microvm().image_identifier(SECOND).send().await?;
        microvms.push(microvm.microvm_id().to_owned());
    }
    Ok(())
}

async fn reached(api: &Client, id: &str, state: MicrovmState) -> Outcome<GetMicrovmOutput> {
    wait_for(&format!("{id} {state}"), || async {
        let microvm = api.get_microvm().microvm_identifier(id).send().await?;
        Ok((*microvm.state() == state).then_some(microvm))
    })
    .await
}

async fn get(api: &Client, microvms: &[String]) -> Outcome {
    for id in microvms {
        let microvm = reached(api, id, MicrovmState::Running).await?;
        equal("stateReason", microvm.state_reason(), None)?;
    }
    equal("MicroVMs", microvms.len(), 3)
}

async fn list(api: &Client, first: &str) -> Outcome {
    let call = api
        .list_microvms()
        .image_identifier(FIRST)
        .image_version("1.0");
    let answer = call.send().await?;
    let ids = answer.items().iter().map(|microvm| microvm.microvm_id());
    equal("of an image", ids.collect::<Vec<_>>(), [first])
}

async fn page(api: &Client, microvms: &[String]) -> Outcome {
    let pages = api.list_microvms().into_paginator().page_size(1);
    let pages = pages.send().collect::<Result<Vec<_>, _>>().await?;
    holds("a page for each MicroVM", pages.len() >= 3)?;
    let items = pages.iter().flat_map(|page| page.items());
    let mut found: Vec<_> = items
        .map(|microvm| microvm.microvm_id().to_owned())
        .collect();
    let mut expected = microvms.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    equal("MicroVMs", found, expected)
}

async fn token(api: &Client, first: &str) -> Outcome {
    let range = PortRange::builder()
        .start_port(9000)
        .end_port(9010)
        .build()?;
    for ports in [
        vec![
            PortSpecification::Port(8080),
            PortSpecification::Range(range),
        ],
        vec![PortSpecification::AllPorts],
    ] {
        let call = api.create_microvm_auth_token().microvm_identifier(first);
        let call = call
            .expiration_in_minutes(60)
            .set_allowed_ports(Some(ports));
        let answer = call.send().await?;
        let keys: Vec<_> = answer.auth_token().keys().collect();
        equal("keys", keys, ["X-aws-proxy-auth"])?;
    }
    Ok(())
}

async fn shell_token(api: &Client, first: &str) -> Outcome {
    let call = api
        .create_microvm_shell_auth_token()
        .microvm_identifier(first);
    let answer = call.expiration_in_minutes(1).send().await?;
    holds(
        "X-aws-proxy-auth",
        answer.auth_token().contains_key("X-aws-proxy-auth"),
    )
}

async fn suspend(api: &Client, first: &str) -> Outcome {
    api.suspend_microvm()
        .microvm_identifier(first)
        .send()
        .await?;
    reached(api, first, MicrovmState::Suspended)
        .await
        .map(|_| ())
}

async fn resume(api: &Client, first: &str) -> Outcome {
    api.resume_microvm()
        .microvm_identifier(first)
        .send()
        .await?;
    reached(api, first, MicrovmState::Running).await.map(|_| ())
}

async fn terminate(api: &Client, first: &str) -> Outcome {
    api.terminate_microvm()
        .microvm_identifier(first)
        .send()
        .await?;
    let microvm = reached(api, first, MicrovmState::Terminated).await?;
    holds("terminatedAt", microvm.terminated_at().is_some())?;
    equal("stateReason", microvm.state_reason(), Some("Success."))?;
    api.terminate_microvm()
        .microvm_identifier(first)
        .send()
        .await?;
    Ok(())
}
