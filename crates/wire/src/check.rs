//! What the service checks beyond the model, before it looks anything up (specification, sections
//! 4.3 and 4.4): pure functions from a request to what it means.

pub mod configuration;
pub mod connector;
pub mod run;
pub mod token;

use crate::api_error::ApiError;
use crate::fault;
use crate::id::connector::{ConnectorArn, NotAConnector};
use crate::id::image::ImageArn;
use crate::id::place::Place;

/// The image that an image operation names.
///
/// # Errors
/// `Invalid ARN format: …` for anything but an image's ARN.
pub fn image_identifier(text: &str) -> Result<ImageArn, ApiError> {
    ImageArn::parse(text).map_err(|_| fault::invalid_arn(text))
}

/// Connectors for one direction, in the order given.
fn connectors(
    given: &[String],
    ingress: bool,
    place: &Place,
) -> Result<Vec<ConnectorArn>, ApiError> {
    given
        .iter()
        .map(|text| connector(text, ingress, place))
        .collect()
}

fn connector(text: &str, ingress: bool, place: &Place) -> Result<ConnectorArn, ApiError> {
    let refused = |refusal: NotAConnector| ApiError::validation(refusal.to_string());
    let connector = ConnectorArn::parse(text).map_err(refused)?;
    let here = match &connector {
        ConnectorArn::Managed { region, .. } => *region == place.region,
        ConnectorArn::Own {
            region, account, ..
        } => *region == place.region && *account == place.account,
    };
    if !here {
        return Err(ApiError::validation(format!(
            "Network connector {text} is not in region {} and account {}",
            place.region, place.account
        )));
    }
    if connector.is_ingress() != ingress {
        let direction = if ingress { "ingress" } else { "egress" };
        return Err(ApiError::validation(format!(
            "Network connector {text} is not for {direction}"
        )));
    }
    Ok(connector)
}
