//! Requests and answers of the tag operations; their members are written in Pascal case.

use serde::{Deserialize, Serialize};

use super::common::Tags;

/// `ListTags`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListTagsRequest {
    /// ARN of the resource.
    pub resource: String,
}

/// Answer of `ListTags`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListTagsResponse {
    /// Its tags.
    pub tags: Tags,
}

/// `TagResource`; its answer has no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TagResourceRequest {
    /// ARN of the resource.
    pub resource: String,
    /// Tags to set; others stay.
    pub tags: Tags,
}

/// `UntagResource`; its answer has no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UntagResourceRequest {
    /// ARN of the resource.
    pub resource: String,
    /// Keys to remove.
    pub tag_keys: Vec<String>,
}
