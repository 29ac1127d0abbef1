//! Doing something inside a network namespace. A thread, not the process, is in a namespace, and a
//! socket stays in the one it was made in: so a thread goes there, makes the socket and comes back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::{mpsc, oneshot};

/// Where `ip netns` keeps named namespaces.
pub const NAMESPACES: &str = "/run/netns";

/// Visits that may wait for the thread; each takes well under a millisecond.
const WAITING_VISITS: usize = 64;
/// Bound of one visit, its wait included.
const VISIT_LIMIT: Duration = Duration::from_secs(5);

/// Opens a named namespace.
///
/// # Errors
/// When there is none at `path`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    std::fs::File::open(path).map(OwnedFd::from)
}

/// Runs `work` on a thread of its own inside `namespace`. Blocks until it is done; a panic of `work`
/// goes on in the caller.
///
/// # Errors
/// When the thread cannot be made, or may not enter (needs `CAP_SYS_ADMIN`).
pub fn in_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let visit = thread::Builder::new()
            .name("in-namespace".to_owned())
            .spawn_scoped(scope, move || enter(namespace).map(|()| work()))?;
        visit
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
}

/// One long-lived thread that visits namespaces, so that a connection to a guest does not cost a
/// thread. Between visits it is at home: it must not keep a released slot's namespace alive.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    visits: mpsc::Sender<Visit>,
}

struct Visit {
    namespace: Arc<OwnedFd>,
    work: Box<dyn FnOnce(io::Result<()>) + Send>,
}

impl Visitor {
    /// Starts the thread; it ends with the last clone of the returned value.
    pub(crate) fn start() -> io::Result<Self> {
        let (visits, waiting) = mpsc::channel(WAITING_VISITS);
        let home = open(Path::new("/proc/thread-self/ns/net"))?;
        thread::Builder::new()
            .name("namespaces".to_owned())
            .spawn(move || visit_all(&home, waiting))?;
        Ok(Self { visits })
    }

    /// Runs `work` inside `namespace`. `work` must not block.
    pub(crate) async fn visit<T: Send + 'static>(
        &self,
        namespace: &Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move |entered: io::Result<()>| {
            // A caller that no longer waits drops the receiver; its result closes with the answer.
            let _ = answer.send(entered.and_then(|()| work()));
        });
        let visit = Visit {
            namespace: Arc::clone(namespace),
            work,
        };
        let gone = || io::Error::other("the thread that enters network namespaces has ended");
        let result = async {
            self.visits.send(visit).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        tokio::time::timeout(VISIT_LIMIT, result).await?
    }
}

fn visit_all(home: &OwnedFd, mut waiting: mpsc::Receiver<Visit>) {
    while let Some(Visit { namespace, work }) = waiting.blocking_recv() {
        let entered = enter(namespace.as_fd());
        let moved = entered.is_ok();
        work(entered);
        if moved && let Err(error) = enter(home.as_fd()) {
            // Never work on in the wrong namespace: the thread ends and every later visit fails.
            tracing::error!(%error, "could not leave a slot's network namespace");
            return;
        }
    }
}
