//! The certificate that endpoints show, and the authority that signs it: made on first start, kept
//! under the data directory, renewed before they expire.
//!
//! ```text
//! DIR/ca.pem          the authority's certificate, for clients to trust
//! DIR/tls/ca.key      its key                       (0600)
//! DIR/tls/server.pem  the endpoints' certificate
//! DIR/tls/server.key  its key                       (0600)
//! ```
//!
//! The authority is constrained to the host names that it was made for (RFC 5280 section 4.2.1.10):
//! who adds it to a trust store trusts it for endpoints, and for no other site should its key be
//! stolen.

mod names;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::durable;
use crate::settings::Domain;
use names::Names;

/// Life of the authority: it is installed by hand, so it changes rarely.
const AUTHORITY_LIFETIME: Duration = days(3650);
/// Time before its end at which the authority is replaced.
const AUTHORITY_MARGIN: Duration = days(180);
/// Life of the endpoints' certificate.
const SERVER_LIFETIME: Duration = days(90);
/// Time before its end at which the endpoints' certificate is replaced.
const SERVER_MARGIN: Duration = days(30);
/// Certificates begin to be valid this long before they are made, for clients whose clock is slow.
const BACKDATED: Duration = days(1);

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 60 * 60)
}

/// The certificate of the endpoints and its authority.
pub struct Certificates {
    files: Files,
    names: Names,
    shown: Arc<Shown>,
}

impl Certificates {
    /// Opens the certificates of a data directory; makes what is missing, about to expire, or not
    /// for these names. The names are `*.<domain>`, `<domain>`, `localhost`, `127.0.0.1`, `::1`, and
    /// `extra` ones: host names (a wildcard as first label is allowed) or IP addresses.
    ///
    /// # Errors
    /// When an extra name is none, or a file cannot be read or written.
    pub fn open(
        directory: &Path,
        domain: &Domain,
        extra: &[String],
        now: SystemTime,
    ) -> Result<Self, CertificatesError> {
        let names = Names::new(domain, extra)?;
        let files = Files::of(directory);
        durable::private_directory(&files.private)
            .map_err(|source| CertificatesError::io("create", &files.private, source))?;
        let current = match load(&files, &names, now)? {
            Some(current) => current,
            None => issue(&files, &names, now)?,
        };
        let shown = Arc::new(Shown(RwLock::new(current)));
        Ok(Self {
            files,
            names,
            shown,
        })
    }

    /// Replaces what is about to expire; says whether anything was. Connections made from then on see
    /// the new certificate.
    ///
    /// # Errors
    /// When a file cannot be read or written: the old certificate stays in use.
    pub fn renew(&self, now: SystemTime) -> Result<bool, CertificatesError> {
        if load(&self.files, &self.names, now)?.is_some() {
            return Ok(false);
        }
        let issued = issue(&self.files, &self.names, now)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = issued;
        Ok(true)
    }

    /// The file with the authority's certificate, which clients are to trust.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.files.authority
    }

    /// TLS 1.2 and 1.3 with these certificates, HTTP/2 preferred over HTTP/1.1.
    ///
    /// # Errors
    /// When the cryptographic library refuses: a fault of the build.
    pub fn server_config(&self) -> Result<ServerConfig, CertificatesError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(CertificatesError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption without state of ours per client.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(CertificatesError::Tls)?;
        Ok(config)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificates")
            .field("authority", &self.files.authority)
            .finish_non_exhaustive()
    }
}

/// The certificate that connections see from now on.
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Whatever name is asked for: a client that sends none is routed by its token, and one that
        // asks for a name of somebody else finds that out by itself.
        Some(
            self.0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shown")
    }
}

struct Files {
    private: PathBuf,
    authority: PathBuf,
    authority_key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
}

impl Files {
    fn of(directory: &Path) -> Self {
        let private = directory.join("tls");
        Self {
            authority: directory.join("ca.pem"),
            authority_key: private.join("ca.key"),
            server: private.join("server.pem"),
            server_key: private.join("server.key"),
            private,
        }
    }
}

/// The certificate on disk, when clients will accept it for some time to come.
fn load(
    files: &Files,
    names: &Names,
    now: SystemTime,
) -> Result<Option<Arc<CertifiedKey>>, CertificatesError> {
    let (Some(authority), Some(server), Some(key)) = (
        read(&files.authority)?,
        read(&files.server)?,
        read(&files.server_key)?,
    ) else {
        return Ok(None);
    };
    Ok(usable(&authority, &server, &key, names, now))
}

