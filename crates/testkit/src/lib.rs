//! A simulated world for tests: machines that keep their state over a suspension, network slots, an
//! image builder, and in every guest an agent and an application, all behind the traits of the real
//! ones, in one process and in milliseconds. Nothing here is a part of the product.
//!
//! A [`World`] outlives whatever is built on it: a test drops a control plane as a crash would and
//! starts the next one on the same world. It honours the traits' contracts strictly, and refuses
//! what they forbid, so that a test fails where a real machine would be lost.
#![forbid(unsafe_code)]

mod agent;
mod application;
mod builder;
mod faults;
mod guest;
mod journal;
mod machine;
mod network;
mod points;
mod previous;
mod vmm;
mod world;

pub use faults::{Fault, Faults, Operation};
pub use guest::{GuestHandle, HookCalled, HookPlan};
pub use points::{Points, Strike};
pub use world::World;
