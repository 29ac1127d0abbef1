//! Versions of an image.

use rusqlite::{Connection, Row, Transaction, params};
use serde_json::Value;

use crate::builds::{NewBuild, insert_build};
use crate::database::Store;
use crate::error::StoreError;
use crate::images::{
    Image, condemn, find_image, image_and_version, remember_deletion, set_image_state,
};
use crate::rows::{Columns, Listing, Position, key_of, page};
use crate::state::{ImageState, VersionState, VersionStatus};

/// A version of an image; its number is the major part of `<major>.0`.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The image's internal number.
    pub image_id: i64,
    /// Number.
    pub version: u32,
    /// State.
    pub state: VersionState,
    /// Whether it may be launched.
    pub status: VersionStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// Build configuration, defaults filled in.
    pub config: Value,
    /// Creation, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Last update, likewise.
    pub updated_at: Option<i64>,
}

/// A version to be made, with its builds.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Build configuration, defaults filled in.
    pub config: Value,
    /// Its builds.
    pub builds: Vec<NewBuild>,
    /// Now, milliseconds since the Unix epoch.
    pub at: i64,
}

const VERSION_COLUMNS: &str = "SELECT image_id, version, state, status, reason, config, created_at, updated_at FROM image_versions";

impl Store {
    /// How many versions an image has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn version_count(&self, image_id: i64) -> Result<usize, StoreError> {
        self.read(move |db| {
            Ok(db.query_row(
                "SELECT count(*) FROM image_versions WHERE image_id = ?1",
                [image_id],
                |row| row.get(0),
            )?)
        })
        .await
    }

    /// A version of an image.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn version(
        &self,
        image_id: i64,
        version: u32,
    ) -> Result<Option<Version>, StoreError> {
        self.read(move |db| find_version(db, image_id, version))
            .await
    }

    /// A page of an image's versions, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn versions(
        &self,
        image_id: i64,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<Version>, StoreError> {
        self.read(move |db| {
            // A version's number orders versions: it grows with time and never repeats.
            let below = after.and_then(|position| position.key.parse::<i64>().ok()).unwrap_or(i64::MAX);
            let mut statement = db.prepare_cached(&format!(
                "{VERSION_COLUMNS} WHERE image_id = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3"
            ))?;
            page(&mut statement.query(params![image_id, below, limit + 1])?, limit, "version", read_version)
        })
        .await
    }

    /// Sets whether a version may be launched. `Ok(Err(state))` when the image is not in one of `from`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such version.
    pub async fn set_version_status(
        &self,
        name: String,
        from: &'static [ImageState],
        version: u32,
        status: VersionStatus,
        at: i64,
    ) -> Result<Result<(Image, Version), ImageState>, StoreError> {
        self.write(move |tx| {
            let image = find_image(tx, &name)?.ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            if !from.contains(&image.state) {
                return Ok(Err(image.state));
            }
            let changed = tx.execute(
                "UPDATE image_versions SET status = ?3, updated_at = ?4 WHERE image_id = ?1 AND version = ?2",
                params![image.id, version, status.as_str(), at],
            )?;
            if changed == 0 {
                return Err(StoreError::missing(format!("version {version} of image {name}")));
            }
            Ok(Ok(image_and_version(tx, &name, version)?))
        })
        .await
    }

    /// Begins the removal of a version: it becomes `Deleting`, its image `Updating`, its builds take no
    /// new MicroVMs. `Ok(Err(state))` when the image is not in one of `from`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such version.
    pub async fn begin_version_removal(
        &self,
        name: String,
        from: &'static [ImageState],
        version: u32,
        at: i64,
    ) -> Result<Result<(), ImageState>, StoreError> {
        self.write(move |tx| {
            let image = find_image(tx, &name)?
                .ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            if !from.contains(&image.state) {
                return Ok(Err(image.state));
            }
            let changed = tx.execute(
                "UPDATE image_versions SET state = ?3, status = ?4, updated_at = ?5
                  WHERE image_id = ?1 AND version = ?2",
                params![
                    image.id,
                    version,
                    VersionState::Deleting.as_str(),
                    VersionStatus::Inactive.as_str(),
                    at
                ],
            )?;
            if changed == 0 {
                return Err(StoreError::missing(format!(
                    "version {version} of image {name}"
                )));
            }
            set_image_state(tx, &name, ImageState::Updating, at)?;
            condemn(tx, image.id, Some(version))?;
            Ok(Ok(()))
        })
        .await
    }

    /// Ends the removal of a version: its row goes, its image becomes `Updated`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_version_removal(
        &self,
        name: String,
        version: u32,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            let Some(image) = find_image(tx, &name)? else {
                return Ok(());
            };
            tx.execute(
                "DELETE FROM image_versions WHERE image_id = ?1 AND version = ?2",
                params![image.id, version],
            )?;
            remember_deletion(tx, &name, version, at)?;
            set_image_state(tx, &name, ImageState::Updated, at)
        })
        .await
    }
}

pub(crate) fn find_version(
    db: &Connection,
    image_id: i64,
    version: u32,
) -> Result<Option<Version>, StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "{VERSION_COLUMNS} WHERE image_id = ?1 AND version = ?2"
    ))?;
    let mut rows = statement.query(params![image_id, version])?;
    rows.next()?.map(read_version).transpose()
}

pub(crate) fn insert_version(
    tx: &Transaction<'_>,
    name: &str,
    version: &NewVersion,
) -> Result<u32, StoreError> {
    let (image_id, number): (i64, u32) = tx.query_row(
        "SELECT id, next_version FROM images WHERE name = ?1",
        [name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    tx.execute(
        "UPDATE images SET next_version = ?2 WHERE id = ?1",
        params![image_id, number + 1],
    )?;
    tx.execute(
        "INSERT INTO image_versions (image_id, version, state, status, config, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            image_id,
            number,
            VersionState::Pending.as_str(),
            VersionStatus::Inactive.as_str(),
            version.config.to_string(),
            version.at
        ],
    )?;
    for build in &version.builds {
        insert_build(tx, image_id, name, number, build, version.at)?;
    }
    Ok(number)
}

fn read_version(row: &Row<'_>) -> Result<Version, StoreError> {
    let key = format!("{}/{}", key_of(row, "image_id"), key_of(row, "version"));
    let columns = Columns::new(row, "image_versions", key);
    Ok(Version {
        image_id: columns.get("image_id")?,
        version: columns.get("version")?,
        state: columns.state("state", VersionState::from_stored)?,
        status: columns.state("status", VersionStatus::from_stored)?,
        reason: columns.get("reason")?,
        config: columns.json("config")?,
        created_at: columns.get("created_at")?,
        updated_at: columns.get("updated_at")?,
    })
}
