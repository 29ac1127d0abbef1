//! Images, and what happens to an image as a whole.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::Value;

use crate::database::{Store, is_constraint};
use crate::error::StoreError;
use crate::rows::{Columns, Listing, Position, key_of, page};
use crate::state::ImageState;
use crate::tokens::{ClientToken, remember_token};
use crate::versions::{NewVersion, Version, find_version, insert_version};

/// An image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Internal number; an image that is made anew under a deleted one's name has another.
    pub id: i64,
    /// Name.
    pub name: String,
    /// State.
    pub state: ImageState,
    /// Tags, a JSON object of strings.
    pub tags: Value,
    /// Creation, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Last update, likewise.
    pub updated_at: Option<i64>,
    /// Newest version that is successful and active.
    pub latest_active: Option<u32>,
    /// Newest version that failed.
    pub latest_failed: Option<u32>,
}

const IMAGE_COLUMNS: &str = "SELECT i.id, i.name, i.state, i.tags, i.created_at, i.updated_at,
    (SELECT max(version) FROM image_versions v
      WHERE v.image_id = i.id AND v.state = 'successful' AND v.status = 'active') AS latest_active,
    (SELECT max(version) FROM image_versions v
      WHERE v.image_id = i.id AND v.state = 'failed') AS latest_failed
  FROM images i";

impl Store {
    /// Makes an image with its version 1. With a client token, the response that the token replays is
    /// made by `response` and stored with it.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    pub async fn create_image<F>(
        &self,
        name: String,
        tags: Value,
        version: NewVersion,
        token: Option<ClientToken>,
        response: F,
    ) -> Result<(Image, Version), StoreError>
    where
        F: FnOnce(&Image, &Version) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            let inserted = tx.execute(
                "INSERT INTO images (name, state, next_version, tags, created_at) VALUES (?1, ?2, 1, ?3, ?4)",
                params![name, ImageState::Creating.as_str(), tags.to_string(), version.at],
            );
            match inserted {
                Err(error) if is_constraint(&error) => {
                    return Err(StoreError::Exists { what: format!("image {name}") });
                }
                other => other?,
            };
            tx.execute("DELETE FROM deleted_images WHERE name = ?1", [&name])?;
            let number = insert_version(tx, &name, &version)?;
            let (image, version) = image_and_version(tx, &name, number)?;
            if let Some(token) = token {
                remember_token(tx, &token, &name, &response(&image, &version))?;
            }
            Ok((image, version))
        })
        .await
    }

    /// Adds a version to an image that is in one of `from`, and puts the image into `Updating`.
    /// `Ok(Err(state))` when the image is in another state.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such image.
    pub async fn add_version<F>(
        &self,
        name: String,
        from: &'static [ImageState],
        version: NewVersion,
        token: Option<ClientToken>,
        response: F,
    ) -> Result<Result<(Image, Version), ImageState>, StoreError>
    where
        F: FnOnce(&Image, &Version) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            let image = find_image(tx, &name)?
                .ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            if !from.contains(&image.state) {
                return Ok(Err(image.state));
            }
            set_image_state(tx, &name, ImageState::Updating, version.at)?;
            let number = insert_version(tx, &name, &version)?;
            let (image, version) = image_and_version(tx, &name, number)?;
            if let Some(token) = token {
                remember_token(tx, &token, &name, &response(&image, &version))?;
            }
            Ok(Ok((image, version)))
        })
        .await
    }

    /// An image by name.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn image(&self, name: String) -> Result<Option<Image>, StoreError> {
        self.read(move |db| find_image(db, &name)).await
    }

    /// A page of the images with this in their names, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn images(
        &self,
        name_part: Option<String>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Listing<Image>, StoreError> {
        self.read(move |db| {
            let (created_at, key) = bounds(after, i64::MIN);
            let mut statement = db.prepare_cached(&format!(
                "{IMAGE_COLUMNS} WHERE (i.created_at, i.name) > (?1, ?2) AND (?4 IS NULL OR instr(i.name, ?4) > 0)
                 ORDER BY i.created_at, i.name LIMIT ?3"
            ))?;
            let rows = &mut statement.query(params![created_at, key, limit + 1, name_part])?;
            page(rows, limit, "name", read_image)
        })
        .await
    }

    /// How many images there are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn image_count(&self) -> Result<usize, StoreError> {
        self.read(|db| Ok(db.query_row("SELECT count(*) FROM images", [], |row| row.get(0))?))
            .await
    }

    /// Puts an image that is in one of `from` into `to`. `Ok(Err(state))` when it is in another.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such image.
    pub async fn move_image(
        &self,
        name: String,
        from: &'static [ImageState],
        to: ImageState,
        at: i64,
    ) -> Result<Result<Image, ImageState>, StoreError> {
        self.write(move |tx| {
            let image = find_image(tx, &name)?
                .ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            if !from.contains(&image.state) {
                return Ok(Err(image.state));
            }
            set_image_state(tx, &name, to, at)?;
            Ok(Ok(Image {
                state: to,
                updated_at: Some(at),
                ..image
            }))
        })
        .await
    }

    /// Replaces an image's tags.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such image.
    pub async fn change_tags<F>(&self, name: String, change: F) -> Result<(), StoreError>
    where
        F: FnOnce(Value) -> Value + Send + 'static,
    {
        self.write(move |tx| {
            let image = find_image(tx, &name)?
                .ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            let tags = change(image.tags).to_string();
            tx.execute(
                "UPDATE images SET tags = ?2 WHERE id = ?1",
                params![image.id, tags],
            )?;
            Ok(())
        })
        .await
    }

    /// Begins the removal of an image: it becomes `Deleting`, its builds take no new MicroVMs.
    /// `Ok(Err(state))` when it is not in one of `from`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such image.
    pub async fn begin_image_removal(
        &self,
        name: String,
        from: &'static [ImageState],
        at: i64,
    ) -> Result<Result<(), ImageState>, StoreError> {
        self.write(move |tx| {
            let image = find_image(tx, &name)?
                .ok_or_else(|| StoreError::missing(format!("image {name}")))?;
            if !from.contains(&image.state) {
                return Ok(Err(image.state));
            }
            set_image_state(tx, &name, ImageState::Deleting, at)?;
            condemn(tx, image.id, None)?;
            Ok(Ok(()))
        })
        .await
    }

    /// Ends the removal of an image: its row and its versions' go, and the client tokens that made it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_image_removal(&self, name: String, at: i64) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.execute("DELETE FROM images WHERE name = ?1", [&name])?;
            tx.execute(
                "DELETE FROM client_tokens WHERE resource_id = ?1 AND operation LIKE '%MicrovmImage'",
                [&name],
            )?;
            remember_deletion(tx, &name, 0, at)
        })
        .await
    }

    /// Whether an image (version 0) or a version of it was deleted lately.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn was_deleted(&self, name: String, version: u32) -> Result<bool, StoreError> {
        self.read(move |db| {
            Ok(db
                .query_row(
                    "SELECT 1 FROM deleted_images WHERE name = ?1 AND version IN (0, ?2)",
                    params![name, version],
                    |_| Ok(()),
                )
                .optional()?
                .is_some())
        })
        .await
    }
}

