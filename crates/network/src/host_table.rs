//! The daemon's own table in the host's packet filter: there while a slot is, put back when somebody
//! changed it. No other table is touched. What it says is in `rules`.

use tokio::sync::Mutex;

use crate::NetworkError;
use crate::commands::{Commands, Place};
use crate::probe::obstacles_on_host;
use crate::rules::{self, Limits};
use crate::settings::Names;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// See the module.
#[derive(Debug)]
pub(crate) struct HostTable {
    name: String,
    veth_prefix: String,
    granted_prefix: String,
    limits: Limits,
    presence: Mutex<Presence>,
}

#[derive(Debug)]
enum Presence {
    /// An earlier daemon's may be there.
    Unknown,
    Absent,
    /// As `nft` lists it, to notice that somebody changed or flushed it.
    Loaded(serde_json::Value),
}

impl HostTable {
    pub(crate) fn new(names: &Names, limits: Limits) -> Self {
        Self {
            name: names.table(),
            veth_prefix: names.veth_prefix(),
            granted_prefix: names.granted_veth_prefix(),
            limits,
            presence: Mutex::new(Presence::Unknown),
        }
    }

    /// Makes sure that the table is loaded and that the host forwards.
    pub(crate) async fn load(&self, commands: &Commands) -> Result<(), NetworkError> {
        let mut presence = self.presence.lock().await;
        if !matches!(*presence, Presence::Loaded(_)) {
            enable_forwarding()?;
            *presence = self.replace(commands).await?;
            self.warn_of_obstacles(commands).await;
        }
        Ok(())
    }

    /// Removes the table when `unused` says so, asked while nobody can load it.
    pub(crate) async fn remove_if(
        &self,
        commands: &Commands,
        unused: impl FnOnce() -> bool,
    ) -> Result<(), NetworkError> {
        let mut presence = self.presence.lock().await;
        if matches!(*presence, Presence::Absent) || !unused() {
            return Ok(());
        }
        let script = rules::without_host(&self.name);
        let attempted = "remove the host's packet filter";
        commands.nft(Place::Host, script, attempted).await?;
        *presence = Presence::Absent;
        Ok(())
    }

    /// Puts a loaded table back that is not as it was: it is what keeps guests from the host's own
    /// addresses, and a firewall that starts anew may flush it with everything else.
    pub(crate) async fn check(&self, commands: &Commands) -> Result<(), NetworkError> {
        let mut presence = self.presence.lock().await;
        let Presence::Loaded(loaded) = &*presence else {
            return Ok(());
        };
        enable_forwarding()?;
        if self
            .list(commands)
            .await
            .is_ok_and(|listed| listed == *loaded)
        {
            return Ok(());
        }
        tracing::warn!(
            table = self.name,
            "somebody changed the packet filter; putting it back"
        );
        *presence = self.replace(commands).await?;
        Ok(())
    }

    async fn replace(&self, commands: &Commands) -> Result<Presence, NetworkError> {
        let script = rules::host(
            &self.name,
            &self.veth_prefix,
            &self.granted_prefix,
            &self.limits,
        );
        let attempted = "load the host's packet filter";
        commands.nft(Place::Host, script, attempted).await?;
        self.list(commands).await.map(Presence::Loaded)
    }

    async fn list(&self, commands: &Commands) -> Result<serde_json::Value, NetworkError> {
        let arguments = ["-j", "list", "table", "inet", &self.name];
        commands
            .nft_json(&arguments, "list the host's packet filter")
            .await
    }

    async fn warn_of_obstacles(&self, commands: &Commands) {
        match obstacles_on_host(commands).await {
            Ok(chains) if chains.is_empty() => {}
            Ok(chains) => tracing::warn!(
                ?chains,
                interfaces = format!("{}*", self.veth_prefix),
                "these packet filters drop what is forwarded; unless they accept the interfaces \
                 named here, guests lack the internet"
            ),
            Err(error) => tracing::debug!(%error, "could not look at other packet filters"),
        }
    }
}

/// Guests' packets pass through the host, which must forward. It stays on: others may rely on it.
fn enable_forwarding() -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Io {
        attempted: format!("enable forwarding of IPv4 packets in {IP_FORWARD}"),
        source,
    };
    if std::fs::read_to_string(IP_FORWARD).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(IP_FORWARD, "1").map_err(failed)?;
    tracing::info!("enabled net.ipv4.ip_forward: guests reach the internet through this host");
    Ok(())
}
