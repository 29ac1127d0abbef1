//! Tells connections on which nothing happens: they would hold their places among the bounded number of
//! connections for as long as their clients like, without a signature.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::answer::AnswerBody;

/// Counts what is in flight on one connection.
#[derive(Debug, Clone)]
pub(crate) struct Traffic(Arc<watch::Sender<usize>>);

impl Traffic {
    /// The counter, and its value to be waited on.
    pub(crate) fn new() -> (Self, watch::Receiver<usize>) {
        let (count, counted) = watch::channel(0);
        (Self(Arc::new(count)), counted)
    }

    /// A request has come. It is in flight until its answer has gone out, or was given up.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.send_modify(|count| *count += 1);
        InFlight(Arc::clone(&self.0))
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<watch::Sender<usize>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl InFlight {
    /// The answer, in flight until its body has ended.
    pub(crate) fn until_sent(self, answer: Response<AnswerBody>) -> Response<AnswerBody> {
        answer.map(|body| {
            Sent {
                body,
                _in_flight: self,
            }
            .boxed_unsync()
        })
    }
}

struct Sent {
    body: AnswerBody,
    _in_flight: InFlight,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Completes when nothing has been in flight for `limit`.
pub(crate) async fn idle(mut in_flight: watch::Receiver<usize>, limit: Duration) {
    loop {
        let nothing = *in_flight.borrow_and_update() == 0;
        let changed = in_flight.changed();
        if nothing {
            let Ok(Ok(())) = timeout(limit, changed).await else {
                return;
            };
        } else if changed.await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::{Traffic, idle};

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_was_in_flight_for_long() {
        let bound = Duration::from_secs(30);
        let (traffic, counted) = Traffic::new();
        let request = traffic.begin();
        let mut waiting = std::pin::pin!(idle(counted, bound));
        let early = timeout(bound * 100, &mut waiting).await;
        assert!(early.is_err(), "a request is in flight");
        drop(request);
        let since = Instant::now();
        waiting.await;
        assert_eq!(since.elapsed().as_secs(), bound.as_secs());
    }
}
