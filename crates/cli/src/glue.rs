//! What joins crates that do not know each other: small adapters, no decisions.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use colibri_control::{Control, LogSink, MintFailure, NotReady, PortFailure, ReadyMachine};
use colibri_image::{ArtifactError, Artifacts};
use colibri_ingress::{
    AllowedPorts, Application, ConnectError, Endpoint, Gateway, GuestStream, PortRange, TokenMint,
    Unready,
};
use colibri_logs::{GroupName, LogWriter, Logs, StreamName};
use colibri_objects::{CopyError, Objects};
use colibri_wire::id::port::{AllowedPorts as WirePorts, PortSpecification};
use tracing::warn;

use crate::endpoint_limits::EndpointLimits;

/// The ingress's way to MicroVMs.
pub(crate) struct ControlGateway {
    pub(crate) control: Arc<Control>,
    /// What each size allows at its endpoint.
    pub(crate) sizes: EndpointLimits,
}

impl ControlGateway {
    fn endpoint(&self, found: colibri_control::Endpoint) -> Endpoint {
        Endpoint {
            limits: self.sizes.of(found.memory_mib),
            microvm_id: found.microvm_id,
            label: found.label,
        }
    }
}

#[async_trait]
impl Gateway for ControlGateway {
    fn by_label(&self, label: &str) -> Option<Endpoint> {
        let found = self.control.by_label(label);
        found.map(|found| self.endpoint(found))
    }

    fn by_id(&self, microvm_id: &str) -> Option<Endpoint> {
        let found = self.control.by_id(microvm_id);
        found.map(|found| self.endpoint(found))
    }

    async fn ready(&self, microvm_id: &str) -> Result<Arc<dyn Application>, Unready> {
        match self.control.ready(microvm_id).await {
            Ok(machine) => Ok(Arc::new(ReadyApplication(machine))),
            Err(reason) => Err(unready(reason)),
        }
    }
}

struct ReadyApplication(ReadyMachine);

#[async_trait]
impl Application for ReadyApplication {
    async fn connect(&self, port: u16) -> Result<Box<dyn GuestStream>, ConnectError> {
        match self.0.connect(port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(PortFailure::Refused(port)) => Err(ConnectError::Refused(port)),
            Err(PortFailure::Unreachable(source)) => Err(ConnectError::Unreachable(source)),
        }
    }

    fn active(&self) {
        self.0.active();
    }

    async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Mints the tokens that the ingress verifies.
pub(crate) struct IngressTokens(pub(crate) Arc<TokenMint>);

impl colibri_control::TokenMint for IngressTokens {
    fn endpoint_token(
        &self,
        microvm_id: &str,
        ports: &WirePorts,
        minutes: u32,
    ) -> Result<String, MintFailure> {
        self.0
            .mint(
                microvm_id,
                &ingress_ports(ports),
                lifetime(minutes),
                SystemTime::now(),
            )
            .map_err(|error| MintFailure {
                reason: error.to_string(),
            })
    }

    fn shell_token(&self, microvm_id: &str, minutes: u32) -> Result<String, MintFailure> {
        self.0
            .mint_shell(microvm_id, lifetime(minutes), SystemTime::now())
            .map_err(|error| MintFailure {
                reason: error.to_string(),
            })
    }
}

fn lifetime(minutes: u32) -> Duration {
    Duration::from_secs(u64::from(minutes) * 60)
}

fn ingress_ports(ports: &WirePorts) -> AllowedPorts {
    let mut ranges = Vec::new();
    for specification in ports.specifications() {
        let range = match *specification {
            PortSpecification::AllPorts(_) => return AllowedPorts::All,
            PortSpecification::Port(port) => PortRange::new(port, port),
            PortSpecification::Range(range) => PortRange::new(range.start_port, range.end_port),
        };
        ranges.extend(range);
    }
    AllowedPorts::ranges(ranges)
}

/// Artifacts out of the embedded object store.
pub(crate) struct ObjectArtifacts(pub(crate) Objects);

#[async_trait]
impl Artifacts for ObjectArtifacts {
    async fn fetch(
        &self,
        bucket: &str,
        key: &str,
        into: &Path,
        limit: u64,
    ) -> Result<u64, ArtifactError> {
        self.0
            .copy_to_file(bucket, key, into, limit)
            .await
            .map_err(|error| match error {
                CopyError::NoSuchBucket { .. } => ArtifactError::NoSuchBucket,
                CopyError::NoSuchKey { .. } => ArtifactError::NoSuchKey,
                CopyError::TooLarge { size, limit, .. } => ArtifactError::TooLarge {
                    length: size,
                    limit,
                },
                CopyError::Io { source, .. } => ArtifactError::Io(source),
            })
    }
}

fn unready(reason: NotReady) -> Unready {
    match reason {
        NotReady::Suspended => Unready::Suspended,
        NotReady::Ended => Unready::Ended,
        NotReady::Failed(why) => Unready::Failed(why),
        NotReady::TooMany => Unready::TooMany,
        NotReady::Closed => Unready::Closed,
    }
}

/// Takes the applications' output.
pub(crate) struct OutputLogs(pub(crate) Logs);

#[async_trait]
impl LogSink for OutputLogs {
    async fn append(&self, group: &str, stream: &str, events: Vec<(i64, String)>) {
        let mut writer = match open_stream(&self.0, group, stream) {
            Ok(writer) => writer,
            Err(error) => {
                warn!(group, stream, error, "an application's output is lost");
                return;
            }
        };
        for (time, mut line) in events {
            line.push('\n');
            writer.append(time, line.as_bytes()).await;
        }
    }
}

fn open_stream(logs: &Logs, group: &str, stream: &str) -> Result<LogWriter, String> {
    let group = GroupName::parse(group).map_err(|error| error.to_string())?;
    let stream = StreamName::parse(stream).map_err(|error| error.to_string())?;
    logs.writer(&group, &stream)
        .map_err(|error| error.to_string())
}
