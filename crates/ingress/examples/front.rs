//! Puts a real endpoint, TLS and tokens included, before programs on this machine, as if they ran in a
//! MicroVM: to try clients against the ingress without one.
//!
//! ```sh
//! python3 -m http.server 8080 --bind 127.0.0.1 &
//! cargo run -p colibri-ingress --example front -- /tmp/front 127.0.0.1:8443
//! curl --cacert /tmp/front/ca.pem -H "X-aws-proxy-auth: $TOKEN" https://demo.microvm.localhost:8443/
//! ```

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use colibri_ingress::{
    AllowedPorts, Application, Certificates, ConnectError, Domain, Endpoint, Gateway, GuestStream,
    Ingress, ListenAddress, MAX_LIFETIME, Settings, SizeLimits, TokenMint, Unready,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// This machine, as a MicroVM that always runs.
struct ThisMachine;

fn demo() -> Endpoint {
    Endpoint {
        microvm_id: "microvm-demo".to_owned(),
        label: "demo".to_owned(),
        limits: SizeLimits::default(),
    }
}

#[async_trait]
impl Gateway for ThisMachine {
    fn by_label(&self, label: &str) -> Option<Endpoint> {
        Some(demo()).filter(|endpoint| endpoint.label == label)
    }

    fn by_id(&self, microvm_id: &str) -> Option<Endpoint> {
        Some(demo()).filter(|endpoint| endpoint.microvm_id == microvm_id)
    }

    async fn ready(&self, _microvm_id: &str) -> Result<Arc<dyn Application>, Unready> {
        Ok(Arc::new(Self))
    }
}

#[async_trait]
impl Application for ThisMachine {
    async fn connect(&self, port: u16) -> Result<Box<dyn GuestStream>, ConnectError> {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(ConnectError::Refused(port))
            }
            Err(error) => Err(ConnectError::Unreachable(error)),
        }
    }

    fn active(&self) {}

    async fn closed(&self) {
        std::future::pending::<()>().await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(listen)) = (arguments.next(), arguments.next()) else {
        return Err("usage: front DIRECTORY ADDRESS:PORT".into());
    };
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)?;
    let now = SystemTime::now();
    let domain = Domain::default();
    let certificates = Arc::new(Certificates::open(&directory, &domain, &[], now)?);
    let tokens = Arc::new(TokenMint::open(&directory, now)?);
    let token = tokens.mint(&demo().microvm_id, &AllowedPorts::All, MAX_LIFETIME, now)?;
    let listen: ListenAddress = listen.parse()?;
    let settings = Settings {
        listen,
        domain,
        ..Settings::default()
    };
    let ingress = Ingress::bind(settings, certificates, tokens, Arc::new(ThisMachine)).await?;
    println!("TOKEN={token}");
    ingress.serve(CancellationToken::new()).await;
    Ok(())
}
