//! Tags of images. These operations have the error names of Lambda's shared tagging front end.

use std::collections::BTreeMap;

use colibri_store::StoreError;
use colibri_wire::id::image::ImageArn;
use colibri_wire::shape::tag::{
    ListTagsRequest, ListTagsResponse, TagResourceRequest, UntagResourceRequest,
};
use colibri_wire::{ApiError, fault};
use serde_json::Value;

use crate::control::Control;
use crate::documents;
use crate::failure::chain;

/// Most tags of a resource (AWS's general bound).
const MAX_TAGS: usize = 50;

impl Control {
    /// `ListTags`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_tags(&self, request: ListTagsRequest) -> Result<ListTagsResponse, ApiError> {
        let arn = self.tagged(&request.resource)?;
        let image = self
            .shared
            .store
            .image(arn.name().to_string())
            .await
            .map_err(|error| failed(&error))?;
        let image = image.ok_or_else(|| fault::image_not_found(&arn))?;
        Ok(ListTagsResponse {
            tags: read(&image.tags),
        })
    }

    /// `TagResource`: other tags stay.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn tag_resource(&self, request: TagResourceRequest) -> Result<(), ApiError> {
        let arn = self.tagged(&request.resource)?;
        let now = self
            .list_tags(ListTagsRequest {
                resource: request.resource,
            })
            .await?
            .tags;
        let all = now
            .keys()
            .chain(request.tags.keys())
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        if all > MAX_TAGS {
            return Err(ApiError::InvalidParameterValue {
                message: format!("A resource has at most {MAX_TAGS} tags; this would make {all}"),
            });
        }
        self.change(&arn, move |tags| tags.extend(request.tags))
            .await
    }

    /// `UntagResource`: keys that are not there are fine.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn untag_resource(&self, request: UntagResourceRequest) -> Result<(), ApiError> {
        let arn = self.tagged(&request.resource)?;
        self.change(&arn, move |tags| {
            tags.retain(|key, _| !request.tag_keys.contains(key));
        })
        .await
    }

    async fn change<F>(&self, arn: &ImageArn, change: F) -> Result<(), ApiError>
    where
        F: FnOnce(&mut BTreeMap<String, String>) + Send + 'static,
    {
        let changed = self
            .shared
            .store
            .change_tags(arn.name().to_string(), move |tags| {
                let mut tags = read(&tags);
                change(&mut tags);
                documents::write(&tags)
            });
        changed.await.map_err(|error| match error {
            StoreError::Missing { .. } => fault::image_not_found(arn),
            other => failed(&other),
        })
    }

    fn tagged(&self, resource: &str) -> Result<ImageArn, ApiError> {
        let arn = ImageArn::parse(resource).map_err(|_| ApiError::InvalidParameterValue {
            message: format!("Only MicroVM images have tags here: {resource}"),
        })?;
        if !arn.is_of(&self.shared.settings.place) {
            return Err(fault::image_not_found(&arn));
        }
        Ok(arn)
    }
}

/// Stored tags; a document that cannot be read counts as none rather than lock its image.
pub(crate) fn read(tags: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(tags.clone()).unwrap_or_default()
}

fn failed(error: &StoreError) -> ApiError {
    tracing::error!(error = %chain(error), "the state database failed");
    ApiError::Service {
        message: "The service's state could not be read or written".into(),
    }
}
