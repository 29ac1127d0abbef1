//! Durable state: images, versions, builds, MicroVMs, network connectors, client tokens, users and roles in one SQLite file. It stores
//! and finds; what a state means and which may follow which is the control plane's business.
//!
//! [`Store`] is a concrete type and not a trait: there is one implementation, tests run it on a
//! temporary file in milliseconds, and a trait drawn from one implementation would only repeat its
//! signature. The functions are named after the domain and know no SQL in their signatures, which is
//! what a second implementation (PostgreSQL, when there is more than one host) will need.
//!
//! Every write is one transaction, on the disk when the call returns (WAL, `synchronous=FULL`).
//! A row that cannot be read is an error that names it and never hides the others.
#![forbid(unsafe_code)]

mod builds;
mod connector_removal;
mod connectors;
mod database;
mod error;
mod iam;
mod iam_changes;
mod images;
mod microvms;
mod rows;
mod state;
mod tokens;
mod versions;

pub use builds::{Build, BuildOutcome, NewBuild};
pub use connector_removal::{DeletedConnector, VersionRemoval};
pub use connectors::{Connector, ConnectorOutcome, ConnectorVersion, NewConnectorVersion, Reason};
pub use database::{Store, WriteObserver};
pub use error::StoreError;
pub use iam::{
    IamAccessKey, IamOwner, IamPolicy, IamRecords, IamRole, IamSession, IamUser, InlinePolicy,
};
pub use iam_changes::IamChange;
pub use images::Image;
pub use microvms::{
    Admission, Launched, Microvm, MicrovmFilter, MicrovmSummary, NewMicrovm, RunOutcome, Transition,
};
pub use rows::{Listing, Position};
pub use state::{
    BuildState, ConnectorState, ImageState, Phase, UpdateState, VersionState, VersionStatus,
};
pub use tokens::{ClientToken, TokenRecord};
pub use versions::{NewVersion, Version};
