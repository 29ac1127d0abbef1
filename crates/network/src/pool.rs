//! The pool: which slots exist, which are spare, and when they are made, handed out, taken over and
//! removed. How a slot is made is in `layout`, what its owner does with it in `slot`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::address_block::{AddressBlock, Link};
use crate::commands::Commands;
use crate::dns::{DnsRelay, Upstreams};
use crate::grant_book::GrantBook;
use crate::host_table::HostTable;
use crate::layout::{Outside, interface_exists};
use crate::namespace::{NAMESPACES, Visitor};
use crate::rules::Limits;
use crate::settings::{MAX_SLOTS, Names, NetworkSettings};
use crate::slot::{ReadySlot, TakenSlot};
use crate::{Egress, Network, NetworkError, Slot, SlotUsage, layout};

/// Slots made at once. More wait: the kernel makes one after the other anyway.
const CONCURRENT_MAKES: usize = 2;
/// How often the host's table is looked for and, where somebody flushed it, put back.
const HOST_TABLE_CHECK: Duration = Duration::from_secs(10);

/// Slots in the kernel's own terms: the [`Network`] of a real host.
#[derive(Debug)]
pub struct SlotPool {
    pool: Arc<Pool>,
    upkeep: JoinHandle<()>,
}

/// What slots share.
#[derive(Debug)]
pub(crate) struct Pool {
    commands: Commands,
    names: Names,
    limits: Limits,
    block: AddressBlock,
    upstreams: Arc<Upstreams>,
    slots: u32,
    spare_slots: u32,
    base_uid: u32,
    makes: Semaphore,
    /// Locked for as long as spares are being made, so that one task at a time makes them.
    replenishing: tokio::sync::Mutex<()>,
    pub(crate) grants: GrantBook,
    host_table: HostTable,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every slot that exists or is being made or removed.
    slots: BTreeMap<u32, Owner>,
    spares: VecDeque<ReadySlot>,
    /// Where the search for a free number begins: a number, and with it a user id, rests as long as
    /// possible before it is used again.
    next: u32,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// An earlier daemon's; adopted or swept.
    Earlier,
    /// This daemon's.
    Own,
}

