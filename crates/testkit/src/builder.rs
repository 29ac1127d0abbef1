//! The simulated image builder: stages, a machine that boots and is frozen, planned failures.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use colibri_guest_protocol::message::ApplicationSpec;
use colibri_hypervisor::{BootSpec, Isolation, Vmm};
use colibri_image::{
    APPLICATION_FILE, BuildFailure, BuildRequest, BuildStage, BuiltImage, FailureCode,
    ImageBuilder, Progress,
};
use colibri_network::Network;

use crate::faults::{Operation, lock};
use crate::machine::write_json;
use crate::network::SimulatedNetwork;
use crate::vmm::SimulatedVmm;
use crate::world::WorldState;

/// Size that the simulated container image has, bytes.
const CODE_BYTES: u64 = 12_345;

pub(crate) struct SimulatedBuilder {
    pub(crate) world: Arc<WorldState>,
}

/// Ends a build's machine when the build is dropped, unless the daemon was killed.
struct Cleanup {
    world: Arc<WorldState>,
    id: String,
    slot: u32,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if self.world.crashing.load(Ordering::SeqCst) {
            return;
        }
        if let Some(machine) = lock(&self.world.machines).remove(&self.id) {
            machine.end(colibri_hypervisor::ExitCause::Killed);
        }
        self.world.give_slot_back(self.slot);
    }
}

fn failed(sentence: impl std::fmt::Display) -> BuildFailure {
    BuildFailure {
        code: FailureCode::InternalPlatformError,
        sentence: sentence.to_string(),
    }
}

fn describe_application(request: &BuildRequest) -> Result<(), BuildFailure> {
    let environment = request.environment.iter();
    let application = ApplicationSpec {
        arguments: vec!["/application".into()],
        environment: environment
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        working_directory: "/".into(),
        user: String::new(),
        all_capabilities: request.all_capabilities,
        stop_signal: 15,
        name_servers: Vec::new(),
    };
    write_json(&request.directory.join(APPLICATION_FILE), &application).map_err(failed)
}

#[async_trait]
impl ImageBuilder for SimulatedBuilder {
    async fn build(
        &self,
        request: BuildRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<BuiltImage, BuildFailure> {
        lock(&self.world.builds).push(request.clone());
        if std::fs::read_dir(&request.directory)
            .map_err(failed)?
            .next()
            .is_some()
        {
            return Err(failed(self.world.breach(format!(
                "the directory of build {} is not empty",
                request.build_id
            ))));
        }
        progress.stage(BuildStage::Artifact).await;
        progress.stage(BuildStage::Container).await;
        progress.code_size(CODE_BYTES).await;
        if let Some(failure) = lock(&self.world.build_failure).take() {
            return Err(failure);
        }
        progress.stage(BuildStage::Boot).await;
        let vmm = SimulatedVmm {
            world: Arc::clone(&self.world),
        };
        let network = SimulatedNetwork {
            world: Arc::clone(&self.world),
        };
        let slot = network
            .acquire(request.egress.clone())
            .await
            .map_err(failed)?;
        let _cleanup = Cleanup {
            world: Arc::clone(&self.world),
            id: format!("build-{}", request.build_id),
            slot: slot.index(),
        };
        let machine = vmm
            .boot(BootSpec {
                id: format!("build-{}", request.build_id),
                directory: request.directory.join("boot"),
                shape: request.shape,
                kernel: "/kernel".into(),
                initramfs: "/initramfs".into(),
                kernel_arguments: Vec::new(),
                root_disk: "/root.raw".into(),
                network: None,
                isolation: Isolation { uid: slot.uid() },
            })
            .await
            .map_err(failed)?;
        progress
            .machine_started(&machine.record(), slot.index())
            .await;
        if self.world.faults.meet(Operation::Build).await.fails() {
            return Err(failed("the test planned it"));
        }
        progress.stage(BuildStage::Snapshot).await;
        describe_application(&request)?;
        let manifest = machine.freeze(&request.directory).await.map_err(failed)?;
        progress.machine_ended(&machine.record()).await;
        Ok(BuiltImage {
            manifest,
            code_bytes: CODE_BYTES,
        })
    }

    async fn sweep(&self) {}
}
