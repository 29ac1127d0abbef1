//! Who is asked on a guest's behalf, and the asking: from the host's namespace, from a new port and
//! under a new random id each time, the next server when one fails.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::message::{Query, framed, is_failure};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// Bound of one query, all servers together.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Servers that one query is sent to at most; glibc's resolver stops at three too (MAXNS).
const MAX_UPSTREAMS: usize = 3;
/// Queries of all guests under way; each has a socket, and the daemon's descriptors are for more than
/// DNS. The next ones wait within their own time.
const ALL_QUERIES: usize = 1024;
/// Longest answer over UDP, bytes; a longer one is asked for again over TCP.
const MAX_UDP_ANSWER: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The servers, configured or the host's own.
#[derive(Debug)]
pub(crate) struct Upstreams {
    configured: bool,
    known: Mutex<Known>,
    room: Semaphore,
}

#[derive(Debug)]
struct Known {
    servers: Arc<[SocketAddr]>,
    /// When the file that they are from was changed.
    changed: Option<SystemTime>,
}

impl Upstreams {
    /// `configured` servers, or those of the host's `/etc/resolv.conf` when there are none.
    pub(crate) fn new(configured: Vec<SocketAddr>) -> Self {
        Self {
            configured: !configured.is_empty(),
            known: Mutex::new(Known {
                servers: configured.into(),
                changed: None,
            }),
            room: Semaphore::new(ALL_QUERIES),
        }
    }

    /// The servers of now: a host that changes its network changes that file.
    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.configured {
            let path = Path::new(RESOLV_CONF);
            let changed = path.metadata().and_then(|file| file.modified()).ok();
            if changed.is_none() || changed != known.changed {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                *known = Known {
                    servers: parse_resolv_conf(&text).into(),
                    changed,
                };
            }
        }
        Arc::clone(&known.servers)
    }
}

/// Name servers of a resolv.conf(5); the local host when it names none, as that page says.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = (words.next()? == "nameserver")
                .then(|| words.next())
                .flatten()?;
            // An address with a zone (fe80::1%eth0) is of one interface only; glibc alone knows it.
            Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
        })
        .take(MAX_UPSTREAMS)
        .collect();
    if servers.is_empty() {
        vec![(Ipv4Addr::LOCALHOST, PORT).into()]
    } else {
        servers
    }
}

/// The answer for the guest, within [`RESOLVE_LIMIT`]; a server failure when there is none.
pub(super) async fn resolve(
    upstreams: &Upstreams,
    query: &Query<'_>,
    transport: Transport,
) -> Vec<u8> {
    let servers = upstreams.servers();
    // A single server is asked twice: a datagram may be lost.
    let attempts = servers.len().clamp(2, MAX_UPSTREAMS);
    let attempt_limit = RESOLVE_LIMIT / u32::try_from(attempts).unwrap_or(1);
    let mut failure = None;
    for server in servers.iter().cycle().take(attempts) {
        let asked = async {
            let _room = upstreams.room.acquire().await.map_err(io::Error::other)?;
            match transport {
                Transport::Udp => ask_udp(query, *server).await,
                Transport::Tcp => ask_tcp(query, *server).await,
            }
        };
        match tokio::time::timeout(attempt_limit, asked).await {
            Ok(Ok(answer)) if is_failure(&answer) => failure = Some(answer),
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => tracing::debug!(%server, %error, "a DNS server failed"),
            Err(_) => tracing::debug!(%server, "a DNS server did not answer in time"),
        }
    }
    failure.unwrap_or_else(|| query.server_failure())
}

async fn ask_udp(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: the kernel drops what others than this server send.
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&query.with_id(id)).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(answer) = query.accept(&buffer[..length], id) else {
            continue;
        };
        return Ok(if length > MAX_UDP_ANSWER {
            query.truncated()
        } else {
            answer
        });
    }
}

async fn ask_tcp(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = rand::random();
    stream.write_all(&framed(&query.with_id(id))?).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    query
        .accept(&answer, id)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::parse_resolv_conf;

    #[test]
    fn name_servers_are_read_and_the_rest_is_not() {
        let text = "# nameserver 9.9.9.9\nsearch example.test\nnameserver 192.0.2.53 # first\n\
                    nameserver\tfd00::53\nnameserver fe80::1%eth0\n";
        let servers = parse_resolv_conf(text);
        assert_eq!(
            servers,
            [
                "192.0.2.53:53".parse().unwrap(),
                "[fd00::53]:53".parse().unwrap()
            ]
        );
    }

    #[test]
    fn no_name_server_means_the_local_host() {
        assert_eq!(
            parse_resolv_conf("options rotate\n"),
            ["127.0.0.1:53".parse().unwrap()]
        );
    }
}
