//! What a start makes of what an earlier daemon left, whatever moment ended it. The table is in the
//! crate's documentation.
//!
//! First everything that no live MicroVM needs is removed: processes, slots, directories. Then every
//! MicroVM's actor starts in its recorded phase and finishes or undoes it, and interrupted builds and
//! deletions begin again.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use colibri_hypervisor::machine::VmmError;
use colibri_hypervisor::manifest::MANIFEST_FILE;
use colibri_hypervisor::{Machine, MachineRecord};
use colibri_network::NetworkError;
use colibri_store::{ImageState, Listing, Microvm, Phase, StoreError, Transition, VersionState};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::timeout;

use crate::actor::{Actor, Recorded, process_reason};
use crate::builds::machines_of;
use crate::control::{Control, Shared};
use crate::failure::{StartFailure, chain};
use crate::flow::{Step, Stopped};
use crate::launch::{Origin, remove_directory};
use crate::{bases, images, provision, versions};

/// Rows that are read at a time where a list is walked.
const PAGE: usize = 1000;
/// Times that the guest of a machine that was taken over is asked for a session, each with the session's bound.
const RECONNECTS: u32 = 10;
/// Pause between them.
const RECONNECT_PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn recover(control: &Arc<Control>) -> Result<(), StartFailure> {
    let shared = &control.shared;
    for directory in [
        shared.settings.microvms(),
        shared.settings.images(),
        shared.settings.pool_directories(),
    ] {
        let made = tokio::fs::create_dir_all(&directory).await;
        made.map_err(|source| StartFailure::Directory {
            path: directory,
            source,
        })?;
    }
    let mut microvms = shared.store.all_microvms().await?;
    report(&microvms.corrupt);
    for row in &mut microvms.rows {
        row.slot = row
            .slot
            .filter(|_| holds_its_slot(shared, row.machine.as_ref()));
    }
    remove_leftovers(shared, &microvms).await?;
    shared.builder.sweep().await;
    provision::recover(shared).await?;
    for row in microvms.rows {
        revive(control, row).await;
    }
    resume_removals(control).await?;
    resume_builds(control).await?;
    bases::sweep(shared).await;
    Ok(())
}

/// Whether the next daemon takes a machine in this phase over, where its process still lives.
fn is_taken_over(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Running | Phase::Suspending | Phase::Continuing
    )
}

/// A slot is its process's: where that is gone, with the host say, so is the slot, and its number may be another
/// MicroVM's by now. A record that cannot be read may be one of a process that lives.
fn holds_its_slot(shared: &Shared, machine: Option<&Value>) -> bool {
    machine.is_some_and(|record| {
        MachineRecord::deserialize(record).map_or(true, |record| shared.vmm.lives(&record))
    })
}

async fn remove_leftovers(
    shared: &Shared,
    microvms: &Listing<Microvm>,
) -> Result<(), StartFailure> {
    let taken_over = || microvms.rows.iter().filter(|row| is_taken_over(row.phase));
    // A row that cannot be read keeps what is its own: it may be repaired.
    let unreadable: Vec<String> = microvms.corrupt.iter().filter_map(key_of).collect();
    let machines: Vec<String> = taken_over()
        .map(|row| row.id.clone())
        .chain(unreadable.clone())
        .collect();
    let mut slots: BTreeSet<u32> = taken_over().filter_map(|row| row.slot).collect();
    slots.extend(shared.store.slots_of(unreadable.clone()).await?);
    discard_build_machines(shared).await?;
    let ended = shared
        .vmm
        .sweep(&shared.settings.data_directory, &machines)
        .await
        .map_err(StartFailure::Machines)?;
    if !ended.is_empty() {
        tracing::info!(machines = ?ended, "ended machines that an earlier daemon left");
    }
    shared
        .network
        .sweep(&slots)
        .await
        .map_err(StartFailure::Slots)?;
    let live: BTreeSet<String> = microvms
        .rows
        .iter()
        .filter(|row| row.phase.is_live())
        .map(|row| row.id.clone())
        .chain(unreadable)
        .collect();
    remove_all_but(&shared.settings.pool_directories(), &BTreeSet::new()).await?;
    remove_all_but(&shared.settings.microvms(), &live).await
}

fn is_of_an_ended_process(error: &VmmError) -> bool {
    matches!(error, VmmError::Ended { .. } | VmmError::Gone { .. })
}

fn key_of(error: &StoreError) -> Option<String> {
    match error {
        StoreError::CorruptRow { key, .. } => Some(key.clone()),
        _ => None,
    }
}

fn report(corrupt: &[StoreError]) {
    for error in corrupt {
        tracing::error!(error = %chain(error), "a row was left out of the recovery");
    }
}

