//! What each operation of the MicroVM API needs.
//!
//! Operations on a MicroVM are authorised against its image: `…:microvm-image:NAME`, or
//! `…:microvm-image:NAME:VERSION`. Without such a MicroVM it is `…:microvm-image:*`, so that only who
//! may act on every image learns that it is not there.

use colibri_control::{Control, ImageFacts};
use colibri_iam::policy::Resource;
use colibri_iam::{Identity, Principal};
use colibri_wire::id::connector::{ConnectorArn, ManagedConnector};
use colibri_wire::id::s3_uri::S3Uri;
use colibri_wire::shape::configuration::{CodeArtifact, ImageConfiguration};
use colibri_wire::shape::microvm::RunMicrovmRequest;
use colibri_wire::{ApiError, Request};

use super::{Caller, Denied, Need};

/// Whom roles are passed to.
pub(super) const PASSED_TO: &str = "lambda.amazonaws.com";
/// What the session of a build role is called in refusals.
const BUILD_SESSION: &str = "microvm-image-build";

/// Refuses a call that is not allowed.
pub(crate) async fn authorize(
    caller: &Caller,
    control: &Control,
    request: &Request,
) -> Result<(), ApiError> {
    // The root may do everything: nothing need be looked up.
    if caller.identity.principal != Principal::Root {
        let needs = needs(control, request).await?;
        caller.may(needs).map_err(|denied| refusal(&denied))?;
    }
    match request {
        Request::CreateMicrovmImage(r) => artifact(caller, &r.configuration),
        Request::UpdateMicrovmImage(r) => artifact(caller, &r.configuration),
        _ => Ok(()),
    }
}

fn refusal(denied: &Denied) -> ApiError {
    ApiError::AccessDenied {
        message: Some(denied.to_string()),
    }
}

