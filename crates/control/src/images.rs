//! The operations on images.

use std::sync::Arc;

use colibri_store::{Image, ImageState, StoreError, TokenRecord, Version};
use colibri_wire::check;
use colibri_wire::id::image::ImageArn;
use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::id::version::ImageVersion;
use colibri_wire::page::ListScope;
use colibri_wire::shape::image::{
    CreateMicrovmImageRequest, DeleteMicrovmImageRequest, DeleteMicrovmImageResponse,
    GetMicrovmImageRequest, GetMicrovmImageResponse, ImageChangeResponse,
    ImageState as ApiImageState, ImageSummary, ListMicrovmImagesRequest, ListMicrovmImagesResponse,
    UpdateMicrovmImageRequest,
};
use colibri_wire::{ApiError, fault};

use crate::bases;
use crate::changes::{cause_of, continued, current_request};
use crate::control::{Control, Shared};
use crate::documents;
use crate::failure::store_failed;
use crate::lists;
use crate::recording::until_recorded;
use crate::tags;

/// States in which an image may be changed (specification, section 5.1).
pub(crate) const SETTLED: &[ImageState] = &[
    ImageState::Created,
    ImageState::Updated,
    ImageState::CreateFailed,
    ImageState::UpdateFailed,
];

/// States in which an image may be deleted.
const DELETABLE: &[ImageState] = &[
    ImageState::Created,
    ImageState::Updated,
    ImageState::CreateFailed,
    ImageState::UpdateFailed,
    ImageState::DeleteFailed,
];

pub(crate) fn state_of(state: ImageState) -> ApiImageState {
    match state {
        ImageState::Creating => ApiImageState::Creating,
        ImageState::Created => ApiImageState::Created,
        ImageState::CreateFailed => ApiImageState::CreateFailed,
        ImageState::Updating => ApiImageState::Updating,
        ImageState::Updated => ApiImageState::Updated,
        ImageState::UpdateFailed => ApiImageState::UpdateFailed,
        ImageState::Deleting => ApiImageState::Deleting,
        ImageState::DeleteFailed => ApiImageState::DeleteFailed,
    }
}

pub(crate) fn state_name(state: ImageState) -> String {
    state.as_str().to_uppercase()
}

impl Shared {
    fn summary(&self, image: &Image) -> Result<ImageSummary, ApiError> {
        let version =
            |number: Option<u32>| number.map(|number| ImageVersion::of_major(number).to_string());
        Ok(ImageSummary {
            image_arn: self.arn_text(&image.name)?,
            name: image.name.clone(),
            state: state_of(image.state),
            latest_active_image_version: version(image.latest_active),
            latest_failed_image_version: version(image.latest_failed),
            created_at: Timestamp::from_unix_millis(image.created_at),
        })
    }

    /// An image and its new version as create and update answer.
    fn changed(
        &self,
        image: &Image,
        version: &Version,
        created: bool,
    ) -> Result<ImageChangeResponse, ApiError> {
        let key = format!("{}/{}", version.image_id, version.version);
        let configuration = documents::read("image_versions", &key, &version.config)
            .map_err(|error| store_failed(&error))?;
        let tags = tags::read(&image.tags);
        Ok(ImageChangeResponse {
            image: self.summary(image)?,
            configuration,
            tags: (created && !tags.is_empty()).then_some(tags),
            updated_at: image.updated_at.map(Timestamp::from_unix_millis),
            image_version: ImageVersion::of_major(version.version).to_string(),
        })
    }
}

