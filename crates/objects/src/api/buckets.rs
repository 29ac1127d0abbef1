//! Operations on buckets themselves.

use s3s::{S3Response, dto, s3_error};

use super::{Answer, Api};
use crate::store::StoreError;

/// The region whose buckets have no location constraint, and where making a bucket that one already
/// has is not an error.
const US_EAST_1: &str = "us-east-1";

impl Api {
    fn owner(&self) -> dto::Owner {
        dto::Owner {
            id: Some(self.settings.account_id.clone()),
            display_name: None,
        }
    }

    pub(super) fn answer_list_buckets(
        &self,
        input: dto::ListBucketsInput,
    ) -> Answer<dto::ListBucketsOutput> {
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let after = input.continuation_token.as_deref().unwrap_or_default();
        let limit = match input.max_buckets {
            None => usize::MAX,
            Some(max) => usize::try_from(max)
                .ok()
                .filter(|max| (1..=10_000).contains(max))
                .ok_or_else(|| {
                    s3_error!(
                        InvalidArgument,
                        "Argument max-buckets must be an integer from 1 to 10000."
                    )
                })?,
        };
        let mut found: Vec<dto::Bucket> = self
            .store
            .buckets()
            .iter()
            .filter(|bucket| bucket.name().starts_with(prefix) && bucket.name() > after)
            .map(|bucket| dto::Bucket {
                name: Some(bucket.name().to_owned()),
                creation_date: Some(bucket.record().created.into()),
                bucket_region: Some(self.settings.region.clone()),
            })
            .collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found
            .last()
            .and_then(|bucket| bucket.name.clone())
            .filter(|_| more);
        Ok(S3Response::new(dto::ListBucketsOutput {
            buckets: Some(found),
            owner: Some(self.owner()),
            continuation_token: next,
            prefix: input.prefix,
        }))
    }

    pub(super) async fn answer_create_bucket(
        &self,
        input: dto::CreateBucketInput,
    ) -> Answer<dto::CreateBucketOutput> {
        let constraint = input
            .create_bucket_configuration
            .as_ref()
            .and_then(|wanted| wanted.location_constraint.as_ref())
            .map_or(US_EAST_1, |constraint| constraint.as_str());
        if constraint != self.settings.region {
            return Err(s3_error!(
                IllegalLocationConstraintException,
                "The {constraint} location constraint is incompatible with the region of this \
                 endpoint, {}.",
                self.settings.region
            ));
        }
        if input.object_lock_enabled_for_bucket == Some(true) {
            return Err(s3_error!(
                NotImplemented,
                "Object lock is not supported here"
            ));
        }
        let name = input.bucket.clone();
        let region = self.settings.region.clone();
        self.on_disk(move |store| match store.create_bucket(&name) {
            Err(StoreError::BucketExists) if region == US_EAST_1 => Ok(()),
            made => made.map(drop),
        })
        .await?;
        let location = Some(format!("/{}", input.bucket));
        Ok(S3Response::new(dto::CreateBucketOutput { location }))
    }

    pub(super) fn answer_head_bucket(
        &self,
        input: &dto::HeadBucketInput,
    ) -> Answer<dto::HeadBucketOutput> {
        self.store.bucket(&input.bucket)?;
        Ok(S3Response::new(dto::HeadBucketOutput {
            bucket_region: Some(self.settings.region.clone()),
            ..Default::default()
        }))
    }

    pub(super) async fn answer_delete_bucket(
        &self,
        input: dto::DeleteBucketInput,
    ) -> Answer<dto::DeleteBucketOutput> {
        self.on_disk(move |store| store.delete_bucket(&input.bucket))
            .await?;
        Ok(S3Response::new(dto::DeleteBucketOutput {}))
    }

    pub(super) fn answer_get_bucket_location(
        &self,
        input: &dto::GetBucketLocationInput,
    ) -> Answer<dto::GetBucketLocationOutput> {
        self.store.bucket(&input.bucket)?;
        let region = &self.settings.region;
        let constraint = (region != US_EAST_1).then(|| region.clone().into());
        Ok(S3Response::new(dto::GetBucketLocationOutput {
            location_constraint: constraint,
        }))
    }
}
