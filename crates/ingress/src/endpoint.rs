//! A request's way from a client's connection to an application and back: the steps, in order.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::body::{BodyError, Metered};
use crate::credential;
use crate::exchange::{Counters, Exchange, InFlight};
use crate::fields::{self, Framing, Protocol};
use crate::gateway::{Endpoint, Gateway, SizeLimits};
use crate::host::{self, Route};
use crate::refusal::Refusal;
use crate::settings::{Domain, Limits};
use crate::token::{Claims, TokenKind, TokenMint};
use crate::tunnel::Tunnel;
use crate::upstream::{self, Delivered, Destination};
use crate::websocket::{self, Handshake};

/// The body of every response.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// What all connections share.
pub(crate) struct Endpoints {
    pub(crate) domain: Domain,
    pub(crate) limits: Limits,
    pub(crate) tokens: Arc<TokenMint>,
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Arc<Counters>,
    /// Every connection and WebSocket.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the time to finish is over.
    pub(crate) stop: CancellationToken,
}

/// A request that may pass, and where to.
struct Permitted {
    microvm_id: String,
    limits: SizeLimits,
    port: u16,
    authority: Authority,
    handshake: Option<Handshake>,
}

impl Endpoints {
    /// Answers one request.
    pub(crate) async fn answer<B>(
        &self,
        request: Request<B>,
        server_name: Option<&str>,
        in_flight: &InFlight,
    ) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let exchange = Exchange::begin(&request, in_flight, &self.counters);
        let answer = self
            .forward(request, server_name, in_flight, &exchange)
            .await;
        answer.unwrap_or_else(|refusal| {
            exchange.refused(refusal);
            let mut response = refusal.into_response();
            response
                .headers_mut()
                .insert(fields::REQUEST_ID, exchange.id());
            response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
        })
    }

    async fn forward<B>(
        &self,
        mut request: Request<B>,
        server_name: Option<&str>,
        in_flight: &InFlight,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<ResponseBody>, Refusal>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let client = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let permitted = self.permit(&parts, Framing::of(&body), server_name)?;
        let (id, size) = (&permitted.microvm_id, &permitted.limits);
        in_flight
            .places()
            .take(&self.admission, id, size.connections)?;
        exchange.admitted(id, self.admission.admit(id, size)?);
        let protocol = protocol(&parts, permitted.handshake.as_ref());
        let destination = Destination {
            gateway: self.gateway.as_ref(),
            limits: &self.limits,
            microvm_id: &permitted.microvm_id,
            port: permitted.port,
            protocol,
        };
        let request = outbound(parts, body, &permitted, protocol, exchange)?;
        let delivered = upstream::deliver(&destination, request, exchange).await?;
        delivered.flow.application.active();
        self.respond(delivered, client, permitted.handshake, exchange)
    }

    /// Whether the request may pass. Touches no MicroVM: a refused request neither wakes one nor
    /// keeps it awake.
    fn permit(
        &self,
        parts: &Parts,
        framing: Framing,
        server_name: Option<&str>,
    ) -> Result<Permitted, Refusal> {
        let authority = host::authority(parts)?;
        let route = host::route(authority.host(), server_name, &self.domain)?;
        let handshake = websocket::recognise(parts, framing != Framing::Empty)?;
        let token = credential::token(&parts.headers, handshake.as_ref())?;
        let claims = self
            .tokens
            .verify(token, SystemTime::now())
            .map_err(|refused| {
                tracing::debug!(reason = ?refused, "token refused");
                Refusal::Unauthenticated
            })?;
        let limits = self.agree(&route, &claims)?.limits;
        let port = credential::port(&parts.headers, handshake.as_ref())?;
        match claims.kind {
            TokenKind::Shell => return Err(Refusal::ShellToken),
            TokenKind::Endpoint if !claims.ports.contains(port) => {
                return Err(Refusal::PortDenied);
            }
            TokenKind::Endpoint => {}
        }
        Ok(Permitted {
            microvm_id: claims.microvm_id,
            limits,
            port,
            authority,
            handshake,
        })
    }

    /// Whether the token is for the MicroVM that the host name means.
    fn agree(&self, route: &Route, claims: &Claims) -> Result<Endpoint, Refusal> {
        let named = match route {
            Route::Label(label) => self.gateway.by_label(label),
            Route::Token => self.gateway.by_id(&claims.microvm_id),
        };
        match named {
            Some(endpoint) if endpoint.microvm_id == claims.microvm_id => Ok(endpoint),
            Some(_) => Err(Refusal::Unauthenticated),
            // Nothing has this name. The holder of a good token may know that its MicroVM is gone.
            None if self.gateway.by_id(&claims.microvm_id).is_none() => {
                Err(Refusal::MicrovmUnreachable)
            }
            None => Err(Refusal::Unauthenticated),
        }
    }

    fn respond(
        &self,
        delivered: Delivered,
        client: OnUpgrade,
        handshake: Option<Handshake>,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let status = delivered.response.status();
        match handshake {
            Some(handshake) if status == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(self.start_tunnel(delivered, client, &handshake, exchange))
            }
            // A success without the switch would be taken for one over HTTP/2.
            Some(handshake) if handshake.over_http2 && status.is_success() => {
                Err(Refusal::ApplicationUnreachable)
            }
            _ if status.is_informational() => Err(Refusal::ApplicationUnreachable),
            _ => Ok(pass_response(delivered, exchange)),
        }
    }

    fn start_tunnel(
        &self,
        delivered: Delivered,
        client: OnUpgrade,
        handshake: &Handshake,
        exchange: &Arc<Exchange>,
    ) -> Response<ResponseBody> {
        let Delivered {
            mut response,
            flow,
            life,
            connection,
        } = delivered;
        let application = hyper::upgrade::on(&mut response);
        let tunnel = Tunnel {
            client,
            application,
            flow,
            cut: life.cut,
            connection,
        };
        let running = tunnel.run(self.limits.handshake_timeout, self.stop.clone());
        self.tasks.spawn(running);
        let (mut parts, _) = response.into_parts();
        if handshake.over_http2 {
            parts.status = StatusCode::OK;
        }
        parts.version = Version::HTTP_11;
        parts.headers = fields::to_client(&parts.headers, exchange.id());
        fields::accept_websocket(&mut parts.headers, handshake);
        exchange.answered(parts.status);
        let empty = http_body_util::Empty::new().map_err(|never| match never {});
        Response::from_parts(parts, empty.boxed_unsync())
    }
}

