//! The root credentials' files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use colibri_iam::root::{RootCredentialsError, open};

#[test]
fn a_new_directory_gets_a_key_that_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path(), "us-east-1", "000000000000").expect("credentials");
    assert!(first.identity.access_key_id.starts_with("AKIA"));
    assert_eq!(
        (
            first.identity.access_key_id.len(),
            first.secret.expose().len()
        ),
        (20, 40)
    );
    assert_eq!(
        first.identity.principal_arn,
        "arn:aws:iam::000000000000:root"
    );
    let again = open(directory.path(), "eu-west-1", "000000000000").expect("credentials");
    assert_eq!(again.identity.access_key_id, first.identity.access_key_id);
    assert!(again.secret.matches(first.secret.expose()));
    let config = fs::read_to_string(directory.path().join("config")).expect("a file");
    assert_eq!(config, "[default]\nregion = us-east-1\n");
    let names: Vec<_> = fs::read_dir(directory.path()).expect("a listing").collect();
    assert_eq!(names.len(), 2, "no temporary file is left");
}

#[test]
fn two_directories_get_two_keys() {
    let (one, two) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let one = open(one.path(), "us-east-1", "000000000000").expect("credentials");
    let two = open(two.path(), "us-east-1", "000000000000").expect("credentials");
    assert_ne!(one.identity.access_key_id, two.identity.access_key_id);
    assert!(!one.secret.matches(two.secret.expose()));
}

#[test]
fn the_file_is_its_owners_alone_even_where_it_was_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("credentials");
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    open(directory.path(), "us-east-1", "000000000000").expect("credentials");
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a file");
    open(directory.path(), "us-east-1", "000000000000").expect("credentials");
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_file_of_someones_own_is_read_and_a_broken_one_is_not_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("credentials");
    let text = "# mine\n[other]\naws_access_key_id=no\naws_secret_access_key=no\n\n[default]\n\
                aws_access_key_id=AKIAMINE\naws_secret_access_key = a/b+c=\n";
    fs::write(&path, text).expect("a file");
    let mine = open(directory.path(), "us-east-1", "000000000000").expect("credentials");
    assert_eq!(
        (mine.identity.access_key_id.as_str(), mine.secret.expose()),
        ("AKIAMINE", "a/b+c=")
    );
    fs::write(&path, "[default]\n").expect("a file");
    let error = open(directory.path(), "us-east-1", "000000000000").expect_err("an error");
    assert!(matches!(error, RootCredentialsError::Unusable { .. }));
    assert_eq!(fs::read_to_string(&path).expect("a file"), "[default]\n");
}
