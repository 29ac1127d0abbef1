//! Answers as they go on the wire: status, headers, body. The request id is the server's to add.

use serde::Serialize;

use crate::api_error::ApiError;
use crate::model::Operation;

/// Name of the header that carries an error's name.
pub const ERROR_TYPE_HEADER: &str = "x-amzn-errortype";

/// An answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// Body; empty for operations without an answer.
    pub body: Vec<u8>,
}

impl Reply {
    /// The success of an operation, with its output.
    ///
    /// # Errors
    /// [`ApiError::InternalServer`] when the output cannot be written as JSON.
    pub fn success<T: Serialize>(operation: Operation, output: &T) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(output).map_err(|_| {
            ApiError::internal(format!(
                "could not write the answer of {}",
                operation.name()
            ))
        })?;
        let headers = vec![("content-type", "application/json".to_owned())];
        Ok(Self {
            status: operation.model().status,
            headers,
            body,
        })
    }

    /// The success of an operation whose output has no members: the live service sends no body.
    #[must_use]
    pub fn empty(operation: Operation) -> Self {
        Self {
            status: operation.model().status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An error.
    #[must_use]
    pub fn failure(error: &ApiError) -> Self {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            (ERROR_TYPE_HEADER, error.wire_name().to_owned()),
        ];
        headers.extend(
            error
                .retry_after()
                .map(|seconds| ("retry-after", seconds.to_string())),
        );
        Self {
            status: error.status(),
            headers,
            body: error.body().to_string().into_bytes(),
        }
    }
}

impl From<&ApiError> for Reply {
    fn from(error: &ApiError) -> Self {
        Self::failure(error)
    }
}

#[cfg(test)]
mod tests {
    use super::Reply;
    use crate::api_error::{ApiError, QuotaName};
    use crate::model::Operation;

    #[test]
    fn a_throttled_client_is_told_when_to_come_back() {
        let error = ApiError::Throttling {
            message: "slow down".into(),
            quota: QuotaName::default(),
            retry_after: Some(2),
        };
        let reply = Reply::failure(&error);
        assert_eq!(reply.status, 429);
        assert!(reply.headers.contains(&("retry-after", "2".to_owned())));
        assert!(
            reply
                .headers
                .contains(&("x-amzn-errortype", "ThrottlingException".to_owned()))
        );
        assert_eq!(reply.body, br#"{"message":"slow down"}"#);
    }

    #[test]
    fn an_operation_without_output_answers_with_no_body() {
        assert_eq!(Reply::empty(Operation::TagResource).status, 204);
        assert_eq!(Reply::empty(Operation::SuspendMicrovm).status, 200);
        assert!(Reply::empty(Operation::SuspendMicrovm).body.is_empty());
    }
}
