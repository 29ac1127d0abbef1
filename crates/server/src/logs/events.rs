//! Log events: of one stream page by page, and of a group's streams together.

use colibri_logs::{Filter, From, GroupName, LARGEST_PAGE, LogsError, Query, StreamName, Streams};

use super::Call;
use super::checks::{limit, range};
use super::fault::LogsFault;
use super::pattern::Pattern;
use super::shapes::{
    FilterLogEventsRequest, FilterLogEventsResponse, FilteredLogEvent, GetLogEventsRequest,
    GetLogEventsResponse, OutputLogEvent,
};

/// Most streams that a request may name. CloudWatch Logs API: `InputLogStreamNames`.
pub(crate) const MOST_STREAMS: usize = 100;

/// `GetLogEvents`. A token carries its direction, so `startFromHead` counts on the first page only.
pub(crate) fn get(
    call: &Call,
    request: &GetLogEventsRequest,
) -> Result<GetLogEventsResponse, LogsFault> {
    let group = call.place.group_of(
        request.log_group_name.as_deref(),
        request.log_group_identifier.as_deref(),
    )?;
    let stream = StreamName::parse(&request.log_stream_name)?;
    let (start_ms, end_ms) = range(request.start_time, request.end_time)?;
    let from = match &request.next_token {
        Some(token) => From::Token(token.parse()?),
        None if request.start_from_head == Some(true) => From::Oldest,
        None => From::Newest,
    };
    let query = Query {
        from,
        start_ms,
        end_ms,
        limit: limit(request.limit, LARGEST_PAGE)?,
    };
    let page = call.logs.events(&group, &stream, &query)?;
    let events = page.events.into_iter().map(|event| OutputLogEvent {
        ingestion_time: event.ingestion_ms,
        message: event.message,
        timestamp: event.timestamp_ms,
    });
    Ok(GetLogEventsResponse {
        events: events.collect(),
        next_backward_token: page.backward.to_string(),
        next_forward_token: page.forward.to_string(),
    })
}

/// `FilterLogEvents`. Events of all streams come interleaved, whatever `interleaved` says, as AWS
/// has it since 2019.
pub(crate) fn filter(
    call: &Call,
    request: &FilterLogEventsRequest,
) -> Result<FilterLogEventsResponse, LogsFault> {
    let group = call.place.group_of(
        request.log_group_name.as_deref(),
        request.log_group_identifier.as_deref(),
    )?;
    if request.start_from_head == Some(false) {
        return Err(LogsFault::Invalid(
            "Colibri filters from the oldest event on; leave startFromHead out, or give startTime"
                .to_owned(),
        ));
    }
    let pattern = Pattern::parse(request.filter_pattern.as_deref().unwrap_or_default())?;
    let (start_ms, end_ms) = range(request.start_time, request.end_time)?;
    let filter = Filter {
        streams: selection(
            call,
            &group,
            request.log_stream_names.as_deref(),
            request.log_stream_name_prefix.as_deref(),
        )?,
        start_ms,
        // Here an event at the end of the range is in it: "a timestamp later than this time".
        end_ms: end_ms.map(|end| end.saturating_add(1)),
        matches: &|message| pattern.matches(message),
        limit: limit(request.limit, LARGEST_PAGE)?,
        token: request.next_token.as_deref().map(str::parse).transpose()?,
    };
    let page = call.logs.filter(&group, &filter)?;
    let events = page
        .events
        .into_iter()
        .map(|(stream, event)| FilteredLogEvent {
            event_id: event.id(&stream),
            ingestion_time: event.ingestion_ms,
            log_stream_name: stream.into(),
            message: event.message,
            timestamp: event.timestamp_ms,
        });
    Ok(FilterLogEventsResponse {
        events: events.collect(),
        next_token: page.next.map(|next| next.to_string()),
        searched_log_streams: [],
    })
}

/// Which streams a request asks for. One that is named must be there.
fn selection(
    call: &Call,
    group: &GroupName,
    names: Option<&[String]>,
    prefix: Option<&str>,
) -> Result<Streams, LogsFault> {
    let there = call.logs.stream_names(group)?;
    match (names, prefix) {
        (None, None) => Ok(Streams::All),
        (None, Some(prefix)) => Ok(Streams::Prefix(prefix.to_owned())),
        (Some(_), Some(_)) => Err(LogsFault::Invalid(
            "logStreamNames and logStreamNamePrefix are mutually exclusive; give one".to_owned(),
        )),
        (Some(names), None) if !(1..=MOST_STREAMS).contains(&names.len()) => {
            Err(LogsFault::Invalid(format!(
                "logStreamNames holds from 1 to {MOST_STREAMS} names and not {}",
                names.len()
            )))
        }
        (Some(names), None) => {
            let names = names
                .iter()
                .map(|name| StreamName::parse(name))
                .collect::<Result<Vec<_>, _>>()?;
            match names.iter().find(|name| !there.contains(name)) {
                Some(missing) => Err(LogsError::NoSuchStream {
                    group: group.clone(),
                    stream: missing.clone(),
                }
                .into()),
                None => Ok(Streams::Named(names)),
            }
        }
    }
}
