//! The errors that the API answers with, each with its status, its name and its members.

use serde_json::{Map, Value};

use crate::core_error::CoreError;
use crate::model::{ErrorModel, ErrorName};

/// Which resource an error is about; both members are optional in the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceName {
    /// `resourceType`
    pub kind: Option<String>,
    /// `resourceId`
    pub id: Option<String>,
}

impl ResourceName {
    /// A resource with both names.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            kind: Some(kind.into()),
            id: Some(id.into()),
        }
    }
}

/// Which quota was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaName {
    /// `serviceCode`, `lambda` for every quota known.
    pub service: Option<String>,
    /// `quotaCode`, such as `L-CD1C0CC4`.
    pub quota: Option<String>,
}

impl QuotaName {
    /// A quota of Lambda, by its code.
    pub fn lambda(quota: impl Into<String>) -> Self {
        Self {
            service: Some("lambda".to_owned()),
            quota: Some(quota.into()),
        }
    }
}

/// What the API answers instead of a success. `Display` is the `message` that the client reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400: the request itself is wrong; repeating it is in vain.
    #[error("{message}")]
    Validation {
        /// What is wrong with which member.
        message: String,
    },
    /// 403.
    #[error("{}", message.as_deref().unwrap_or("access denied"))]
    AccessDenied {
        /// Absent where the service itself answers with null.
        message: Option<String>,
    },
    /// 404.
    #[error("{message}")]
    ResourceNotFound {
        /// What was not found.
        message: String,
        /// Which resource.
        resource: ResourceName,
    },
    /// 409: not in this state, or not twice at once; clients repeat it.
    #[error("{message}")]
    Conflict {
        /// What stands against it.
        message: String,
        /// Which resource.
        resource: ResourceName,
    },
    /// 402.
    #[error("{message}")]
    ServiceQuotaExceeded {
        /// Which bound, and by how much.
        message: String,
        /// Which resource.
        resource: ResourceName,
        /// Which quota.
        quota: QuotaName,
    },
    /// 429: too fast; clients repeat it with a growing pause.
    #[error("{message}")]
    Throttling {
        /// What was too fast.
        message: String,
        /// Which quota.
        quota: QuotaName,
        /// `Retry-After`, seconds.
        retry_after: Option<u32>,
    },
    /// 500: Colibri failed. The message names no path, process or secret of the host.
    #[error("{message}")]
    InternalServer {
        /// What failed, as far as a client may know.
        message: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u32>,
    },
    /// 500: this host has no room for one more MicroVM.
    #[error("{message}")]
    InsufficientCapacity {
        /// What there is not enough of.
        message: String,
    },
    /// 400, tag operations only.
    #[error("{message}")]
    InvalidParameterValue {
        /// What is wrong.
        message: String,
    },
    /// 409, tag operations only.
    #[error("{message}")]
    ResourceConflict {
        /// What stands against it.
        message: String,
    },
    /// 500, tag operations only.
    #[error("{message}")]
    Service {
        /// What failed.
        message: String,
    },
    /// 429, tag operations only.
    #[error("{message}")]
    TooManyRequests {
        /// What was too fast.
        message: String,
    },
    /// An error of `lambda-core`.
    #[error(transparent)]
    Core(CoreError),
    /// 404: no operation has this method and path. Not in the model: the front end's own answer.
    #[error("no operation answers to this method and path")]
    UnknownOperation,
}

impl ApiError {
    /// A [`ApiError::Validation`].
    pub fn validation(message: impl Into<String>) -> Self {
        Self::Validation {
            message: message.into(),
        }
    }

    /// A [`ApiError::Conflict`] about a resource.
    pub fn conflict(message: impl Into<String>, resource: ResourceName) -> Self {
        Self::Conflict {
            message: message.into(),
            resource,
        }
    }

    /// A [`ApiError::ResourceNotFound`] about a resource.
    pub fn not_found(message: impl Into<String>, resource: ResourceName) -> Self {
        Self::ResourceNotFound {
            message: message.into(),
            resource,
        }
    }

