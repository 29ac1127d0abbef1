//! Index of the operations and errors of `lambda-microvms`, each with its status and its shapes, and the
//! names of those of both APIs; the index of `lambda-core` is in [`super::core`].

use super::{CORE_ERRORS, CORE_OPERATIONS, Shape, errors, images, microvms, tags};

/// One operation of the model.
#[derive(Debug)]
pub struct OperationModel {
    /// Which one.
    pub operation: Operation,
    /// HTTP method.
    pub method: &'static str,
    /// Path, with labels in braces.
    pub uri: &'static str,
    /// HTTP status of a success.
    pub status: u16,
    /// The request's members.
    pub input: &'static Shape,
    /// The answer's members; `None` where the model has no answer at all.
    pub output: Option<&'static Shape>,
    /// Errors that the model lists.
    pub errors: &'static [ErrorName],
}

/// One error of the model.
#[derive(Debug)]
pub struct ErrorModel {
    /// Which one.
    pub name: ErrorName,
    /// Name on the wire.
    pub wire_name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Its members.
    pub members: &'static Shape,
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// An operation of `lambda-microvms`, or of the connectors of `lambda-core`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operation {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                $name,
            )*
        }

        impl Operation {
            /// Name in the model; the IAM action is `lambda:` and this name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operations! {
    CreateMicrovmAuthToken, CreateMicrovmImage, CreateMicrovmShellAuthToken, DeleteMicrovmImage, DeleteMicrovmImageVersion, GetMicrovm, GetMicrovmImage, GetMicrovmImageBuild, GetMicrovmImageVersion, ListManagedMicrovmImageVersions, ListManagedMicrovmImages, ListMicrovmImageBuilds, ListMicrovmImageVersions, ListMicrovmImages, ListMicrovms, ListTags, ResumeMicrovm, RunMicrovm, SuspendMicrovm, TagResource, TerminateMicrovm, UntagResource, UpdateMicrovmImage, UpdateMicrovmImageVersion,
    CreateNetworkConnector, DeleteNetworkConnector, GetNetworkConnector, ListNetworkConnectorVersions, ListNetworkConnectors, UpdateNetworkConnector,
}

impl Operation {
    /// What the model says of it.
    #[must_use]
    pub fn model(self) -> &'static OperationModel {
        // The tables list the operations in the enum's own order; a test proves it.
        let index = self as usize;
        match index.checked_sub(OPERATIONS.len()) {
            Some(index) => &CORE_OPERATIONS[index],
            None => &OPERATIONS[index],
        }
    }

    /// Which API it is of: that decides how its errors are worded.
    #[must_use]
    pub fn api(self) -> Api {
        if (self as usize) < OPERATIONS.len() {
            Api::Microvms
        } else {
            Api::Core
        }
    }
}

/// The published models that the operations are out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// `lambda-microvms`
    Microvms,
    /// `lambda-core`
    Core,
}

/// An error that a model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorName {
    /// `AccessDeniedException`
    AccessDenied,
    /// `ConflictException`
    Conflict,
    /// `InsufficientCapacityException`
    InsufficientCapacity,
    /// `InternalServerException`
    InternalServer,
    /// `InvalidParameterValueException`
    InvalidParameterValue,
    /// `ResourceConflictException`
    ResourceConflict,
    /// `ResourceNotFoundException`
    ResourceNotFound,
    /// `ServiceException`
    Service,
    /// `ServiceQuotaExceededException`
    ServiceQuotaExceeded,
    /// `ThrottlingException`
    Throttling,
    /// `TooManyRequestsException`
    TooManyRequests,
    /// `ValidationException`
    Validation,
    /// `InvalidParameterValueException` of `lambda-core`
    CoreInvalidParameterValue,
    /// `NetworkConnectorLimitExceededException`
    NetworkConnectorLimitExceeded,
    /// `ResourceConflictException` of `lambda-core`
    CoreResourceConflict,
    /// `ResourceNotFoundException` of `lambda-core`
    CoreResourceNotFound,
    /// `ServiceException` of `lambda-core`
    CoreService,
    /// `TooManyRequestsException` of `lambda-core`
    CoreTooManyRequests,
}

impl ErrorName {
    /// What the model says of it.
    #[must_use]
    pub fn model(self) -> &'static ErrorModel {
        let index = self as usize;
        match index.checked_sub(ERRORS.len()) {
            Some(index) => &CORE_ERRORS[index],
            None => &ERRORS[index],
        }
    }
}

