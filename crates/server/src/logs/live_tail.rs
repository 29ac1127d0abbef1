//! `StartLiveTail`: what is written to log groups from now on, told once a second, for as long as the
//! client listens. A client that reads slowly is not sent samples, as AWS does, but gets everything
//! later: events are read from the disk when there is room to send them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use colibri_logs::{
    Event, From, GroupName, Logs, LogsError, Query, StreamName, Subscription, Token,
};
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::events::MOST_STREAMS;
use super::fault::LogsFault;
use super::pattern::Pattern;
use super::{Call, event_stream, parsed};
use crate::answer::{AnswerBody, answer};

/// Sessions at once. CloudWatch Logs quotas: 15 concurrent live tail sessions.
const SESSIONS: usize = 15;
/// Longest session. CloudWatch Logs API: `StartLiveTail`, "after it has been kept open for three hours".
const LONGEST: Duration = Duration::from_secs(3 * 60 * 60);
/// Time between updates.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);
/// Most log groups of a session. CloudWatch Logs API: "You can include up to 10 log groups".
const MOST_GROUPS: usize = 10;
/// Most events of an update, of the same source.
const UPDATE_EVENTS: usize = 500;
/// An update is sent when it has so many bytes of messages; a page more is the most it can have.
const UPDATE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartLiveTailRequest {
    log_event_filter_pattern: Option<String>,
    log_group_identifiers: Vec<String>,
    log_stream_name_prefixes: Option<Vec<String>>,
    log_stream_names: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogEvent<'a> {
    ingestion_time: i64,
    log_group_identifier: &'a str,
    log_stream_name: &'a str,
    message: &'a str,
    timestamp: i64,
}

/// Every session of this server.
#[derive(Debug)]
pub(crate) struct LiveTails {
    sessions: Arc<Semaphore>,
    stop: CancellationToken,
}

impl LiveTails {
    pub(crate) fn new() -> Self {
        Self {
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            stop: CancellationToken::new(),
        }
    }

    /// Ends every session, and those to come at once.
    pub(crate) fn end(&self) {
        self.stop.cancel();
    }

    /// Begins a session: its answer goes on until the client leaves.
    pub(crate) async fn start(
        &self,
        call: Call,
        body: Bytes,
        request_id: &str,
    ) -> Result<Response<AnswerBody>, LogsFault> {
        let sessions = Arc::clone(&self.sessions);
        let permit = sessions
            .try_acquire_owned()
            .map_err(|_| LogsFault::TooManySessions(SESSIONS))?;
        let request_id = request_id.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&call, &body, &request_id));
        let (opening, tail) = opened.await.map_err(|_| LogsFault::Interrupted)??;
        let mut ticks = interval(UPDATE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let session = Session {
            opening,
            tail: Some(tail),
            behind: false,
            ticks,
            deadline: Instant::now() + LONGEST,
            stop: self.stop.clone(),
            _permit: permit,
        };
        let messages = stream::unfold(session, |mut session| async move {
            let message = session.next().await?;
            Some((Ok(Frame::data(message)), session))
        });
        let media_type = [("content-type", event_stream::MEDIA_TYPE.to_owned())];
        let (head, _) = answer(200, media_type, Vec::new()).into_parts();
        Ok(Response::from_parts(
            head,
            StreamBody::new(messages).boxed_unsync(),
        ))
    }
}

