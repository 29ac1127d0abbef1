//! A body on its way through: passed on frame by frame as it comes, each counted as activity of the
//! MicroVM, and cut when the MicroVM stops.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{DropGuard, WaitForCancellationFutureOwned};

use crate::exchange::{Direction, Exchange};
use crate::fields::clean_trailers;
use crate::gateway::Application;
use crate::upstream::Life;

/// What bytes that pass are counted on.
#[derive(Clone)]
pub(crate) struct Flow {
    pub(crate) application: Arc<dyn Application>,
    pub(crate) exchange: Arc<Exchange>,
}

impl Flow {
    pub(crate) fn passed(&self, direction: Direction, bytes: usize) {
        self.application.active();
        self.exchange.passed(direction, bytes);
    }
}

/// A body whose bytes are counted.
pub(crate) struct Metered<B> {
    body: B,
    flow: Flow,
    direction: Direction,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends the connection to the application together with the body of its response.
    _connection: Option<DropGuard>,
}

impl<B> Metered<B> {
    /// The body of a request.
    pub(crate) fn request(body: B, flow: Flow, life: &Life) -> Self {
        let cut = Box::pin(life.cut.clone().cancelled_owned());
        Self {
            body,
            flow,
            direction: Direction::Received,
            cut,
            _connection: None,
        }
    }

    /// The body of a response, with what ends the connection that it comes from.
    pub(crate) fn response(body: B, flow: Flow, life: &Life, connection: DropGuard) -> Self {
        let cut = Box::pin(life.cut.clone().cancelled_owned());
        Self {
            body,
            flow,
            direction: Direction::Sent,
            cut,
            _connection: Some(connection),
        }
    }

    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the MicroVM stopped")]
    Cut,
    #[error("the body could not be read")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // First: a connection that was cut can look like a body that has come to its end.
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let mut frame = frame.map_err(|source| BodyError::Source(source.into()))?;
        if let Some(data) = frame.data_ref() {
            if !data.is_empty() {
                self.flow.passed(self.direction, data.len());
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