    /// An [`ApiError::InternalServer`] without `Retry-After`.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::InternalServer {
            message: message.into(),
            retry_after: None,
        }
    }

    /// What the model says of this error; `None` for [`ApiError::UnknownOperation`].
    #[must_use]
    pub fn model(&self) -> Option<&'static ErrorModel> {
        let name = match self {
            Self::Validation { .. } => ErrorName::Validation,
            Self::AccessDenied { .. } => ErrorName::AccessDenied,
            Self::ResourceNotFound { .. } => ErrorName::ResourceNotFound,
            Self::Conflict { .. } => ErrorName::Conflict,
            Self::ServiceQuotaExceeded { .. } => ErrorName::ServiceQuotaExceeded,
            Self::Throttling { .. } => ErrorName::Throttling,
            Self::InternalServer { .. } => ErrorName::InternalServer,
            Self::InsufficientCapacity { .. } => ErrorName::InsufficientCapacity,
            Self::InvalidParameterValue { .. } => ErrorName::InvalidParameterValue,
            Self::ResourceConflict { .. } => ErrorName::ResourceConflict,
            Self::Service { .. } => ErrorName::Service,
            Self::TooManyRequests { .. } => ErrorName::TooManyRequests,
            Self::Core(error) => error.name(),
            Self::UnknownOperation => return None,
        };
        Some(name.model())
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.model().map_or(404, |model| model.status)
    }

    /// Value of `x-amzn-ErrorType`.
    #[must_use]
    pub fn wire_name(&self) -> &'static str {
        self.model()
            .map_or("UnknownOperationException", |model| model.wire_name)
    }

    /// `Retry-After`, seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Throttling { retry_after, .. } | Self::InternalServer { retry_after, .. } => {
                *retry_after
            }
            Self::Core(error) => error.retry_after(),
            _ => None,
        }
    }

    /// The body's members: `message` and what else the error carries.
    #[must_use]
    pub fn body(&self) -> Value {
        if let Self::Core(error) = self {
            return error.body();
        }
        let mut members = Map::new();
        match self {
            Self::AccessDenied { message: None } => members.insert("message".into(), Value::Null),
            other => members.insert("message".into(), Value::String(other.to_string())),
        };
        let (resource, quota, fault) = self.particulars();
        for (name, value) in [
            (
                "resourceType",
                resource.and_then(|resource| resource.kind.as_deref()),
            ),
            (
                "resourceId",
                resource.and_then(|resource| resource.id.as_deref()),
            ),
            (
                "serviceCode",
                quota.and_then(|quota| quota.service.as_deref()),
            ),
            ("quotaCode", quota.and_then(|quota| quota.quota.as_deref())),
            ("Type", fault),
        ] {
            if let Some(value) = value {
                members.insert(name.into(), Value::String(value.to_owned()));
            }
        }
        Value::Object(members)
    }

    /// Resource, quota, and whose fault it is (`Type`: the shared tag front end alone says so).
    fn particulars(
        &self,
    ) -> (
        Option<&ResourceName>,
        Option<&QuotaName>,
        Option<&'static str>,
    ) {
        match self {
            Self::ResourceNotFound { resource, .. } | Self::Conflict { resource, .. } => {
                (Some(resource), None, None)
            }
            Self::ServiceQuotaExceeded {
                resource, quota, ..
            } => (Some(resource), Some(quota), None),
            Self::Throttling { quota, .. } => (None, Some(quota), None),
            Self::InvalidParameterValue { .. }
            | Self::ResourceConflict { .. }
            | Self::TooManyRequests { .. } => (None, None, Some("User")),
            Self::Service { .. } => (None, None, Some("Service")),
            _ => (None, None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiError, QuotaName, ResourceName};

    #[test]
    fn a_quota_error_names_its_quota_and_is_a_402() {
        let error = ApiError::ServiceQuotaExceeded {
            message: "too much memory".into(),
            resource: ResourceName::default(),
            quota: QuotaName::lambda("L-CD1C0CC4"),
        };
        assert_eq!(
            (error.status(), error.wire_name()),
            (402, "ServiceQuotaExceededException")
        );
        let expected = serde_json::json!({
            "message": "too much memory", "serviceCode": "lambda", "quotaCode": "L-CD1C0CC4"
        });
        assert_eq!(error.body(), expected);
    }

    #[test]
    fn the_members_of_every_error_are_the_models() {
        let resource = || ResourceName::new("MicroVM", "microvm-1");
        let message = || "m".to_owned();
        let errors = [
            ApiError::not_found("m", resource()),
            ApiError::conflict("m", resource()),
            ApiError::ServiceQuotaExceeded {
                message: message(),
                resource: resource(),
                quota: QuotaName::lambda("q"),
            },
            ApiError::Throttling {
                message: message(),
                quota: QuotaName::lambda("q"),
                retry_after: Some(1),
            },
            ApiError::internal("m"),
            ApiError::InsufficientCapacity { message: message() },
            ApiError::InvalidParameterValue { message: message() },
            ApiError::ResourceConflict { message: message() },
            ApiError::Service { message: message() },
            ApiError::TooManyRequests { message: message() },
        ];
        for error in errors {
            let members = error.model().expect("modelled").members.members();
            let body = error.body();
            for name in body.as_object().expect("an object").keys() {
                assert!(
                    members.iter().any(|member| member.name == name),
                    "{name} of {error:?}"
                );
            }
        }
    }
}