impl SlotPool {
    /// Looks at what is there; makes nothing yet. [`Network::sweep`] is the next call, after which
    /// spare slots are kept ready.
    ///
    /// # Errors
    /// When a setting cannot be followed, a program is missing, or this is not root.
    pub async fn open(settings: &NetworkSettings) -> Result<Self, NetworkError> {
        settings.check()?;
        if !rustix::process::geteuid().is_root() {
            return Err(NetworkError::Unprivileged);
        }
        let commands = Commands::find(start_visitor()?)?;
        let names = Names::for_data_dir(&settings.data_dir);
        let block = AddressBlock::choose(settings, &names, &commands).await?;
        let slots = existing(&names)?
            .into_iter()
            .map(|index| (index, Owner::Earlier))
            .collect();
        let limits = Limits {
            refused: settings.refused_ranges.clone(),
            declared: settings.declared_ranges.clone(),
            flows: settings.flows_per_slot,
            vmm_users: (
                settings.base_uid,
                settings.base_uid.saturating_add(MAX_SLOTS - 1),
            ),
        };
        let pool = Arc::new(Pool {
            host_table: HostTable::new(&names, limits.clone()),
            grants: GrantBook::new(limits.clone()),
            limits,
            block,
            upstreams: Arc::new(Upstreams::new(settings.dns_upstreams.clone())),
            slots: settings.slots,
            spare_slots: settings.spare_slots,
            base_uid: settings.base_uid,
            makes: Semaphore::new(CONCURRENT_MAKES),
            replenishing: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                slots,
                ..State::default()
            }),
            commands,
            names,
        });
        let upkeep = tokio::spawn(keep_host_table(Arc::downgrade(&pool)));
        Ok(Self { pool, upkeep })
    }

    /// Removes the spare slots and, when no slot is left, the host's table. Slots in use stay, for
    /// the next daemon to adopt.
    ///
    /// # Errors
    /// When one could not be removed; the rest is removed all the same.
    pub async fn close(&self) -> Result<(), NetworkError> {
        self.pool.state().closed = true;
        let _ended = self.pool.replenishing.lock().await;
        let spares: Vec<_> = self.pool.state().spares.drain(..).collect();
        let mut outcome = Ok(());
        for spare in spares {
            outcome = outcome.and(self.pool.discard(spare).await);
        }
        outcome.and(self.pool.drop_host_table_if_unused().await)
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

pub(crate) fn start_visitor() -> Result<Visitor, NetworkError> {
    Visitor::start().map_err(|source| NetworkError::Io {
        attempted: "start the thread that enters network namespaces".to_owned(),
        source,
    })
}

#[async_trait]
impl Network for SlotPool {
    async fn acquire(&self, egress: Egress) -> Result<Arc<dyn Slot>, NetworkError> {
        let ready = match self.pool.take_spare(&egress) {
            Some(spare) => spare,
            None => self.pool.make_for_caller(egress).await?,
        };
        self.pool.replenish_in_background();
        Ok(Arc::new(TakenSlot::new(Arc::clone(&self.pool), ready)))
    }

    async fn adopt(&self, index: u32) -> Result<Arc<dyn Slot>, NetworkError> {
        let ready = self.pool.adopt(index).await?;
        Ok(Arc::new(TakenSlot::new(Arc::clone(&self.pool), ready)))
    }

    fn usage(&self) -> SlotUsage {
        let state = self.pool.state();
        let taken = state.slots.len().saturating_sub(state.spares.len());
        SlotUsage {
            capacity: self.pool.slots,
            taken: u32::try_from(taken).unwrap_or(u32::MAX),
        }
    }

    async fn withdraw(&self, name: &str) -> Result<(), NetworkError> {
        let pool = &self.pool;
        pool.grants.withdraw(&pool.commands, name).await
    }

    async fn sweep(&self, keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
        let outcome = self.pool.sweep(keep).await;
        self.pool.replenish_in_background();
        outcome
    }
}

impl Pool {
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    pub(crate) fn uid(&self, index: u32) -> u32 {
        self.base_uid + index
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is a single step, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_spare(&self, egress: &Egress) -> Option<ReadySlot> {
        (*egress == Egress::Internet)
            .then(|| self.state().spares.pop_front())
            .flatten()
    }

    /// A new slot. It is made to the end even when the caller stops waiting, and is a spare then.
    async fn make_for_caller(self: &Arc<Self>, egress: Egress) -> Result<ReadySlot, NetworkError> {
        let index = self.reserve_at_a_spares_expense().await?;
        let (give, given) = oneshot::channel();
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let made = pool.make(index, egress).await;
            if let Err(Ok(unwanted)) = give.send(made) {
                pool.keep_or_discard(unwanted).await;
            }
        });
        given.await.unwrap_or_else(|gone| {
            Err(NetworkError::Io {
                attempted: format!("make network slot {index}"),
                source: std::io::Error::other(gone),
            })
        })
    }

    async fn reserve_at_a_spares_expense(&self) -> Result<u32, NetworkError> {
        let exhausted = NetworkError::Exhausted {
            capacity: self.slots,
        };
        if let Some(index) = self.state().reserve(self.slots) {
            return Ok(index);
        }
        // A spare that is being made is finished first, and no further one is begun.
        let _no_new_spares = self.replenishing.lock().await;
        let spare = self.state().spares.pop_front();
        self.discard(spare.ok_or(exhausted)?).await?;
        let index = self.state().reserve(self.slots);
        index.ok_or(NetworkError::Exhausted {
            capacity: self.slots,
        })
    }

    async fn keep_or_discard(self: &Arc<Self>, slot: ReadySlot) {
        let slot = {
            let mut state = self.state();
            if slot.is_internet && !state.closed {
                state.spares.push_back(slot);
                return;
            }
            slot
        };
        let index = slot.index;
        if let Err(error) = self.discard(slot).await {
            tracing::warn!(%error, index, "an unwanted network slot stays until the next start");
        }
    }

    /// Makes the reserved slot `index`; on failure nothing of it is left, the reservation included.
    async fn make(&self, index: u32, egress: Egress) -> Result<ReadySlot, NetworkError> {
        let _room = self.makes.acquire().await;
        match self.try_make(index, egress).await {
            Ok(ready) => Ok(ready),
            Err(error) => {
                if let Err(error) = self.remove(index).await {
                    tracing::warn!(%error, index, "a network slot that failed is not quite removed");
                }
                Err(error)
            }
        }
    }

    async fn try_make(&self, index: u32, egress: Egress) -> Result<ReadySlot, NetworkError> {
        let outside = match &egress {
            Egress::Internet => Outside::Internet(self.linked(index).await?),
            Egress::Sealed => Outside::None,
            Egress::Granted(_) => Outside::Granted(self.linked(index).await?),
        };
        let namespace =
            layout::make(&self.commands, &self.names, &self.limits, index, outside).await?;
        let dns = match &egress {
            Egress::Internet | Egress::Granted(_) => Some(self.start_dns(index, &namespace).await?),
            Egress::Sealed => None,
        };
        let is_internet = egress == Egress::Internet;
        if let Egress::Granted(grants) = egress {
            self.grants.enter(index, &namespace);
            self.grants.grant(&self.commands, index, &grants).await?;
        }
        Ok(ReadySlot {
            index,
            is_internet,
            namespace,
            dns,
        })
    }

    async fn linked(&self, index: u32) -> Result<Link, NetworkError> {
        self.host_table.load(&self.commands).await?;
        Ok(self.block.link(index))
    }

    async fn start_dns(
        &self,
        index: u32,
        namespace: &Arc<OwnedFd>,
    ) -> Result<DnsRelay, NetworkError> {
        let relay = DnsRelay::start(self.commands.visitor(), namespace, &self.upstreams).await;
        relay.map_err(|source| NetworkError::Io {
            attempted: format!("start the DNS relay of network slot {index}"),
            source,
        })
    }

    async fn adopt(&self, index: u32) -> Result<ReadySlot, NetworkError> {
        {
            let mut state = self.state();
            match state.slots.get_mut(&index) {
                None => return Err(NetworkError::Gone { index }),
                Some(Owner::Own) => return Err(NetworkError::InUse { index }),
                Some(owner) => *owner = Owner::Own,
            }
        }
        let adopted = self.try_adopt(index).await;
        if adopted.is_err() {
            self.state().slots.insert(index, Owner::Earlier);
        }
        adopted
    }

    async fn try_adopt(&self, index: u32) -> Result<ReadySlot, NetworkError> {
        let gone = |_| NetworkError::Gone { index };
        let namespace = layout::open(&self.names, index).map_err(gone)?;
        // What is left of a namespace after a reboot is a plain file, which nobody can enter.
        self.commands
            .visitor()
            .visit(&namespace, || Ok(()))
            .await
            .map_err(|_| NetworkError::Gone { index })?;
        let is_granted = interface_exists(&self.names.granted_veth(index));
        let is_internet = interface_exists(&self.names.veth(index));
        // A sealed slot has no link to the host, and never gets one.
        let dns = if is_granted || is_internet {
            self.host_table.load(&self.commands).await?;
            Some(self.start_dns(index, &namespace).await?)
        } else {
            None
        };
        if is_granted {
            // What it was granted stays loaded until somebody says what it is granted now.
            self.grants.enter(index, &namespace);
        }
        Ok(ReadySlot {
            index,
            is_internet,
            namespace,
            dns,
        })
    }

    async fn sweep(&self, keep: &BTreeSet<u32>) -> Result<(), NetworkError> {
        let mut unwanted = existing(&self.names)?;
        {
            let state = self.state();
            unwanted.extend(state.slots.keys());
            unwanted.retain(|index| {
                !keep.contains(index) && state.slots.get(index) != Some(&Owner::Own)
            });
        }
        let mut outcome = Ok(());
        for index in unwanted {
            tracing::info!(index, "removing a network slot that an earlier run left");
            let removed = layout::remove(&self.commands, &self.names, index).await;
            if removed.is_ok() {
                self.state().slots.remove(&index);
            }
            outcome = outcome.and(removed);
        }
        outcome
            .and(self.drop_host_table_if_unused().await)
            .and(self.host_table.check(&self.commands).await)
    }

    async fn discard(&self, spare: ReadySlot) -> Result<(), NetworkError> {
        if let Some(dns) = spare.dns {
            dns.stop().await;
        }
        drop(spare.namespace);
        self.remove(spare.index).await
    }

    /// Removes slot `index`, whose sockets are closed already.
    pub(crate) async fn remove(&self, index: u32) -> Result<(), NetworkError> {
        self.grants.strike(index);
        layout::remove(&self.commands, &self.names, index).await?;
        self.state().slots.remove(&index);
        self.drop_host_table_if_unused().await
    }

    fn replenish_in_background(self: &Arc<Self>) {
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let _only_one = pool.replenishing.lock().await;
            while let Some(index) = pool.reserve_for_spare() {
                match pool.make(index, Egress::Internet).await {
                    Ok(spare) => pool.keep_or_discard(spare).await,
                    Err(error) => {
                        tracing::warn!(%error, index, "could not make a spare network slot");
                        return;
                    }
                }
            }
        });
    }

    fn reserve_for_spare(&self) -> Option<u32> {
        self.state().reserve_for_spare(self.slots, self.spare_slots)
    }

    async fn drop_host_table_if_unused(&self) -> Result<(), NetworkError> {
        // A slot that is about to be made is in the state before it asks for the table.
        let unused = || self.state().slots.is_empty();
        self.host_table.remove_if(&self.commands, unused).await
    }
}

