//! A running ingress, a gateway with MicroVMs that the test moves, and clients that trust it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use colibri_ingress::{
    AllowedPorts, Application, Certificates, ConnectError, Domain, Endpoint, Gateway, GuestStream,
    Ingress, Limits, ListenAddress, PortRange, Settings, SizeLimits, TokenMint, Unready,
};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) type Body = BoxBody<Bytes, io::Error>;
pub(crate) type Tls = TlsStream<TcpStream>;

/// Nothing in these tests takes long; what does, hangs.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("hangs")
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// What listens on a port of a guest.
type Listener = Arc<dyn Fn(DuplexStream) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// Woken by traffic when the test lets it.
    Suspended,
}

/// A MicroVM that the test moves.
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) label: String,
    listeners: Mutex<HashMap<u16, Listener>>,
    state: watch::Sender<State>,
    /// Completed when it is suspended; a new one for each time that it runs.
    closed: Mutex<CancellationToken>,
    pub(crate) unready: Mutex<Option<Unready>>,
    /// Answers of `connect` to come that are `Unreachable`.
    pub(crate) unreachable: AtomicUsize,
    pub(crate) readied: AtomicUsize,
    pub(crate) waiting: watch::Sender<usize>,
    pub(crate) connects: AtomicUsize,
    pub(crate) active: watch::Sender<usize>,
    pub(crate) limits: Mutex<SizeLimits>,
}

impl Vm {
    fn new(id: &str, label: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            label: label.to_owned(),
            listeners: Mutex::default(),
            state: watch::channel(State::Running).0,
            closed: Mutex::default(),
            unready: Mutex::default(),
            unreachable: AtomicUsize::new(0),
            readied: AtomicUsize::new(0),
            waiting: watch::channel(0).0,
            connects: AtomicUsize::new(0),
            active: watch::channel(0).0,
            limits: Mutex::default(),
        })
    }

    pub(crate) fn suspend(&self) {
        self.state.send_replace(State::Suspended);
        self.closed.lock().unwrap().cancel();
    }

    pub(crate) fn wake(&self) {
        *self.closed.lock().unwrap() = CancellationToken::new();
        self.state.send_replace(State::Running);
    }

    pub(crate) fn active(&self) -> usize {
        *self.active.borrow()
    }

    /// Whether anything of a request reached it.
    pub(crate) fn untouched(&self) -> bool {
        self.readied.load(SeqCst) == 0 && self.connects.load(SeqCst) == 0 && self.active() == 0
    }

    pub(crate) fn listen(
        &self,
        port: u16,
        listener: impl Fn(DuplexStream) + Send + Sync + 'static,
    ) {
        self.listeners
            .lock()
            .unwrap()
            .insert(port, Arc::new(listener));
    }

    /// An application over HTTP/1.1 and HTTP/2.
    pub(crate) fn serve<F, A>(&self, port: u16, application: F)
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        self.listen(port, move |stream| {
            let application = application.clone();
            let service = service_fn(move |request| {
                let answer = application(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().initial_stream_window_size(64 * 1024);
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        });
    }
}

struct Running {
    vm: Arc<Vm>,
    closed: CancellationToken,
}

#[async_trait]
impl Application for Running {
    async fn connect(&self, port: u16) -> Result<Box<dyn GuestStream>, ConnectError> {
        self.vm.connects.fetch_add(1, SeqCst);
        let fail = |left: usize| left.checked_sub(1);
        if self
            .vm
            .unreachable
            .fetch_update(SeqCst, SeqCst, fail)
            .is_ok()
        {
            return Err(ConnectError::Unreachable(
                io::ErrorKind::HostUnreachable.into(),
            ));
        }
        let listener = self.vm.listeners.lock().unwrap().get(&port).cloned();
        let (near, far) = tokio::io::duplex(64 * 1024);
        listener.ok_or(ConnectError::Refused(port))?(far);
        Ok(Box::new(near))
    }

    fn active(&self) {
        self.vm.active.send_modify(|count| *count += 1);
    }

    async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

#[derive(Default)]
pub(crate) struct Machines(Mutex<Vec<Arc<Vm>>>);

impl Machines {
    fn find(&self, wanted: impl Fn(&Vm) -> bool) -> Option<Arc<Vm>> {
        self.0.lock().unwrap().iter().find(|vm| wanted(vm)).cloned()
    }
}

#[async_trait]
impl Gateway for Machines {
    fn by_label(&self, label: &str) -> Option<Endpoint> {
        self.find(|vm| vm.label == label).map(|vm| endpoint(&vm))
    }

    fn by_id(&self, microvm_id: &str) -> Option<Endpoint> {
        self.find(|vm| vm.id == microvm_id).map(|vm| endpoint(&vm))
    }

    async fn ready(&self, microvm_id: &str) -> Result<Arc<dyn Application>, Unready> {
        let vm = self.find(|vm| vm.id == microvm_id).ok_or(Unready::Ended)?;
        vm.readied.fetch_add(1, SeqCst);
        if let Some(unready) = vm.unready.lock().unwrap().clone() {
            return Err(unready);
        }
        let _waiting = Waiting::new(&vm);
        let mut state = vm.state.subscribe();
        let running = state.wait_for(|state| *state == State::Running).await;
        running.map_err(|_| Unready::Ended)?;
        let closed = vm.closed.lock().unwrap().clone();
        Ok(Arc::new(Running {
            vm: vm.clone(),
            closed,
        }))
    }
}

fn endpoint(vm: &Vm) -> Endpoint {
    Endpoint {
        microvm_id: vm.id.clone(),
        label: vm.label.clone(),
        limits: *vm.limits.lock().unwrap(),
    }
}

struct Waiting<'a>(&'a Vm);

impl<'a> Waiting<'a> {
    fn new(vm: &'a Vm) -> Self {
        vm.waiting.send_modify(|count| *count += 1);
        Self(vm)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|count| *count -= 1);
    }
}

