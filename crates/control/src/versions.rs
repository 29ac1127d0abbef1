//! The operations on image versions and their builds.

use std::sync::Arc;

use colibri_store::{
    Build, BuildState, Image, ImageState, StoreError, Version, VersionState, VersionStatus,
};
use colibri_wire::check;
use colibri_wire::id::image::ImageArn;
use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::id::version::ImageVersion;
use colibri_wire::page::ListScope;
use colibri_wire::shape::common::{Architecture, Chipset};
use colibri_wire::shape::image::{
    BuildState as ApiBuildState, DeleteMicrovmImageVersionRequest,
    DeleteMicrovmImageVersionResponse, GetMicrovmImageBuildRequest, GetMicrovmImageBuildResponse,
    GetMicrovmImageVersionRequest, ImageBuildSummary, ImageVersionDescription, ImageVersionState,
    ImageVersionStatus, ListMicrovmImageBuildsRequest, ListMicrovmImageBuildsResponse,
    ListMicrovmImageVersionsRequest, ListMicrovmImageVersionsResponse, SnapshotBuild,
    UpdateMicrovmImageVersionRequest,
};
use colibri_wire::{ApiError, fault};

use crate::bases;
use crate::control::{Control, Shared};
use crate::documents;
use crate::failure::store_failed;
use crate::images::SETTLED;
use crate::lists;
use crate::recording::until_recorded;
use crate::tags;

fn state_of(state: VersionState) -> ImageVersionState {
    match state {
        VersionState::Pending => ImageVersionState::Pending,
        VersionState::InProgress => ImageVersionState::InProgress,
        VersionState::Successful => ImageVersionState::Successful,
        VersionState::Failed => ImageVersionState::Failed,
        VersionState::Deleting => ImageVersionState::Deleting,
        VersionState::DeleteFailed => ImageVersionState::DeleteFailed,
    }
}

fn status_of(status: VersionStatus) -> ImageVersionStatus {
    match status {
        VersionStatus::Active => ImageVersionStatus::Active,
        VersionStatus::Inactive => ImageVersionStatus::Inactive,
    }
}

fn build_state_of(state: BuildState) -> ApiBuildState {
    match state {
        BuildState::Pending => ApiBuildState::Pending,
        BuildState::InProgress => ApiBuildState::InProgress,
        BuildState::Successful => ApiBuildState::Successful,
        BuildState::Failed => ApiBuildState::Failed,
    }
}

impl Shared {
    fn describe_version(
        &self,
        image: &Image,
        version: Version,
    ) -> Result<ImageVersionDescription, ApiError> {
        let key = format!("{}/{}", version.image_id, version.version);
        let configuration = documents::read("image_versions", &key, &version.config)
            .map_err(|error| store_failed(&error))?;
        let tags = tags::read(&image.tags);
        Ok(ImageVersionDescription {
            configuration,
            image_arn: self.arn_text(&image.name)?,
            image_version: ImageVersion::of_major(version.version).to_string(),
            state: state_of(version.state),
            status: status_of(version.status),
            created_at: Timestamp::from_unix_millis(version.created_at),
            updated_at: version.updated_at.map(Timestamp::from_unix_millis),
            state_reason: version.reason,
            tags: (!tags.is_empty()).then_some(tags),
        })
    }

    fn summarize_build(&self, build: &Build) -> Result<ImageBuildSummary, ApiError> {
        let enumeration = |text: &str| serde_json::Value::String(text.into());
        let architecture: Architecture =
            documents::read("builds", &build.id, &enumeration(&build.architecture))
                .map_err(|e| store_failed(&e))?;
        let chipset: Chipset = documents::read("builds", &build.id, &enumeration(&build.chipset))
            .map_err(|e| store_failed(&e))?;
        Ok(ImageBuildSummary {
            image_arn: self.arn_text(&build.image_name)?,
            image_version: ImageVersion::of_major(build.version).to_string(),
            build_id: build.id.clone(),
            build_state: build_state_of(build.state),
            architecture,
            chipset,
            chipset_generation: build.chipset_generation.clone(),
            state_reason: build.reason.clone(),
            created_at: Timestamp::from_unix_millis(build.created_at),
        })
    }
}

