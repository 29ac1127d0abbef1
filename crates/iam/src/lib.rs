//! Who is asking: SigV4 verification and credentials.
//!
//! A request's `Authorization` header is read ([`authorization`]), its signature computed anew and
//! compared ([`verification`]), and the owner of the access key is the identity. What that identity
//! may do is not decided here. Requests to S3 are verified by the S3 front, which knows presigned and
//! chunked ones; it finds its secrets in the same [`CredentialSource`].
#![forbid(unsafe_code)]

pub mod authorization;
pub mod credential;
pub mod rejection;
pub mod root;
pub mod verification;

pub use authorization::service_of;
pub use credential::{Credential, CredentialSource, Identity, Secret};
pub use rejection::Rejection;
pub use verification::{Expectation, PayloadHash, PayloadRule, verify};