/// Sort bounds of a page that starts after `position`.
pub(crate) fn bounds(position: Option<Position>, from: i64) -> (i64, String) {
    position.map_or_else(
        || (from, String::new()),
        |position| (position.created_at, position.key),
    )
}

pub(crate) fn find_image(db: &Connection, name: &str) -> Result<Option<Image>, StoreError> {
    let mut statement = db.prepare_cached(&format!("{IMAGE_COLUMNS} WHERE i.name = ?1"))?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(read_image).transpose()
}

pub(crate) fn set_image_state(
    tx: &Transaction<'_>,
    name: &str,
    state: ImageState,
    at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE images SET state = ?2, updated_at = ?3 WHERE name = ?1",
        params![name, state.as_str(), at],
    )?;
    Ok(())
}

pub(crate) fn image_and_version(
    db: &Connection,
    name: &str,
    version: u32,
) -> Result<(Image, Version), StoreError> {
    let image =
        find_image(db, name)?.ok_or_else(|| StoreError::missing(format!("image {name}")))?;
    let version = find_version(db, image.id, version)?
        .ok_or_else(|| StoreError::missing(format!("version {version} of image {name}")))?;
    Ok((image, version))
}

pub(crate) fn condemn(
    tx: &Transaction<'_>,
    image_id: i64,
    version: Option<u32>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE builds SET condemned = 1 WHERE image_id = ?1 AND (?2 IS NULL OR version = ?2)",
        params![image_id, version],
    )?;
    Ok(())
}

pub(crate) fn remember_deletion(
    tx: &Transaction<'_>,
    name: &str,
    version: u32,
    at: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO deleted_images (name, version, deleted_at) VALUES (?1, ?2, ?3)",
        params![name, version, at],
    )?;
    Ok(())
}

fn read_image(row: &Row<'_>) -> Result<Image, StoreError> {
    let columns = Columns::new(row, "images", key_of(row, "name"));
    Ok(Image {
        id: columns.get("id")?,
        name: columns.get("name")?,
        state: columns.state("state", ImageState::from_stored)?,
        tags: columns.json("tags")?,
        created_at: columns.get("created_at")?,
        updated_at: columns.get("updated_at")?,
        latest_active: columns.get("latest_active")?,
        latest_failed: columns.get("latest_failed")?,
    })
}
