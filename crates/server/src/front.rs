//! The front: which service a request is for, who signed it, and its id.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use colibri_control::Control;
use colibri_iam::{Expectation, Identity, PayloadHash, PayloadRule, Principals, Rejection, verify};
use colibri_logs::Logs;
use colibri_objects::{ObjectsService, Peer};
use governor::clock::DefaultClock;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tracing::{info, warn};
use uuid::Uuid;

use crate::answer::{AnswerBody, REQUEST_ID, answer, refusal};
use crate::authorization::Caller;
use crate::logs::{self, LogsApi};
use crate::rates::{Rates, Throttle};
use crate::service::{service, speaks_query};
use crate::{lambda, sts};

/// Longest body of an API call, bytes: the largest is a hundred environment variables of 4 KiB.
const MAX_BODY: usize = 1024 * 1024;

/// For a request's body to arrive; nobody has signed anything before it has.
const BODY_BOUND: Duration = Duration::from_secs(60);

/// Everything behind the API's address.
pub struct Front {
    control: Arc<Control>,
    objects: ObjectsService,
    logs: LogsApi,
    principals: Arc<Principals>,
    region: String,
    throttle: Throttle,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Front {
    /// Puts the services together.
    #[must_use]
    pub fn new(
        control: Arc<Control>,
        objects: ObjectsService,
        logs: Logs,
        principals: Arc<Principals>,
        region: String,
    ) -> Self {
        Self {
            control,
            objects,
            logs: LogsApi::new(logs, region.clone()),
            principals,
            region,
            throttle: Throttle::new(&Rates::generous(), DefaultClock::default()),
        }
    }

    /// With these rates of operations in place of the defaults.
    #[must_use]
    pub fn with_rates(mut self, rates: &Rates) -> Self {
        self.throttle = Throttle::new(rates, DefaultClock::default());
        self
    }

    /// Ends the answers that would go on until their clients leave.
    pub(crate) fn end_streams(&self) {
        self.logs.end_streams();
    }

    /// Answers one request, whatever it is.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Response<AnswerBody> {
        let request_id = Uuid::new_v4().to_string();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Peer(peer));
        let service = service(&parts);
        let mut response = if service == "s3" {
            self.objects.call(Request::from_parts(parts, body)).await
        } else {
            self.answer_call(&service, parts, body, &request_id).await
        };
        if let Ok(value) = HeaderValue::try_from(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    /// A call of an API whose requests are small: read, verified, handed over.
    async fn answer_call(
        &self,
        service: &str,
        parts: Parts,
        body: Incoming,
        request_id: &str,
    ) -> Response<AnswerBody> {
        let whole = tokio::time::timeout(BODY_BOUND, Limited::new(body, MAX_BODY).collect());
        let Ok(whole) = whole.await else {
            let message = format!(
                "the request's body took more than {} s",
                BODY_BOUND.as_secs()
            );
            return refusal(408, "RequestTimeoutException", &message);
        };
        let body = match whole {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("the request's body exceeds {MAX_BODY} bytes");
                return refusal(413, "RequestEntityTooLargeException", &message);
            }
            Err(error) => {
                return refusal(
                    400,
                    "ValidationException",
                    &format!("the request's body broke off: {error}"),
                );
            }
        };
        let identity = match self.identify(&parts, &body, service) {
            Ok(identity) => identity,
            Err(rejection) => {
                info!(request_id, service, path = parts.uri.path(), %rejection, "refused a request");
                return refuse(service, &rejection, request_id);
            }
        };
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let principals = Arc::clone(&self.principals);
        let caller = Caller::new(principals, identity, &self.region, peer);
        match service {
            "lambda" => {
                let (control, throttle) = (&self.control, &self.throttle);
                lambda::answer_operation(control, throttle, &caller, &parts, &body, request_id)
                    .await
            }
            "logs" => self.logs.answer(&parts, body, &caller, request_id).await,
            "sts" => sts::answer_action(&body, &caller, request_id).await,
            other => {
                warn!(
                    request_id,
                    service = other,
                    "a request for a service that is not served"
                );
                let message =
                    format!("Colibri does not serve `{other}`; it serves lambda, s3, logs and sts");
                if speaks_query(&parts) {
                    return sts::failure(400, "InvalidAction", &message, request_id);
                }
                refusal(404, "UnknownOperationException", &message)
            }
        }
    }

    fn identify(&self, parts: &Parts, body: &Bytes, service: &str) -> Result<Identity, Rejection> {
        let expected = Expectation {
            region: &self.region,
            service,
            payload: PayloadRule::Signed,
        };
        verify(
            parts,
            &PayloadHash::of(body),
            &expected,
            self.principals.as_ref(),
            SystemTime::now(),
        )
    }
}

/// The refusal of a signature, in the words of the service that was asked.
fn refuse(service: &str, rejection: &Rejection, request_id: &str) -> Response<AnswerBody> {
    match service {
        "logs" => logs::refuse(rejection),
        "sts" => sts::refuse(rejection, request_id),
        _ => {
            let (status, headers, body) = rejection.render();
            answer(
                status,
                headers.map(|(name, value)| (name, value.to_owned())),
                body,
            )
        }
    }
}
