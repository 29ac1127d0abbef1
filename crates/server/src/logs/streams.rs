//! Log streams: listed, made, removed.

use std::cmp::Ordering;

use colibri_logs::{GroupName, LogsError, StreamName, StreamSummary};
use serde::{Deserialize, Serialize};

use super::checks::limit;
use super::fault::LogsFault;
use super::groups::LARGEST_LIST;
use super::shapes::{
    DescribeLogStreamsRequest, DescribeLogStreamsResponse, LogStream, LogStreamRequest,
};
use super::{Call, token};

/// What streams are listed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Order {
    Name,
    LastEvent,
}

impl Order {
    fn parse(text: Option<&str>) -> Result<Self, LogsFault> {
        match text {
            None | Some("LogStreamName") => Ok(Self::Name),
            Some("LastEventTime") => Ok(Self::LastEvent),
            Some(other) => Err(LogsFault::Invalid(format!(
                "1 validation error detected: Value '{other}' at 'orderBy' failed to satisfy constraint: Member \
                 must satisfy enum value set: [LogStreamName, LastEventTime]"
            ))),
        }
    }
}

/// The last stream of a page, and the order in which it was the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LastStream {
    order: Order,
    descending: bool,
    event_ms: Option<i64>,
    stream: StreamName,
}

impl LastStream {
    fn of(summary: &StreamSummary, order: Order, descending: bool) -> Self {
        Self {
            order,
            descending,
            event_ms: summary.last_event_ms.filter(|_| order == Order::LastEvent),
            stream: summary.name.clone(),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let ascending = (self.event_ms, &self.stream).cmp(&(other.event_ms, &other.stream));
        if self.descending {
            ascending.reverse()
        } else {
            ascending
        }
    }
}

/// `DescribeLogStreams`.
pub(crate) fn describe(
    call: &Call,
    request: &DescribeLogStreamsRequest,
) -> Result<DescribeLogStreamsResponse, LogsFault> {
    let group = call.place.group_of(
        request.log_group_name.as_deref(),
        request.log_group_identifier.as_deref(),
    )?;
    let limit = limit(request.limit, LARGEST_LIST)?;
    let order = Order::parse(request.order_by.as_deref())?;
    let descending = request.descending.unwrap_or_default();
    let prefix = request.log_stream_name_prefix.as_deref();
    if order == Order::LastEvent && prefix.is_some() {
        return Err(LogsFault::Invalid(
            "Cannot order by LastEventTime with a logStreamNamePrefix.".to_owned(),
        ));
    }
    let after = after(request.next_token.as_deref(), order, descending)?;
    let mut found: Vec<(LastStream, StreamSummary)> = call
        .logs
        .streams(&group)?
        .into_iter()
        .filter(|summary| {
            summary
                .name
                .as_str()
                .starts_with(prefix.unwrap_or_default())
        })
        .map(|summary| (LastStream::of(&summary, order, descending), summary))
        .filter(|(key, _)| {
            after
                .as_ref()
                .is_none_or(|after| key.compare(after) == Ordering::Greater)
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| one.compare(other));
    let more = found.len() > limit;
    found.truncate(limit);
    let next_token = found
        .last()
        .filter(|_| more)
        .map(|(key, _)| token::write(key))
        .transpose()?;
    Ok(DescribeLogStreamsResponse {
        log_streams: found
            .iter()
            .map(|(_, summary)| stream(call, &group, summary))
            .collect(),
        next_token,
    })
}

/// Where a list goes on. A token of another order is none.
fn after(
    token: Option<&str>,
    order: Order,
    descending: bool,
) -> Result<Option<LastStream>, LogsFault> {
    let Some(token) = token else {
        return Ok(None);
    };
    let last: LastStream = token::read(token)?;
    if (last.order, last.descending) != (order, descending) {
        return Err(LogsError::InvalidToken.into());
    }
    Ok(Some(last))
}

fn stream(call: &Call, group: &GroupName, summary: &StreamSummary) -> LogStream {
    LogStream {
        arn: call.place.stream_arn(group, &summary.name),
        creation_time: summary.created_ms,
        first_event_timestamp: summary.first_event_ms,
        last_event_timestamp: summary.last_event_ms,
        last_ingestion_time: summary.last_ingestion_ms,
        log_stream_name: summary.name.to_string(),
        stored_bytes: summary.stored_bytes,
    }
}

/// `CreateLogStream`.
pub(crate) fn create(call: &Call, request: &LogStreamRequest) -> Result<(), LogsFault> {
    let (group, stream) = names(request)?;
    Ok(call.logs.create_stream(&group, &stream)?)
}

/// `DeleteLogStream`.
pub(crate) fn delete(call: &Call, request: &LogStreamRequest) -> Result<(), LogsFault> {
    let (group, stream) = names(request)?;
    Ok(call.logs.delete_stream(&group, &stream)?)
}

fn names(request: &LogStreamRequest) -> Result<(GroupName, StreamName), LogsFault> {
    Ok((
        GroupName::parse(&request.log_group_name)?,
        StreamName::parse(&request.log_stream_name)?,
    ))
}