/// The certificate, when its authority lives on, it names the right names, has its key, and clients
/// will accept it for all of them until it is due for renewal.
fn usable(
    authority: &str,
    server: &str,
    key: &str,
    names: &Names,
    now: SystemTime,
) -> Option<Arc<CertifiedKey>> {
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).ok()?;
    let certificate = CertificateDer::from_pem_slice(server.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
    if !outlives(&authority, now + AUTHORITY_MARGIN) || !names.are_those_of(&certificate) {
        return None;
    }
    let mut roots = RootCertStore::empty();
    roots.add(authority).ok()?;
    let client = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .ok()?;
    for time in [now, now + SERVER_MARGIN] {
        let time = UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).ok()?);
        for name in names.as_checked() {
            client
                .verify_server_cert(&certificate, &[], &name?, &[], time)
                .ok()?;
        }
    }
    let certified = CertifiedKey::from_der(vec![certificate], key, &provider()).ok()?;
    certified.keys_match().ok()?;
    Some(Arc::new(certified))
}

fn outlives(certificate: &CertificateDer<'_>, time: SystemTime) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, parsed)| SystemTime::from(parsed.validity().not_after.to_datetime()) > time)
}

/// Makes a certificate with the authority on disk, or with a new authority when that one cannot
/// vouch for these names until the certificate's end.
fn issue(
    files: &Files,
    names: &Names,
    now: SystemTime,
) -> Result<Arc<CertifiedKey>, CertificatesError> {
    if let (Some(certificate), Some(key)) = (read(&files.authority)?, read(&files.authority_key)?)
        && let Some(issued) = issue_under(&certificate, &key, files, names, now)?
    {
        tracing::info!(names = ?names.dns, "made a new certificate for the endpoints");
        return Ok(issued);
    }
    let (certificate, key) = new_authority(names, now)?;
    write(&files.authority_key, &key, durable::SECRET)?;
    write(&files.authority, &certificate, durable::PUBLIC)?;
    tracing::warn!(path = %files.authority.display(), "made a new certificate authority: clients are to trust this file");
    issue_under(&certificate, &key, files, names, now)?.ok_or(CertificatesError::Unusable)
}

/// A new certificate under an authority, written to disk; `None` when clients would not accept it.
fn issue_under(
    authority: &str,
    authority_key: &str,
    files: &Files,
    names: &Names,
    now: SystemTime,
) -> Result<Option<Arc<CertifiedKey>>, CertificatesError> {
    let Ok(issuer) =
        KeyPair::from_pem(authority_key).and_then(|key| Issuer::from_ca_cert_pem(authority, key))
    else {
        return Ok(None);
    };
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + SERVER_LIFETIME).into();
    params.subject_alt_names = names.subject_alt_names()?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, names.domain.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(CertificatesError::Generate)?;
    let certificate = params
        .signed_by(&key, &issuer)
        .map_err(CertificatesError::Generate)?
        .pem();
    let key = key.serialize_pem();
    let Some(certified) = usable(authority, &certificate, &key, names, now) else {
        return Ok(None);
    };
    write(&files.server_key, &key, durable::SECRET)?;
    write(&files.server, &certificate, durable::PUBLIC)?;
    Ok(Some(certified))
}

/// A new authority: certificate and key, as PEM.
fn new_authority(names: &Names, now: SystemTime) -> Result<(String, String), CertificatesError> {
    let key = KeyPair::generate().map_err(CertificatesError::Generate)?;
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + AUTHORITY_LIFETIME).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Trust stores look authorities up by subject: two installations must not share one.
    let mark = uuid::Uuid::new_v4().simple().to_string();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Colibri");
    params.distinguished_name.push(
        DnType::CommonName,
        format!("Colibri endpoints {}", &mark[..8]),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(names.constraints());
    let certificate = params
        .self_signed(&key)
        .map_err(CertificatesError::Generate)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Result<Option<String>, CertificatesError> {
    durable::read(path).map_err(|source| CertificatesError::io("read", path, source))
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), CertificatesError> {
    durable::replace(path, content.as_bytes(), mode)
        .map_err(|source| CertificatesError::io("write", path, source))
}

/// Why the endpoints have no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A name in the settings is none.
    #[error(
        "`{name}` is neither a host name nor an IP address; correct the extra names of the ingress certificate"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// A file operation failed.
    #[error("could not {attempted} {path}")]
    Io {
        /// Read, write or create.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A certificate or key could not be made.
    #[error("could not generate a certificate")]
    Generate(#[source] rcgen::Error),
    /// What was made is not what clients accept.
    #[error(
        "a new certificate for the endpoints is not valid for their names; is the system's clock right?"
    )]
    Unusable,
    /// TLS could not be set up.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
}

impl CertificatesError {
    fn io(attempted: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            attempted,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
