//! What exists and what state it is in: the operations of the API, one actor per MicroVM, its timers,
//! image builds, and the recovery of all of it after a crash. It speaks to machines, networks and
//! image builds through their traits, and knows nothing of HTTP, TLS or signatures.
//!
//! # The states of a MicroVM
//!
//! Only a MicroVM's own actor changes its phase, and the store holds a phase before anything is done
//! on the strength of it. The API's state is the phase seen from afar.
//!
//! | phase | API state | what holds | after a crash the next daemon |
//! |---|---|---|---|
//! | `launching` | `PENDING` | perhaps a slot and a process, unrecorded | sweeps both, launches anew |
//! | `running` | `RUNNING` | slot, process, control session | takes over both; ends it when the process is gone |
//! | `suspending` | `SUSPENDING` | the same; perhaps a suspension, the guest not run since | takes over both and suspends anew; process gone: suspended where the suspension is complete, else ends it |
//! | `captured` | `SUSPENDING` | a complete suspension; perhaps the stopped process | sweeps the process, suspended |
//! | `suspended` | `SUSPENDED` | a complete suspension; perhaps the stopped process and its slot, unrecorded | sweeps both, leaves it |
//! | `resuming` | `PENDING` | a complete suspension; perhaps a stopped process | sweeps the process, resumes anew |
//! | `continuing` | `PENDING` | slot, process; the suspension is void | takes over both and finishes; ends it when the process is gone |
//! | `terminating` | `TERMINATING` | perhaps anything | sweeps, finishes |
//! | `terminated` | `TERMINATED` | the row | nothing |
//!
//! ```text
//! launching -> running <-> suspending -> captured -> suspended -> resuming -> continuing -> running
//!                              (undone by traffic)      ^------------' (undone)
//! any -> terminating -> terminated
//! ```
//!
//! # What is kept for speed
//!
//! Three kinds of stopped processes are kept while the host has memory and slots for them; none is
//! recorded, and the next daemon sweeps them all:
//!
//! - the **pool**: machines of an image version that have run and wait, as nobody, to become a MicroVM
//!   (`pool`, `pooled`, `stocking`, `warm_up`). The claim moves the machine's directory to the MicroVM's.
//! - **spares**: processes without a machine in them, which become one that wakes from the disk or that the
//!   pool has no machine for (`pool`, `pooled`, `stocking`).
//! - the **hot tier**: processes of suspended MicroVMs, whose wake then continues instead of restoring
//!   (`hot`).
#![forbid(unsafe_code)]

mod acceptance;
mod actor;
mod base_versions;
mod bases;
mod builds;
mod capacity;
mod changes;
mod clock;
mod connector_removal;
mod connectors;
mod control;
mod documents;
mod egress;
mod facts;
mod failure;
mod flow;
mod guest_calls;
mod hooks;
mod host_disk;
mod host_memory;
mod hot;
mod idle;
mod image_variables;
mod images;
mod launch;
mod lease;
mod lists;
mod managed;
mod microvms;
mod open_work;
mod output;
mod pool;
mod pooled;
mod previous;
mod provision;
mod ready;
mod recording;
mod recovery;
mod registry;
mod restock;
mod resume;
mod roles;
mod run;
mod session;
mod settings;
mod slots;
mod stock;
mod stocking;
mod suspend;
mod tags;
mod terminate;
mod tokens;
mod versions;
mod vpc;
mod warm_up;

pub use colibri_metadata::{NoCredentials, RoleCredentials};

pub use base_versions::BaseVersion;
pub use changes::{Cause, Change, Observer, Subject, on_behalf_of};
pub use clock::Clock;
pub use control::{Control, Parts};
pub use facts::{ConnectorFacts, ImageFacts};
pub use failure::StartFailure;
pub use host_disk::{HostDisk, default_disk_reserve_mib};
pub use host_memory::{HostMemory, host_memory_mib};
pub use idle::{IdleSignals, UnknownSignal};
pub use output::LogSink;
pub use ready::{NotReady, PortFailure, ReadyMachine};
pub use registry::{Endpoint, IfDamaged};
pub use roles::{PassedRole, RoleKeys};
pub use settings::{
    Arm64Requests, EndpointForm, HotSettings, MEMORY_OVERCOMMIT, PoolSettings, Settings,
    SpareSettings, SuspendHookFailure, default_reserve_mib, memory_limit_mib,
};
pub use tokens::{MintFailure, TokenMint};
pub use vpc::{SecurityGroup, SecurityRule, Subnet, Vpc};