/// One client that listens.
struct Session {
    /// Messages that come before the first update.
    opening: VecDeque<Bytes>,
    /// `None` once the session has ended.
    tail: Option<Tail>,
    /// Whether there may be more to send than the last update held.
    behind: bool,
    ticks: Interval,
    deadline: Instant,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    /// The next message; asked for when there is room for it.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(message) = self.opening.pop_front() {
            return Some(message);
        }
        let mut tail = self.tail.take()?;
        let (behind, ticks) = (self.behind, &mut self.ticks);
        let turn = async {
            if !behind {
                ticks.tick().await;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            () = sleep_until(self.deadline) => {
                let message = format!("a session ends after {} hours", LONGEST.as_secs() / 3600);
                return Some(ending("SessionTimeoutException", &message));
            }
            () = turn => {}
        }
        let collected = tokio::task::spawn_blocking(move || {
            let update = tail.collect();
            (update, tail)
        });
        match collected.await {
            Ok((Ok(update), tail)) => {
                self.tail = Some(tail);
                self.behind = update.behind;
                Some(update.message)
            }
            Ok((Err(fault), _)) => Some(ending("SessionStreamingException", &fault.to_string())),
            Err(_) => None,
        }
    }
}

fn ending(kind: &str, message: &str) -> Bytes {
    let payload = json!({ "message": message }).to_string();
    event_stream::exception(kind, payload.as_bytes())
}

/// Reads a request, and takes the end of every stream as the place where the session begins.
fn open(call: &Call, body: &[u8], request_id: &str) -> Result<(VecDeque<Bytes>, Tail), LogsFault> {
    let request: StartLiveTailRequest = parsed(body)?;
    let identifiers = &request.log_group_identifiers;
    if !(1..=MOST_GROUPS).contains(&identifiers.len()) {
        return Err(LogsFault::Invalid(format!(
            "logGroupIdentifiers holds from 1 to {MOST_GROUPS} log groups and not {}",
            identifiers.len()
        )));
    }
    let pattern = request.log_event_filter_pattern.as_deref();
    let selection = Selection::of(&request)?;
    let mut tail = Tail {
        logs: call.logs.clone(),
        pattern: Pattern::parse(pattern.unwrap_or_default())?,
        selection,
        groups: Vec::new(),
        turn: 0,
    };
    for identifier in identifiers {
        let name = call.place.group(identifier)?;
        let arn = call.place.group_arn(&name);
        tail.add(name, arn)?;
    }
    let start = json!({
        "requestId": request_id,
        "sessionId": Uuid::new_v4().to_string(),
        "logGroupIdentifiers": identifiers,
        "logStreamNames": request.log_stream_names.unwrap_or_default(),
        "logStreamNamePrefixes": request.log_stream_name_prefixes.unwrap_or_default(),
        "logEventFilterPattern": pattern.unwrap_or_default(),
    });
    let opening = VecDeque::from([
        event_stream::event("initial-response", b"{}"),
        event_stream::event("sessionStart", start.to_string().as_bytes()),
    ]);
    Ok((opening, tail))
}

/// Which streams of its group a session is about.
#[derive(Debug)]
enum Selection {
    All,
    Named(Vec<StreamName>),
    Prefixes(Vec<String>),
}

impl Selection {
    fn of(request: &StartLiveTailRequest) -> Result<Self, LogsFault> {
        let (names, prefixes) = (&request.log_stream_names, &request.log_stream_name_prefixes);
        let invalid = |why: String| Err(LogsFault::Invalid(why));
        let (member, given) = match (names, prefixes) {
            (None, None) => return Ok(Self::All),
            (Some(_), Some(_)) => {
                return invalid(
                    "logStreamNames and logStreamNamePrefixes are mutually exclusive; give one"
                        .to_owned(),
                );
            }
            (Some(names), None) => ("logStreamNames", names),
            (None, Some(prefixes)) => ("logStreamNamePrefixes", prefixes),
        };
        if request.log_group_identifiers.len() > 1 {
            return invalid(format!("{member} can be given for a single log group only"));
        }
        if !(1..=MOST_STREAMS).contains(&given.len()) {
            return invalid(format!(
                "{member} holds from 1 to {MOST_STREAMS} names and not {}",
                given.len()
            ));
        }
        let parsed: Result<Vec<_>, _> = given.iter().map(|name| StreamName::parse(name)).collect();
        let parsed = parsed?;
        Ok(if names.is_some() {
            Self::Named(parsed)
        } else {
            Self::Prefixes(given.clone())
        })
    }

