//! What the token operations ask for.

use crate::api_error::ApiError;
use crate::id::port::{AllowedPorts, PortSpecification};

/// Longest lifetime of a token, minutes.
pub const MAX_EXPIRATION_MINUTES: u32 = 60;

/// The lifetime asked for, minutes.
///
/// # Errors
/// [`ApiError::Validation`] beyond [`MAX_EXPIRATION_MINUTES`].
pub fn expiration_minutes(asked: u32) -> Result<u32, ApiError> {
    if asked > MAX_EXPIRATION_MINUTES {
        return Err(ApiError::validation(format!(
            "ExpirationMinutes {asked} exceeded max allowed of {MAX_EXPIRATION_MINUTES}."
        )));
    }
    Ok(asked)
}

/// The ports asked for.
///
/// # Errors
/// [`ApiError::Validation`] for a range that ends before it starts.
pub fn allowed_ports(asked: &[PortSpecification]) -> Result<AllowedPorts, ApiError> {
    for specification in asked {
        if let PortSpecification::Range(range) = specification
            && range.start_port > range.end_port
        {
            return Err(ApiError::validation(format!(
                "Port range {}-{} ends before it starts",
                range.start_port, range.end_port
            )));
        }
    }
    Ok(AllowedPorts::new(asked.to_vec()))
}
