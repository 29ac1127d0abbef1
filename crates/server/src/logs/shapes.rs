//! Requests and responses, member by member as the published model has them. Unknown members are
//! ignored, as AWS does; absent ones are left out of responses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescribeLogGroupsRequest {
    pub(crate) account_identifiers: Option<Vec<String>>,
    pub(crate) include_linked_accounts: Option<bool>,
    pub(crate) limit: Option<i64>,
    pub(crate) log_group_class: Option<String>,
    pub(crate) log_group_identifiers: Option<Vec<String>>,
    pub(crate) log_group_name_pattern: Option<String>,
    pub(crate) log_group_name_prefix: Option<String>,
    pub(crate) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescribeLogGroupsResponse {
    pub(crate) log_groups: Vec<LogGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogGroup {
    pub(crate) arn: String,
    pub(crate) creation_time: i64,
    pub(crate) log_group_arn: String,
    pub(crate) log_group_class: &'static str,
    pub(crate) log_group_name: String,
    pub(crate) metric_filter_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention_in_days: Option<u32>,
    pub(crate) stored_bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateLogGroupRequest {
    pub(crate) deletion_protection_enabled: Option<bool>,
    pub(crate) kms_key_id: Option<String>,
    pub(crate) log_group_class: Option<String>,
    pub(crate) log_group_name: String,
    pub(crate) tags: Option<BTreeMap<String, Value>>,
}

/// Of every operation that takes a group and nothing else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogGroupRequest {
    pub(crate) log_group_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListTagsForResourceRequest {
    pub(crate) resource_arn: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct TagsResponse {
    pub(crate) tags: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PutRetentionPolicyRequest {
    pub(crate) log_group_name: String,
    pub(crate) retention_in_days: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescribeLogStreamsRequest {
    pub(crate) descending: Option<bool>,
    pub(crate) limit: Option<i64>,
    pub(crate) log_group_identifier: Option<String>,
    pub(crate) log_group_name: Option<String>,
    pub(crate) log_stream_name_prefix: Option<String>,
    pub(crate) next_token: Option<String>,
    pub(crate) order_by: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescribeLogStreamsResponse {
    pub(crate) log_streams: Vec<LogStream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogStream {
    pub(crate) arn: String,
    pub(crate) creation_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_event_timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_ingestion_time: Option<i64>,
    pub(crate) log_stream_name: String,
    pub(crate) stored_bytes: u64,
}

/// Of every operation that takes a stream and nothing else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogStreamRequest {
    pub(crate) log_group_name: String,
    pub(crate) log_stream_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GetLogEventsRequest {
    pub(crate) end_time: Option<i64>,
    pub(crate) limit: Option<i64>,
    pub(crate) log_group_identifier: Option<String>,
    pub(crate) log_group_name: Option<String>,
    pub(crate) log_stream_name: String,
    pub(crate) next_token: Option<String>,
    pub(crate) start_from_head: Option<bool>,
    pub(crate) start_time: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GetLogEventsResponse {
    pub(crate) events: Vec<OutputLogEvent>,
    pub(crate) next_backward_token: String,
    pub(crate) next_forward_token: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutputLogEvent {
    pub(crate) ingestion_time: i64,
    pub(crate) message: String,
    pub(crate) timestamp: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilterLogEventsRequest {
    pub(crate) end_time: Option<i64>,
    pub(crate) filter_pattern: Option<String>,
    pub(crate) limit: Option<i64>,
    pub(crate) log_group_identifier: Option<String>,
    pub(crate) log_group_name: Option<String>,
    pub(crate) log_stream_name_prefix: Option<String>,
    pub(crate) log_stream_names: Option<Vec<String>>,
    pub(crate) next_token: Option<String>,
    pub(crate) start_from_head: Option<bool>,
    pub(crate) start_time: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilterLogEventsResponse {
    pub(crate) events: Vec<FilteredLogEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
    /// Empty, as AWS has it since 2020.
    pub(crate) searched_log_streams: [(); 0],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilteredLogEvent {
    pub(crate) event_id: String,
    pub(crate) ingestion_time: i64,
    pub(crate) log_stream_name: String,
    pub(crate) message: String,
    pub(crate) timestamp: i64,
}