impl Control {
    /// `GetMicrovmImageVersion`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn get_microvm_image_version(
        &self,
        request: GetMicrovmImageVersionRequest,
    ) -> Result<ImageVersionDescription, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let (image, version) = self.own_version(&arn, &request.image_version).await?;
        self.shared.describe_version(&image, version)
    }

    /// `ListMicrovmImageVersions`: newest first.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_microvm_image_versions(
        &self,
        request: ListMicrovmImageVersionsRequest,
    ) -> Result<ListMicrovmImageVersionsResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let image = self.own_image(&arn).await?;
        let parent = arn.to_string();
        let scope = ListScope {
            name: "ListMicrovmImageVersions",
            filters: &[("imageIdentifier", &parent)],
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start(key, &scope, &request.paging)?;
        let listing = self
            .shared
            .store
            .versions(image.id, after, request.paging.limit())
            .await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        Ok(lists::page(key, &scope, listing, |version| {
            self.shared.describe_version(&image, version).ok()
        }))
    }

    /// `UpdateMicrovmImageVersion`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn update_microvm_image_version(
        &self,
        request: UpdateMicrovmImageVersionRequest,
    ) -> Result<ImageVersionDescription, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let (image, version) = self.own_version(&arn, &request.image_version).await?;
        let status = match request.status {
            ImageVersionStatus::Active => VersionStatus::Active,
            ImageVersionStatus::Inactive => VersionStatus::Inactive,
        };
        if status == VersionStatus::Active
            && version.state != VersionState::Successful
            && image_is_settled(&image)
        {
            return Err(ApiError::validation(format!(
                "Version {} of MicroVM image {arn} was not built and cannot be activated",
                request.image_version
            )));
        }
        let now = self.shared.clock.now();
        let changed = self
            .shared
            .store
            .set_version_status(image.name, SETTLED, version.version, status, now)
            .await;
        let (image, version) = match changed {
            Err(StoreError::Missing { .. }) => {
                return Err(fault::image_version_not_found(&arn, &request.image_version));
            }
            other => other
                .map_err(|error| store_failed(&error))?
                .map_err(|state| busy(&arn, state))?,
        };
        self.shared.pool.recheck();
        self.shared.describe_version(&image, version)
    }

    /// `DeleteMicrovmImageVersion`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn delete_microvm_image_version(
        self: &Arc<Self>,
        request: DeleteMicrovmImageVersionRequest,
    ) -> Result<DeleteMicrovmImageVersionResponse, ApiError> {
        let control = Arc::clone(self);
        self.whole(async move { control.condemn_and_remove_version(request).await })
            .await
    }

    async fn condemn_and_remove_version(
        &self,
        request: DeleteMicrovmImageVersionRequest,
    ) -> Result<DeleteMicrovmImageVersionResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let image = self.own_image(&arn).await?;
        let missing = || fault::image_version_not_found(&arn, &request.image_version);
        let version = ImageVersion::parse(&request.image_version).map_err(|_| missing())?;
        let answer = |state| DeleteMicrovmImageVersionResponse {
            image_identifier: arn.to_string(),
            image_version: version.to_string(),
            state,
        };
        let store = &self.shared.store;
        let row = store
            .version(image.id, version.major())
            .await
            .map_err(|error| store_failed(&error))?;
        match row {
            None => {
                let deleted = store.was_deleted(image.name, version.major()).await;
                let deleted = deleted.map_err(|error| store_failed(&error))?;
                return if deleted {
                    Ok(answer(ImageVersionState::Deleted))
                } else {
                    Err(missing())
                };
            }
            Some(row) if row.state == VersionState::Deleting => {
                return Ok(answer(ImageVersionState::Deleting));
            }
            Some(_) => {}
        }
        if store
            .version_count(image.id)
            .await
            .map_err(|error| store_failed(&error))?
            < 2
        {
            return Err(fault::last_version());
        }
        let now = self.shared.clock.now();
        match store
            .begin_version_removal(image.name.clone(), SETTLED, version.major(), now)
            .await
        {
            Err(StoreError::Missing { .. }) => return Err(missing()),
            other => other
                .map_err(|error| store_failed(&error))?
                .map_err(|state| busy(&arn, state))?,
        }
        self.spawn(remove(
            Arc::clone(&self.shared),
            image.name,
            version.major(),
        ));
        Ok(answer(ImageVersionState::Deleting))
    }

    /// `ListMicrovmImageBuilds`: newest first.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_microvm_image_builds(
        &self,
        request: ListMicrovmImageBuildsRequest,
    ) -> Result<ListMicrovmImageBuildsResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let (image, version) = self.own_version(&arn, &request.image_version).await?;
        let number = version.version.to_string();
        let parent = arn.to_string();
        let architecture = request.architecture.map(|value| format!("{value:?}"));
        let chipset = request.chipset.map(|value| format!("{value:?}"));
        let filters: Vec<(&str, &str)> = [
            ("imageIdentifier", Some(parent.as_str())),
            ("imageVersion", Some(number.as_str())),
            ("architecture", architecture.as_deref()),
            ("chipset", chipset.as_deref()),
            ("chipsetGeneration", request.chipset_generation.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        let scope = ListScope {
            name: "ListMicrovmImageBuilds",
            filters: &filters,
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start(key, &scope, &request.paging)?;
        let listing = self
            .shared
            .store
            .builds(image.id, version.version, after, request.paging.limit())
            .await;
        let listing = listing.map_err(|error| store_failed(&error))?;
        Ok(lists::page(key, &scope, listing, |build| {
            let summary = self.shared.summarize_build(&build).ok()?;
            let fits = request
                .architecture
                .is_none_or(|wanted| wanted == summary.architecture)
                && request
                    .chipset
                    .is_none_or(|wanted| wanted == summary.chipset)
                && request
                    .chipset_generation
                    .as_ref()
                    .is_none_or(|wanted| *wanted == summary.chipset_generation);
            fits.then_some(summary)
        }))
    }

    /// `GetMicrovmImageBuild`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn get_microvm_image_build(
        &self,
        request: GetMicrovmImageBuildRequest,
    ) -> Result<GetMicrovmImageBuildResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        let (image, version) = self.own_version(&arn, &request.image_version).await?;
        let build = self
            .shared
            .store
            .build(request.build_id.clone())
            .await
            .map_err(|error| store_failed(&error))?;
        let build =
            build.filter(|build| build.image_id == image.id && build.version == version.version);
        let build = build.ok_or_else(|| {
            fault::image_build_not_found(&arn, &request.image_version, &request.build_id)
        })?;
        Ok(GetMicrovmImageBuildResponse {
            build: self.shared.summarize_build(&build)?,
            snapshot_build: sizes(&build),
        })
    }

    async fn own_version(
        &self,
        arn: &ImageArn,
        version: &str,
    ) -> Result<(Image, Version), ApiError> {
        let image = self.own_image(arn).await?;
        let missing = || fault::image_version_not_found(arn, version);
        let number = ImageVersion::parse(version).map_err(|_| missing())?.major();
        let row = self
            .shared
            .store
            .version(image.id, number)
            .await
            .map_err(|error| store_failed(&error))?;
        Ok((image, row.ok_or_else(missing)?))
    }
}

/// Absent until there is something to tell.
fn sizes(build: &Build) -> Option<SnapshotBuild> {
    let sizes = SnapshotBuild {
        memory_snapshot_size_in_bytes: build.memory_bytes,
        code_install_size_in_bytes: build.code_bytes,
        disk_snapshot_size_in_bytes: build.disk_bytes,
    };
    (sizes != SnapshotBuild::default()).then_some(sizes)
}

fn image_is_settled(image: &Image) -> bool {
    SETTLED.contains(&image.state)
}

fn busy(arn: &ImageArn, state: ImageState) -> ApiError {
    fault::image_busy(arn, &state.as_str().to_uppercase())
}

/// Removes a condemned version: its row, and the base if nothing uses it.
pub(crate) async fn remove(shared: Arc<Shared>, image: String, version: u32) {
    until_recorded("the removal of an image version", || {
        shared
            .store
            .finish_version_removal(image.clone(), version, shared.clock.now())
    })
    .await;
    shared.pool.recheck();
    bases::sweep(&shared).await;
    shared.images_changed.send_modify(|count| *count += 1);
}
