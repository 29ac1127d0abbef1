//! Every error that can be brought about, as the SDK's own type.

use std::error::Error;
use std::fmt::Debug;

use aws_config::SdkConfig;
use aws_sdk_lambdamicrovms::Client;
use aws_sdk_lambdamicrovms::config::Credentials;
use aws_sdk_lambdamicrovms::config::ProvideCredentials;
use aws_sdk_lambdamicrovms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambdamicrovms::operation::RequestId;
use aws_sdk_lambdamicrovms::operation::create_microvm_image::CreateMicrovmImageError;
use aws_sdk_lambdamicrovms::operation::get_microvm_image::GetMicrovmImageError;
use aws_sdk_lambdamicrovms::operation::list_tags::ListTagsError;
use aws_sdk_lambdamicrovms::operation::suspend_microvm::SuspendMicrovmError;
use aws_sdk_lambdamicrovms::types::PortSpecification;

use crate::images::plain;
use crate::report::{Outcome, check, equal, holds};
use crate::{FIRST, NO_IMAGE, SECOND, THIRD};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:000000000000:function:none";
const NO_MICROVM: &str = "microvm-00000000-0000-4000-8000-000000000000";
/// Calls after which a bound of the server must have been reached.
const MANY: usize = 10;

/// Brings each about; the first of the MicroVMs has ended.
pub async fn drive(api: &Client, settings: &SdkConfig, microvms: &[String]) {
    let (ended, running) = match microvms {
        [ended, running, ..] => (ended.as_str(), running.as_str()),
        _ => ("", ""),
    };
    check("ValidationException", validation(api, running)).await;
    check("ResourceNotFoundException", not_found(api)).await;
    check("ConflictException", conflict(api, ended)).await;
    check("InvalidParameterValueException", invalid_parameter(api)).await;
    check("ServiceQuotaExceededException", quota(api)).await;
    check("InsufficientCapacityException", capacity(api)).await;
    check("UnrecognizedClientException", unknown_key(settings)).await;
    check("InvalidSignatureException", wrong_secret(settings)).await;
    check("MissingAuthenticationTokenException", unsigned(settings)).await;
}

/// The error that the service answered with; anything else, success included, is a failure.
fn refused<T: Debug, E>(answer: Result<T, SdkError<E>>) -> Outcome<E>
where
    E: Error + ProvideErrorMetadata + RequestId + 'static,
{
    match answer {
        Ok(answer) => Err(format!("answered: {answer:?}").into()),
        Err(SdkError::ServiceError(error)) => {
            let error = error.into_err();
            holds("a message", error.message().is_some())?;
            holds("a request id", error.meta().request_id().is_some())?;
            Ok(error)
        }
        Err(other) => Err(other.into()),
    }
}

async fn validation(api: &Client, running: &str) -> Outcome {
    let error = refused(
        api.get_microvm_image()
            .image_identifier("first")
            .send()
            .await,
    )?;
    holds("no ARN", error.is_validation_exception())?;
    let error = refused(plain(api, "no spaces").send().await)?;
    holds("name", error.is_validation_exception())?;
    let error = refused(plain(api, "second").send().await)?;
    holds("taken name", error.is_validation_exception())?;
    let call = api.create_microvm_auth_token().microvm_identifier(running);
    let call = call
        .expiration_in_minutes(61)
        .allowed_ports(PortSpecification::Port(1));
    let error = refused(call.send().await)?;
    holds("token's time", error.is_validation_exception())?;
    let message = "ExpirationMinutes 61 exceeded max allowed of 60.";
    equal("message", error.message(), Some(message))
}

