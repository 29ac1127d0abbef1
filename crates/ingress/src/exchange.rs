//! One request and its answer, from the first byte to the last: what is logged and counted of it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderValue, Method, Request, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, watch};
use uuid::Uuid;

use crate::admission::{Place, Places};
use crate::refusal::Refusal;

/// Characters of a path that the log shows: who is refused must not fill the disk with them.
const LOGGED_PATH: usize = 256;

/// What has passed since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) connections: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterValues {
    /// TLS connections accepted.
    pub connections: u64,
    /// Requests read, the refused ones included.
    pub requests: u64,
    /// Requests that the proxy answered itself.
    pub refused: u64,
    /// Bytes of bodies and WebSockets from clients to applications.
    pub received: u64,
    /// Bytes of bodies and WebSockets from applications to clients.
    pub sent: u64,
}

impl Counters {
    /// The values now.
    #[must_use]
    pub fn values(&self) -> CounterValues {
        CounterValues {
            connections: self.connections.load(Relaxed),
            requests: self.requests.load(Relaxed),
            refused: self.refused.load(Relaxed),
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the application.
    Received,
    /// To the client.
    Sent,
}

/// Counts the exchanges of one connection, so that an idle one can be told.
#[derive(Debug, Clone)]
pub(crate) struct InFlight(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    exchanges: watch::Sender<usize>,
    /// Its place among all connections, kept until the last exchange ends: a WebSocket outlives the
    /// HTTP/1.1 connection that it began as.
    _permit: OwnedSemaphorePermit,
    /// Likewise, its places at MicroVMs.
    places: Places,
}

impl InFlight {
    /// The counter, and its value to be waited on.
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> (Self, watch::Receiver<usize>) {
        let (exchanges, receiver) = watch::channel(0);
        (
            Self(Arc::new(Connection {
                exchanges,
                _permit: permit,
                places: Places::default(),
            })),
            receiver,
        )
    }

    /// The places of this connection at MicroVMs.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }
}

/// One request. Held by everything that still works on it; when the last of them ends, the exchange
/// is logged, without its query (secrets travel there) and without header fields.
#[derive(Debug)]
pub(crate) struct Exchange {
    id: String,
    started: Instant,
    method: Method,
    path: String,
    version: Version,
    microvm_id: OnceLock<String>,
    refusal: OnceLock<&'static str>,
    admitted: OnceLock<Place>,
    status: AtomicU16,
    received: AtomicU64,
    sent: AtomicU64,
    in_flight: InFlight,
    counters: Arc<Counters>,
}

impl Exchange {
    pub(crate) fn begin<B>(
        request: &Request<B>,
        in_flight: &InFlight,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        in_flight.0.exchanges.send_modify(|count| *count += 1);
        counters.requests.fetch_add(1, Relaxed);
        Arc::new(Self {
            id: Uuid::new_v4().to_string(),
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().chars().take(LOGGED_PATH).collect(),
            version: request.version(),
            microvm_id: OnceLock::new(),
            refusal: OnceLock::new(),
            admitted: OnceLock::new(),
            status: AtomicU16::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            in_flight: in_flight.clone(),
            counters: counters.clone(),
        })
    }

    /// The id that client, application and log share.
    pub(crate) fn id(&self) -> HeaderValue {
        // A UUID is always a valid header value.
        HeaderValue::try_from(&self.id).unwrap_or(HeaderValue::from_static("-"))
    }

    /// The MicroVM is known, and the request was let in to it.
    pub(crate) fn admitted(&self, microvm_id: &str, admitted: Place) {
        self.microvm_id.get_or_init(|| microvm_id.to_owned());
        self.admitted.get_or_init(|| admitted);
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.counters.refused.fetch_add(1, Relaxed);
        self.refusal.get_or_init(|| refusal.code());
        self.answered(refusal.status());
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Relaxed);
    }

    /// Bytes have passed.
    pub(crate) fn passed(&self, direction: Direction, bytes: usize) {
        let bytes = bytes as u64;
        let (own, all) = match direction {
            Direction::Received => (&self.received, &self.counters.received),
            Direction::Sent => (&self.sent, &self.counters.sent),
        };
        own.fetch_add(bytes, Relaxed);
        all.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.in_flight.0.exchanges.send_modify(|count| *count -= 1);
        tracing::info!(
            target: "colibri_ingress::access",
            request_id = %self.id,
            microvm_id = self.microvm_id.get().map(String::as_str),
            method = %self.method,
            path = %self.path,
            version = ?self.version,
            status = self.status.load(Relaxed),
            refusal = self.refusal.get().copied(),
            received = self.received.load(Relaxed),
            sent = self.sent.load(Relaxed),
            milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_in_flight_until_nothing_works_on_it() {
        let connections = Arc::new(tokio::sync::Semaphore::new(1));
        let (in_flight, watched) = InFlight::new(connections.try_acquire_owned().unwrap());
        let counters = Arc::new(Counters::default());
        let exchange = Exchange::begin(&Request::new(()), &in_flight, &counters);
        let body = exchange.clone();
        drop(exchange);
        assert_eq!(*watched.borrow(), 1);
        body.passed(Direction::Sent, 7);
        body.refused(Refusal::TooMany);
        drop(body);
        assert_eq!(*watched.borrow(), 0);
        let values = counters.values();
        assert_eq!((values.requests, values.refused, values.sent), (1, 1, 7));
    }
}