/// Machines of interrupted builds. Their slots are swept with the rest.
async fn discard_build_machines(shared: &Shared) -> Result<(), StartFailure> {
    let builds = shared.store.unfinished_builds().await?;
    for machine in builds
        .rows
        .iter()
        .flat_map(|build| machines_of(&build.machines))
    {
        shared
            .vmm
            .discard(&machine.record)
            .await
            .map_err(StartFailure::Machines)?;
    }
    Ok(())
}

/// Removes what lies in a directory but the named entries.
async fn remove_all_but(directory: &Path, keep: &BTreeSet<String>) -> Result<(), StartFailure> {
    let failed = |source: io::Error| StartFailure::Directory {
        path: directory.to_owned(),
        source,
    };
    let mut entries = tokio::fs::read_dir(directory).await.map_err(failed)?;
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| keep.contains(name)) {
            continue;
        }
        tracing::info!(directory = %entry.path().display(), "removing what an earlier daemon left");
        if let Err(error) = remove_directory(&entry.path()).await {
            tracing::warn!(error = %chain(&error), directory = %entry.path().display(), "could not remove it");
        }
    }
    Ok(())
}

/// Starts a MicroVM's actor, or just its entry when it has ended.
async fn revive(control: &Arc<Control>, row: Microvm) {
    let (id, phase) = (row.id.clone(), row.phase);
    match Actor::of(&control.shared, row) {
        Ok((mut actor, handle)) => {
            control.shared.registry.insert(handle);
            if !phase.is_live() {
                return;
            }
            if is_taken_over(phase) {
                actor.claim_slot().await;
            } else {
                // Swept.
                actor.recorded = Recorded::default();
            }
            control.spawn(async move {
                actor.end_if_hollow().await;
                actor.run().await;
            });
        }
        Err(error) => {
            tracing::error!(microvm_id = %id, error = %chain(&error), "a MicroVM was left out of the recovery");
        }
    }
}