/// Everything that a request needs: the operation itself first.
async fn needs(control: &Control, request: &Request) -> Result<Vec<Need>, ApiError> {
    let action = format!("lambda:{}", request.operation().name());
    let on_image = async |identifier: &str, version: Option<&str>| {
        let image = named_image(control, identifier, version).await?;
        Ok::<_, ApiError>(vec![need(&action, &image)])
    };
    let on_microvm = async |identifier: &str| {
        Ok::<_, ApiError>(vec![match control.microvm_facts(identifier).await? {
            Some(image) => need(&action, &image),
            None => Need::new(&action, Resource::new(image_arn(control, "*"))),
        }])
    };
    let on_anything = || Ok(vec![Need::new(&action, Resource::any())]);
    match request {
        Request::CreateMicrovmImage(r) => {
            let arn = image_arn(control, &r.name);
            let create = Need::new(&action, Resource::new(&arn));
            let mut needs = vec![create.request_tags(r.tags.iter().flatten())];
            needs.extend(of_configuration(control, &arn, &r.configuration));
            Ok(needs)
        }
        Request::UpdateMicrovmImage(r) => {
            let mut needs = on_image(&r.image_identifier, None).await?;
            needs.extend(of_configuration(
                control,
                &r.image_identifier,
                &r.configuration,
            ));
            Ok(needs)
        }
        Request::GetMicrovmImage(r) => on_image(&r.image_identifier, None).await,
        Request::DeleteMicrovmImage(r) => on_image(&r.image_identifier, None).await,
        Request::ListMicrovmImageVersions(r) => on_image(&r.image_identifier, None).await,
        Request::GetMicrovmImageVersion(r) => {
            on_image(&r.image_identifier, Some(&r.image_version)).await
        }
        Request::UpdateMicrovmImageVersion(r) => {
            on_image(&r.image_identifier, Some(&r.image_version)).await
        }
        Request::DeleteMicrovmImageVersion(r) => {
            on_image(&r.image_identifier, Some(&r.image_version)).await
        }
        Request::GetMicrovmImageBuild(r) => {
            on_image(&r.image_identifier, Some(&r.image_version)).await
        }
        Request::ListMicrovmImageBuilds(r) => {
            on_image(&r.image_identifier, Some(&r.image_version)).await
        }
        Request::ListManagedMicrovmImageVersions(r) => {
            Ok(vec![Need::new(&action, Resource::new(&r.image_identifier))])
        }
        Request::ListMicrovmImages(_)
        | Request::ListManagedMicrovmImages(_)
        | Request::ListMicrovms(_) => on_anything(),
        Request::RunMicrovm(r) => of_launch(control, &action, r).await,
        Request::GetMicrovm(r) => on_microvm(&r.microvm_identifier).await,
        Request::SuspendMicrovm(r) => on_microvm(&r.microvm_identifier).await,
        Request::ResumeMicrovm(r) => on_microvm(&r.microvm_identifier).await,
        Request::TerminateMicrovm(r) => on_microvm(&r.microvm_identifier).await,
        Request::CreateMicrovmAuthToken(r) => on_microvm(&r.microvm_identifier).await,
        Request::CreateMicrovmShellAuthToken(r) => on_microvm(&r.microvm_identifier).await,
        Request::ListTags(r) => of_tagged(control, &action, &r.resource).await,
        Request::TagResource(r) => {
            let needs = of_tagged(control, &action, &r.resource).await?;
            Ok(needs
                .into_iter()
                .map(|need| need.request_tags(&r.tags))
                .collect())
        }
        Request::UntagResource(r) => {
            let mut needs = of_tagged(control, &action, &r.resource).await?;
            for need in &mut needs {
                need.context
                    .set_all("aws:TagKeys", r.tag_keys.iter().cloned());
            }
            Ok(needs)
        }
        Request::CreateNetworkConnector(r) => {
            // Its id, and with it its ARN, is made up later.
            let create = Need::new(&action, Resource::new(connector_arn(control, "*")));
            let mut needs = vec![create.request_tags(r.tags.iter().flatten())];
            needs.extend(r.operator_role.iter().map(|role| operate_as(role)));
            Ok(needs)
        }
        Request::UpdateNetworkConnector(r) => {
            let mut needs = vec![of_connector(control, &action, &r.identifier).await?];
            needs.extend(r.operator_role.iter().map(|role| operate_as(role)));
            Ok(needs)
        }
        Request::GetNetworkConnector(r) => {
            Ok(vec![of_connector(control, &action, &r.identifier).await?])
        }
        Request::DeleteNetworkConnector(r) => {
            Ok(vec![of_connector(control, &action, &r.identifier).await?])
        }
        Request::ListNetworkConnectorVersions(r) => {
            Ok(vec![of_connector(control, &action, &r.identifier).await?])
        }
        Request::ListNetworkConnectors(_) => on_anything(),
    }
}

/// What tags are of: an image, or a network connector.
async fn of_tagged(control: &Control, action: &str, resource: &str) -> Result<Vec<Need>, ApiError> {
    if control.connector_facts(resource).await?.is_some() {
        return Ok(vec![of_connector(control, action, resource).await?]);
    }
    let image = named_image(control, resource, None).await?;
    Ok(vec![need(action, &image)])
}

/// An operation on a connector, by whatever it is called: policies are about its ARN. Only who may act on
/// every connector learns that one is not there.
async fn of_connector(control: &Control, action: &str, identifier: &str) -> Result<Need, ApiError> {
    let Some(connector) = control.connector_facts(identifier).await? else {
        return Ok(Need::new(
            action,
            Resource::new(connector_arn(control, "*")),
        ));
    };
    let resource = match connector.version_arn {
        Some(version) => Resource::new(version).or(connector.arn),
        None => Resource::new(connector.arn),
    };
    Ok(Need::new(action, resource).resource_tags(&connector.tags))
}

fn connector_arn(control: &Control, id: &str) -> String {
    let place = control.place();
    format!(
        "arn:aws:lambda:{}:{}:network-connector:{id}",
        place.region, place.account
    )
}

fn operate_as(role: &str) -> Need {
    Need::new("iam:PassRole", Resource::new(role)).set("iam:PassedToService", PASSED_TO)
}

fn image_arn(control: &Control, name: &str) -> String {
    let place = control.place();
    format!(
        "arn:aws:lambda:{}:{}:microvm-image:{name}",
        place.region, place.account
    )
}

fn need(action: &str, image: &ImageFacts) -> Need {
    Need::new(action, resource(image)).resource_tags(&image.tags)
}