/// A running ingress with two MicroVMs.
pub(crate) struct Stage {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) tokens: Arc<TokenMint>,
    pub(crate) one: Arc<Vm>,
    pub(crate) two: Arc<Vm>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<()>,
    pub(crate) counters: Arc<colibri_ingress::Counters>,
    roots: Arc<RootCertStore>,
    _directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let domain = Domain::default();
        let certificates = Certificates::open(directory.path(), &domain, &[], now).unwrap();
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(certificates.authority()).unwrap();
        roots.add(authority).unwrap();
        let tokens = Arc::new(TokenMint::open(directory.path(), now).unwrap());
        let one = Vm::new("microvm-1", "label-one");
        let two = Vm::new("microvm-2", "label-two");
        let machines = Machines(Mutex::new(vec![one.clone(), two.clone()]));
        let settings = Settings {
            listen: ListenAddress::Loopback { port: 0 },
            domain,
            limits,
        };
        let certificates = Arc::new(certificates);
        let ingress = Ingress::bind(settings, certificates, tokens.clone(), Arc::new(machines))
            .await
            .unwrap();
        let addresses = ingress.addresses().to_vec();
        let counters = ingress.counters();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(ingress.serve(shutdown.clone()));
        let roots = Arc::new(roots);
        Self {
            addresses,
            tokens,
            one,
            two,
            shutdown,
            served,
            counters,
            roots,
            _directory: directory,
        }
    }

    /// A token for every port of the first MicroVM.
    pub(crate) fn token(&self) -> String {
        self.token_for(&self.one, &AllowedPorts::All)
    }

    pub(crate) fn token_for(&self, vm: &Vm, ports: &AllowedPorts) -> String {
        self.tokens
            .mint(&vm.id, ports, Duration::from_secs(60), SystemTime::now())
            .unwrap()
    }

    pub(crate) async fn tls(&self, name: &str, alpn: &[&str]) -> Tls {
        self.tls_to(self.addresses[0], name, alpn).await
    }

    pub(crate) async fn tls_to(&self, address: SocketAddr, name: &str, alpn: &[&str]) -> Tls {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    pub(crate) async fn http1(&self, name: &str) -> http1::SendRequest<Body> {
        let stream = self.tls(name, &["http/1.1"]).await;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub(crate) async fn http2(&self, name: &str) -> http2::SendRequest<Body> {
        let stream = self.tls(name, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(64 * 1024);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Sends one request over a connection of its own, HTTP/1.1.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let host = request.headers()["host"].to_str().unwrap();
        let name = host.split(':').next().unwrap().to_owned();
        let mut sender = self.http1(&name).await;
        Answer::of(soon(sender.send_request(request)).await.unwrap()).await
    }
}

/// A request to the first MicroVM, HTTP/1.1.
pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::builder()
        .uri(path)
        .header("host", "label-one.microvm.localhost:8443")
}

/// The same for HTTP/2.
pub(crate) fn get2(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("https://label-one.microvm.localhost:8443{path}"))
}

pub(crate) fn ports(ports: &[u16]) -> AllowedPorts {
    AllowedPorts::ranges(
        ports
            .iter()
            .map(|&port| PortRange::new(port, port).unwrap()),
    )
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// An application that says what it was asked.
pub(crate) async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut seen = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        seen += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    seen += &format!("\n{}", String::from_utf8_lossy(&body.to_bytes()));
    if let Some(trailers) = trailers {
        seen += &format!("\n{trailers:?}");
    }
    Response::new(full(seen))
}
