//! Members of the errors. Statuses are with the operations' index in [`super`].

use super::common::{INTEGER, STRING};
use super::{Shape, member};

pub(super) static ACCESS_DENIED_EXCEPTION: Shape = Shape::Structure(&[member("message", &STRING)]);

pub(super) static CONFLICT_EXCEPTION: Shape = Shape::Structure(&[
    member("message", &STRING),
    member("resourceId", &STRING),
    member("resourceType", &STRING),
]);

pub(super) static INSUFFICIENT_CAPACITY_EXCEPTION: Shape =
    Shape::Structure(&[member("message", &STRING).required()]);

pub(super) static INTERNAL_SERVER_EXCEPTION: Shape = Shape::Structure(&[
    member("message", &STRING),
    member("retryAfterSeconds", &INTEGER).in_header("Retry-After"),
]);

pub(super) static INVALID_PARAMETER_VALUE_EXCEPTION: Shape =
    Shape::Structure(&[member("Type", &STRING), member("message", &STRING)]);

pub(super) static RESOURCE_CONFLICT_EXCEPTION: Shape =
    Shape::Structure(&[member("Type", &STRING), member("message", &STRING)]);

pub(super) static RESOURCE_NOT_FOUND_EXCEPTION: Shape = Shape::Structure(&[
    member("message", &STRING).required(),
    member("resourceType", &STRING),
    member("resourceId", &STRING),
]);

pub(super) static SERVICE_EXCEPTION: Shape =
    Shape::Structure(&[member("Type", &STRING), member("message", &STRING)]);

pub(super) static SERVICE_QUOTA_EXCEEDED_EXCEPTION: Shape = Shape::Structure(&[
    member("message", &STRING),
    member("resourceId", &STRING),
    member("resourceType", &STRING),
    member("serviceCode", &STRING),
    member("quotaCode", &STRING),
]);

pub(super) static THROTTLING_EXCEPTION: Shape = Shape::Structure(&[
    member("message", &STRING),
    member("serviceCode", &STRING),
    member("quotaCode", &STRING),
    member("retryAfterSeconds", &INTEGER).in_header("Retry-After"),
]);

pub(super) static TOO_MANY_REQUESTS_EXCEPTION: Shape =
    Shape::Structure(&[member("Type", &STRING), member("message", &STRING)]);

pub(super) static VALIDATION_EXCEPTION: Shape = Shape::Structure(&[member("message", &STRING)]);
