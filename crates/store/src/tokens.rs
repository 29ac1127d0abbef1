//! Client tokens: what makes a repeated request find the first one's answer.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::Value;

use crate::database::{Store, is_constraint};
use crate::error::StoreError;
use crate::rows::Columns;

/// A client's token for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientToken {
    /// Account of the caller.
    pub account: String,
    /// Operation; a token belongs to one.
    pub operation: &'static str,
    /// The token.
    pub token: String,
    /// Hash of the request without the token: another body under the same token is refused.
    pub request_hash: String,
    /// Now, milliseconds since the Unix epoch.
    pub at: i64,
}

/// What is stored under a token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRecord {
    /// Hash of the request that came first.
    pub request_hash: String,
    /// What it made.
    pub resource_id: String,
    /// What it was answered.
    pub response: Value,
}

impl Store {
    /// What is stored under a token.
    ///
    /// # Errors
    /// When the database fails or the row cannot be read.
    pub async fn token(
        &self,
        account: String,
        operation: &'static str,
        token: String,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.read(move |db| find_token(db, &account, operation, &token))
            .await
    }

    /// Forgets tokens and deletions older than `before`, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_tokens(&self, before: i64) -> Result<(), StoreError> {
        self.write(move |tx| {
            tx.execute("DELETE FROM client_tokens WHERE created_at < ?1", [before])?;
            tx.execute("DELETE FROM deleted_images WHERE deleted_at < ?1", [before])?;
            tx.execute(
                "DELETE FROM deleted_connectors WHERE deleted_at < ?1",
                [before],
            )?;
            Ok(())
        })
        .await
    }
}

pub(crate) fn find_token(
    db: &Connection,
    account: &str,
    operation: &str,
    token: &str,
) -> Result<Option<TokenRecord>, StoreError> {
    db.prepare_cached(
        "SELECT request_hash, resource_id, response FROM client_tokens
          WHERE account = ?1 AND operation = ?2 AND token = ?3",
    )?
    .query_row(params![account, operation, token], |row| {
        let columns = Columns::new(
            row,
            "client_tokens",
            format!("{account}/{operation}/{token}"),
        );
        Ok((|| {
            Ok(TokenRecord {
                request_hash: columns.get("request_hash")?,
                resource_id: columns.get("resource_id")?,
                response: columns.json("response")?,
            })
        })())
    })
    .optional()?
    .transpose()
}

pub(crate) fn remember_token(
    tx: &Transaction<'_>,
    token: &ClientToken,
    resource_id: &str,
    response: &Value,
) -> Result<(), StoreError> {
    let inserted = tx.execute(
        "INSERT INTO client_tokens (account, operation, token, request_hash, resource_id, response, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            token.account,
            token.operation,
            token.token,
            token.request_hash,
            resource_id,
            response.to_string(),
            token.at
        ],
    );
    match inserted {
        Err(error) if is_constraint(&error) => Err(StoreError::Exists {
            what: format!("client token of {}", token.operation),
        }),
        other => {
            other?;
            Ok(())
        }
    }
}
