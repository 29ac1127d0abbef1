//! When certificates are made, kept and replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::{Certificates, CertificatesError, days};
use crate::settings::Domain;

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
    open(directory.path(), &["*.example.com", "198.51.100.7"], now);
    let [same_authority, other_address] = content(directory.path());
    assert_eq!(same_authority, authority);
    assert_ne!(other_address, server);
    open(directory.path(), &["*.example.com"], now);
    let [same_authority, fewer_names] = content(directory.path());
    assert_eq!(same_authority, authority);
    assert_ne!(fewer_names, other_address);
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
