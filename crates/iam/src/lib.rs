//! Who is asking, and what they may do: SigV4 verification, credentials, policies.
//!
//! A request's `Authorization` header is read ([`authorization`]), its signature computed anew and
//! compared ([`verification`]), and the owner of the access key is the identity. What policies say to
//! its request is decided by [`policy::evaluate`]. Requests to S3 are verified by the S3 front, which knows presigned and
//! chunked ones; it finds its secrets in the same [`CredentialSource`].
#![forbid(unsafe_code)]

pub mod authorization;
pub mod credential;
pub mod declaration;
pub mod directory;
pub mod edit;
pub mod identity;
pub mod keys;
pub mod name;
pub mod policy;
pub mod principals;
pub mod rejection;
pub mod root;
pub mod session;
pub mod verification;

pub use authorization::service_of;
pub use credential::{Credential, CredentialSource, Secret};
pub use directory::{Directory, Role};
pub use identity::{Identity, Principal, Session};
pub use principals::Principals;
pub use rejection::Rejection;
pub use verification::{Expectation, PayloadHash, PayloadRule, verify};
