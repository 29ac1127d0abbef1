//! The S3 endpoint alone, for trying a client against it:
//! `cargo run -p colibri-objects --example serve -- 127.0.0.1:4570 DIR`
//! with the access key `test` and the secret `secret`. Not the product: `colibri serve` is.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use colibri_objects::{Callers, ObjectCall, Objects, SessionFault, Settings};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

struct OneKey;

impl Callers for OneKey {
    fn secret_key(&self, access_key_id: &str) -> Option<String> {
        (access_key_id == "test").then(|| "secret".to_owned())
    }

    fn check_session(&self, _: &str, given: Option<&str>) -> Result<(), SessionFault> {
        given.map_or(Ok(()), |_| Err(SessionFault::WrongToken))
    }

    fn permits(&self, _: &ObjectCall<'_>) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve ADDRESS DIR".into());
    };
    let objects = Objects::open(
        Path::new(&directory),
        Arc::new(OneKey),
        Settings::new("us-east-1"),
    )?;
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = objects.service();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, std::convert::Infallible>(service.call(request).await) }
            });
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = connection
                .serve_connection(TokioIo::new(stream), answer)
                .await
            {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
