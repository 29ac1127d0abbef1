//! Index of the operations and errors of `lambda-core`, as far as network connectors go. The same model
//! has operations of managed runtimes, which have nothing to do with MicroVMs and are not served
//! (`tests/model_drift.rs` lists them).

use super::common::STRING;
use super::connectors;
use super::operations::{ErrorModel, ErrorName, Operation, OperationModel};
use super::{Shape, member};

/// The operations, in the order of [`Operation`].
pub static CORE_OPERATIONS: &[OperationModel] = &[
    OperationModel {
        operation: Operation::CreateNetworkConnector,
        method: "POST",
        uri: "/2026-04-04/network-connectors",
        status: 202,
        input: &connectors::CREATE_REQUEST,
        output: Some(&connectors::CHANGE_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreResourceConflict,
            ErrorName::NetworkConnectorLimitExceeded,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
        ],
    },
    OperationModel {
        operation: Operation::DeleteNetworkConnector,
        method: "DELETE",
        uri: "/2026-04-04/network-connectors/{Identifier}",
        status: 202,
        input: &connectors::IDENTIFIER_REQUEST,
        output: Some(&connectors::CHANGE_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreResourceConflict,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
            ErrorName::CoreResourceNotFound,
        ],
    },
    OperationModel {
        operation: Operation::GetNetworkConnector,
        method: "GET",
        uri: "/2026-04-04/network-connectors/{Identifier}",
        status: 200,
        input: &connectors::IDENTIFIER_REQUEST,
        output: Some(&connectors::GET_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
            ErrorName::CoreResourceNotFound,
        ],
    },
    OperationModel {
        operation: Operation::ListNetworkConnectorVersions,
        method: "GET",
        uri: "/2026-04-04/network-connectors/{Identifier}/versions",
        status: 200,
        input: &connectors::LIST_VERSIONS_REQUEST,
        output: Some(&connectors::LIST_VERSIONS_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
            ErrorName::CoreResourceNotFound,
        ],
    },
    OperationModel {
        operation: Operation::ListNetworkConnectors,
        method: "GET",
        uri: "/2026-04-04/network-connectors",
        status: 200,
        input: &connectors::LIST_REQUEST,
        output: Some(&connectors::LIST_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
        ],
    },
    OperationModel {
        operation: Operation::UpdateNetworkConnector,
        method: "PUT",
        uri: "/2026-04-04/network-connectors/{Identifier}",
        status: 202,
        input: &connectors::UPDATE_REQUEST,
        output: Some(&connectors::UPDATE_RESPONSE),
        errors: &[
            ErrorName::CoreInvalidParameterValue,
            ErrorName::CoreResourceConflict,
            ErrorName::NetworkConnectorLimitExceeded,
            ErrorName::CoreService,
            ErrorName::CoreTooManyRequests,
            ErrorName::CoreResourceNotFound,
        ],
    },
];

static LOWER_CASE_MESSAGE: Shape =
    Shape::Structure(&[member("Type", &STRING), member("message", &STRING)]);

static PASCAL_CASE_MESSAGE: Shape =
    Shape::Structure(&[member("Type", &STRING), member("Message", &STRING)]);

static THROTTLE_REASON: Shape = Shape::Choice(&[
    "ConcurrentInvocationLimitExceeded",
    "FunctionInvocationRateLimitExceeded",
    "ReservedFunctionConcurrentInvocationLimitExceeded",
    "ReservedFunctionInvocationRateLimitExceeded",
    "CallerRateLimitExceeded",
    "ConcurrentSnapshotCreateLimitExceeded",
]);

static TOO_MANY_REQUESTS: Shape = Shape::Structure(&[
    member("retryAfterSeconds", &STRING).in_header("Retry-After"),
    member("Type", &STRING),
    member("message", &STRING),
    member("Reason", &THROTTLE_REASON),
]);

/// The errors, in the order of [`ErrorName`].
pub static CORE_ERRORS: &[ErrorModel] = &[
    ErrorModel {
        name: ErrorName::CoreInvalidParameterValue,
        wire_name: "InvalidParameterValueException",
        status: 400,
        members: &LOWER_CASE_MESSAGE,
    },
    ErrorModel {
        name: ErrorName::NetworkConnectorLimitExceeded,
        wire_name: "NetworkConnectorLimitExceededException",
        status: 400,
        members: &LOWER_CASE_MESSAGE,
    },
    ErrorModel {
        name: ErrorName::CoreResourceConflict,
        wire_name: "ResourceConflictException",
        status: 409,
        members: &LOWER_CASE_MESSAGE,
    },
    ErrorModel {
        name: ErrorName::CoreResourceNotFound,
        wire_name: "ResourceNotFoundException",
        status: 404,
        members: &PASCAL_CASE_MESSAGE,
    },
    ErrorModel {
        name: ErrorName::CoreService,
        wire_name: "ServiceException",
        status: 500,
        members: &PASCAL_CASE_MESSAGE,
    },
    ErrorModel {
        name: ErrorName::CoreTooManyRequests,
        wire_name: "TooManyRequestsException",
        status: 429,
        members: &TOO_MANY_REQUESTS,
    },
];
