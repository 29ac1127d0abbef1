//! From a typed request to its reply: which function carries out which operation.

use std::future::Future;
use std::sync::Arc;

use colibri_wire::{ApiError, Reply, Request};
use tokio::sync::oneshot;

use crate::control::Control;

impl Control {
    /// Carries a request out and gives the reply that its client gets, an error's included.
    pub async fn reply(self: &Arc<Self>, request: Request) -> Reply {
        let outcome = self.carry_out(request).await;
        outcome.unwrap_or_else(|error| Reply::failure(&error))
    }

    async fn carry_out(self: &Arc<Self>, request: Request) -> Result<Reply, ApiError> {
        let operation = request.operation();
        let empty = |()| Reply::empty(operation);
        macro_rules! output {
            ($call:expr) => {
                Reply::success(operation, &$call.await?)
            };
        }
        match request {
            Request::CreateMicrovmImage(request) => output!(self.create_microvm_image(request)),
            Request::UpdateMicrovmImage(request) => output!(self.update_microvm_image(request)),
            Request::GetMicrovmImage(request) => output!(self.get_microvm_image(request)),
            Request::ListMicrovmImages(request) => output!(self.list_microvm_images(request)),
            Request::DeleteMicrovmImage(request) => output!(self.delete_microvm_image(request)),
            Request::GetMicrovmImageVersion(request) => {
                output!(self.get_microvm_image_version(request))
            }
            Request::ListMicrovmImageVersions(request) => {
                output!(self.list_microvm_image_versions(request))
            }
            Request::UpdateMicrovmImageVersion(request) => {
                output!(self.update_microvm_image_version(request))
            }
            Request::DeleteMicrovmImageVersion(request) => {
                output!(self.delete_microvm_image_version(request))
            }
            Request::GetMicrovmImageBuild(request) => {
                output!(self.get_microvm_image_build(request))
            }
            Request::ListMicrovmImageBuilds(request) => {
                output!(self.list_microvm_image_builds(request))
            }
            Request::ListManagedMicrovmImages(request) => {
                output!(self.list_managed_microvm_images(request))
            }
            Request::ListManagedMicrovmImageVersions(request) => {
                output!(self.list_managed_microvm_image_versions(request))
            }
            Request::RunMicrovm(request) => output!(self.run_microvm(request)),
            Request::GetMicrovm(request) => output!(self.get_microvm(request)),
            Request::ListMicrovms(request) => output!(self.list_microvms(request)),
            Request::SuspendMicrovm(request) => self.suspend_microvm(request).await.map(empty),
            Request::ResumeMicrovm(request) => self.resume_microvm(request).await.map(empty),
            Request::TerminateMicrovm(request) => self.terminate_microvm(request).await.map(empty),
            Request::CreateMicrovmAuthToken(request) => {
                output!(self.create_microvm_auth_token(request))
            }
            Request::CreateMicrovmShellAuthToken(request) => {
                output!(self.create_microvm_shell_auth_token(request))
            }
            Request::ListTags(request) => output!(self.list_tags(request)),
            Request::TagResource(request) => self.tag_resource(request).await.map(empty),
            Request::UntagResource(request) => self.untag_resource(request).await.map(empty),
        }
    }

    /// Carries work through to its end even when who waits for it goes: what is admitted must get its actor,
    /// what is queued its build.
    pub(crate) async fn whole<T, W>(&self, work: W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (outcome, told) = oneshot::channel();
        self.spawn(async move {
            // Who waited may have gone.
            let _ = outcome.send(work.await);
        });
        told.await
            .unwrap_or_else(|_| Err(ApiError::internal("The service is shutting down")))
    }
}
