//! Tags of images and network connectors. These operations have the error names of Lambda's shared tagging front end.

use std::collections::BTreeMap;

use colibri_store::StoreError;
use colibri_wire::check::connector::connector_not_found;
use colibri_wire::id::connector::{ConnectorArn, is_connector_id};
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

/// Refuses more tags than a new resource may have.
pub(crate) fn check_count(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() <= MAX_TAGS {
        return Ok(());
    }
    Err(ApiError::validation(format!(
        "A resource has at most {MAX_TAGS} tags; these are {}",
        tags.len()
    )))
}

/// What has tags.
enum Tagged {
    Image(ImageArn),
    /// By id.
    Connector(String),
}

impl Control {
    /// `ListTags`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_tags(&self, request: ListTagsRequest) -> Result<ListTagsResponse, ApiError> {
        let failed = |error| failed(&error);
        let store = &self.shared.store;
        let tags = match self.tagged(&request.resource)? {
            Tagged::Image(arn) => {
                let image = store.image(arn.name().to_string()).await.map_err(failed)?;
                image.ok_or_else(|| fault::image_not_found(&arn))?.tags
            }
            Tagged::Connector(key) => {
                let connector = store.connector(key).await.map_err(failed)?;
                let missing = || connector_not_found(&request.resource);
                connector.ok_or_else(missing)?.tags
            }
        };
        Ok(ListTagsResponse { tags: read(&tags) })
    }

    /// `TagResource`: other tags stay.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn tag_resource(&self, request: TagResourceRequest) -> Result<(), ApiError> {
        let resource = request.resource.clone();
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
        self.change(&resource, move |tags| tags.extend(request.tags))
            .await
    }

    /// `UntagResource`: keys that are not there are fine.
    ///
    /// # Errors
    /// As the operation's.
    pub async fn untag_resource(&self, request: UntagResourceRequest) -> Result<(), ApiError> {
        self.change(&request.resource, move |tags| {
            tags.retain(|key, _| !request.tag_keys.contains(key));
        })
        .await
    }

    async fn change<F>(&self, resource: &str, change: F) -> Result<(), ApiError>
    where
        F: FnOnce(&mut BTreeMap<String, String>) + Send + 'static,
    {
        let change = move |tags: Value| {
            let mut tags = read(&tags);
            change(&mut tags);
            documents::write(&tags)
        };
        let store = &self.shared.store;
        let (changed, missing) = match self.tagged(resource)? {
            Tagged::Image(arn) => {
                let changed = store.change_tags(arn.name().to_string(), change).await;
                (changed, fault::image_not_found(&arn))
            }
            Tagged::Connector(key) => {
                let changed = store.change_connector_tags(key, change).await;
                (changed, connector_not_found(resource))
            }
        };
        changed.map_err(|error| match error {
            StoreError::Missing { .. } => missing,
            other => failed(&other),
        })
    }

    fn tagged(&self, resource: &str) -> Result<Tagged, ApiError> {
        let place = &self.shared.settings.place;
        if let Ok(ConnectorArn::Own {
            region,
            account,
            id,
            ..
        }) = ConnectorArn::parse(resource)
        {
            let is_here = region == place.region && account == place.account;
            return if is_here && is_connector_id(&id) {
                Ok(Tagged::Connector(id))
            } else {
                Err(connector_not_found(resource))
            };
        }
        let arn = ImageArn::parse(resource).map_err(|_| ApiError::InvalidParameterValue {
            message: format!(
                "Only MicroVM images and network connectors have tags here: {resource}"
            ),
        })?;
        if !arn.is_of(place) {
            return Err(fault::image_not_found(&arn));
        }
        Ok(Tagged::Image(arn))
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
