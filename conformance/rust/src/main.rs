//! Every operation, paginator and error of the API through the Rust SDK, with nothing set but
//! `AWS_ENDPOINT_URL` and the credentials' files. Prints one line of JSON for each thing that was tried.
//! With the word `real`, the main path on a real machine instead.

mod connectors;
mod errors;
mod images;
mod microvms;
mod real;
mod report;
mod tags;

use aws_config::BehaviorVersion;
use aws_sdk_lambdamicrovms::Client;
use aws_sdk_sts::config::Credentials;
use aws_sdk_sts::error::ProvideErrorMetadata;

use report::{Outcome, check, equal};

const ACCOUNT: &str = "000000000000";
const ROLE: &str = "arn:aws:iam::000000000000:role/conformance";
const BASE_IMAGE: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
const FIRST: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:first";
const SECOND: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:second";
const THIRD: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:third";
const NO_IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:none";
const ARTIFACT: &str = "s3://conformance-rust/application.zip";

/// The ARN of a managed network connector.
fn connector(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}")
}

#[tokio::main]
async fn main() {
    let settings = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let api = Client::new(&settings);
    if std::env::args().nth(1).is_some_and(|word| word == "real") {
        return real::drive(&api).await;
    }
    check("sts", identity(&settings)).await;
    images::drive(&api).await;
    tags::drive(&api).await;
    let microvms = microvms::drive(&api).await;
    errors::drive(&api, &settings, &microvms).await;
    images::remove(&api).await;
    connectors::drive(&api, &settings).await;
}

async fn identity(settings: &aws_config::SdkConfig) -> Outcome {
    let sts = aws_sdk_sts::Client::new(settings);
    let identity = sts.get_caller_identity().send().await?;
    equal("account", identity.account(), Some(ACCOUNT))?;
    let nobody = Credentials::new("AKIANOBODYKNOWSTHISK", "x", None, None, "conformance");
    let nobody = aws_sdk_sts::config::Builder::from(settings).credentials_provider(nobody);
    let sts = aws_sdk_sts::Client::from_conf(nobody.build());
    let refused = sts.get_caller_identity().send().await;
    let error = refused.err().ok_or("answered")?;
    equal("code", error.code(), Some("InvalidClientTokenId"))
}
