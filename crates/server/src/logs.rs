//! CloudWatch Logs over the logs of builds and applications: the JSON 1.1 protocol, from a verified
//! request to its answer. What a log is, and how it is kept, is `colibri-logs`' business.
//!
//! Operations that write events are not served: what logs here is Colibri itself.

mod checks;
mod event_stream;
mod events;
mod fault;
mod groups;
mod live_tail;
mod operation;
mod pattern;
mod place;
mod retention;
mod shapes;
mod streams;
mod token;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use colibri_iam::Rejection;
use colibri_logs::Logs;
use http::Response;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::{error, info};

use crate::answer::{AnswerBody, answer};
use crate::audit::tell;
use crate::authorization::{Caller, logs as rules};
use fault::LogsFault;
use live_tail::LiveTails;
pub(crate) use operation::Operation;
use place::LogsPlace;

/// Beginning of `X-Amz-Target`, as the published model of CloudWatch Logs has it.
const TARGET_PREFIX: &str = "Logs_20140328.";

/// Media type of the protocol.
const JSON: &str = "application/x-amz-json-1.1";

/// Calls that read the disk at once; more wait. A page is at most 1 MiB of messages, so this bounds
/// what they hold in memory, too.
const READERS: usize = 8;

/// The service `logs`.
#[derive(Debug)]
pub(crate) struct LogsApi {
    logs: Logs,
    region: String,
    readers: Arc<Semaphore>,
    tails: LiveTails,
}

/// What a call works with.
struct Call {
    logs: Logs,
    place: LogsPlace,
}

impl LogsApi {
    pub(crate) fn new(logs: Logs, region: String) -> Self {
        Self {
            logs,
            region,
            readers: Arc::new(Semaphore::new(READERS)),
            tails: LiveTails::new(),
        }
    }

    /// Ends the answers that go on until their clients leave.
    pub(crate) fn end_streams(&self) {
        self.tails.end();
    }

    /// Answers one call.
    pub(crate) async fn answer(
        &self,
        parts: &Parts,
        body: Bytes,
        caller: &Caller,
        request_id: &str,
    ) -> Response<AnswerBody> {
        let started = Instant::now();
        let operation = target(parts);
        let call = Call {
            logs: self.logs.clone(),
            place: LogsPlace::new(&self.region, &caller.identity.account),
        };
        let outcome = match operation {
            Some(operation) => {
                let needs = rules::needs(operation, &body, call.place.prefix());
                match caller.may(needs) {
                    Ok(()) => self.perform(call, operation, body, request_id).await,
                    Err(denied) => Err(LogsFault::AccessDenied(denied)),
                }
            }
            None => Err(LogsFault::UnknownOperation),
        };
        let operation = operation.map_or("unknown", Operation::name);
        let response = outcome.unwrap_or_else(|fault| {
            if fault.status() >= 500 {
                error!(request_id, ?operation, %fault, cause = ?fault, "an operation failed");
            }
            failure(fault.status(), fault.wire_name(), &fault.to_string())
        });
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = response.status().as_u16();
        info!(request_id, operation, status, millis, "answered");
        response
    }

    /// Performs an operation on a thread that may wait for the disk.
    async fn perform(
        &self,
        call: Call,
        operation: Operation,
        body: Bytes,
        request_id: &str,
    ) -> Result<Response<AnswerBody>, LogsFault> {
        if operation == Operation::StartLiveTail {
            return self.tails.start(call, body, request_id).await;
        }
        let readers = Arc::clone(&self.readers);
        let permit = readers.acquire_owned().await;
        let performed = tokio::task::spawn_blocking(move || {
            let outcome = answer_operation(&call, operation, &body);
            drop(permit);
            outcome
        });
        let body = performed.await.map_err(|_| LogsFault::Interrupted)??;
        Ok(answer(200, [("content-type", JSON.to_owned())], body))
    }
}

/// A request that nobody known has signed, in this protocol's words.
pub(crate) fn refuse(rejection: &Rejection) -> Response<AnswerBody> {
    failure(400, rejection.wire_name(), &rejection.to_string())
}

fn failure(status: u16, name: &str, message: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({ "__type": name, "message": message });
    let headers = [
        ("content-type", JSON.to_owned()),
        ("x-amzn-errortype", name.to_owned()),
    ];
    let mut response = answer(status, headers, body.to_string().into_bytes());
    tell(&mut response, |told| {
        told.error = Some((name.to_owned(), message.to_owned()));
    });
    response
}

fn target(parts: &Parts) -> Option<Operation> {
    let target = parts.headers.get("x-amz-target")?.to_str().ok()?;
    target
        .strip_prefix(TARGET_PREFIX)
        .and_then(Operation::parse)
}

fn answer_operation(call: &Call, operation: Operation, body: &[u8]) -> Result<Vec<u8>, LogsFault> {
    match operation {
        Operation::DescribeLogGroups => json(&groups::describe(call, &parsed(body)?)?),
        Operation::CreateLogGroup => groups::create(call, &parsed(body)?).map(nothing),
        Operation::DeleteLogGroup => groups::delete(call, &parsed(body)?).map(nothing),
        Operation::ListTagsForResource => {
            json(&groups::list_tags_for_resource(call, &parsed(body)?)?)
        }
        Operation::ListTagsLogGroup => json(&groups::list_tags(call, &parsed(body)?)?),
        Operation::PutRetentionPolicy => retention::put(call, &parsed(body)?).map(nothing),
        Operation::DeleteRetentionPolicy => retention::delete(call, &parsed(body)?).map(nothing),
        Operation::DescribeLogStreams => json(&streams::describe(call, &parsed(body)?)?),
        Operation::CreateLogStream => streams::create(call, &parsed(body)?).map(nothing),
        Operation::DeleteLogStream => streams::delete(call, &parsed(body)?).map(nothing),
        Operation::GetLogEvents => json(&events::get(call, &parsed(body)?)?),
        Operation::FilterLogEvents => json(&events::filter(call, &parsed(body)?)?),
        // Its answer is a stream.
        Operation::StartLiveTail => Err(LogsFault::UnknownOperation),
    }
}

/// A request's body. None at all is one without members.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, LogsFault> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| LogsFault::Serialization(error.to_string()))
}

fn json<T: Serialize>(output: &T) -> Result<Vec<u8>, LogsFault> {
    serde_json::to_vec(output).map_err(|_| LogsFault::Interrupted)
}

/// The answer of operations without output.
fn nothing((): ()) -> Vec<u8> {
    Vec::new()
}

#[cfg(test)]
mod tests;
