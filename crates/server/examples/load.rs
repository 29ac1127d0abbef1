//! Load on any server that speaks AWS's signatures: one GET again and again, signed freshly each time,
//! over connections that are kept while the server keeps them. `make bench-api` runs it.
//!
//! ```sh
//! cargo run --release -p colibri-server --example load -- \
//!     --endpoint 127.0.0.1:4570 --service lambda --path /2025-09-09/microvms
//! ```
//!
//! The key is read from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Prints one line of JSON. A
//! request's time is from sending it to the last byte of its answer, with the connection's making where
//! it had to be made, without the signing. Any answer but 200 ends the run.
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use clap::Parser;
use futures::future::try_join_all;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const REGION: &str = "us-east-1";

type Failure = Box<dyn Error>;
type Sender = SendRequest<Empty<Bytes>>;

#[derive(Parser)]
struct Options {
    /// Address of the server.
    #[arg(long)]
    endpoint: SocketAddr,
    /// Service of the signature.
    #[arg(long)]
    service: String,
    /// Path that is asked for, as it goes on the wire.
    #[arg(long)]
    path: String,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long to ask, after a tenth of it to warm up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    connects: usize,
    bytes: usize,
}

// One thread: what is measured is the server, which needs the other cores.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let key = Credentials::new(
        std::env::var("AWS_ACCESS_KEY_ID")?,
        std::env::var("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "load",
    );
    let length = Duration::from_secs(options.seconds);
    run(&options, &key, length / 10).await?;
    let started = Instant::now();
    let seen = run(&options, &key, length).await?;
    println!("{}", report(seen, started.elapsed()));
    Ok(())
}

async fn run(options: &Options, key: &Credentials, length: Duration) -> Result<Vec<Seen>, Failure> {
    let end = Instant::now() + length;
    try_join_all((0..options.connections).map(|_| ask(options, key, end))).await
}

/// Asks until the end over one connection, made anew whenever the server has closed it.
async fn ask(options: &Options, key: &Credentials, end: Instant) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    let mut kept: Option<Sender> = None;
    while Instant::now() < end {
        let request = signed(options, key)?;
        let started = Instant::now();
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => {
                seen.connects += 1;
                connect(options.endpoint).await?
            }
        };
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != 200 {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(format!("{} answered {status}: {text}", options.path).into());
        }
        seen.times.push(started.elapsed());
        seen.bytes += body.len();
        kept = sender.ready().await.is_ok().then_some(sender);
    }
    Ok(seen)
}

async fn connect(endpoint: SocketAddr) -> Result<Sender, Failure> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its end is seen by the sender.
    tokio::spawn(connection);
    Ok(sender)
}

fn signed(options: &Options, key: &Credentials) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = options.endpoint.to_string();
    let identity = key.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name(&options.service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?;
    let headers = [(HOST.as_str(), host.as_str())];
    let signable = SignableRequest::new(
        "GET",
        &options.path,
        headers.into_iter(),
        SignableBody::Bytes(b""),
    )?;
    let (instructions, _) = sign(signable, &parameters.into())?.into_parts();
    let mut request = Request::get(&options.path).header(HOST, &host);
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    Ok(request.body(Empty::new())?)
}

fn report(seen: Vec<Seen>, elapsed: Duration) -> String {
    let connects: usize = seen.iter().map(|one| one.connects).sum();
    let bytes: usize = seen.iter().map(|one| one.bytes).sum();
    let mut times: Vec<f64> = seen
        .into_iter()
        .flat_map(|one| one.times)
        .map(|time| time.as_secs_f64() * 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get(times.len() * percent / 100).copied();
    let requests = times.len();
    serde_json::json!({
        "requests": requests,
        "perSecond": requests as f64 / elapsed.as_secs_f64(),
        "p50Millis": at(50),
        "p99Millis": at(99),
        "bytesPerAnswer": bytes / requests.max(1),
        "connectionsMade": connects,
    })
    .to_string()
}
