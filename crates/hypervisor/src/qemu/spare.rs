//! A process that waits, without a machine in it, and becomes one: the second half of a launch.
//!
//! Its disk's top node hangs on a placeholder, an empty overlay. A suspended machine's own overlay is given
//! to it by descriptor and put in the placeholder's place before the devices are loaded.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde_json::json;
use tracing::warn;

use super::arguments::{FROZEN_NODE, TOP_NODE, fd, set};
use super::capture::blocking;
use super::launch::{open_devices, open_overlay, read_suspension_ahead};
use super::machine::QemuMachine;
use crate::machine::VmmError;
use crate::manifest::MANIFEST_FILE;
use crate::previous;
use crate::snapshot::{
    DEVICES, DISK, MEMORY_BASE, MEMORY_DELTA, read_base, read_suspension, remove_if_there,
};
use crate::working_set::WORKING_SET;

/// The overlay of the machine that a spare became.
const OWN_NODE: &str = "own";

/// What a suspension consists of; the last need not be there.
const FILES: [&str; 5] = [DISK, MEMORY_DELTA, DEVICES, MANIFEST_FILE, WORKING_SET];

impl QemuMachine {
    /// See [`crate::Machine::take_up`].
    pub(super) async fn become_machine(
        &self,
        directory: &Path,
        resume: bool,
    ) -> Result<(), VmmError> {
        if resume {
            return self.become_suspended(directory).await;
        }
        if let Some(code) = self.take_rewound() {
            let devices = self.base()?.join(DEVICES);
            self.load_devices_again(&devices, code).await?;
        } else {
            self.load_devices(fd::DEVICES_IN).await?;
        }
        self.move_to(directory)
    }

    async fn become_suspended(&self, directory: &Path) -> Result<(), VmmError> {
        let base = self.base()?.to_owned();
        let (_, base_hash) = read_base(&base, self.description())?;
        let suspension = read_suspension(directory, &base_hash)?;
        let (overlay, devices) = (open_overlay(directory)?, open_devices(directory)?);
        let suspended = directory.to_owned();
        tokio::task::spawn_blocking(move || {
            if let Ok(memory) = File::open(base.join(MEMORY_BASE)) {
                read_suspension_ahead(&memory, &base, Some(&suspended));
            }
        });
        let code = self.take_rewound();
        let given = async {
            self.give("take up a disk", fd::OWN_OVERLAY, overlay)
                .await?;
            self.exchange_disk(OWN_NODE, fd::OWN_OVERLAY).await
        };
        let injected = self.inject(directory, suspension, code);
        let ((), code) = tokio::try_join!(given, injected)?;
        if let Some(code) = code {
            self.drop_renewed_disk().await?;
            self.load_devices_again(&directory.join(DEVICES), code)
                .await?;
        } else {
            self.give("take up devices", fd::OWN_DEVICES, devices)
                .await?;
            self.load_devices(fd::OWN_DEVICES).await?;
        }
        self.move_into(directory).await
    }

    /// Puts another overlay, given as a set of descriptors, in the place of the one that it has.
    pub(super) async fn exchange_disk(&self, node: &str, overlay: i32) -> Result<(), VmmError> {
        let attempted = "exchange its disk";
        let other = json!({
            "driver": "qcow2", "node-name": node, "discard": "unmap",
            "file": { "driver": "file", "filename": set(overlay), "discard": "unmap" },
            "backing": FROZEN_NODE,
        });
        self.execute(attempted, "blockdev-add", other).await?;
        let top = json!({
            "driver": "raw", "node-name": TOP_NODE, "discard": "unmap", "file": node,
        });
        let options = json!({ "options": [top] });
        // The placeholder, which nothing else holds, is closed with it.
        self.execute(attempted, "blockdev-reopen", options).await
    }

    /// Takes the suspended machine's directory's place, the suspension's files in it. They have two names
    /// until the directories have been exchanged, so that a crash finds a whole suspension.
    async fn move_into(&self, directory: &Path) -> Result<(), VmmError> {
        let (own, suspended) = (self.directory(), directory.to_owned());
        let linked = blocking(move || link_suspension(&suspended, &own));
        let failed = |source| self.io(&format!("move to {}", directory.display()), source);
        linked.await.map_err(failed)?;
        let left = self.directory();
        self.exchange_with(directory).map_err(failed)?;
        let removed = blocking({
            let left = left.clone();
            move || fs::remove_dir_all(left)
        });
        if let Err(error) = removed.await {
            warn!(directory = %left.display(), %error, "what a suspended machine left was not removed");
        }
        Ok(())
    }
}

fn link_suspension(from: &Path, to: &Path) -> io::Result<()> {
    remove_if_there(&to.join(DISK))?;
    for name in FILES {
        match fs::hard_link(from.join(name), to.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound && name == WORKING_SET => {}
            other => other?,
        }
    }
    previous::carry(from, to)
}