async fn resume_removals(control: &Arc<Control>) -> Result<(), StartFailure> {
    let shared = &control.shared;
    let mut after = None;
    loop {
        let page = shared.store.images(None, after, PAGE).await?;
        report(&page.corrupt);
        for image in page.rows {
            match image.state {
                ImageState::Deleting => {
                    control.spawn(images::remove(Arc::clone(shared), image.name));
                }
                ImageState::Updating => {
                    let all = shared.store.versions(image.id, None, PAGE).await?;
                    for version in all
                        .rows
                        .iter()
                        .filter(|row| row.state == VersionState::Deleting)
                    {
                        let (shared, name) = (Arc::clone(shared), image.name.clone());
                        control.spawn(versions::remove(shared, name, version.version));
                    }
                }
                _ => {}
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn resume_builds(control: &Control) -> Result<(), StartFailure> {
    let builds = control.shared.store.unfinished_builds().await?;
    report(&builds.corrupt);
    for build in builds.rows {
        control.queue_build(build);
    }
    Ok(())
}

impl Actor {
    /// Takes over what an earlier daemon recorded, in a phase in which the process may live.
    pub(crate) async fn take_over(&mut self) {
        if let Err(stopped) = self.try_take_over().await {
            self.stopped(stopped).await;
        }
    }

    async fn try_take_over(&mut self) -> Step<()> {
        let (slot, record) = (self.recorded.slot, self.recorded.machine.clone());
        let Some(record) = record else { return Ok(()) };
        let vmm = Arc::clone(&self.shared.vmm);
        let adopted = self
            .retry(
                "take over its machine",
                |error| matches!(error, VmmError::Gone { .. }),
                || vmm.adopt(record.clone()),
            )
            .await?;
        let Ok(machine) = adopted else {
            return self.process_is_gone().await;
        };
        self.machine = Some(machine);
        self.recorded.machine = None;
        self.unless_ending()?;
        self.adopt_slot(slot).await?;
        self.unless_ending()?;
        self.finish_or_undo().await
    }

    /// Takes the recorded slot over before anything can be launched: the number of one that is gone is soon
    /// another's, and must not be given back in its place.
    async fn claim_slot(&mut self) {
        let Some(index) = self.recorded.slot else {
            return;
        };
        match self.shared.network.adopt(index).await {
            Ok(slot) => {
                self.recorded.slot = None;
                self.slot = Some(slot);
            }
            Err(NetworkError::Gone { .. }) => self.recorded.slot = None,
            // It is there, so it is nobody else's; the actor tries again.
            Err(error) => {
                tracing::warn!(microvm_id = %self.id, error = %chain(&error), "could not take over its network slot yet");
            }
        }
    }

    /// A row that says suspended and has no suspension: a full disk kept an end from being recorded.
    async fn end_if_hollow(&mut self) {
        let needs_one = matches!(
            self.phase,
            Phase::Captured | Phase::Suspended | Phase::Resuming
        );
        let directory = self.shared.settings.microvm_directory(&self.id);
        let there = tokio::fs::try_exists(directory.join(MANIFEST_FILE)).await;
        if needs_one && matches!(there, Ok(false)) {
            self.begin_end("The MicroVM's suspended state is gone.".into())
                .await;
        }
    }

    async fn adopt_slot(&mut self, index: Option<u32>) -> Step<()> {
        if self.slot.is_some() {
            return self.furnish_slot().await;
        }
        let index = index.ok_or_else(|| Stopped::Failed("The MicroVM lost its network.".into()))?;
        let network = Arc::clone(&self.shared.network);
        let adopted = self
            .retry(
                "take over its network slot",
                |error| {
                    matches!(
                        error,
                        NetworkError::Gone { .. } | NetworkError::InUse { .. }
                    )
                },
                || network.adopt(index),
            )
            .await?;
        let slot = adopted.map_err(|error| {
            Stopped::Failed(self.host_failed("take over the MicroVM's network slot", &error))
        })?;
        self.recorded.slot = None;
        self.slot = Some(slot);
        self.furnish_slot().await
    }

    /// What a slot that was taken over is to let through, and what answers its guest.
    async fn furnish_slot(&mut self) -> Step<()> {
        // Connectors, or what the operator lets them reach, may not be what they were.
        self.grant_anew().await.map_err(|failure| {
            Stopped::Failed(self.host_failed("set its network up again", &failure))
        })?;
        self.serve_guest().await;
        Ok(())
    }

    async fn finish_or_undo(&mut self) -> Step<()> {
        match self.phase {
            Phase::Running => {
                // A resume may have been cut off before the spent suspension was removed.
                self.drop_old_suspension().await?;
                self.reconnect().await?;
                self.publish();
                Ok(())
            }
            Phase::Suspending => {
                // Whatever of the suspension there is was written by a daemon that is gone: anew.
                self.drop_old_suspension().await?;
                self.reconnect().await?;
                self.become_itself(Origin::Pause, None).await
            }
            // The resume goes on where the guest was or was about to be continued.
            _ => {
                self.guest_runs = !self.is_stopped().await;
                self.holds_suspension = true;
                Ok(())
            }
        }
    }

    async fn drop_old_suspension(&mut self) -> Step<()> {
        let machine = self.machine()?;
        let dropped = self
            .retry("remove a spent suspension", is_of_an_ended_process, || {
                machine.forget_suspension()
            })
            .await?;
        if let Err(error) = dropped {
            tracing::warn!(microvm_id = %self.id, error = %chain(&error), "its process ended while it was taken over");
            return Err(Stopped::Failed("The MicroVM stopped unexpectedly.".into()));
        }
        Ok(())
    }

    /// Opens the control session of a machine that was taken over: it runs, and a host that has many to take
    /// over at once is slow.
    async fn reconnect(&mut self) -> Step<()> {
        let machine = self.machine()?;
        for _ in 1..RECONNECTS {
            if self.try_reconnect().await?.is_ok() {
                return Ok(());
            }
            if let Ok(cause) = timeout(Duration::ZERO, machine.exited()).await {
                return Err(Stopped::Failed(process_reason(&cause)));
            }
            self.pause_within_lifetime(RECONNECT_PAUSE).await?;
        }
        self.try_reconnect().await?
    }

    /// The inner failure is of this attempt.
    async fn try_reconnect(&mut self) -> Step<Step<()>> {
        let opened = self.opening(self.is_stopped().await)?;
        let opened = self.attend_unless_ending(opened).await?;
        Ok(opened.map(|session| self.session = Some(session)))
    }

    fn machine(&self) -> Step<Arc<dyn Machine>> {
        let machine = self.machine.clone();
        machine.ok_or_else(|| Stopped::Failed("The MicroVM has no machine.".into()))
    }

    /// Whether the guest is stopped; a driver that cannot tell fails later, where it is asked to do something.
    async fn is_stopped(&self) -> bool {
        match &self.machine {
            Some(machine) => !machine.is_running().await.unwrap_or(true),
            None => true,
        }
    }

    /// The process ended while no daemon looked: with the host, or by itself.
    async fn process_is_gone(&mut self) -> Step<()> {
        self.recorded.machine = None;
        let manifest = self
            .shared
            .settings
            .microvm_directory(&self.id)
            .join(MANIFEST_FILE);
        // The manifest is written last, and goes before the guest may run again: with it the suspension is whole.
        if self.phase == Phase::Suspending
            && tokio::fs::try_exists(&manifest).await.unwrap_or(false)
        {
            let now = self.fell_asleep();
            return self
                .enter(
                    Phase::Captured,
                    Transition::to(Phase::Captured).suspended_at(Some(now)),
                )
                .await;
        }
        Err(Stopped::Failed(
            "The MicroVM stopped while the service was down.".into(),
        ))
    }
}
