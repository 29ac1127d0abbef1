//! Gets a request to an application: a ready machine, a connection of its own, the request sent.
//! When the machine fell asleep in between, all of it again, as long as the application has seen
//! nothing of the request.
//!
//! Plaintext HTTP/1.1, or HTTP/2 with prior knowledge. Applications that speak TLS are not detected
//! yet.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::body::{Flow, Metered};
use crate::exchange::Exchange;
use crate::fields::Protocol;
use crate::gateway::{Application, ConnectError, Gateway, GuestStream};
use crate::refusal::Refusal;
use crate::settings::Limits;

/// How often a machine is made ready for one request before it is given up.
const ATTEMPTS: usize = 3;
/// Header fields in one response of an application.
const MAX_RESPONSE_HEADERS: usize = 256;
/// Bytes in the head of one response of an application.
const MAX_RESPONSE_HEADER_BYTES: u32 = 256 * 1024;

/// How long a connection to an application lives.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// The MicroVM stopped: what is in flight is cut.
    pub(crate) cut: CancellationToken,
    /// Nothing is left to do; also when the MicroVM stopped.
    pub(crate) over: CancellationToken,
}

impl Life {
    fn new() -> Self {
        let cut = CancellationToken::new();
        Self {
            over: cut.child_token(),
            cut,
        }
    }
}

/// An application's answer, and the connection that it comes over.
pub(crate) struct Delivered {
    pub(crate) response: Response<Incoming>,
    pub(crate) flow: Flow,
    pub(crate) life: Life,
    /// Ends the connection when dropped.
    pub(crate) connection: DropGuard,
}

/// Where a request goes.
pub(crate) struct Destination<'a> {
    pub(crate) gateway: &'a dyn Gateway,
    pub(crate) limits: &'a Limits,
    pub(crate) microvm_id: &'a str,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// Delivers a request and waits for the head of its answer. Dropping the future withdraws it.
pub(crate) async fn deliver<B>(
    destination: &Destination<'_>,
    mut request: Request<B>,
    exchange: &Arc<Exchange>,
) -> Result<Delivered, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut refusal = Refusal::MicrovmUnreachable;
    for _ in 0..ATTEMPTS {
        let ready = destination.gateway.ready(destination.microvm_id).await;
        let application = ready.map_err(|unready| {
            tracing::debug!(microvm_id = destination.microvm_id, %unready, "not ready");
            Refusal::from(&unready)
        })?;
        let Some(stream) = connect(destination, application.as_ref()).await? else {
            continue;
        };
        // The head of the request is about to cross: before it does, so that a machine that is about
        // to be suspended for idleness is not.
        application.active();
        let life = Life::new();
        let connection = life.over.clone().drop_guard();
        let flow = Flow {
            application,
            exchange: exchange.clone(),
        };
        let metered = request.map(|body| Metered::request(body, flow.clone(), &life));
        match send(destination.protocol, stream, metered, &flow, &life).await {
            Ok(response) => {
                return Ok(Delivered {
                    response,
                    flow,
                    life,
                    connection,
                });
            }
            Err(Unanswered::Sent) if life.cut.is_cancelled() => {
                return Err(Refusal::MicrovmUnreachable);
            }
            Err(Unanswered::Sent) => return Err(Refusal::ApplicationUnreachable),
            Err(Unanswered::Unsent(unsent)) => {
                request = unsent.map(Metered::into_inner);
                refusal = Refusal::ApplicationUnreachable;
            }
        }
    }
    Err(refusal)
}

/// A connection to the application; `None` when the machine stopped being ready meanwhile.
async fn connect(
    destination: &Destination<'_>,
    application: &dyn Application,
) -> Result<Option<Box<dyn GuestStream>>, Refusal> {
    let connected = tokio::select! {
        biased;
        connected = timeout(destination.limits.connect_timeout, application.connect(destination.port)) => connected,
        () = application.closed() => return Ok(None),
    };
    match connected {
        Ok(Ok(stream)) => Ok(Some(stream)),
        Ok(Err(ConnectError::Refused(_))) => Err(Refusal::ApplicationUnreachable),
        Ok(Err(ConnectError::Unreachable(error))) => {
            tracing::debug!(microvm_id = destination.microvm_id, %error, "unreachable");
            Ok(None)
        }
        Err(_) => Err(Refusal::MicrovmUnreachable),
    }
}

/// Why there is no answer.
enum Unanswered<B> {
    /// The application has seen nothing of the request.
    Unsent(Box<Request<Metered<B>>>),
    /// It may have seen some.
    Sent,
}

impl<B> From<TrySendError<Request<Metered<B>>>> for Unanswered<B> {
    fn from(mut error: TrySendError<Request<Metered<B>>>) -> Self {
        tracing::debug!(error = %error.error(), "the application did not answer");
        error
            .take_message()
            .map_or(Self::Sent, |request| Self::Unsent(Box::new(request)))
    }
}

async fn send<B>(
    protocol: Protocol,
    stream: Box<dyn GuestStream>,
    request: Request<Metered<B>>,
    flow: &Flow,
    life: &Life,
) -> Result<Response<Incoming>, Unanswered<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TokioIo::new(stream);
    let application = flow.application.clone();
    let answer = async {
        match protocol {
            Protocol::Http1 => {
                let Ok((mut sender, connection)) = http1_builder().handshake(stream).await else {
                    return Err(Unanswered::Unsent(Box::new(request)));
                };
                tokio::spawn(live(connection.with_upgrades(), application, life.clone()));
                Ok(sender.try_send_request(request).await?)
            }
            Protocol::Http2 => {
                let executor = Until(life.over.clone());
                let Ok((mut sender, connection)) = http2_builder(executor).handshake(stream).await
                else {
                    return Err(Unanswered::Unsent(Box::new(request)));
                };
                tokio::spawn(live(connection, application, life.clone()));
                Ok(sender.try_send_request(request).await?)
            }
        }
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = life.cut.cancelled() => Err(Unanswered::Sent),
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        .max_headers(MAX_RESPONSE_HEADERS)
        .max_header_size(MAX_RESPONSE_HEADER_BYTES as usize);
    builder
}

fn http2_builder(executor: Until) -> http2::Builder<Until> {
    let mut builder = http2::Builder::new(executor);
    builder
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(MAX_RESPONSE_HEADER_BYTES);
    builder
}

/// Drives a connection to an application until it is over or the MicroVM stops.
async fn live(
    connection: impl Future<Output = hyper::Result<()>>,
    application: Arc<dyn Application>,
    life: Life,
) {
    let driven = async {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an application broke");
        }
        // What it carried can still be on its way to the client.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = life.over.cancelled() => {}
        () = application.closed() => life.cut.cancel(),
        () = driven => {}
    }
}

/// Runs what an HTTP/2 connection spawns, until the connection is over: hyper would otherwise let it
/// finish its streams at leisure.
#[derive(Clone)]
struct Until(CancellationToken);

impl<F> Executor<F> for Until
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let over = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                _ = future => {}
            }
        });
    }
}