/// Every error of `lambda-microvms`, in the order of [`ErrorName`].
pub static ERRORS: &[ErrorModel] = &[
    ErrorModel {
        name: ErrorName::AccessDenied,
        wire_name: "AccessDeniedException",
        status: 403,
        members: &errors::ACCESS_DENIED_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::Conflict,
        wire_name: "ConflictException",
        status: 409,
        members: &errors::CONFLICT_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::InsufficientCapacity,
        wire_name: "InsufficientCapacityException",
        status: 500,
        members: &errors::INSUFFICIENT_CAPACITY_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::InternalServer,
        wire_name: "InternalServerException",
        status: 500,
        members: &errors::INTERNAL_SERVER_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::InvalidParameterValue,
        wire_name: "InvalidParameterValueException",
        status: 400,
        members: &errors::INVALID_PARAMETER_VALUE_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::ResourceConflict,
        wire_name: "ResourceConflictException",
        status: 409,
        members: &errors::RESOURCE_CONFLICT_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::ResourceNotFound,
        wire_name: "ResourceNotFoundException",
        status: 404,
        members: &errors::RESOURCE_NOT_FOUND_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::Service,
        wire_name: "ServiceException",
        status: 500,
        members: &errors::SERVICE_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::ServiceQuotaExceeded,
        wire_name: "ServiceQuotaExceededException",
        status: 402,
        members: &errors::SERVICE_QUOTA_EXCEEDED_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::Throttling,
        wire_name: "ThrottlingException",
        status: 429,
        members: &errors::THROTTLING_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::TooManyRequests,
        wire_name: "TooManyRequestsException",
        status: 429,
        members: &errors::TOO_MANY_REQUESTS_EXCEPTION,
    },
    ErrorModel {
        name: ErrorName::Validation,
        wire_name: "ValidationException",
        status: 400,
        members: &errors::VALIDATION_EXCEPTION,
    },
];

