//! The token operations. Minting itself is the ingress's, which reads the tokens again.

use colibri_store::Phase;
use colibri_wire::ApiError;
use colibri_wire::check::token::{allowed_ports, expiration_minutes};
use colibri_wire::fault;
use colibri_wire::id::port::AllowedPorts;
use colibri_wire::shape::microvm::{
    AuthTokenResponse, CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest,
};

use crate::control::Control;
use crate::failure::chain;
use crate::microvms::state_name;

/// Why a token could not be minted.
#[derive(Debug, thiserror::Error)]
#[error("could not mint a token: {reason}")]
pub struct MintFailure {
    /// What went wrong; holds no secret.
    pub reason: String,
}

/// Mints the tokens that the ingress accepts.
pub trait TokenMint: Send + Sync + 'static {
    /// A token for ports of a MicroVM's endpoint.
    ///
    /// # Errors
    /// When the key cannot be used.
    fn endpoint_token(
        &self,
        microvm_id: &str,
        ports: &AllowedPorts,
        minutes: u32,
    ) -> Result<String, MintFailure>;

    /// A token for a MicroVM's shell.
    ///
    /// # Errors
    /// When the key cannot be used.
    fn shell_token(&self, microvm_id: &str, minutes: u32) -> Result<String, MintFailure>;
}

impl Control {
    /// `CreateMicrovmAuthToken`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn create_microvm_auth_token(
        &self,
        request: CreateMicrovmAuthTokenRequest,
    ) -> Result<AuthTokenResponse, ApiError> {
        let minutes = expiration_minutes(request.expiration_in_minutes)?;
        let ports = allowed_ports(&request.allowed_ports)?;
        let handle = self.live(&request.microvm_identifier, "given a token")?;
        let token = self
            .shared
            .tokens
            .endpoint_token(&handle.endpoint.microvm_id, &ports, minutes);
        token
            .map(AuthTokenResponse::with_token)
            .map_err(|failure| mint_failed(&failure))
    }

    /// `CreateMicrovmShellAuthToken`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn create_microvm_shell_auth_token(
        &self,
        request: CreateMicrovmShellAuthTokenRequest,
    ) -> Result<AuthTokenResponse, ApiError> {
        let minutes = expiration_minutes(request.expiration_in_minutes)?;
        let handle = self.live(&request.microvm_identifier, "given a shell token")?;
        if !handle.shell {
            return Err(ApiError::validation(
                "The MicroVM must be run with the SHELL_INGRESS network connector, and without ALL_INGRESS, \
                 to create a shell auth token",
            ));
        }
        let token = self
            .shared
            .tokens
            .shell_token(&handle.endpoint.microvm_id, minutes);
        token
            .map(AuthTokenResponse::with_token)
            .map_err(|failure| mint_failed(&failure))
    }

    /// A MicroVM that has not ended and does not.
    fn live(
        &self,
        identifier: &str,
        attempted: &str,
    ) -> Result<std::sync::Arc<crate::registry::Handle>, ApiError> {
        let handle = self.handle(identifier)?;
        let phase = handle.status.borrow().phase;
        if matches!(phase, Phase::Terminating | Phase::Terminated) {
            let id = &handle.endpoint.microvm_id;
            return Err(fault::microvm_in_wrong_state(
                id,
                attempted,
                state_name(phase),
            ));
        }
        Ok(handle)
    }
}

fn mint_failed(failure: &MintFailure) -> ApiError {
    tracing::error!(error = %chain(failure), "could not mint a token");
    ApiError::internal("The token could not be made")
}
