//! Boots, snapshots, restores, pauses and kills virtual machines. It knows nothing of AWS, of
//! images' versions or of who owns a machine.
//!
//! The rest of Colibri sees the [`Vmm`] and [`Machine`] traits; [`qemu`] implements them, and the
//! `testkit` crate has a simulated one.
//!
//! A **base** is a frozen machine: memory, disk and devices as one instant left them. A machine is
//! launched from a base by mapping its memory privately. A **suspension** is what a machine has
//! that its base has not: the pages that differ, the devices' state, its disk overlay. Resuming is
//! launching with those pages injected, so there is always one level, never a chain.

pub mod accelerator;
pub mod cgroup;
pub mod delta;
pub mod machine;
pub mod manifest;
mod previous;
pub mod qemu;
pub mod snapshot;
pub mod sparse;
mod working_set;

pub use machine::{
    Architecture, BootSpec, ControlStream, ExitCause, Isolation, LaunchSpec, Machine,
    MachineRecord, MachineShape, NetworkAttachment, SpareSpec, Suspension, Vmm, VmmDescription,
    VmmError,
};
