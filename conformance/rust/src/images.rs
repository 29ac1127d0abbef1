//! The operations on images, their versions and builds.

use std::collections::HashMap;

use aws_sdk_lambdamicrovms::Client;
use aws_sdk_lambdamicrovms::error::SdkError;
use aws_sdk_lambdamicrovms::operation::get_microvm_image::GetMicrovmImageOutput;
use aws_sdk_lambdamicrovms::types::{
    Architecture, BuildState, Capability, CloudWatchLogging, CodeArtifact, CpuConfiguration,
    HookState, Hooks, Logging, ManagedMicrovmImageVersionStatus, MicrovmHooks, MicrovmImageHooks,
    MicrovmImageState, MicrovmImageVersionState, MicrovmImageVersionStatus, Resources,
};

use crate::report::{Outcome, check, equal, holds, wait_for};
use crate::tags::TAGS;
use crate::{ARTIFACT, BASE_IMAGE, FIRST, ROLE, SECOND, THIRD, connector};

/// Makes the images that everything else uses: `first` with two versions, `second` and `third`.
pub async fn drive(api: &Client) {
    check("ListManagedMicrovmImages", list_managed(api)).await;
    check(
        "ListManagedMicrovmImageVersions",
        list_managed_versions(api),
    )
    .await;
    check("paginator ListManagedMicrovmImages", page_managed(api)).await;
    check(
        "paginator ListManagedMicrovmImageVersions",
        page_managed_versions(api),
    )
    .await;
    check("CreateMicrovmImage", create(api)).await;
    check("GetMicrovmImage", get(api)).await;
    check("UpdateMicrovmImage", update(api)).await;
    check("ListMicrovmImages", list(api)).await;
    check("paginator ListMicrovmImages", page(api)).await;
    check("GetMicrovmImageVersion", get_version(api)).await;
    check("ListMicrovmImageVersions", list_versions(api)).await;
    check("paginator ListMicrovmImageVersions", page_versions(api)).await;
    check("ListMicrovmImageBuilds", list_builds(api)).await;
    check("paginator ListMicrovmImageBuilds", page_builds(api)).await;
    check("GetMicrovmImageBuild", get_build(api)).await;
    check("UpdateMicrovmImageVersion", update_version(api)).await;
}

/// Removes `first` again.
pub async fn remove(api: &Client) {
    check("DeleteMicrovmImageVersion", delete_version(api)).await;
    check("DeleteMicrovmImage", delete(api)).await;
}

async fn list_managed(api: &Client) -> Outcome {
    let images = api.list_managed_microvm_images().send().await?;
    let arns: Vec<_> = images
        .items()
        .iter()
        .map(|image| image.image_arn())
        .collect();
    equal("images", arns, [BASE_IMAGE])
}

async fn list_managed_versions(api: &Client) -> Outcome {
    let versions = api
        .list_managed_microvm_image_versions()
        .image_identifier(BASE_IMAGE);
    let versions = versions.send().await?;
    let version = versions.items().first().ok_or("no version")?;
    equal(
        "status",
        version.status(),
        Some(&ManagedMicrovmImageVersionStatus::Available),
    )?;
    equal("version", version.image_version(), "1")
}

async fn page_managed(api: &Client) -> Outcome {
    let pages = api
        .list_managed_microvm_images()
        .into_paginator()
        .page_size(1);
    let items = pages.items().send().collect::<Result<Vec<_>, _>>().await?;
    equal("images", items.len(), 1)
}

async fn page_managed_versions(api: &Client) -> Outcome {
    let versions = api
        .list_managed_microvm_image_versions()
        .image_identifier(BASE_IMAGE);
    let pages = versions.into_paginator().page_size(1);
    let items = pages.items().send().collect::<Result<Vec<_>, _>>().await?;
    holds("there is a version", !items.is_empty())
}

fn architecture() -> Architecture {
    // The SDK's model knows one architecture only, and passes any other on.
    Architecture::from(if cfg!(target_arch = "aarch64") {
        "ARM_64"
    } else {
        "X86_64"
    })
}

fn hooks() -> Hooks {
    let of_image = MicrovmImageHooks::builder()
        .ready(HookState::Enabled)
        .ready_timeout_in_seconds(60);
    let of_microvms = MicrovmHooks::builder()
        .run(HookState::Enabled)
        .run_timeout_in_seconds(10)
        .suspend(HookState::Enabled)
        .suspend_timeout_in_seconds(10);
    Hooks::builder()
        .port(9000)
        .microvm_image_hooks(of_image.build())
        .microvm_hooks(of_microvms.build())
        .build()
}

fn environment() -> HashMap<String, String> {
    let variables = [("PLAIN", "value"), ("EMPTY", ""), ("UMLAUT", "ä=漢\n")];
    HashMap::from(variables.map(|(key, value)| (key.to_owned(), value.to_owned())))
}

