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
//! The authority is constrained to the names that it was made for (RFC 5280 section 4.2.1.10): who
//! adds it to a trust store trusts it for endpoints, and for nothing else should its key be stolen.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;

use crate::durable;
use crate::settings::{Domain, is_dns_label};

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

/// The names that the certificate is for, sorted.
struct Names {
    domain: String,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    fn new(domain: &Domain, extra: &[String]) -> Result<Self, CertificatesError> {
        let mut dns = vec![
            format!("*.{domain}"),
            domain.to_string(),
            "localhost".to_owned(),
        ];
        let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for name in extra {
            let name = name.to_ascii_lowercase();
            if let Ok(address) = name.parse() {
                addresses.push(address);
            } else if name
                .strip_prefix("*.")
                .unwrap_or(&name)
                .split('.')
                .all(is_dns_label)
            {
                dns.push(name);
            } else {
                return Err(CertificatesError::Name { name });
            }
        }
        dns.sort_unstable();
        dns.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            domain: domain.to_string(),
            dns,
            addresses,
        })
    }

    /// What the certificate is to be valid for, each as a client would check it.
    fn as_checked(&self) -> impl Iterator<Item = Option<ServerName<'static>>> {
        let dns = self.dns.iter().map(|name| {
            // A wildcard stands for any first label.
            let concrete = name.strip_prefix("*.").map(|rest| format!("any.{rest}"));
            ServerName::try_from(concrete.unwrap_or_else(|| name.clone())).ok()
        });
        let addresses = self
            .addresses
            .iter()
            .map(|&address| Some(ServerName::IpAddress(address.into())));
        dns.chain(addresses)
    }

    fn subject_alt_names(&self) -> Result<Vec<SanType>, CertificatesError> {
        let dns = self.dns.iter().map(|name| {
            let name = name
                .as_str()
                .try_into()
                .map_err(CertificatesError::Generate)?;
            Ok(SanType::DnsName(name))
        });
        let addresses = self
            .addresses
            .iter()
            .map(|&address| Ok(SanType::IpAddress(address)));
        dns.chain(addresses).collect()
    }

    fn constraints(&self) -> NameConstraints {
        let dns = self.dns.iter().map(|name| {
            GeneralSubtree::DnsName(name.strip_prefix("*.").unwrap_or(name).to_owned())
        });
        let addresses = self.addresses.iter().map(|&address| {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, bits))
        });
        NameConstraints {
            permitted_subtrees: dns.chain(addresses).collect(),
            excluded_subtrees: Vec::new(),
        }
    }

    /// Whether the certificate names these and nothing else.
    fn are_those_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return false;
        };
        let Ok(Some(names)) = parsed.subject_alternative_name() else {
            return false;
        };
        let mut dns = Vec::new();
        let mut addresses = Vec::new();
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => addresses.extend(address_of(octets)),
                _ => return false,
            }
        }
        dns.sort_unstable();
        addresses.sort_unstable();
        dns == self.dns && addresses == self.addresses
    }
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
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
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn open(directory: &Path, extra: &[&str], now: SystemTime) -> Certificates {
        let extra: Vec<_> = extra.iter().map(|&name| name.to_owned()).collect();
        Certificates::open(directory, &Domain::default(), &extra, now).unwrap()
    }

    fn content(directory: &Path) -> [String; 2] {
        ["ca.pem", "tls/server.pem"].map(|file| fs::read_to_string(directory.join(file)).unwrap())
    }

    #[test]
    fn certificates_are_made_once_and_their_keys_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        open(directory.path(), &[], now);
        let first = content(directory.path());
        open(directory.path(), &[], now);
        assert_eq!(content(directory.path()), first);
        for (file, mode) in [
            ("tls", 0o700),
            ("tls/ca.key", 0o600),
            ("tls/server.key", 0o600),
            ("ca.pem", 0o644),
        ] {
            let permissions = fs::metadata(directory.path().join(file))
                .unwrap()
                .permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{file}");
        }
    }

    #[test]
    fn the_certificate_is_renewed_before_its_end_under_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let certificates = open(directory.path(), &[], now);
        let [authority, server] = content(directory.path());
        assert!(!certificates.renew(now + days(59)).unwrap());
        assert!(certificates.renew(now + days(61)).unwrap());
        let [same_authority, new_server] = content(directory.path());
        assert_eq!(same_authority, authority);
        assert_ne!(new_server, server);
    }

    #[test]
    fn the_authority_is_renewed_before_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        open(directory.path(), &[], now);
        let [authority, _] = content(directory.path());
        open(directory.path(), &[], now + days(3650 - 179));
        assert_ne!(content(directory.path())[0], authority);
    }

    #[test]
    fn a_name_the_authority_may_not_vouch_for_makes_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        open(directory.path(), &["*.example.com", "192.0.2.1"], now);
        let [authority, server] = content(directory.path());
        open(directory.path(), &["*.example.com"], now);
        let [same_authority, fewer_names] = content(directory.path());
        assert_eq!(same_authority, authority);
        assert_ne!(fewer_names, server);
        open(directory.path(), &["example.org"], now);
        assert_ne!(content(directory.path())[0], authority);
    }

    #[test]
    fn damaged_files_are_replaced() {
        let now = SystemTime::now();
        for file in ["ca.pem", "tls/ca.key", "tls/server.pem", "tls/server.key"] {
            for damage in ["", "nonsense"] {
                let directory = tempfile::tempdir().unwrap();
                open(directory.path(), &[], now);
                fs::write(directory.path().join(file), damage).unwrap();
                open(directory.path(), &[], now + days(61));
                let certificates = open(directory.path(), &[], now + days(61));
                assert!(!certificates.renew(now + days(61)).unwrap(), "{file}");
            }
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_noticed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        open(one.path(), &[], now);
        open(other.path(), &[], now);
        for file in ["tls/ca.key", "tls/server.key"] {
            fs::copy(other.path().join(file), one.path().join(file)).unwrap();
        }
        let certificates = open(one.path(), &[], now);
        assert!(!certificates.renew(now).unwrap());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "",
            "a b",
            "https://example.com",
            "*.*.example.com",
            "example.com:443",
        ] {
            let opened = Certificates::open(
                directory.path(),
                &Domain::default(),
                &[name.to_owned()],
                SystemTime::now(),
            );
            assert!(
                matches!(opened, Err(CertificatesError::Name { .. })),
                "{name}"
            );
        }
    }
}
