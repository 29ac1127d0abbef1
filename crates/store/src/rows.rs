//! Reading rows: every column checked, every failure with the row's name.

use rusqlite::Row;
use rusqlite::types::FromSql;
use serde_json::Value;

use crate::error::StoreError;

/// Rows of a table in their durable order, and those that could not be read.
#[derive(Debug)]
pub struct Listing<T> {
    /// The readable ones.
    pub rows: Vec<T>,
    /// One [`StoreError::CorruptRow`] for each of the others.
    pub corrupt: Vec<StoreError>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Position>,
}

/// A place in a list: the row after which a page starts. Stable under insertions and deletions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Creation time of that row, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Its key.
    pub key: String,
}

/// A row under its table's and its own name.
pub(crate) struct Columns<'a> {
    row: &'a Row<'a>,
    table: &'static str,
    key: String,
}

impl<'a> Columns<'a> {
    pub(crate) fn new(row: &'a Row<'a>, table: &'static str, key: impl Into<String>) -> Self {
        Self {
            row,
            table,
            key: key.into(),
        }
    }

    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> StoreError {
        StoreError::CorruptRow {
            table: self.table,
            key: self.key.clone(),
            reason: reason.into(),
        }
    }

    pub(crate) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, StoreError> {
        self.row
            .get(column)
            .map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(crate) fn state<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        let text: String = self.get(column)?;
        parse(&text).ok_or_else(|| self.corrupt(format!("{column}: {text:?} is no state")))
    }

    pub(crate) fn json(&self, column: &'static str) -> Result<Value, StoreError> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(crate) fn optional_json(&self, column: &'static str) -> Result<Option<Value>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| {
            serde_json::from_str(&text).map_err(|error| self.corrupt(format!("{column}: {error}")))
        })
        .transpose()
    }
}

/// The key column of a row, readable even when its type is wrong.
pub(crate) fn key_of(row: &Row<'_>, column: &'static str) -> String {
    use rusqlite::types::ValueRef;
    match row.get_ref(column) {
        Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        Ok(ValueRef::Integer(number)) => number.to_string(),
        _ => format!("with an unreadable {column}"),
    }
}

/// Reads a page: one row more than `limit` was asked of the database to learn whether another
/// page follows.
pub(crate) fn page<T>(
    rows: &mut rusqlite::Rows<'_>,
    limit: usize,
    key_column: &'static str,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Listing<T>, StoreError> {
    let mut listing = Listing {
        rows: Vec::new(),
        corrupt: Vec::new(),
        next: None,
    };
    let mut last = None;
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        if seen == limit {
            listing.next = last;
            break;
        }
        seen += 1;
        last = Some(Position {
            created_at: row.get("created_at").unwrap_or(0),
            key: key_of(row, key_column),
        });
        match read(row) {
            Ok(value) => listing.rows.push(value),
            Err(error) => listing.corrupt.push(error),
        }
    }
    Ok(listing)
}
