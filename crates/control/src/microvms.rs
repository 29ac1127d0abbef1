//! The other operations on MicroVMs: get, list, suspend, resume, terminate.

use std::sync::Arc;
use std::time::Duration;

use colibri_store::{Microvm, MicrovmFilter, MicrovmSummary, Phase};
use colibri_wire::api_error::QuotaName;
use colibri_wire::fault;
use colibri_wire::id::image::{ImageArn, ImageName};
use colibri_wire::id::microvm::MicrovmId;
use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::id::version::ImageVersion;
use colibri_wire::page::ListScope;
use colibri_wire::shape::microvm::{
    GetMicrovmRequest, ListMicrovmsRequest, ListMicrovmsResponse, MicrovmDescription, MicrovmItem,
    MicrovmState, ResumeMicrovmRequest, SuspendMicrovmRequest, TerminateMicrovmRequest,
};
use colibri_wire::{ApiError, check};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::control::{Control, Shared};
use crate::documents::{self, LaunchSettings};
use crate::failure::store_failed;
use crate::lists;
use crate::registry::{Command, Handle, IfDamaged, Reply, WrongPhase};

/// Bound of an actor's answer: it answers between steps, and a step is a driver's call.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// A phase as the API shows it.
pub(crate) fn state_of(phase: Phase) -> MicrovmState {
    match phase {
        Phase::Launching | Phase::Resuming | Phase::Continuing => MicrovmState::Pending,
        Phase::Running => MicrovmState::Running,
        Phase::Suspending | Phase::Captured => MicrovmState::Suspending,
        Phase::Suspended => MicrovmState::Suspended,
        Phase::Terminating => MicrovmState::Terminating,
        Phase::Terminated => MicrovmState::Terminated,
    }
}

pub(crate) fn state_name(phase: Phase) -> &'static str {
    match state_of(phase) {
        MicrovmState::Pending => "PENDING",
        MicrovmState::Running => "RUNNING",
        MicrovmState::Suspending => "SUSPENDING",
        MicrovmState::Suspended => "SUSPENDED",
        MicrovmState::Terminating => "TERMINATING",
        MicrovmState::Terminated => "TERMINATED",
    }
}

impl Shared {
    /// A row as `GetMicrovm` and `RunMicrovm` show it.
    pub(crate) fn describe(&self, row: &Microvm) -> Result<MicrovmDescription, ApiError> {
        let settings: LaunchSettings = documents::read("microvms", &row.id, &row.settings)
            .map_err(|error| store_failed(&error))?;
        Ok(MicrovmDescription {
            microvm_id: row.id.clone(),
            state: state_of(row.phase),
            endpoint: self.settings.endpoint_of(&row.label),
            image_arn: self.arn_text(&row.image_name)?,
            image_version: ImageVersion::of_major(row.version).to_string(),
            execution_role_arn: settings.execution_role,
            idle_policy: settings.idle_policy,
            maximum_duration_in_seconds: settings.maximum_duration_seconds,
            started_at: Timestamp::from_unix_millis(row.created_at),
            terminated_at: row.terminated_at.map(Timestamp::from_unix_millis),
            state_reason: row.reason.clone(),
            ingress_network_connectors: Some(settings.ingress),
            egress_network_connectors: Some(settings.egress),
        })
    }

    pub(crate) fn arn_text(&self, image: &str) -> Result<String, ApiError> {
        self.own_arn(image).map(|arn| arn.to_string())
    }

    pub(crate) fn own_arn(&self, image: &str) -> Result<ImageArn, ApiError> {
        let name = ImageName::parse(image).ok_or_else(|| {
            ApiError::internal("A stored image has a name that no image can have")
        })?;
        Ok(ImageArn::own(&self.settings.place, name))
    }
}

impl Control {
    pub(crate) fn own_arn(&self, image: &str) -> Result<ImageArn, ApiError> {
        self.shared.own_arn(image)
    }

