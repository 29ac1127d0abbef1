//! What an image wants asked of its application in a machine that waits in the pool, so that the code
//! of a real request has run before: the variable `COLIBRI_WARM_UP` (docs/extensions.md).
//!
//! It is asked before `/run`, over the way that real traffic takes, and never with a tenant's data.

use std::io;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use colibri_network::Slot;
use colibri_wire::ApiError;
use colibri_wire::shape::configuration::ImageConfiguration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::image_variables;

/// The variable.
const VARIABLE: &str = "COLIBRI_WARM_UP";
/// Bound of all requests together.
const BOUND: Duration = Duration::from_secs(30);
/// Most requests.
const MAX_REQUESTS: usize = 16;
/// Longest path, bytes.
const MAX_PATH: usize = 2048;
/// How much of an answer is read, bytes.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Methods that a request without a body may have.
const METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "POST"];
/// A port of the guest where hardly anything listens: connecting runs the agent's forwarder all the same.
pub(crate) const IDLE_PORT: u16 = 1;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    method: &'static str,
    port: u16,
    path: String,
}

/// A value that is not of the form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE} is not of the form 'METHOD PORT PATH', several separated by ';' (at most {MAX_REQUESTS}): \
     '{part}' has no {missing}"
)]
pub(crate) struct Malformed {
    part: String,
    missing: &'static str,
}

/// Why a warm-up was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmUpFailure {
    #[error("could not read what application the base has")]
    Base(#[source] io::Error),
    #[error("the image's variable cannot be used")]
    Malformed(#[from] Malformed),
    #[error("the application did not answer the request to port {port}")]
    Unanswered {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("it took longer than {} s", BOUND.as_secs())]
    TimedOut,
}

/// Refuses a configuration whose warm-up is not of the form.
pub(crate) fn check(configuration: &ImageConfiguration) -> Result<(), ApiError> {
    let variables = configuration.environment_variables.as_ref();
    match variables.and_then(|variables| variables.get(VARIABLE)) {
        Some(value) => parse(&value.0)
            .map(drop)
            .map_err(|malformed| ApiError::validation(malformed.to_string())),
        None => Ok(()),
    }
}

/// Asks the application of a machine that was launched from `base` what its image wants asked, and runs
/// the agent's way to it in any case.
pub(crate) async fn carry_out(base: &Path, slot: &dyn Slot) -> Result<(), WarmUpFailure> {
    timeout(BOUND, ask_all(base, slot))
        .await
        .unwrap_or(Err(WarmUpFailure::TimedOut))
}

async fn ask_all(base: &Path, slot: &dyn Slot) -> Result<(), WarmUpFailure> {
    let requests = of_base(base).await?;
    if requests.is_empty() {
        // Refused, most likely: the way there is what counts.
        let _ = slot.connect(IDLE_PORT).await;
    }
    for request in requests {
        let port = request.port;
        let asked = ask(&request, slot).await;
        asked.map_err(|source| WarmUpFailure::Unanswered { port, source })?;
    }
    Ok(())
}

/// The requests that the image of a base wants.
async fn of_base(base: &Path) -> Result<Vec<Request>, WarmUpFailure> {
    let value = image_variables::of_base(base, VARIABLE).await;
    let value = value.map_err(WarmUpFailure::Base)?;
    Ok(parse(&value.unwrap_or_default())?)
}

async fn ask(request: &Request, slot: &dyn Slot) -> io::Result<()> {
    let mut stream = slot.connect(request.port).await?;
    let Request { method, path, .. } = request;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: colibri-warm-up\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    // Whatever it answered, it has run.
    if answer.starts_with(b"HTTP/1.") {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn parse(value: &str) -> Result<Vec<Request>, Malformed> {
    let mut requests = Vec::new();
    for part in value.split(';').map(str::trim) {
        if part.is_empty() {
            continue;
        }
        let malformed = |missing| Malformed {
            part: part.chars().take(100).collect(),
            missing,
        };
        if requests.len() == MAX_REQUESTS {
            return Err(malformed("place among the requests"));
        }
        let mut words = part.split_ascii_whitespace();
        let method = words.next().and_then(known_method);
        let method = method.ok_or_else(|| malformed("method of GET, HEAD, OPTIONS and POST"))?;
        let port = words
            .next()
            .and_then(|word| word.parse::<NonZeroU16>().ok());
        let port = port.ok_or_else(|| malformed("port from 1 to 65535"))?;
        let path = words.next().filter(|path| is_path(path));
        let path = path.ok_or_else(|| malformed("path that starts with '/'"))?;
        if words.next().is_some() {
            return Err(malformed("end after its path"));
        }
        requests.push(Request {
            method,
            port: port.get(),
            path: path.to_owned(),
        });
    }
    Ok(requests)
}

fn known_method(word: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|method| *method == word)
}

fn is_path(word: &str) -> bool {
    word.starts_with('/')
        && word.len() <= MAX_PATH
        && word.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::{MAX_REQUESTS, parse};

    #[test]
    fn requests_are_separated_by_semicolons() {
        let requests = parse(" GET 8080 /?step=0; POST 9000 /warm ;").unwrap_or_default();
        let told: Vec<_> = requests
            .iter()
            .map(|request| (request.method, request.port, request.path.as_str()))
            .collect();
        assert_eq!(told, [("GET", 8080, "/?step=0"), ("POST", 9000, "/warm")]);
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn anything_else_is_refused_with_its_form() {
        for value in [
            "8080 /",
            "get 8080 /",
            "GET 0 /",
            "GET 65536 /",
            "GET 8080",
            "GET 8080 x",
            "GET 8080 / HTTP/1.1",
            "GET 8080 /\u{1}",
        ] {
            let refusal = parse(value).map_err(|malformed| malformed.to_string());
            assert!(
                refusal.is_err_and(|text| text.contains("'METHOD PORT PATH'")),
                "{value}"
            );
        }
        assert!(parse(&"GET 1 /;".repeat(MAX_REQUESTS + 1)).is_err());
    }
}