/// Every operation of `lambda-microvms`, in the order of [`Operation`].
pub static OPERATIONS: &[OperationModel] = &[
    OperationModel {
        operation: Operation::CreateMicrovmAuthToken,
        method: "POST",
        uri: "/2025-09-09/microvms/{microvmIdentifier}/auth-token",
        status: 200,
        input: &microvms::CREATE_MICROVM_AUTH_TOKEN_REQUEST,
        output: Some(&microvms::CREATE_MICROVM_AUTH_TOKEN_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::CreateMicrovmImage,
        method: "POST",
        uri: "/2025-09-09/microvm-images",
        status: 201,
        input: &images::CREATE_MICROVM_IMAGE_REQUEST,
        output: Some(&images::CREATE_MICROVM_IMAGE_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
            ErrorName::ServiceQuotaExceeded,
        ],
    },
    OperationModel {
        operation: Operation::CreateMicrovmShellAuthToken,
        method: "POST",
        uri: "/2025-09-09/microvms/{microvmIdentifier}/shell-auth-token",
        status: 200,
        input: &microvms::CREATE_MICROVM_SHELL_AUTH_TOKEN_REQUEST,
        output: Some(&microvms::CREATE_MICROVM_SHELL_AUTH_TOKEN_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::DeleteMicrovmImage,
        method: "DELETE",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}",
        status: 200,
        input: &images::DELETE_MICROVM_IMAGE_INPUT,
        output: Some(&images::DELETE_MICROVM_IMAGE_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::DeleteMicrovmImageVersion,
        method: "DELETE",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        status: 200,
        input: &images::DELETE_MICROVM_IMAGE_VERSION_INPUT,
        output: Some(&images::DELETE_MICROVM_IMAGE_VERSION_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::GetMicrovm,
        method: "GET",
        uri: "/2025-09-09/microvms/{microvmIdentifier}",
        status: 200,
        input: &microvms::GET_MICROVM_REQUEST,
        output: Some(&microvms::GET_MICROVM_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::GetMicrovmImage,
        method: "GET",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}",
        status: 200,
        input: &images::GET_MICROVM_IMAGE_INPUT,
        output: Some(&images::GET_MICROVM_IMAGE_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::GetMicrovmImageBuild,
        method: "GET",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}/builds/{buildId}",
        status: 200,
        input: &images::GET_MICROVM_IMAGE_BUILD_INPUT,
        output: Some(&images::GET_MICROVM_IMAGE_BUILD_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::GetMicrovmImageVersion,
        method: "GET",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        status: 200,
        input: &images::GET_MICROVM_IMAGE_VERSION_INPUT,
        output: Some(&images::GET_MICROVM_IMAGE_VERSION_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListManagedMicrovmImageVersions,
        method: "GET",
        uri: "/2025-09-09/managed-microvm-images/{imageIdentifier}/versions",
        status: 200,
        input: &images::LIST_MANAGED_MICROVM_IMAGE_VERSIONS_INPUT,
        output: Some(&images::LIST_MANAGED_MICROVM_IMAGE_VERSIONS_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListManagedMicrovmImages,
        method: "GET",
        uri: "/2025-09-09/managed-microvm-images",
        status: 200,
        input: &images::LIST_MANAGED_MICROVM_IMAGES_INPUT,
        output: Some(&images::LIST_MANAGED_MICROVM_IMAGES_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListMicrovmImageBuilds,
        method: "GET",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}/builds",
        status: 200,
        input: &images::LIST_MICROVM_IMAGE_BUILDS_INPUT,
        output: Some(&images::LIST_MICROVM_IMAGE_BUILDS_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListMicrovmImageVersions,
        method: "GET",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions",
        status: 200,
        input: &images::LIST_MICROVM_IMAGE_VERSIONS_INPUT,
        output: Some(&images::LIST_MICROVM_IMAGE_VERSIONS_OUTPUT),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListMicrovmImages,
        method: "GET",
        uri: "/2025-09-09/microvm-images",
        status: 200,
        input: &images::LIST_MICROVM_IMAGES_REQUEST,
        output: Some(&images::LIST_MICROVM_IMAGES_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListMicrovms,
        method: "GET",
        uri: "/2025-09-09/microvms",
        status: 200,
        input: &microvms::LIST_MICROVMS_REQUEST,
        output: Some(&microvms::LIST_MICROVMS_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::ListTags,
        method: "GET",
        uri: "/2017-03-31/tags/{Resource}",
        status: 200,
        input: &tags::LIST_TAGS_REQUEST,
        output: Some(&tags::LIST_TAGS_RESPONSE),
        errors: &[
            ErrorName::TooManyRequests,
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Service,
            ErrorName::Validation,
            ErrorName::InvalidParameterValue,
        ],
    },
    OperationModel {
        operation: Operation::ResumeMicrovm,
        method: "POST",
        uri: "/2025-09-09/microvms/{microvmIdentifier}/resume",
        status: 200,
        input: &microvms::RESUME_MICROVM_REQUEST,
        output: Some(&microvms::RESUME_MICROVM_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::RunMicrovm,
        method: "POST",
        uri: "/2025-09-09/microvms",
        status: 200,
        input: &microvms::RUN_MICROVM_REQUEST,
        output: Some(&microvms::RUN_MICROVM_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::InsufficientCapacity,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
            ErrorName::ServiceQuotaExceeded,
        ],
    },
    OperationModel {
        operation: Operation::SuspendMicrovm,
        method: "POST",
        uri: "/2025-09-09/microvms/{microvmIdentifier}/suspend",
        status: 200,
        input: &microvms::SUSPEND_MICROVM_REQUEST,
        output: Some(&microvms::SUSPEND_MICROVM_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::TagResource,
        method: "POST",
        uri: "/2017-03-31/tags/{Resource}",
        status: 204,
        input: &tags::TAG_RESOURCE_REQUEST,
        output: None,
        errors: &[
            ErrorName::TooManyRequests,
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Service,
            ErrorName::Validation,
            ErrorName::InvalidParameterValue,
            ErrorName::ResourceConflict,
        ],
    },
    OperationModel {
        operation: Operation::TerminateMicrovm,
        method: "DELETE",
        uri: "/2025-09-09/microvms/{microvmIdentifier}",
        status: 200,
        input: &microvms::TERMINATE_MICROVM_REQUEST,
        output: Some(&microvms::TERMINATE_MICROVM_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
    OperationModel {
        operation: Operation::UntagResource,
        method: "DELETE",
        uri: "/2017-03-31/tags/{Resource}",
        status: 204,
        input: &tags::UNTAG_RESOURCE_REQUEST,
        output: None,
        errors: &[
            ErrorName::TooManyRequests,
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Service,
            ErrorName::Validation,
            ErrorName::InvalidParameterValue,
            ErrorName::ResourceConflict,
        ],
    },
    OperationModel {
        operation: Operation::UpdateMicrovmImage,
        method: "PUT",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}",
        status: 200,
        input: &images::UPDATE_MICROVM_IMAGE_REQUEST,
        output: Some(&images::UPDATE_MICROVM_IMAGE_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
            ErrorName::ServiceQuotaExceeded,
        ],
    },
    OperationModel {
        operation: Operation::UpdateMicrovmImageVersion,
        method: "PATCH",
        uri: "/2025-09-09/microvm-images/{imageIdentifier}/versions/{imageVersion}",
        status: 200,
        input: &images::UPDATE_MICROVM_IMAGE_VERSION_REQUEST,
        output: Some(&images::UPDATE_MICROVM_IMAGE_VERSION_RESPONSE),
        errors: &[
            ErrorName::InternalServer,
            ErrorName::AccessDenied,
            ErrorName::ResourceNotFound,
            ErrorName::Throttling,
            ErrorName::Conflict,
            ErrorName::Validation,
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::{CORE_ERRORS, CORE_OPERATIONS, ERRORS, OPERATIONS};

    #[test]
    fn operations_and_errors_stand_where_their_names_look_for_them() {
        for (index, model) in OPERATIONS.iter().chain(CORE_OPERATIONS).enumerate() {
            assert_eq!(model.operation as usize, index);
        }
        for (index, model) in ERRORS.iter().chain(CORE_ERRORS).enumerate() {
            assert_eq!(model.name as usize, index);
        }
    }
}
