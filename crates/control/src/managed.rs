//! The managed base image: what there is to build on, and what may still run that was built on it.

use colibri_store::{Listing, Position};
use colibri_wire::ApiError;
use colibri_wire::check;
use colibri_wire::check::configuration::BuildPlan;
use colibri_wire::fault;
use colibri_wire::id::image::{ImageArn, ImageName};
use colibri_wire::id::timestamp::Timestamp;
use colibri_wire::id::version::BaseImageVersion;
use colibri_wire::page::ListScope;
use colibri_wire::shape::common::Page;
use colibri_wire::shape::configuration::{CpuConfiguration, ImageConfiguration};
use colibri_wire::shape::image::{
    ListManagedMicrovmImageVersionsRequest, ListManagedMicrovmImageVersionsResponse,
    ListManagedMicrovmImagesRequest, ListManagedMicrovmImagesResponse, ManagedImageSummary,
    ManagedImageVersion,
};

use crate::base_versions::{Age, BaseVersion};
use crate::control::Control;
use crate::lists;

/// The one managed image.
const NAME: &str = "al2023-1";

impl Control {
    /// `ListManagedMicrovmImages`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_managed_microvm_images(
        &self,
        request: ListManagedMicrovmImagesRequest,
    ) -> Result<ListManagedMicrovmImagesResponse, ApiError> {
        one_page_only(request.paging.next_token.as_deref())?;
        let now = self.shared.clock.now();
        let versions = self.shared.settings.base_versions.iter();
        let released = versions.map(|version| version.released);
        let released = released.filter(|moment| *moment <= now);
        let first = released.clone().min().unwrap_or(now);
        let item = ManagedImageSummary {
            image_arn: self.managed_arn()?.to_string(),
            created_at: Timestamp::from_unix_millis(first),
            updated_at: released
                .max()
                .filter(|last| *last > first)
                .map(Timestamp::from_unix_millis),
        };
        Ok(Page {
            next_token: None,
            items: vec![item],
        })
    }

    /// `ListManagedMicrovmImageVersions`
    ///
    /// # Errors
    /// As the operation's.
    pub async fn list_managed_microvm_image_versions(
        &self,
        request: ListManagedMicrovmImageVersionsRequest,
    ) -> Result<ListManagedMicrovmImageVersionsResponse, ApiError> {
        let arn = check::image_identifier(&request.image_identifier)?;
        if arn != self.managed_arn()? {
            return Err(fault::image_not_found(&arn));
        }
        let parent = arn.to_string();
        let scope = ListScope {
            name: "ListManagedMicrovmImageVersions",
            filters: &[("imageIdentifier", &parent)],
        };
        let key = &self.shared.settings.page_key;
        let after = lists::start(key, &scope, &request.paging)?;
        let listing = self.listed_versions(after.as_ref(), request.paging.limit());
        Ok(lists::page(key, &scope, listing, |item| {
            Some(ManagedImageVersion {
                image_arn: parent.clone(),
                ..item
            })
        }))
    }

    /// Versions that are shown, newest first, from behind a place on.
    fn listed_versions(
        &self,
        after: Option<&Position>,
        most: usize,
    ) -> Listing<ManagedImageVersion> {
        let now = self.shared.clock.now();
        let item = |version: &BaseVersion| {
            Some(ManagedImageVersion {
                image_arn: String::new(),
                image_version: version.number.to_string(),
                status: Some(version.age(now)?.status()?),
                supported_cpu_configurations: Some(vec![CpuConfiguration {
                    architecture: self.shared.host.architecture,
                }]),
                created_at: Timestamp::from_unix_millis(version.released),
                updated_at: version.updated_at(now),
            })
        };
        let behind = |number: u32| {
            let last = after.map(|position| position.created_at);
            last.is_none_or(|last| i64::from(number) < last)
        };
        let mut rest: Vec<(u32, ManagedImageVersion)> = self
            .shared
            .settings
            .base_versions
            .iter()
            .rev()
            .filter(|version| behind(version.number))
            .filter_map(|version| Some((version.number, item(version)?)))
            .collect();
        let has_more = rest.len() > most;
        rest.truncate(most);
        let next = rest
            .last()
            .filter(|_| has_more)
            .map(|(number, _)| Position {
                created_at: i64::from(*number),
                key: String::new(),
            });
        Listing {
            rows: rest.into_iter().map(|(_, item)| item).collect(),
            corrupt: Vec::new(),
            next,
        }
    }

    /// The version of the base image that a plan asks for, or the newest that is current.
    pub(crate) fn base_version(&self, plan: &BuildPlan) -> Result<BaseImageVersion, ApiError> {
        let managed = self.managed_arn()?;
        if plan.base_image != managed {
            return Err(ApiError::validation(format!(
                "The base image {} does not exist. Available base images: {managed}",
                plan.base_image
            )));
        }
        let now = self.shared.clock.now();
        let versions = self.shared.settings.base_versions.iter().rev();
        let there: Vec<(u32, Age)> = versions
            .filter_map(|version| Some((version.number, version.age(now)?)))
            .collect();
        let buildable: Vec<String> = there
            .iter()
            .filter(|(_, age)| age.builds())
            .map(|(number, _)| number.to_string())
            .collect();
        let of_age = |wanted: Age| there.iter().find(|(_, age)| *age == wanted);
        let chosen = match plan.base_version {
            Some(version) => there.iter().find(|(number, _)| *number == version.number()),
            None => of_age(Age::Available).or_else(|| of_age(Age::Deprecated)),
        };
        match (chosen, plan.base_version) {
            (Some((number, age)), _) if age.builds() => Ok(BaseImageVersion::of_number(*number)),
            (Some((number, age)), _) => Err(ApiError::validation(format!(
                "Version {number} of base image {managed} is {}: no image can be built from it. Available versions: {}",
                age.word(),
                buildable.join(", ")
            ))),
            (None, Some(version)) => Err(ApiError::validation(format!(
                "Version {} of base image {managed} does not exist. Available versions: {}",
                version.number(),
                buildable.join(", ")
            ))),
            (None, None) => Err(ApiError::validation(format!(
                "No version of base image {managed} is available to build from"
            ))),
        }
    }

    /// Refuses a launch from an image whose base version has been withdrawn. One that the operator does not
    /// declare any more was not.
    pub(crate) fn check_base(
        &self,
        image: &ImageArn,
        version: u32,
        configuration: &ImageConfiguration,
    ) -> Result<(), ApiError> {
        let base = configuration.base_image_version.as_deref();
        let base = base.and_then(BaseImageVersion::parse_echoed);
        let now = self.shared.clock.now();
        let versions = &self.shared.settings.base_versions;
        let age = base.and_then(|base| {
            let declared = versions.iter().find(|one| one.number == base.number())?;
            declared.age(now)
        });
        match (base, age) {
            (Some(base), Some(age)) if !age.runs() => Err(fault::base_withdrawn(
                image,
                version,
                base.number(),
                age.word(),
            )),
            _ => Ok(()),
        }
    }

    fn managed_arn(&self) -> Result<ImageArn, ApiError> {
        let name = ImageName::parse(NAME)
            .ok_or_else(|| ApiError::internal("The managed image has no name"))?;
        Ok(ImageArn::managed(
            self.shared.settings.place.region.clone(),
            name,
        ))
    }
}

/// The list fits a page: there is no token that could continue it.
fn one_page_only(token: Option<&str>) -> Result<(), ApiError> {
    token.map_or(Ok(()), |_| Err(ApiError::validation("Invalid nextToken")))
}