fn resource(image: &ImageFacts) -> Resource {
    let resource = Resource::new(&image.arn);
    match &image.version {
        Some(version) => resource.or(format!("{}:{version}", image.arn)),
        None => resource,
    }
}

/// An image by the identifier of a request, of the version that the request names. One that is not
/// there is its identifier alone.
async fn named_image(
    control: &Control,
    identifier: &str,
    version: Option<&str>,
) -> Result<ImageFacts, ApiError> {
    let found = control.image_facts(identifier).await?;
    Ok(ImageFacts {
        arn: identifier.to_owned(),
        version: version.map(str::to_owned),
        tags: found.map(|image| image.tags).unwrap_or_default(),
    })
}

/// What an image's configuration passes on: its build role and its egress connectors.
fn of_configuration(
    control: &Control,
    image: &str,
    configuration: &ImageConfiguration,
) -> Vec<Need> {
    let egress = configuration.egress_network_connectors.as_deref();
    let egress = match egress.unwrap_or_default() {
        [] => vec![control.managed_connector(ManagedConnector::InternetEgress)],
        chosen => chosen.to_vec(),
    };
    let mut needs = vec![pass_role(&configuration.build_role_arn, image)];
    needs.extend(egress.iter().map(|connector| pass_connector(connector)));
    needs
}

async fn of_launch(
    control: &Control,
    action: &str,
    request: &RunMicrovmRequest,
) -> Result<Vec<Need>, ApiError> {
    let identifier = &request.image_identifier;
    let mut image = named_image(control, identifier, request.image_version.as_deref()).await?;
    if image.version.is_none() {
        let found = control.image_facts(identifier).await?;
        image.version = found.and_then(|image| image.version);
    }
    let mut needs = vec![need(action, &image)];
    needs.extend(
        request
            .execution_role_arn
            .iter()
            .map(|role| pass_role(role, identifier)),
    );
    let ingress = match request
        .ingress_network_connectors
        .as_deref()
        .unwrap_or_default()
    {
        [] => vec![control.managed_connector(ManagedConnector::HttpIngress)],
        chosen => chosen.to_vec(),
    };
    let egress = match request
        .egress_network_connectors
        .as_deref()
        .unwrap_or_default()
    {
        [] => {
            let version = image.version.as_deref().unwrap_or_default();
            control.egress_of(identifier, version).await?
        }
        chosen => chosen.to_vec(),
    };
    needs.extend(ingress.iter().chain(&egress).map(|arn| pass_connector(arn)));
    Ok(needs)
}

fn pass_role(role: &str, image: &str) -> Need {
    Need::new("iam:PassRole", Resource::new(role))
        .set("iam:PassedToService", PASSED_TO)
        .set("iam:AssociatedResourceArn", image)
}

/// A connector's version is the connector as well.
fn pass_connector(arn: &str) -> Need {
    let resource = Resource::new(arn);
    let resource = match ConnectorArn::parse(arn) {
        Ok(ConnectorArn::Own {
            region,
            account,
            id,
            version: Some(_),
        }) => resource.or(ConnectorArn::Own {
            region,
            account,
            id,
            version: None,
        }
        .to_string()),
        _ => resource,
    };
    Need::new("lambda:PassNetworkConnector", resource)
}

/// The build reads the artifact as its role where there is one of that name here, and as the caller
/// where there is none: nobody's image holds what its maker could not read.
fn artifact(caller: &Caller, configuration: &ImageConfiguration) -> Result<(), ApiError> {
    let CodeArtifact::Uri(uri) = &configuration.code_artifact;
    // One that is none is refused by the operation itself, and never read.
    let Ok(uri) = S3Uri::parse(uri) else {
        return Ok(());
    };
    let object = format!("arn:aws:s3:::{}/{}", uri.bucket(), uri.key());
    let reads = Need::new("s3:GetObject", Resource::new(object));
    let reader = build_role(caller, &configuration.build_role_arn);
    caller
        .may_as(reader.as_ref().unwrap_or(&caller.identity), reads)
        .map_err(|denied| refusal(&denied))
}

fn build_role(caller: &Caller, arn: &str) -> Option<Identity> {
    let directory = caller.principals.directory();
    let role = directory.role_of_arn(arn)?;
    directory.assumed(&role.name, BUILD_SESSION, "")
}
