//! What whoever decides about permissions must know of images and MicroVMs before an operation is
//! performed. Nothing here refuses or changes anything.

use colibri_wire::ApiError;
use colibri_wire::id::connector::{ConnectorArn, ManagedConnector};
use colibri_wire::id::image::ImageArn;
use colibri_wire::id::place::Place;
use colibri_wire::id::version::ImageVersion;
use colibri_wire::shape::common::Tags;
use colibri_wire::shape::configuration::ImageConfiguration;

use crate::control::Control;
use crate::documents;
use crate::failure::store_failed;
use crate::tags;

/// An image, as far as permissions are about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its ARN.
    pub arn: String,
    /// The version that is meant, `1.0`: of a MicroVM its own, of an image the latest active one.
    pub version: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// A network connector, as far as permissions are about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorFacts {
    /// Its ARN, with its id.
    pub arn: String,
    /// The ARN of the version that is meant, where one is.
    pub version_arn: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

impl Control {
    /// Region and account of everything.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.shared.settings.place
    }

    /// An image of this account; `None` when there is none of that ARN.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn image_facts(&self, arn: &str) -> Result<Option<ImageFacts>, ApiError> {
        let Ok(arn) = ImageArn::parse(arn) else {
            return Ok(None);
        };
        match self.own_image(&arn).await {
            Ok(image) => Ok(Some(ImageFacts {
                arn: arn.to_string(),
                version: image
                    .latest_active
                    .map(|number| ImageVersion::of_major(number).to_string()),
                tags: tags::read(&image.tags),
            })),
            Err(ApiError::ResourceNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The image that a MicroVM was launched from; `None` when there is no such MicroVM.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn microvm_facts(&self, identifier: &str) -> Result<Option<ImageFacts>, ApiError> {
        let Ok(id) = self.microvm_id(identifier) else {
            return Ok(None);
        };
        let row = self.shared.store.microvm(id).await;
        let Some(row) = row.map_err(|error| store_failed(&error))? else {
            return Ok(None);
        };
        let arn = self.shared.arn_text(&row.image_name)?;
        let image = self.image_facts(&arn).await?;
        Ok(Some(ImageFacts {
            arn,
            version: Some(ImageVersion::of_major(row.version).to_string()),
            tags: image.map(|image| image.tags).unwrap_or_default(),
        }))
    }

    /// A network connector of this account, by id, name or ARN; `None` when there is none.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn connector_facts(
        &self,
        identifier: &str,
    ) -> Result<Option<ConnectorFacts>, ApiError> {
        let Ok(target) = self.connector_target(identifier) else {
            return Ok(None);
        };
        let connector = self.shared.store.connector(target.key).await;
        let connector = connector.map_err(|error| store_failed(&error))?;
        Ok(connector.map(|connector| ConnectorFacts {
            arn: self.shared.connector_arn(&connector.id, None),
            version_arn: target
                .version
                .map(|version| self.shared.connector_arn(&connector.id, Some(version))),
            tags: tags::read(&connector.tags),
        }))
    }

    /// The egress connectors that a MicroVM of an image version has when its launch names none.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn egress_of(&self, arn: &str, version: &str) -> Result<Vec<String>, ApiError> {
        let usual = || vec![self.managed_connector(ManagedConnector::InternetEgress)];
        let (Ok(arn), Ok(version)) = (ImageArn::parse(arn), ImageVersion::parse(version)) else {
            return Ok(usual());
        };
        let image = match self.own_image(&arn).await {
            Ok(image) => image,
            Err(ApiError::ResourceNotFound { .. }) => return Ok(usual()),
            Err(error) => return Err(error),
        };
        let stored = self.shared.store.version(image.id, version.major()).await;
        let Some(stored) = stored.map_err(|error| store_failed(&error))? else {
            return Ok(usual());
        };
        let key = format!("{}/{}", image.id, version.major());
        let configuration: ImageConfiguration =
            documents::read("image_versions", &key, &stored.config)
                .map_err(|error| store_failed(&error))?;
        let chosen = configuration.egress_network_connectors.unwrap_or_default();
        Ok(if chosen.is_empty() { usual() } else { chosen })
    }

    /// ARN of a connector that everyone has.
    #[must_use]
    pub fn managed_connector(&self, connector: ManagedConnector) -> String {
        ConnectorArn::managed(self.place().region.clone(), connector).to_string()
    }
}
