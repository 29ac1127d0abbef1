//! The errors of `lambda-core`: other names than those of `lambda-microvms`, and bodies that say whose
//! fault it is. Operations fail with the errors of [`crate::api_error`]; the front words them anew.

use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::model::{Api, ErrorName, Operation};

/// `Retry-After` where whoever throttled did not say, seconds.
const RETRY_AFTER: u32 = 1;

/// Which error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreErrorKind {
    /// 400: the request itself is wrong.
    InvalidParameterValue,
    /// 400: one connector, or one version of it, too many.
    LimitExceeded,
    /// 409: not in this state, or not twice at once.
    ResourceConflict,
    /// 404.
    ResourceNotFound,
    /// 500: Colibri failed.
    Service,
    /// 429: too fast.
    TooManyRequests {
        /// `Retry-After`, seconds.
        retry_after: u32,
    },
}

/// An error of `lambda-core`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CoreError {
    /// Which one.
    pub kind: CoreErrorKind,
    /// What the client reads.
    pub message: String,
}

impl CoreError {
    pub(crate) fn name(&self) -> ErrorName {
        match self.kind {
            CoreErrorKind::InvalidParameterValue => ErrorName::CoreInvalidParameterValue,
            CoreErrorKind::LimitExceeded => ErrorName::NetworkConnectorLimitExceeded,
            CoreErrorKind::ResourceConflict => ErrorName::CoreResourceConflict,
            CoreErrorKind::ResourceNotFound => ErrorName::CoreResourceNotFound,
            CoreErrorKind::Service => ErrorName::CoreService,
            CoreErrorKind::TooManyRequests { .. } => ErrorName::CoreTooManyRequests,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<u32> {
        match self.kind {
            CoreErrorKind::TooManyRequests { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// The body's members: two of the errors write `Message`, the others `message`.
    pub(crate) fn body(&self) -> Value {
        let (message, fault) = match self.kind {
            CoreErrorKind::ResourceNotFound => ("Message", "User"),
            CoreErrorKind::Service => ("Message", "Service"),
            _ => ("message", "User"),
        };
        let mut members = Map::new();
        members.insert("Type".into(), json!(fault));
        members.insert(message.into(), json!(self.message));
        if matches!(self.kind, CoreErrorKind::TooManyRequests { .. }) {
            members.insert("Reason".into(), json!("CallerRateLimitExceeded"));
        }
        Value::Object(members)
    }
}

impl ApiError {
    /// A limit of `lambda-core`.
    pub fn connector_limit(message: impl Into<String>) -> Self {
        Self::Core(CoreError {
            kind: CoreErrorKind::LimitExceeded,
            message: message.into(),
        })
    }

    /// The same error as the API of an operation names it.
    #[must_use]
    pub fn in_words_of(self, operation: Operation) -> Self {
        if operation.api() != Api::Core {
            return self;
        }
        let kind = match &self {
            Self::Validation { .. } | Self::InvalidParameterValue { .. } => {
                CoreErrorKind::InvalidParameterValue
            }
            Self::Conflict { .. } | Self::ResourceConflict { .. } => {
                CoreErrorKind::ResourceConflict
            }
            Self::ResourceNotFound { .. } => CoreErrorKind::ResourceNotFound,
            Self::ServiceQuotaExceeded { .. } => CoreErrorKind::LimitExceeded,
            Self::Throttling { retry_after, .. } => CoreErrorKind::TooManyRequests {
                retry_after: retry_after.unwrap_or(RETRY_AFTER),
            },
            Self::TooManyRequests { .. } => CoreErrorKind::TooManyRequests {
                retry_after: RETRY_AFTER,
            },
            Self::InternalServer { .. }
            | Self::Service { .. }
            | Self::InsufficientCapacity { .. } => CoreErrorKind::Service,
            // The model has no name for these: every API answers with them alike.
            Self::AccessDenied { .. } | Self::UnknownOperation | Self::Core(_) => return self,
        };
        let message = self.to_string();
        Self::Core(CoreError { kind, message })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api_error::{ApiError, QuotaName, ResourceName};
    use crate::model::Operation;

    fn core(error: ApiError) -> ApiError {
        error.in_words_of(Operation::GetNetworkConnector)
    }

    #[test]
    fn an_operation_of_lambda_core_fails_in_its_own_words() {
        let missing = core(ApiError::not_found(
            "no such connector",
            ResourceName::default(),
        ));
        assert_eq!(
            (missing.status(), missing.wire_name()),
            (404, "ResourceNotFoundException")
        );
        assert_eq!(
            missing.body(),
            json!({ "Type": "User", "Message": "no such connector" })
        );
        let invalid = core(ApiError::validation("no"));
        assert_eq!(
            (invalid.status(), invalid.wire_name()),
            (400, "InvalidParameterValueException")
        );
        assert_eq!(invalid.body(), json!({ "Type": "User", "message": "no" }));
        let failed = core(ApiError::internal("failed"));
        assert_eq!(
            (failed.status(), failed.wire_name()),
            (500, "ServiceException")
        );
        assert_eq!(
            failed.body(),
            json!({ "Type": "Service", "Message": "failed" })
        );
        let fast = core(ApiError::Throttling {
            message: "slower".into(),
            quota: QuotaName::default(),
            retry_after: Some(3),
        });
        assert_eq!((fast.status(), fast.retry_after()), (429, Some(3)));
        assert_eq!(
            fast.body(),
            json!({ "Type": "User", "message": "slower", "Reason": "CallerRateLimitExceeded" })
        );
    }

    #[test]
    fn every_member_of_its_errors_is_the_models() {
        let resource = ResourceName::default;
        for error in [
            ApiError::validation("m"),
            ApiError::conflict("m", resource()),
            ApiError::not_found("m", resource()),
            ApiError::internal("m"),
            ApiError::connector_limit("m"),
            ApiError::TooManyRequests {
                message: "m".into(),
            },
        ] {
            let error = core(error);
            let model = error.model().expect("modelled");
            let body = error.body();
            for name in body.as_object().expect("an object").keys() {
                let known = model
                    .members
                    .members()
                    .iter()
                    .any(|member| member.name == name);
                assert!(known, "{name} of {error:?}");
            }
        }
    }

    #[test]
    fn an_operation_of_lambda_microvms_keeps_its_words() {
        let error = ApiError::validation("no").in_words_of(Operation::RunMicrovm);
        assert_eq!(error.wire_name(), "ValidationException");
    }
}
