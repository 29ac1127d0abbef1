//! Pages of lists: the cursor in and out of a token.

use colibri_store::{Listing, Position};
use colibri_wire::ApiError;
use colibri_wire::page::{ListScope, PageKey};
use colibri_wire::shape::common::{Page, Paging};

use crate::failure::chain;

/// Where a page starts.
pub(crate) fn start(
    key: &PageKey,
    scope: &ListScope<'_>,
    paging: &Paging,
) -> Result<Option<Position>, ApiError> {
    start_after(key, scope, paging.next_token.as_deref())
}

/// As [`start`], with the token itself.
pub(crate) fn start_after(
    key: &PageKey,
    scope: &ListScope<'_>,
    token: Option<&str>,
) -> Result<Option<Position>, ApiError> {
    let Some(token) = token else {
        return Ok(None);
    };
    let cursor = key.cursor(scope, token)?;
    let position = cursor.split_once('/').and_then(|(created_at, row)| {
        Some(Position {
            created_at: created_at.parse().ok()?,
            key: row.to_owned(),
        })
    });
    position
        .map(Some)
        .ok_or_else(|| ApiError::validation("Invalid nextToken"))
}

/// A page of what the store found. Rows that cannot be read, and those that `item` has none for, are left
/// out; the former are logged.
pub(crate) fn page<R, T>(
    key: &PageKey,
    scope: &ListScope<'_>,
    listing: Listing<R>,
    item: impl Fn(R) -> Option<T>,
) -> Page<T> {
    for error in &listing.corrupt {
        tracing::error!(error = %chain(error), "a row was left out of a list");
    }
    let next_token = listing
        .next
        .map(|position| key.token(scope, &format!("{}/{}", position.created_at, position.key)));
    Page {
        next_token,
        items: listing.rows.into_iter().filter_map(item).collect(),
    }
}