    /// `GetMicrovm`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn get_microvm(
        &self,
        request: GetMicrovmRequest,
    ) -> Result<MicrovmDescription, ApiError> {
        let id = self.microvm_id(&request.microvm_identifier)?;
        let row = self
            .shared
            .store
            .microvm(id)
            .await
            .map_err(|error| store_failed(&error))?;
        let row = row.ok_or_else(|| fault::microvm_not_found(&request.microvm_identifier))?;
        self.shared.describe(&row)
    }

    /// `ListMicrovms`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_microvms(
        &self,
        request: ListMicrovmsRequest,
    ) -> Result<ListMicrovmsResponse, ApiError> {
        let image = request
            .image_identifier
            .as_deref()
            .map(check::image_identifier)
            .transpose()?;
        let version = request.image_version.as_deref();
        let filters: Vec<(&str, &str)> = [
            ("imageIdentifier", request.image_identifier.as_deref()),
            ("imageVersion", version),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        let scope = ListScope {
            name: "ListMicrovms",
            filters: &filters,
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start(key, &scope, &request.paging)?;
        // A version that no image can have fits nothing.
        let number = version.map(|text| ImageVersion::parse(text).map_or(0, ImageVersion::major));
        // The service itself cuts the page first, so that a page can be empty and have a next one.
        let asked = if self.shared.settings.aws_quirks {
            MicrovmFilter::default()
        } else {
            MicrovmFilter {
                image_name: image.as_ref().map(|arn| arn.name().to_string()),
                version: number,
            }
        };
        let listing = self
            .shared
            .store
            .microvms(asked, after, request.paging.limit())
            .await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        let fits = |row: &MicrovmSummary| {
            image.as_ref().is_none_or(|arn| {
                arn.is_of(&self.shared.settings.place) && arn.name().as_str() == row.image_name
            }) && number.is_none_or(|number| number == row.version)
        };
        Ok(lists::page(key, &scope, listing, |row| {
            if !fits(&row) {
                return None;
            }
            Some(MicrovmItem {
                state: state_of(row.phase),
                image_arn: self.shared.arn_text(&row.image_name).ok()?,
                image_version: ImageVersion::of_major(row.version).to_string(),
                started_at: Timestamp::from_unix_millis(row.created_at),
                microvm_id: row.id,
            })
        }))
    }

    /// `SuspendMicrovm`: returns when the MicroVM is `SUSPENDING`, or is or becomes `SUSPENDED` already.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn suspend_microvm(&self, request: SuspendMicrovmRequest) -> Result<(), ApiError> {
        self.ask(&request.microvm_identifier, "suspended", Command::Suspend)
            .await
    }

    /// `ResumeMicrovm`: returns when the MicroVM is being resumed, or runs already.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn resume_microvm(&self, request: ResumeMicrovmRequest) -> Result<(), ApiError> {
        self.resume_or_go_back(request, IfDamaged::Refuse).await
    }

    /// As [`Control::resume_microvm`], with a word on what to do when the MicroVM's suspension is damaged.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn resume_or_go_back(
        &self,
        request: ResumeMicrovmRequest,
        if_damaged: IfDamaged,
    ) -> Result<(), ApiError> {
        self.ask(&request.microvm_identifier, "resumed", |reply| {
            Command::Resume(reply, if_damaged)
        })
        .await
    }

    /// `TerminateMicrovm`: returns when the MicroVM is `TERMINATING` or `TERMINATED`.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn terminate_microvm(
        &self,
        request: TerminateMicrovmRequest,
    ) -> Result<(), ApiError> {
        let handle = self.handle(&request.microvm_identifier)?;
        if matches!(
            handle.status.borrow().phase,
            Phase::Terminating | Phase::Terminated
        ) {
            return Ok(());
        }
        match self
            .ask(
                &request.microvm_identifier,
                "terminated",
                Command::Terminate,
            )
            .await
        {
            // It ended by itself meanwhile.
            Err(ApiError::Conflict { .. }) => Ok(()),
            other => other,
        }
    }

    /// Returns when a MicroVM is in one of these states, or has ended; says in which. Not an operation of the
    /// API: what the API's clients poll for.
    ///
    /// # Errors
    /// When there is no such MicroVM.
    pub async fn microvm_reaches(
        &self,
        identifier: &str,
        states: &[MicrovmState],
    ) -> Result<MicrovmState, ApiError> {
        let handle = self.handle(identifier)?;
        let mut status = handle.status.clone();
        loop {
            let state = state_of(status.borrow_and_update().phase);
            if states.contains(&state)
                || state == MicrovmState::Terminated
                || status.changed().await.is_err()
            {
                return Ok(state);
            }
        }
    }

    pub(crate) fn microvm_id(&self, identifier: &str) -> Result<String, ApiError> {
        MicrovmId::parse_identifier(identifier, &self.shared.settings.place)
            .map(|id| id.to_string())
            .map_err(|_| fault::microvm_not_found(identifier))
    }

    pub(crate) fn handle(&self, identifier: &str) -> Result<Arc<Handle>, ApiError> {
        let id = self.microvm_id(identifier)?;
        self.shared
            .registry
            .by_id(&id)
            .ok_or_else(|| fault::microvm_not_found(identifier))
    }

    async fn ask(
        &self,
        identifier: &str,
        attempted: &str,
        command: impl FnOnce(Reply) -> Command,
    ) -> Result<(), ApiError> {
        let handle = self.handle(identifier)?;
        let id = &handle.endpoint.microvm_id;
        let wrong = |phase| fault::microvm_in_wrong_state(id, attempted, state_name(phase));
        let (reply, answer) = oneshot::channel();
        match handle.mailbox.try_send(command(Reply::to(reply))) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(wrong(Phase::Terminated)),
            Err(TrySendError::Full(_)) => {
                return Err(ApiError::Throttling {
                    message: format!("Too many requests wait for MicroVM {id}"),
                    quota: QuotaName::default(),
                    retry_after: Some(1),
                });
            }
        }
        match timeout(ANSWER_BOUND, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(|WrongPhase(phase)| wrong(phase)),
            // Its actor ended before it came to this command.
            Ok(Err(_)) => Err(wrong(Phase::Terminated)),
            Err(_) => Err(ApiError::internal(format!(
                "MicroVM {id} did not answer in time"
            ))),
        }
    }
}
