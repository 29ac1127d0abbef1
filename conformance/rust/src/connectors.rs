//! The network connectors of `lambda-core`: every operation and paginator, and what goes wrong.

use std::error::Error;
use std::fmt::Debug;

use aws_config::SdkConfig;
use aws_sdk_lambdacore::Client;
use aws_sdk_lambdacore::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambdacore::operation::create_network_connector::builders::CreateNetworkConnectorFluentBuilder;
use aws_sdk_lambdacore::operation::get_network_connector::GetNetworkConnectorOutput;
use aws_sdk_lambdacore::types::{
    NetworkConnectorConfiguration, NetworkConnectorLastUpdateStatus as Update,
    NetworkConnectorState as State, NetworkConnectorStateReasonCode as Code,
    NetworkConnectorVpcEgressConfiguration, NetworkProtocol,
};
use aws_sdk_lambdamicrovms::types::MicrovmState;

use crate::report::{Outcome, check, equal, holds, wait_for};
use crate::{ROLE, SECOND};

/// Connectors after which the server's bound must have been reached.
const MANY: usize = 10;

/// Makes `office` and `failed`, and removes them again.
pub async fn drive(microvms: &aws_sdk_lambdamicrovms::Client, settings: &SdkConfig) {
    let api = Client::new(settings);
    let mut arn = String::new();
    check("CreateNetworkConnector", make(&api, &mut arn)).await;
    check("GetNetworkConnector", get(&api, &arn)).await;
    check("UpdateNetworkConnector", update(&api)).await;
    check("ListNetworkConnectors", list(&api)).await;
    check("ListNetworkConnectorVersions", list_versions(&api)).await;
    check("paginator ListNetworkConnectors", page(&api)).await;
    check(
        "paginator ListNetworkConnectorVersions",
        page_versions(&api, &arn),
    )
    .await;
    check(
        "RunMicrovm with a network connector",
        attach(microvms, &arn),
    )
    .await;
    check("lambda-core InvalidParameterValueException", invalid(&api)).await;
    check("lambda-core ResourceConflictException", conflict(&api)).await;
    check("lambda-core ResourceNotFoundException", not_found(&api)).await;
    check(
        "lambda-core NetworkConnectorLimitExceededException",
        limit(&api),
    )
    .await;
    check("DeleteNetworkConnector", delete(&api, &arn)).await;
}

fn vpc(subnet: &str) -> NetworkConnectorConfiguration {
    let vpc = NetworkConnectorVpcEgressConfiguration::builder().subnet_ids(subnet);
    NetworkConnectorConfiguration::VpcEgressConfiguration(vpc.build())
}

fn plain(api: &Client, name: &str, subnet: &str) -> CreateNetworkConnectorFluentBuilder {
    let call = api.create_network_connector().name(name);
    call.configuration(vpc(subnet)).operator_role(ROLE)
}

async fn settled(api: &Client, name: &str) -> Outcome<GetNetworkConnectorOutput> {
    wait_for("a settled connector", || async {
        let found = api.get_network_connector().identifier(name).send().await?;
        let busy = found.state() == Some(&State::Pending)
            || found.last_update_status() == Some(&Update::InProgress);
        Ok((!busy).then_some(found))
    })
    .await
}

/// The error that the service answered with; anything else, success included, is a failure.
fn refused<T: Debug, E>(answer: Result<T, SdkError<E>>) -> Outcome<E>
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match answer {
        Ok(answer) => Err(format!("answered: {answer:?}").into()),
        Err(SdkError::ServiceError(error)) => {
            let error = error.into_err();
            holds("a message", error.message().is_some())?;
            Ok(error)
        }
        Err(other) => Err(other.into()),
    }
}

async fn make(api: &Client, arn: &mut String) -> Outcome {
    let call = plain(api, "office", "subnet-1")
        .tags("team", "conformance")
        .client_token("once");
    let answer = call.clone().send().await?;
    answer.arn().clone_into(arn);
    equal("state", answer.state(), Some(&State::Pending))?;
    equal("version", answer.version(), Some(1))?;
    let version = format!("{arn}:1");
    equal("VersionArn", answer.version_arn(), Some(version.as_str()))?;
    equal("again", call.send().await?.id(), answer.id())?;
    equal(
        "settled",
        settled(api, "office").await?.state(),
        Some(&State::Active),
    )?;
    plain(api, "failed", "subnet-none").send().await?;
    let failed = settled(api, "failed").await?;
    equal("failed", failed.state(), Some(&State::Failed))?;
    equal(
        "code",
        failed.state_reason_code(),
        Some(&Code::InvalidSubnet),
    )
}

async fn get(api: &Client, arn: &str) -> Outcome {
    let found = api.get_network_connector().identifier(arn).send().await?;
    equal("name", found.name(), "office")?;
    equal("latest", found.latest_version(), Some(1))?;
    holds("a time", found.last_modified().is_some())?;
    let configuration = found.configuration().ok_or("no configuration")?;
    let vpc = configuration.as_vpc_egress_configuration();
    let vpc = vpc.map_err(|_| "another configuration")?;
    equal(
        "protocol",
        vpc.network_protocol(),
        Some(&NetworkProtocol::IPv4),
    )?;
    let version = format!("{arn}:1");
    let call = api.get_network_connector().identifier(&version);
    equal(
        "version",
        call.send().await?.version_arn(),
        Some(version.as_str()),
    )
}