async fn create(api: &Client) -> Outcome {
    let logging = CloudWatchLogging::builder()
        .log_group("/conformance/rust")
        .build();
    let call = api
        .create_microvm_image()
        .name("first")
        .base_image_arn(BASE_IMAGE)
        .base_image_version("1")
        .build_role_arn(ROLE)
        .code_artifact(CodeArtifact::Uri(ARTIFACT.into()))
        .description("Everything that can be said: ä, 漢")
        .logging(Logging::CloudWatch(logging.clone()))
        .egress_network_connectors(connector("INTERNET_EGRESS"))
        .cpu_configurations(
            CpuConfiguration::builder()
                .architecture(architecture())
                .build()?,
        )
        .resources(Resources::builder().minimum_memory_in_mib(512).build()?)
        .additional_os_capabilities(Capability::All)
        .hooks(hooks())
        .set_environment_variables(Some(environment()))
        .set_tags(Some(
            TAGS.map(|(key, value)| (key.into(), value.into())).into(),
        ))
        .client_token("the-same-image");
    let image = call.clone().send().await?;
    equal("imageArn", image.image_arn(), FIRST)?;
    equal("state", image.state(), &MicrovmImageState::Creating)?;
    equal("imageVersion", image.image_version(), "1.0")?;
    equal(
        "codeArtifact",
        image.code_artifact(),
        Some(&CodeArtifact::Uri(ARTIFACT.into())),
    )?;
    equal(
        "logging",
        image.logging(),
        Some(&Logging::CloudWatch(logging)),
    )?;
    equal(
        "cpuConfigurations",
        image.cpu_configurations()[0].architecture(),
        &architecture(),
    )?;
    equal(
        "capabilities",
        image.additional_os_capabilities(),
        [Capability::All],
    )?;
    equal("hooks", image.hooks().and_then(Hooks::port), Some(9000))?;
    equal(
        "environmentVariables",
        image.environment_variables(),
        Some(&environment()),
    )?;
    equal("tags", image.tags().map(HashMap::len), Some(TAGS.len()))?;
    equal(
        "replayed",
        call.send().await?.created_at(),
        image.created_at(),
    )
}

async fn settled(
    api: &Client,
    arn: &str,
    state: MicrovmImageState,
) -> Outcome<GetMicrovmImageOutput> {
    wait_for(&format!("{arn} {state}"), || async {
        let image = api.get_microvm_image().image_identifier(arn).send().await?;
        holds(
            image.state().as_str(),
            !image.state().as_str().ends_with("_FAILED"),
        )?;
        Ok((*image.state() == state).then_some(image))
    })
    .await
}

async fn get(api: &Client) -> Outcome {
    let image = settled(api, FIRST, MicrovmImageState::Created).await?;
    equal("active", image.latest_active_image_version(), Some("1.0"))?;
    equal("tags", image.tags().map(HashMap::len), Some(TAGS.len()))
}

async fn update(api: &Client) -> Outcome {
    let call = api
        .update_microvm_image()
        .image_identifier(FIRST)
        .base_image_arn(BASE_IMAGE)
        .build_role_arn(ROLE)
        .code_artifact(CodeArtifact::Uri(ARTIFACT.into()));
    let image = call.send().await?;
    equal("state", image.state(), &MicrovmImageState::Updating)?;
    equal("imageVersion", image.image_version(), "2.0")?;
    equal("memory", image.resources()[0].minimum_memory_in_mib(), 2048)?;
    equal("hooks", image.hooks(), None)?;
    let image = settled(api, FIRST, MicrovmImageState::Updated).await?;
    equal("active", image.latest_active_image_version(), Some("2.0"))
}

async fn list(api: &Client) -> Outcome {
    for (name, arn) in [("second", SECOND), ("third", THIRD)] {
        plain(api, name).send().await?;
        settled(api, arn, MicrovmImageState::Created).await?;
    }
    let images = api.list_microvm_images().name_filter("eco").send().await?;
    let names: Vec<_> = images.items().iter().map(|image| image.name()).collect();
    equal("filtered", names, ["second"])
}

/// A call that creates an image with nothing that could be left out.
pub fn plain(
    api: &Client,
    name: &str,
) -> aws_sdk_lambdamicrovms::operation::create_microvm_image::builders::CreateMicrovmImageFluentBuilder
{
    api.create_microvm_image()
        .name(name)
        .base_image_arn(BASE_IMAGE)
        .build_role_arn(ROLE)
        .code_artifact(CodeArtifact::Uri(ARTIFACT.into()))
}

async fn page(api: &Client) -> Outcome {
    let pages = api.list_microvm_images().into_paginator().page_size(1);
    let pages = pages.send().collect::<Result<Vec<_>, _>>().await?;
    holds("a page for each image", pages.len() >= 3)?;
    let items = pages.iter().flat_map(|page| page.items());
    let mut names: Vec<_> = items.map(|image| image.name()).collect();
    names.sort_unstable();
    equal("images", names, ["first", "second", "third"])?;
    // Filters apply after paging: there are empty pages on the way.
    let filtered = api
        .list_microvm_images()
        .name_filter("third")
        .into_paginator();
    let filtered = filtered.page_size(1).items().send();
    equal(
        "filtered",
        filtered.collect::<Result<Vec<_>, _>>().await?.len(),
        1,
    )
}

