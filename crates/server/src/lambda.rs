//! The MicroVM API: from a verified request to the operation that answers it.

use std::sync::Arc;
use std::time::Instant;

use colibri_audit::record::HIDDEN;
use colibri_control::{Control, IfDamaged, on_behalf_of};
use colibri_wire::{ApiError, Operation, Reply, Request, Route, recordable};
use http::Response;
use http::request::Parts;
use serde::Serialize;
use tracing::{error, info};

use crate::answer::{AnswerBody, answer};
use crate::audit::tell;
use crate::authorization::{Caller, lambda as rules};
use crate::extension;
use crate::rates::Throttle;

/// Answers one call.
pub(crate) async fn answer_operation(
    control: &Arc<Control>,
    throttle: &Throttle,
    caller: &Caller,
    parts: &Parts,
    body: &[u8],
    request_id: &str,
) -> Response<AnswerBody> {
    let started = Instant::now();
    let route = Route::find(parts.method.as_str(), parts.uri.path());
    let asked = route.as_ref().map(Route::operation);
    let operation = asked.map_or("unknown", Operation::name);
    let changes = asked.filter(|operation| operation.model().method != "GET");
    let request = match route {
        Some(route) => throttle
            .take(route.operation())
            .and_then(|()| Request::parse(route, parts.uri.query(), body)),
        None => Err(ApiError::UnknownOperation),
    };
    let outcome = match request {
        Ok(request) => match rules::authorize(caller, control, &request).await {
            Ok(()) => {
                let performed = perform(control, request, extension::if_damaged(&parts.headers));
                on_behalf_of(request_id.to_owned(), performed).await
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let outcome = outcome.map_err(|failure| match asked {
        Some(asked) => failure.in_words_of(asked),
        None => failure,
    });
    let failed = outcome
        .as_ref()
        .err()
        .map(|error| (error.wire_name().to_owned(), error.to_string()));
    let reply = outcome.unwrap_or_else(|failure| {
        if failure.status() >= 500 {
            error!(request_id, operation, %failure, "an operation failed");
        }
        Reply::failure(&failure)
    });
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(
        request_id,
        operation,
        status = reply.status,
        millis,
        "answered"
    );
    let elements = changes
        .filter(|_| failed.is_none())
        .and_then(|operation| recordable::elements(operation, &reply.body, HIDDEN));
    let mut response = answer(reply.status, reply.headers, reply.body);
    tell(&mut response, |told| {
        told.error = failed;
        told.elements = elements;
    });
    response
}

/// Each operation by its method of the same name.
async fn perform(
    control: &Arc<Control>,
    request: Request,
    if_damaged: Result<IfDamaged, ApiError>,
) -> Result<Reply, ApiError> {
    let operation = request.operation();
    macro_rules! output {
        ($method:ident($request:ident)) => {
            output(operation, control.$method($request).await)
        };
    }
    macro_rules! nothing {
        ($method:ident($request:ident)) => {
            control
                .$method($request)
                .await
                .map(|()| Reply::empty(operation))
        };
    }
    match request {
        Request::CreateMicrovmImage(r) => output!(create_microvm_image(r)),
        Request::UpdateMicrovmImage(r) => output!(update_microvm_image(r)),
        Request::GetMicrovmImage(r) => output!(get_microvm_image(r)),
        Request::ListMicrovmImages(r) => output!(list_microvm_images(r)),
        Request::DeleteMicrovmImage(r) => output!(delete_microvm_image(r)),
        Request::GetMicrovmImageVersion(r) => output!(get_microvm_image_version(r)),
        Request::ListMicrovmImageVersions(r) => output!(list_microvm_image_versions(r)),
        Request::UpdateMicrovmImageVersion(r) => output!(update_microvm_image_version(r)),
        Request::DeleteMicrovmImageVersion(r) => output!(delete_microvm_image_version(r)),
        Request::GetMicrovmImageBuild(r) => output!(get_microvm_image_build(r)),
        Request::ListMicrovmImageBuilds(r) => output!(list_microvm_image_builds(r)),
        Request::ListManagedMicrovmImages(r) => output!(list_managed_microvm_images(r)),
        Request::ListManagedMicrovmImageVersions(r) => {
            output!(list_managed_microvm_image_versions(r))
        }
        Request::RunMicrovm(r) => output!(run_microvm(r)),
        Request::GetMicrovm(r) => output!(get_microvm(r)),
        Request::ListMicrovms(r) => output!(list_microvms(r)),
        Request::SuspendMicrovm(r) => nothing!(suspend_microvm(r)),
        Request::ResumeMicrovm(r) => {
            let resumed = control.resume_or_go_back(r, if_damaged?).await;
            resumed.map(|()| Reply::empty(operation))
        }
        Request::TerminateMicrovm(r) => nothing!(terminate_microvm(r)),
        Request::CreateMicrovmAuthToken(r) => output!(create_microvm_auth_token(r)),
        Request::CreateMicrovmShellAuthToken(r) => output!(create_microvm_shell_auth_token(r)),
        Request::ListTags(r) => output!(list_tags(r)),
        Request::TagResource(r) => nothing!(tag_resource(r)),
        Request::UntagResource(r) => nothing!(untag_resource(r)),
        Request::CreateNetworkConnector(r) => output!(create_network_connector(r)),
        Request::GetNetworkConnector(r) => output!(get_network_connector(r)),
        Request::ListNetworkConnectors(r) => output!(list_network_connectors(r)),
        Request::ListNetworkConnectorVersions(r) => output!(list_network_connector_versions(r)),
        Request::UpdateNetworkConnector(r) => output!(update_network_connector(r)),
        Request::DeleteNetworkConnector(r) => output!(delete_network_connector(r)),
    }
}

fn output<T: Serialize>(
    operation: Operation,
    outcome: Result<T, ApiError>,
) -> Result<Reply, ApiError> {
    Reply::success(operation, &outcome?)
}