async fn not_found(api: &Client) -> Outcome {
    let error = refused(
        api.get_microvm_image()
            .image_identifier(NO_IMAGE)
            .send()
            .await,
    )?;
    let GetMicrovmImageError::ResourceNotFoundException(error) = error else {
        return Err(error.into());
    };
    equal("resourceId", error.resource_id(), Some(NO_IMAGE))?;
    equal("resourceType", error.resource_type(), Some("MicroVMImage"))?;
    let error = refused(api.run_microvm().image_identifier(NO_IMAGE).send().await)?;
    holds("run", error.is_resource_not_found_exception())?;
    let error = refused(
        api.terminate_microvm()
            .microvm_identifier(NO_MICROVM)
            .send()
            .await,
    )?;
    holds("terminate", error.is_resource_not_found_exception())?;
    let error = refused(api.list_tags().resource(NO_IMAGE).send().await)?;
    holds("tags", error.is_resource_not_found_exception())?;
    let version = api
        .get_microvm_image_version()
        .image_identifier(FIRST)
        .image_version("9.0");
    let error = refused(version.send().await)?;
    holds("version", error.is_resource_not_found_exception())
}

async fn conflict(api: &Client, ended: &str) -> Outcome {
    let error = refused(api.suspend_microvm().microvm_identifier(ended).send().await)?;
    let SuspendMicrovmError::ConflictException(error) = error else {
        return Err(error.into());
    };
    equal("resourceId", error.resource_id(), Some(ended))?;
    let call = api.run_microvm().client_token("another-microvm");
    call.clone().image_identifier(SECOND).send().await?;
    let error = refused(call.image_identifier(THIRD).send().await)?;
    holds("a token used twice", error.is_conflict_exception())
}

async fn invalid_parameter(api: &Client) -> Outcome {
    let error = refused(api.list_tags().resource(FUNCTION).send().await)?;
    let ListTagsError::InvalidParameterValueException(error) = error else {
        return Err(error.into());
    };
    equal("Type", error.r#type(), Some("User"))
}

async fn quota(api: &Client) -> Outcome {
    for number in 0..MANY {
        let answer = plain(api, &format!("filler-{number}")).send().await;
        if answer.is_err() {
            let CreateMicrovmImageError::ServiceQuotaExceededException(error) = refused(answer)?
            else {
                return Err("another error".into());
            };
            return equal("quotaCode", error.quota_code(), Some("L-942E56BE"));
        }
    }
    Err("ServiceQuotaExceededException was not raised".into())
}

async fn capacity(api: &Client) -> Outcome {
    for _ in 0..MANY {
        let answer = api.run_microvm().image_identifier(SECOND).send().await;
        if answer.is_err() {
            let error = refused(answer)?;
            return holds("capacity", error.is_insufficient_capacity_exception());
        }
    }
    Err("InsufficientCapacityException was not raised".into())
}

/// Not in the model: told by the code alone.
async fn refused_with(code: &str, client: &Client) -> Outcome {
    let answer = client.list_microvms().send().await;
    let status = answer.as_ref().err().and_then(SdkError::raw_response);
    equal(
        "status",
        status.map(|response| response.status().as_u16()),
        Some(403),
    )?;
    equal("code", refused(answer)?.code(), Some(code))
}

fn with_key(settings: &SdkConfig, id: &str, secret: &str) -> Client {
    let key = Credentials::new(id, secret, None, None, "conformance");
    let settings = aws_sdk_lambdamicrovms::config::Builder::from(settings);
    Client::from_conf(settings.credentials_provider(key).build())
}

async fn unknown_key(settings: &SdkConfig) -> Outcome {
    let client = with_key(settings, "AKIANOBODYKNOWSTHISK", "x");
    refused_with("UnrecognizedClientException", &client).await
}

async fn wrong_secret(settings: &SdkConfig) -> Outcome {
    let key = settings.credentials_provider().ok_or("no credentials")?;
    let key = key.provide_credentials().await?;
    let client = with_key(settings, key.access_key_id(), "x");
    refused_with("InvalidSignatureException", &client).await
}

async fn unsigned(settings: &SdkConfig) -> Outcome {
    let mut bare = settings.clone().into_builder();
    bare.set_credentials_provider(None);
    let settings = aws_sdk_lambdamicrovms::config::Builder::from(&bare.build());
    let client = Client::from_conf(settings.allow_no_auth().build());
    refused_with("MissingAuthenticationTokenException", &client).await
}
