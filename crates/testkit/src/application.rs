//! The application of every simulated guest: HTTP/1.1 on port 8080, one request a connection.
//!
//! `GET /` counts the request and answers `{"requests":n}`; `GET /exit/<code>` ends the application.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::faults::lock;
use crate::machine::MachineState;

/// Port of the application.
const PORT: u16 = 8080;

/// Longest request head that it reads, bytes.
const MAX_HEAD: usize = 16 * 1024;

pub(crate) fn connect(machine: &Arc<MachineState>, port: u16) -> io::Result<DuplexStream> {
    if port != PORT || lock(&machine.memory).application_exit.is_some() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (host, guest) = tokio::io::duplex(64 * 1024);
    let machine = Arc::clone(machine);
    tokio::spawn(async move {
        let ended = machine.ended();
        tokio::select! {
            // A broken connection is the client's matter.
            _ = answer(&machine, guest) => {}
            _ = ended => {}
        }
    });
    Ok(host)
}

async fn answer(machine: &MachineState, mut stream: DuplexStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Ok(());
        }
        head.push(stream.read_u8().await?);
    }
    if !machine.runs().await {
        return Ok(());
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or("/");
    if let Some(code) = path
        .strip_prefix("/exit/")
        .and_then(|code| code.parse().ok())
    {
        machine.exit_application(code);
        return Ok(());
    }
    let requests = {
        let mut memory = lock(&machine.memory);
        memory.requests += 1;
        memory.requests
    };
    let body = format!("{{\"requests\":{requests}}}");
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}
