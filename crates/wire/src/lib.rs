//! Shapes, identifiers, constraints, errors and paging of the AWS API: no I/O, no clock.
//!
//! A request goes through [`route`] (which operation), [`request`] (typed, the model's constraints
//! hold) and [`check`] (what the service checks beyond the model, identifiers parsed); an answer
//! through [`shape`] and [`reply`]. The tables behind it are in [`model`].
//!
//! Two published models are served: `lambda-microvms`, and of `lambda-core` the network connectors. They
//! share tables, routing and constraints; their errors are worded apart ([`core_error`]).
#![forbid(unsafe_code)]

pub mod api_error;
pub mod check;
mod constraint;
pub mod core_error;
pub mod fault;
pub mod id;
pub mod idempotency;
pub mod model;
pub mod page;
pub mod recordable;
pub mod reply;
pub mod request;
pub mod route;
pub mod shape;

pub use api_error::ApiError;
pub use model::Operation;
pub use reply::Reply;
pub use request::Request;
pub use route::Route;
