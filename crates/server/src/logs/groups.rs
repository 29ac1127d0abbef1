//! Log groups: listed, made, removed.

use std::collections::BTreeMap;

use colibri_logs::{GroupName, GroupSummary};
use serde::{Deserialize, Serialize};

use super::checks::{limit, unsupported};
use super::fault::LogsFault;
use super::shapes::{
    CreateLogGroupRequest, DescribeLogGroupsRequest, DescribeLogGroupsResponse,
    ListTagsForResourceRequest, LogGroup, LogGroupRequest, TagsResponse,
};
use super::{Call, token};

/// Largest page of a list of groups or streams. CloudWatch Logs API: `DescribeLimit`.
pub(crate) const LARGEST_LIST: usize = 50;

/// The only class of log group that is kept here.
const CLASS: &str = "STANDARD";

/// The last group of a page.
#[derive(Debug, Serialize, Deserialize)]
struct LastGroup {
    group: GroupName,
}

/// `DescribeLogGroups`.
pub(crate) fn describe(
    call: &Call,
    request: &DescribeLogGroupsRequest,
) -> Result<DescribeLogGroupsResponse, LogsFault> {
    unsupported("accountIdentifiers", request.account_identifiers.is_some())?;
    unsupported(
        "includeLinkedAccounts",
        request.include_linked_accounts == Some(true),
    )?;
    let limit = limit(request.limit, LARGEST_LIST)?;
    let wanted = Selection::of(call, request)?;
    let after = request
        .next_token
        .as_deref()
        .map(token::read::<LastGroup>)
        .transpose()?;
    let mut names: Vec<GroupName> = call.logs.group_names();
    names.retain(|name| {
        wanted.contains(name) && after.as_ref().is_none_or(|after| *name > after.group)
    });
    let more = names.len() > limit;
    names.truncate(limit);
    let next_token = names
        .last()
        .filter(|_| more)
        .map(|group| {
            token::write(&LastGroup {
                group: group.clone(),
            })
        })
        .transpose()?;
    let mut log_groups = Vec::new();
    for name in &names {
        // One that was removed meanwhile is left out.
        if let Some(summary) = call.logs.summary(name)? {
            log_groups.push(group(call, &summary));
        }
    }
    Ok(DescribeLogGroupsResponse {
        log_groups,
        next_token,
    })
}

/// Which groups a request asks for.
struct Selection<'a> {
    prefix: &'a str,
    pattern: &'a str,
    named: Option<Vec<GroupName>>,
    class: bool,
}

impl<'a> Selection<'a> {
    fn of(call: &Call, request: &'a DescribeLogGroupsRequest) -> Result<Self, LogsFault> {
        let prefix = request.log_group_name_prefix.as_deref();
        let pattern = request.log_group_name_pattern.as_deref();
        if prefix.is_some() && pattern.is_some() {
            return Err(LogsFault::Invalid(
                "logGroupNamePrefix and logGroupNamePattern are mutually exclusive; give one"
                    .to_owned(),
            ));
        }
        if let Some(prefix) = prefix {
            GroupName::parse(prefix)?;
        }
        let named = request
            .log_group_identifiers
            .as_ref()
            .map(|identifiers| {
                identifiers
                    .iter()
                    .map(|identifier| call.place.group(identifier))
                    .collect::<Result<Vec<_>, _>>()
            })
            .transpose()?;
        Ok(Self {
            prefix: prefix.unwrap_or_default(),
            pattern: pattern.unwrap_or_default(),
            named,
            class: request
                .log_group_class
                .as_deref()
                .is_none_or(|class| class == CLASS),
        })
    }

    fn contains(&self, name: &GroupName) -> bool {
        self.class
            && name.as_str().starts_with(self.prefix)
            && name.as_str().contains(self.pattern)
            && self.named.as_ref().is_none_or(|named| named.contains(name))
    }
}

/// A group without a retention of its own is listed with the one that it is under.
fn group(call: &Call, summary: &GroupSummary) -> LogGroup {
    let arn = call.place.group_arn(&summary.name);
    LogGroup {
        arn: format!("{arn}:*"),
        creation_time: summary.created_ms,
        log_group_arn: arn,
        log_group_class: CLASS,
        log_group_name: summary.name.to_string(),
        metric_filter_count: 0,
        retention_in_days: summary
            .retention_days
            .or(call.logs.default_retention_days()),
        stored_bytes: summary.stored_bytes,
    }
}

/// `CreateLogGroup`.
pub(crate) fn create(call: &Call, request: &CreateLogGroupRequest) -> Result<(), LogsFault> {
    unsupported("kmsKeyId", request.kms_key_id.is_some())?;
    unsupported(
        "tags",
        request.tags.as_ref().is_some_and(|tags| !tags.is_empty()),
    )?;
    unsupported(
        "deletionProtectionEnabled",
        request.deletion_protection_enabled == Some(true),
    )?;
    if let Some(class) = request.log_group_class.as_deref()
        && class != CLASS
    {
        return Err(LogsFault::Invalid(format!(
            "Colibri keeps log groups of the class {CLASS} only, not `{class}`"
        )));
    }
    let name = GroupName::parse(&request.log_group_name)?;
    Ok(call.logs.create_group(&name)?)
}

/// `DeleteLogGroup`.
pub(crate) fn delete(call: &Call, request: &LogGroupRequest) -> Result<(), LogsFault> {
    let name = GroupName::parse(&request.log_group_name)?;
    Ok(call.logs.delete_group(&name)?)
}

/// `ListTagsLogGroup`: a group has none, for none can be given.
pub(crate) fn list_tags(call: &Call, request: &LogGroupRequest) -> Result<TagsResponse, LogsFault> {
    tags(call, &GroupName::parse(&request.log_group_name)?)
}

/// `ListTagsForResource`.
pub(crate) fn list_tags_for_resource(
    call: &Call,
    request: &ListTagsForResourceRequest,
) -> Result<TagsResponse, LogsFault> {
    tags(call, &call.place.group(&request.resource_arn)?)
}

fn tags(call: &Call, group: &GroupName) -> Result<TagsResponse, LogsFault> {
    call.logs.stream_names(group)?;
    Ok(TagsResponse {
        tags: BTreeMap::new(),
    })
}