impl State {
    fn reserve(&mut self, slots: u32) -> Option<u32> {
        let order = (self.next..slots).chain(0..self.next.min(slots));
        let index = order
            .into_iter()
            .find(|index| !self.slots.contains_key(index))?;
        self.slots.insert(index, Owner::Own);
        self.next = index + 1;
        Some(index)
    }

    fn reserve_for_spare(&mut self, slots: u32, spare_slots: u32) -> Option<u32> {
        let enough = self.closed || self.spares.len() >= spare_slots as usize;
        if enough { None } else { self.reserve(slots) }
    }
}

/// The table is what keeps guests from the host's own addresses; a firewall that starts anew may
/// flush it with everything else.
async fn keep_host_table(pool: Weak<Pool>) {
    let mut ticks = tokio::time::interval(HOST_TABLE_CHECK);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        if let Err(error) = pool.host_table.check(&pool.commands).await {
            tracing::error!(%error, "could not check the host's packet filter");
        }
    }
}

/// Slots of this data directory that something is left of.
fn existing(names: &Names) -> Result<BTreeSet<u32>, NetworkError> {
    let mut found = BTreeSet::new();
    for name in file_names(Path::new(NAMESPACES))? {
        found.extend(names.index_of_namespace(&name));
    }
    for name in file_names(Path::new("/sys/class/net"))? {
        found.extend(names.index_of_veth(&name));
    }
    Ok(found)
}

fn file_names(directory: &Path) -> Result<Vec<String>, NetworkError> {
    let failed = |source| NetworkError::Io {
        attempted: format!("list the network slots in {}", directory.display()),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        // Nobody has made a namespace since the host started.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Owner, State};

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let mut state = State::default();
        assert_eq!((state.reserve(3), state.reserve(3)), (Some(0), Some(1)));
        state.slots.remove(&0);
        assert_eq!(
            (state.reserve(3), state.reserve(3), state.reserve(3)),
            (Some(2), Some(0), None)
        );
    }

    #[test]
    fn a_slot_of_an_earlier_daemon_is_not_given_away() {
        let mut state = State::default();
        state.slots.insert(0, Owner::Earlier);
        assert_eq!(state.reserve(2), Some(1));
        assert_eq!(state.reserve(2), None);
    }
}