impl Control {
    /// `CreateMicrovmImage`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn create_microvm_image(
        self: &Arc<Self>,
        request: CreateMicrovmImageRequest,
    ) -> Result<ImageChangeResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.create_and_build(request).await })
            .await
    }

    async fn create_and_build(
        self: &Arc<Self>,
        request: CreateMicrovmImageRequest,
    ) -> Result<ImageChangeResponse, ApiError> {
        let accepted = self.accept(&request.configuration)?;
        let tags = request.tags.clone().unwrap_or_default();
        tags::check_count(&tags)?;
        let token = self.client_token(
            "CreateMicrovmImage",
            request.client_token.as_deref(),
            &request,
        )?;
        if let Some(replay) = self.replayed(token.as_ref()).await? {
            return self.replay_change(&replay, true).await;
        }
        let egress = std::slice::from_ref(&accepted.egress);
        self.shared.check_egress(egress).await?;
        self.check_image_count().await?;
        self.check_build_count().await?;
        let version = self.new_version(&accepted);
        let tags = documents::write(&tags);
        let store = &self.shared.store;
        let again = token.clone();
        let made = store
            .create_image(
                request.name.clone(),
                tags,
                version,
                token,
                self.answer(true),
            )
            .await;
        let (image, version) = match made {
            Err(StoreError::Exists { .. }) => {
                // Either the name is taken, or the same call came in twice at once.
                return match self.replayed(again.as_ref()).await? {
                    Some(replay) => self.replay_change(&replay, true).await,
                    None => Err(fault::image_exists(&request.name)),
                };
            }
            other => other.map_err(|error| store_failed(&error))?,
        };
        self.tell_of(&image.name, image.state);
        self.start_builds(&image, &version).await?;
        self.shared.changed(&image, &version, true)
    }

    /// `UpdateMicrovmImage`: a new version, described in full.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn update_microvm_image(
        self: &Arc<Self>,
        request: UpdateMicrovmImageRequest,
    ) -> Result<ImageChangeResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.update_and_build(request).await })
            .await
    }

    async fn update_and_build(
        self: &Arc<Self>,
        request: UpdateMicrovmImageRequest,
    ) -> Result<ImageChangeResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let accepted = self.accept(&request.configuration)?;
        let token = self.client_token(
            "UpdateMicrovmImage",
            request.client_token.as_deref(),
            &request,
        )?;
        if let Some(replay) = self.replayed(token.as_ref()).await? {
            return self.replay_change(&replay, false).await;
        }
        let image = self.own_image(&arn).await?;
        let egress = std::slice::from_ref(&accepted.egress);
        self.shared.check_egress(egress).await?;
        self.check_version_count(&arn, image.id).await?;
        self.check_build_count().await?;
        let version = self.new_version(&accepted);
        let added = self
            .shared
            .store
            .add_version(image.name, SETTLED, version, token, self.answer(false))
            .await;
        let (image, version) = match added {
            Err(StoreError::Missing { .. }) => return Err(fault::image_not_found(&arn)),
            other => other
                .map_err(|error| store_failed(&error))?
                .map_err(|state| fault::image_busy(&arn, &state_name(state)))?,
        };
        self.tell_of(&image.name, image.state);
        self.start_builds(&image, &version).await?;
        self.shared.changed(&image, &version, false)
    }

    /// `GetMicrovmImage`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn get_microvm_image(
        &self,
        request: GetMicrovmImageRequest,
    ) -> Result<GetMicrovmImageResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let image = self.own_image(&arn).await?;
        let tags = tags::read(&image.tags);
        Ok(GetMicrovmImageResponse {
            image: self.shared.summary(&image)?,
            tags: (!tags.is_empty()).then_some(tags),
            updated_at: image.updated_at.map(Timestamp::from_unix_millis),
        })
    }

    /// `ListMicrovmImages`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_microvm_images(
        &self,
        request: ListMicrovmImagesRequest,
    ) -> Result<ListMicrovmImagesResponse, ApiError> {
        let filter = request.name_filter.as_deref();
        let filters: Vec<(&str, &str)> = filter
            .map(|filter| ("nameFilter", filter))
            .into_iter()
            .collect();
        let scope = ListScope {
            name: "ListMicrovmImages",
            filters: &filters,
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start(key, &scope, &request.paging)?;
        // The service itself cuts the page first, so that a page can be empty and have a next one.
        let asked = filter.filter(|_| !self.shared.settings.aws_quirks);
        let listing = self
            .shared
            .store
            .images(asked.map(str::to_owned), after, request.paging.limit())
            .await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        Ok(lists::page(key, &scope, listing, |image| {
            let fits = filter.is_none_or(|filter| image.name.contains(filter));
            if fits {
                self.shared.summary(&image).ok()
            } else {
                None
            }
        }))
    }

    /// `DeleteMicrovmImage`: `DELETING` at once, gone soon. MicroVMs go on: their base stays until the last of
    /// them has ended.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn delete_microvm_image(
        self: &Arc<Self>,
        request: DeleteMicrovmImageRequest,
    ) -> Result<DeleteMicrovmImageResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.condemn_and_remove(request).await })
            .await
    }

    async fn condemn_and_remove(
        self: &Arc<Self>,
        request: DeleteMicrovmImageRequest,
    ) -> Result<DeleteMicrovmImageResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let name = arn.name().to_string();
        let store = &self.shared.store;
        let answer = |state| DeleteMicrovmImageResponse {
            image_identifier: arn.to_string(),
            state,
        };
        if !arn.is_of(&self.shared.settings.place) {
            return Err(fault::image_not_found(&arn));
        }
        match store
            .begin_image_removal(name.clone(), DELETABLE, self.shared.clock.now())
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(ImageState::Deleting)) => return Ok(answer(ApiImageState::Deleting)),
            Ok(Err(_)) => return Err(fault::image_not_deletable(&arn)),
            Err(StoreError::Missing { .. }) => {
                let deleted = store
                    .was_deleted(name, 0)
                    .await
                    .map_err(|error| store_failed(&error))?;
                return if deleted {
                    Ok(answer(ApiImageState::Deleted))
                } else {
                    Err(fault::image_not_found(&arn))
                };
            }
            Err(error) => return Err(store_failed(&error)),
        }
        self.shared.pool.recheck();
        self.tell_of(&name, ImageState::Deleting);
        let work = remove(Arc::clone(&self.shared), name);
        self.spawn(continued(current_request(), work));
        Ok(answer(ApiImageState::Deleting))
    }

    /// Returns when nothing is being built, updated or deleted of an image; `None` when it is gone. Not an
    /// operation of the API: what the API's clients poll for.
    ///
    /// # Errors
    /// When the identifier is none, or the state cannot be read.
    pub async fn image_settled(
        &self,
        image_identifier: &str,
    ) -> Result<Option<ApiImageState>, ApiError> {
        let arn = check::image_identifier(image_identifier)?;
        let mut changes = self.shared.images_changed.subscribe();
        loop {
            changes.borrow_and_update();
            match self.own_image(&arn).await {
                Ok(image)
                    if SETTLED.contains(&image.state)
                        || image.state == ImageState::DeleteFailed =>
                {
                    return Ok(Some(state_of(image.state)));
                }
                Ok(_) => {}
                Err(ApiError::ResourceNotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
            // The sender lives as long as this control plane.
            let _ = changes.changed().await;
        }
    }

    /// The call at hand has put an image into a state.
    fn tell_of(&self, name: &str, state: ImageState) {
        let cause = cause_of(current_request());
        self.shared.tell_of_image(name, &state_name(state), cause);
    }

    pub(crate) async fn own_image(&self, arn: &ImageArn) -> Result<Image, ApiError> {
        let missing = || fault::image_not_found(arn);
        if !arn.is_of(&self.shared.settings.place) {
            return Err(missing());
        }
        let image = self.shared.store.image(arn.name().to_string()).await;
        image
            .map_err(|error| store_failed(&error))?
            .ok_or_else(missing)
    }

    /// Makes the answer that a client token replays.
    fn answer(
        &self,
        created: bool,
    ) -> impl FnOnce(&Image, &Version) -> serde_json::Value + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move |image, version| match shared.changed(image, version, created) {
            Ok(response) => documents::write(&response),
            Err(_) => serde_json::Value::Null,
        }
    }

    /// The first call's answer, with the image's state of now.
    async fn replay_change(
        &self,
        record: &TokenRecord,
        created: bool,
    ) -> Result<ImageChangeResponse, ApiError> {
        let key = &record.resource_id;
        let mut response: ImageChangeResponse =
            documents::read("client_tokens", key, &record.response)
                .map_err(|error| store_failed(&error))?;
        let image = self
            .shared
            .store
            .image(key.clone())
            .await
            .map_err(|error| store_failed(&error))?;
        if let Some(image) = image {
            response.image = self.shared.summary(&image)?;
            response.updated_at = image.updated_at.map(Timestamp::from_unix_millis);
        }
        if !created {
            response.tags = None;
        }
        Ok(response)
    }
}

/// Removes a condemned image: its rows, and the bases that nothing uses.
pub(crate) async fn remove(shared: Arc<Shared>, name: String) {
    until_recorded("the removal of an image", || {
        shared
            .store
            .finish_image_removal(name.clone(), shared.clock.now())
    })
    .await;
    shared.tell_of_image(&name, "DELETED", cause_of(current_request()));
    shared.pool.recheck();
    bases::sweep(&shared).await;
    shared.images_changed.send_modify(|count| *count += 1);
}