fn pass_response(delivered: Delivered, exchange: &Arc<Exchange>) -> Response<ResponseBody> {
    let Delivered {
        response,
        flow,
        life,
        connection,
    } = delivered;
    let (mut parts, body): (_, Incoming) = response.into_parts();
    parts.headers = fields::to_client(&parts.headers, exchange.id());
    // Of the connection to the client, not of the one to the application.
    parts.version = Version::HTTP_11;
    exchange.answered(parts.status);
    let body = Metered::response(body, flow, &life, connection);
    Response::from_parts(parts, body.boxed_unsync())
}

/// The protocol to speak to the application: HTTP/2 when the client demands it, or when the request
/// is gRPC, which exists over HTTP/2 only.
fn protocol(parts: &Parts, handshake: Option<&Handshake>) -> Protocol {
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    if handshake.is_none() && (credential::forces_http2(&parts.headers) || grpc) {
        Protocol::Http2
    } else {
        Protocol::Http1
    }
}

/// `application/grpc`, with or without a suffix; not `application/grpc-web`.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The request as the application gets it.
fn outbound<B: Body>(
    mut parts: Parts,
    body: B,
    permitted: &Permitted,
    protocol: Protocol,
    exchange: &Exchange,
) -> Result<Request<B>, Refusal> {
    let malformed = Refusal::Malformed("Invalid request target");
    let host = parts.headers.get(http::header::HOST).cloned();
    let host = host.map_or_else(|| HeaderValue::from_str(permitted.authority.as_str()), Ok);
    parts.headers = fields::to_application(
        &parts.headers,
        &host.map_err(|_| malformed)?,
        protocol,
        Framing::of(&body),
        permitted.handshake.as_ref(),
        exchange.id(),
    );
    if permitted.handshake.is_some() {
        parts.method = Method::GET;
    }
    parts.uri = target(&parts.uri, permitted, protocol).ok_or(malformed)?;
    parts.version = match protocol {
        Protocol::Http1 => Version::HTTP_11,
        Protocol::Http2 => Version::HTTP_2,
    };
    Ok(Request::from_parts(parts, body))
}

/// Path and query as they came; in HTTP/2 together with scheme and authority.
fn target(uri: &Uri, permitted: &Permitted, protocol: Protocol) -> Option<Uri> {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if protocol == Protocol::Http2 {
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(permitted.authority.clone());
    }
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
    }
}