    fn contains(&self, stream: &StreamName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(stream),
            Self::Prefixes(prefixes) => prefixes
                .iter()
                .any(|prefix| stream.as_str().starts_with(prefix.as_str())),
        }
    }
}

/// How far a session has read.
struct Tail {
    logs: Logs,
    pattern: Pattern,
    selection: Selection,
    groups: Vec<Group>,
    /// Counts updates, so that each begins with another stream.
    turn: usize,
}

struct Group {
    name: GroupName,
    arn: String,
    bell: Subscription,
    /// Where each stream goes on. One that is not here began after the session.
    places: BTreeMap<StreamName, Token>,
    /// Whether there may be more than was read.
    behind: bool,
}

struct Update {
    message: Bytes,
    behind: bool,
}

impl Tail {
    fn add(&mut self, name: GroupName, arn: String) -> Result<(), LogsFault> {
        let bell = self.logs.subscribe(&name)?;
        let mut places = BTreeMap::new();
        for stream in self.logs.stream_names(&name)? {
            if self.selection.contains(&stream) {
                let end = self.logs.events(&name, &stream, &query(From::Newest, 1))?;
                places.insert(stream, end.forward);
            }
        }
        self.groups.push(Group {
            name,
            arn,
            bell,
            places,
            behind: false,
        });
        Ok(())
    }

    /// What was written since the last time, as far as it fits an update.
    fn collect(&mut self) -> Result<Update, LogsFault> {
        self.turn = self.turn.wrapping_add(1);
        let mut found: Vec<(usize, StreamName, Event)> = Vec::new();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let changed = group.bell.take_change().ok_or(LogsError::NoSuchGroup {
                group: group.name.clone(),
            })?;
            if !changed && !group.behind {
                continue;
            }
            group.behind = false;
            let mut streams = self.logs.stream_names(&group.name)?;
            streams.retain(|stream| self.selection.contains(stream));
            let first = self.turn % streams.len().max(1);
            streams.rotate_left(first);
            for stream in streams {
                if found.len() >= UPDATE_EVENTS || bytes(&found) >= UPDATE_BYTES {
                    group.behind = true;
                    break;
                }
                let from = group
                    .places
                    .get(&stream)
                    .map_or(From::Oldest, |place| From::Token(*place));
                let query = query(from, UPDATE_EVENTS - found.len());
                let page = match self.logs.events(&group.name, &stream, &query) {
                    Ok(page) => page,
                    // Removed meanwhile.
                    Err(LogsError::NoSuchStream { .. }) => {
                        group.places.remove(&stream);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                group.behind |= !page.events.is_empty();
                group.places.insert(stream.clone(), page.forward);
                let matching = page
                    .events
                    .into_iter()
                    .filter(|event| self.pattern.matches(&event.message));
                found.extend(matching.map(|event| (index, stream.clone(), event)));
            }
        }
        found.sort_by_key(|(_, _, event)| event.timestamp_ms);
        Ok(Update {
            message: self.update(&found),
            behind: self.groups.iter().any(|group| group.behind),
        })
    }

    fn update(&self, found: &[(usize, StreamName, Event)]) -> Bytes {
        let results: Vec<LogEvent<'_>> = found
            .iter()
            .map(|(group, stream, event)| LogEvent {
                ingestion_time: event.ingestion_ms,
                log_group_identifier: &self.groups[*group].arn,
                log_stream_name: stream.as_str(),
                message: &event.message,
                timestamp: event.timestamp_ms,
            })
            .collect();
        let payload = json!({"sessionMetadata": {"sampled": false}, "sessionResults": results});
        event_stream::event("sessionUpdate", payload.to_string().as_bytes())
    }
}

fn bytes(found: &[(usize, StreamName, Event)]) -> usize {
    found.iter().map(|(_, _, event)| event.message.len()).sum()
}

fn query(from: From, limit: usize) -> Query {
    Query {
        from,
        start_ms: None,
        end_ms: None,
        limit,
    }
}