async fn get_version(api: &Client) -> Outcome {
    let version = api.get_microvm_image_version().image_identifier(FIRST);
    let version = version.image_version("1.0").send().await?;
    equal(
        "state",
        version.state(),
        &MicrovmImageVersionState::Successful,
    )?;
    equal(
        "environmentVariables",
        version.environment_variables(),
        Some(&environment()),
    )?;
    let of_microvms = version.hooks().and_then(Hooks::microvm_hooks);
    equal(
        "run hook",
        of_microvms.map(MicrovmHooks::run_timeout_in_seconds),
        Some(10),
    )?;
    equal("stateReason", version.state_reason(), None)
}

async fn list_versions(api: &Client) -> Outcome {
    let versions = api
        .list_microvm_image_versions()
        .image_identifier(FIRST)
        .send()
        .await?;
    let numbers = versions
        .items()
        .iter()
        .map(|version| version.image_version());
    equal("newest first", numbers.collect::<Vec<_>>(), ["2.0", "1.0"])
}

async fn page_versions(api: &Client) -> Outcome {
    let pages = api
        .list_microvm_image_versions()
        .image_identifier(FIRST)
        .into_paginator();
    let items = pages
        .page_size(1)
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await?;
    let numbers = items.iter().map(|version| version.image_version());
    equal("versions", numbers.collect::<Vec<_>>(), ["2.0", "1.0"])
}

async fn list_builds(api: &Client) -> Outcome {
    let call = api
        .list_microvm_image_builds()
        .image_identifier(FIRST)
        .image_version("1.0");
    let builds = call.clone().send().await?;
    let build = builds.items().first().ok_or("no build")?;
    equal("buildState", build.build_state(), &BuildState::Successful)?;
    let same = call
        .architecture(build.architecture().clone())
        .chipset(build.chipset().clone())
        .chipset_generation(build.chipset_generation());
    equal("filtered", same.send().await?.items(), builds.items())
}

async fn page_builds(api: &Client) -> Outcome {
    let call = api
        .list_microvm_image_builds()
        .image_identifier(FIRST)
        .image_version("1.0");
    let items = call.into_paginator().page_size(1).items().send();
    equal(
        "builds",
        items.collect::<Result<Vec<_>, _>>().await?.len(),
        1,
    )
}

async fn get_build(api: &Client) -> Outcome {
    let builds = api
        .list_microvm_image_builds()
        .image_identifier(FIRST)
        .image_version("1.0");
    let builds = builds.send().await?;
    let listed = builds.items().first().ok_or("no build")?;
    let call = api
        .get_microvm_image_build()
        .image_identifier(FIRST)
        .image_version("1.0");
    let build = call.build_id(listed.build_id()).send().await?;
    equal("createdAt", build.created_at(), listed.created_at())?;
    let sizes = build.snapshot_build().ok_or("no sizes")?;
    holds(
        "memory's size",
        sizes.memory_snapshot_size_in_bytes().is_some(),
    )?;
    holds("disk's size", sizes.disk_snapshot_size_in_bytes().is_some())?;
    holds("code's size", sizes.code_install_size_in_bytes().is_some())
}

async fn update_version(api: &Client) -> Outcome {
    for (status, active) in [
        (MicrovmImageVersionStatus::Inactive, "1.0"),
        (MicrovmImageVersionStatus::Active, "2.0"),
    ] {
        let call = api.update_microvm_image_version().image_identifier(FIRST);
        let version = call
            .image_version("2.0")
            .status(status.clone())
            .send()
            .await?;
        equal("status", version.status(), &status)?;
        let image = api
            .get_microvm_image()
            .image_identifier(FIRST)
            .send()
            .await?;
        equal("active", image.latest_active_image_version(), Some(active))?;
    }
    Ok(())
}

async fn delete_version(api: &Client) -> Outcome {
    let call = api.delete_microvm_image_version().image_identifier(FIRST);
    let answer = call.image_version("2.0").send().await?;
    equal("state", answer.state(), &MicrovmImageVersionState::Deleting)?;
    let image = settled(api, FIRST, MicrovmImageState::Updated).await?;
    equal("active", image.latest_active_image_version(), Some("1.0"))
}

async fn delete(api: &Client) -> Outcome {
    let answer = api
        .delete_microvm_image()
        .image_identifier(FIRST)
        .send()
        .await?;
    equal("state", answer.state(), &MicrovmImageState::Deleting)?;
    wait_for("first gone", || async {
        match api.get_microvm_image().image_identifier(FIRST).send().await {
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => {
                Ok(Some(()))
            }
            other => Ok(other.map(|_| None)?),
        }
    })
    .await?;
    let again = api
        .delete_microvm_image()
        .image_identifier(FIRST)
        .send()
        .await?;
    equal("again", again.state(), &MicrovmImageState::Deleted)
}