async fn update(api: &Client) -> Outcome {
    let call = api.update_network_connector().identifier("office");
    let answer = call.configuration(vpc("subnet-2")).send().await?;
    equal("version", answer.version(), Some(2))?;
    equal(
        "update",
        answer.last_update_status(),
        Some(&Update::InProgress),
    )?;
    let found = settled(api, "office").await?;
    equal("latest", found.latest_version(), Some(2))?;
    equal(
        "updated",
        found.last_update_status(),
        Some(&Update::Successful),
    )?;
    let call = api.update_network_connector().identifier("office");
    equal("nothing new", call.send().await?.version(), Some(2))
}

async fn list(api: &Client) -> Outcome {
    let call = api.list_network_connectors().state(State::Failed);
    let answer = call.send().await?;
    let names = answer.network_connectors().iter().map(|item| item.name());
    equal("failed", names.collect::<Vec<_>>(), ["failed"])
}

async fn list_versions(api: &Client) -> Outcome {
    let call = api.list_network_connector_versions().identifier("office");
    let answer = call.send().await?;
    let versions = answer.network_connector_versions().iter();
    let versions = versions.map(|item| item.version()).collect::<Vec<_>>();
    equal("versions", versions, [2, 1])
}

async fn page(api: &Client) -> Outcome {
    let mut pages = api
        .list_network_connectors()
        .max_items(1)
        .into_paginator()
        .send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page?;
        holds("a page of one", page.network_connectors().len() == 1)?;
        names.extend(
            page.network_connectors()
                .iter()
                .map(|item| item.name().to_owned()),
        );
    }
    equal("names", names, ["office", "failed"])
}

async fn page_versions(api: &Client, arn: &str) -> Outcome {
    let call = api.list_network_connector_versions().identifier(arn);
    let mut pages = call.max_items(1).into_paginator().send();
    let mut versions = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page?;
        versions.extend(
            page.network_connector_versions()
                .iter()
                .map(|item| item.version()),
        );
    }
    equal("versions", versions, [2, 1])
}

/// Room is made first: the server has a bound of MicroVMs, which others have reached.
async fn attach(api: &aws_sdk_lambdamicrovms::Client, arn: &str) -> Outcome {
    let listed = api.list_microvms().send().await?;
    for item in listed.items() {
        if item.state() != &MicrovmState::Terminated {
            let call = api.terminate_microvm();
            call.microvm_identifier(item.microvm_id()).send().await?;
        }
    }
    wait_for("an empty host", || async {
        let listed = api.list_microvms().send().await?;
        let mut items = listed.items().iter();
        let empty = items.all(|item| item.state() == &MicrovmState::Terminated);
        Ok(empty.then_some(()))
    })
    .await?;
    let call = api.run_microvm().image_identifier(SECOND);
    let microvm = call.egress_network_connectors(arn).send().await?;
    equal("egress", microvm.egress_network_connectors(), [arn])?;
    let call = api.terminate_microvm();
    call.microvm_identifier(microvm.microvm_id()).send().await?;
    Ok(())
}

async fn invalid(api: &Client) -> Outcome {
    let call = api.create_network_connector().name("other");
    let error = refused(call.configuration(vpc("subnet-1")).send().await)?;
    holds("no role", error.is_invalid_parameter_value_exception())?;
    let message = "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type";
    equal("message", error.message(), Some(message))
}

async fn conflict(api: &Client) -> Outcome {
    let error = refused(plain(api, "office", "subnet-1").send().await)?;
    holds("a taken name", error.is_resource_conflict_exception())
}

async fn not_found(api: &Client) -> Outcome {
    let call = api.get_network_connector().identifier("none");
    let error = refused(call.send().await)?;
    holds("get", error.is_resource_not_found_exception())?;
    let call = api.delete_network_connector().identifier("none");
    let error = refused(call.send().await)?;
    holds("delete", error.is_resource_not_found_exception())
}

async fn limit(api: &Client) -> Outcome {
    for number in 0..MANY {
        let name = format!("filler-{number}");
        let answer = plain(api, &name, "subnet-1").send().await;
        if answer.is_err() {
            let error = refused(answer)?;
            return holds(
                "too many",
                error.is_network_connector_limit_exceeded_exception(),
            );
        }
    }
    Err("never refused".into())
}

async fn delete(api: &Client, arn: &str) -> Outcome {
    let version = format!("{arn}:1");
    let call = api.delete_network_connector().identifier(version);
    equal("version", call.send().await?.version(), Some(1))?;
    for _ in 0..2 {
        let call = api.delete_network_connector().identifier("office");
        equal("state", call.send().await?.state(), Some(&State::Deleting))?;
    }
    let call = api.get_network_connector().identifier(arn);
    let error = refused(call.send().await)?;
    holds("gone", error.is_resource_not_found_exception())
}
