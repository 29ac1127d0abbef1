//! The front: which service a request is for, who signed it, and its id.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use colibri_audit::Trail;
use colibri_control::Control;
use colibri_iam::{
    CredentialSource, Expectation, Identity, PayloadHash, PayloadRule, Principals, Rejection,
    verify,
};
use colibri_logs::Logs;
use colibri_objects::{ObjectsService, Peer, Seen};
use governor::clock::DefaultClock;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use hyper::body::Incoming;
use tracing::{info, warn};
use uuid::Uuid;

use crate::answer::{AnswerBody, REQUEST_ID, answer, refusal};
use crate::audit::{Audit, AuditSettings, Call, tell};
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
    audit: Option<Audit>,
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
            audit: None,
        }
    }

    /// With these rates of operations in place of the defaults.
    #[must_use]
    pub fn with_rates(mut self, rates: &Rates) -> Self {
        self.throttle = Throttle::new(rates, DefaultClock::default());
        self
    }

    /// With every call recorded in this trail.
    #[must_use]
    pub fn with_audit(mut self, trail: Trail, account: &str, settings: AuditSettings) -> Self {
        self.audit = Some(Audit {
            trail,
            settings,
            region: self.region.clone(),
            account: account.to_owned(),
        });
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
            self.answer_s3(parts, body, peer, &request_id).await
        } else {
            self.answer_call(&service, parts, body, peer, &request_id)
                .await
        };
        if let Ok(value) = HeaderValue::try_from(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    /// A call of S3, whose front verifies signatures by itself.
    async fn answer_s3(
        &self,
        parts: Parts,
        body: Incoming,
        peer: IpAddr,
        request_id: &str,
    ) -> Response<AnswerBody> {
        let call = self
            .audit
            .as_ref()
            .map(|_| Call::of("s3", &parts, &Bytes::new(), peer, request_id));
        let request = Request::from_parts(parts, body);
        let mut response = self.objects.call(request).await;
        let seen = response.extensions_mut().remove::<Seen>();
        if let (Some(audit), Some(call), Some(seen)) = (&self.audit, call, seen) {
            let call = call.of_s3(&seen);
            let identity = seen.access_key.and_then(|key| self.identity_of(&key));
            tell(&mut response, |told| {
                told.identity = identity;
                told.error = seen.error;
            });
            audit.record(call, &mut response).await;
        }
        response
    }

    /// A call of an API whose requests are small: read, answered, recorded.
    async fn answer_call(
        &self,
        service: &str,
        parts: Parts,
        body: Incoming,
        peer: IpAddr,
        request_id: &str,
    ) -> Response<AnswerBody> {
        let read = read_body(body).await;
        let unread = Bytes::new();
        let call = self.audit.as_ref().map(|_| {
            let body = read.as_ref().unwrap_or(&unread);
            Call::of(service, &parts, body, peer, request_id)
        });
        let mut response = match read {
            Ok(body) => self.hand_over(service, parts, body, request_id).await,
            Err(refused) => *refused,
        };
        if let (Some(audit), Some(call)) = (&self.audit, call) {
            audit.record(call, &mut response).await;
        }
        response
    }

    /// Verified, and handed to its service.
    async fn hand_over(
        &self,
        service: &str,
        parts: Parts,
        body: Bytes,
        request_id: &str,
    ) -> Response<AnswerBody> {
        let identity = match self.identify(&parts, &body, service) {
            Ok(identity) => identity,
            Err(rejection) => {
                info!(request_id, service, path = parts.uri.path(), %rejection, "refused a request");
                let mut response = refuse(service, &rejection, request_id);
                tell(&mut response, |told| {
                    told.error = Some((rejection.wire_name().to_owned(), rejection.to_string()));
                });
                return response;
            }
        };
        let who = identity.clone();
        let principals = Arc::clone(&self.principals);
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let caller = Caller::new(principals, identity, &self.region, peer);
        let mut response = match service {
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
        };
        tell(&mut response, |told| told.identity = Some(who));
        response
    }

    /// Who owns an access key whose signature was right.
    fn identity_of(&self, access_key: &str) -> Option<Identity> {
        self.principals
            .credential(access_key)
            .map(|credential| credential.identity)
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

/// All of a request's body, or the refusal of it.
async fn read_body(body: Incoming) -> Result<Bytes, Box<Response<AnswerBody>>> {
    let whole = tokio::time::timeout(BODY_BOUND, Limited::new(body, MAX_BODY).collect());
    let Ok(whole) = whole.await else {
        let message = format!(
            "the request's body took more than {} s",
            BODY_BOUND.as_secs()
        );
        return Err(Box::new(refusal(408, "RequestTimeoutException", &message)));
    };
    whole.map(Collected::to_bytes).map_err(|error| {
        let refused = if error.is::<LengthLimitError>() {
            let message = format!("the request's body exceeds {MAX_BODY} bytes");
            refusal(413, "RequestEntityTooLargeException", &message)
        } else {
            let message = format!("the request's body broke off: {error}");
            refusal(400, "ValidationException", &message)
        };
        Box::new(refused)
    })
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
