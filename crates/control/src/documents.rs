//! The JSON documents that the control plane keeps in the store. Their shape is a file format: members
//! are added with defaults, never renamed.

use std::time::Duration;

use colibri_hypervisor::MachineRecord;
use colibri_store::StoreError;
use colibri_wire::check::configuration::HookPlan;
use colibri_wire::shape::configuration::Hooks;
use colibri_wire::shape::microvm::IdlePolicy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Moment;
use crate::idle::IdleSignals;

/// What was fixed at a MicroVM's launch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchSettings {
    pub(crate) idle_policy: Option<IdlePolicy>,
    pub(crate) maximum_duration_seconds: u32,
    pub(crate) ingress: Vec<String>,
    pub(crate) egress: Vec<String>,
    pub(crate) execution_role: Option<String>,
    /// Where the application's output goes; nowhere when absent.
    pub(crate) log: Option<LogTarget>,
    pub(crate) hooks: LifeHooks,
    /// What counts as activity beside bytes.
    #[serde(default)]
    pub(crate) idle_signals: IdleSignals,
    /// When it was launched, for daemons of the same boot; rows of earlier versions lack it.
    #[serde(default)]
    pub(crate) began: Option<Moment>,
}

/// A log group and stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogTarget {
    pub(crate) group: String,
    pub(crate) stream: String,
}

/// The enabled hooks of a MicroVM's life, each with its bound in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LifeHooks {
    pub(crate) port: Option<u16>,
    pub(crate) run_ms: Option<u64>,
    pub(crate) resume_ms: Option<u64>,
    pub(crate) suspend_ms: Option<u64>,
    pub(crate) terminate_ms: Option<u64>,
}

impl LifeHooks {
    /// The hooks of an image version; `default` bounds those whose configuration names no bound.
    pub(crate) fn of(plan: HookPlan, given: Option<&Hooks>, default: Duration) -> Self {
        let given = given
            .and_then(|hooks| hooks.microvm_hooks.clone())
            .unwrap_or_default();
        let millis = |planned: Option<Duration>, named: Option<u32>| {
            let bound = if named.is_some() {
                planned?
            } else {
                planned.map(|_| default)?
            };
            Some(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            port: plan.port,
            run_ms: millis(plan.run, given.run_timeout_in_seconds),
            resume_ms: millis(plan.resume, given.resume_timeout_in_seconds),
            suspend_ms: millis(plan.suspend, given.suspend_timeout_in_seconds),
            terminate_ms: millis(plan.terminate, given.terminate_timeout_in_seconds),
        }
    }
}

/// What makes a MicroVM itself, from its launch to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineIdentity {
    pub(crate) hostname: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
}

/// A machine of a build that may still run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildMachine {
    pub(crate) record: MachineRecord,
    pub(crate) slot: u32,
}

/// Reads a document out of a row.
pub(crate) fn read<T: DeserializeOwned>(
    table: &'static str,
    key: &str,
    value: &Value,
) -> Result<T, StoreError> {
    T::deserialize(value).map_err(|error| StoreError::CorruptRow {
        table,
        key: key.into(),
        reason: error.to_string(),
    })
}

/// Writes a document.
pub(crate) fn write<T: Serialize>(document: &T) -> Value {
    // The documents have string keys and no failing serializer.
    serde_json::to_value(document).unwrap_or(Value::Null)
}
