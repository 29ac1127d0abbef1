//! What a token gives away, what it survives and what it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{
    AllowedPorts, KEY_LIFETIME, KeyRingError, MAX_LIFETIME, MAX_TOKEN_LENGTH, MintError, PortRange,
    TokenKind, TokenMint, TokenRefused,
};

const HOUR: Duration = MAX_LIFETIME;

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn mint() -> (tempfile::TempDir, TokenMint) {
    let directory = tempfile::tempdir().unwrap();
    let mint = TokenMint::open(directory.path(), noon()).unwrap();
    (directory, mint)
}

fn ports(ranges: impl IntoIterator<Item = (u16, u16)>) -> AllowedPorts {
    AllowedPorts::ranges(
        ranges
            .into_iter()
            .map(|(first, last)| PortRange::new(first, last).unwrap()),
    )
}

#[test]
fn a_token_says_what_it_was_minted_for() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &ports([(8080, 8090)]), HOUR, noon())
        .unwrap();
    let claims = mint.verify(&token, noon()).unwrap();
    assert_eq!(claims.microvm_id, "microvm-1");
    assert_eq!(claims.kind, TokenKind::Endpoint);
    assert_eq!(claims.ports, ports([(8080, 8090)]));
    assert_eq!(claims.issued_at, noon());
    assert_eq!(claims.expires_at, noon() + HOUR);
    let shell = mint.mint_shell("microvm-1", HOUR, noon()).unwrap();
    assert_eq!(mint.verify(&shell, noon()).unwrap().kind, TokenKind::Shell);
}

#[test]
fn a_token_expires_to_the_second() {
    let (_directory, mint) = mint();
    let minute = Duration::from_secs(60);
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, minute, noon())
        .unwrap();
    assert!(
        mint.verify(&token, noon() + Duration::from_secs(59))
            .is_ok()
    );
    assert_eq!(
        mint.verify(&token, noon() + minute),
        Err(TokenRefused::Expired)
    );
}

#[test]
fn a_token_has_the_shape_of_the_services_own() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 5);
    assert_eq!(parts[1], "");
    assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 12);
    assert_eq!(URL_SAFE_NO_PAD.decode(parts[4]).unwrap().len(), 16);
    let header: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    assert_eq!(header["alg"], "dir");
    assert_eq!(header["enc"], "A256GCM");
    assert_eq!(header["kid"].as_str().unwrap().len(), 36);
    assert_eq!(header.as_object().unwrap().len(), 3);
}

#[test]
fn a_tokens_length_tells_nothing_of_its_ports() {
    let (_directory, mint) = mint();
    let many = ports((0..30).map(|step| (1000 + 2 * step, 1000 + 2 * step)));
    for ports in [AllowedPorts::All, ports([(80, 80)]), many] {
        let token = mint
            .mint(
                "microvm-01234567-89ab-cdef-0123-456789abcdef",
                &ports,
                HOUR,
                noon(),
            )
            .unwrap();
        assert_eq!(token.len(), 823);
    }
}

#[test]
fn ports_that_do_not_fit_are_refused_and_the_largest_that_do_verify() {
    let (_directory, mint) = mint();
    let scattered = |count: u16| ports((1..=count).map(|step| (2 * step, 2 * step)));
    assert_eq!(
        mint.mint("microvm-1", &scattered(2000), HOUR, noon()),
        Err(MintError::TooManyPorts)
    );
    let token = mint
        .mint("microvm-1", &scattered(500), HOUR, noon())
        .unwrap();
    assert!(token.len() <= MAX_TOKEN_LENGTH, "{}", token.len());
    assert!(mint.verify(&token, noon()).unwrap().ports.contains(1000));
}

#[test]
fn a_lifetime_out_of_bounds_is_refused() {
    let (_directory, mint) = mint();
    for lifetime in [Duration::ZERO, HOUR + Duration::from_secs(1)] {
        assert!(
            mint.mint("microvm-1", &AllowedPorts::All, lifetime, noon())
                .is_err()
        );
    }
}

#[test]
fn every_changed_character_makes_a_token_invalid() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    for index in 0..token.len() {
        for replacement in [b'A', b'B', b'.', b'=', b'-'] {
            let mut bytes = token.clone().into_bytes();
            if bytes[index] == replacement {
                continue;
            }
            bytes[index] = replacement;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(
                mint.verify(&changed, noon()),
                Err(TokenRefused::Invalid),
                "at {index}"
            );
        }
    }
}

#[test]
fn every_cut_or_lengthened_token_is_invalid() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    for length in 0..token.len() {
        assert_eq!(
            mint.verify(&token[..length], noon()),
            Err(TokenRefused::Invalid)
        );
    }
    for suffix in [".", "A", "=", " ", "\0", ".AAAA"] {
        assert_eq!(
            mint.verify(&format!("{token}{suffix}"), noon()),
            Err(TokenRefused::Invalid)
        );
    }
    let oversize = "A".repeat(MAX_TOKEN_LENGTH + 1);
    assert_eq!(mint.verify(&oversize, noon()), Err(TokenRefused::Invalid));
}

#[test]
fn other_algorithms_and_keys_are_invalid() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    let (_, rest) = token.split_once('.').unwrap();
    let header = URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap();
    let header = String::from_utf8(header).unwrap();
    let kid = &header[8..44];
    for forged in [
        format!(r#"{{"kid":"{kid}","alg":"none","enc":"A256GCM"}}"#),
        format!(r#"{{"kid":"{kid}","alg":"dir","enc":"none"}}"#),
        format!(r#"{{"kid":"{kid}","alg":"dir"}}"#),
        format!(r#"{{"kid":"{kid}","alg":"dir","enc":"A256GCM","zip":"DEF"}}"#),
        format!(r#"{{"enc":"A256GCM","kid":"{kid}","alg":"dir"}}"#),
        r#"{"kid":"00000000-0000-4000-8000-000000000000","alg":"dir","enc":"A256GCM"}"#.to_owned(),
        "null".to_owned(),
        String::new(),
    ] {
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(&forged));
        assert_eq!(
            mint.verify(&forged, noon()),
            Err(TokenRefused::Invalid),
            "{forged}"
        );
    }
    let (_other_directory, other) = self::mint();
    assert_eq!(other.verify(&token, noon()), Err(TokenRefused::Invalid));
}

#[test]
fn every_refusal_reads_the_same() {
    assert_eq!(
        TokenRefused::Invalid.to_string(),
        TokenRefused::Expired.to_string()
    );
}

#[test]
fn tokens_outlive_a_restart_and_a_rotation_but_not_their_keys_end() {
    let (directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    drop(mint);
    let mint = TokenMint::open(directory.path(), noon()).unwrap();
    mint.rotate(noon()).unwrap();
    assert!(mint.verify(&token, noon()).is_ok());
    let after = mint
        .mint("microvm-1", &AllowedPorts::All, HOUR, noon())
        .unwrap();
    assert_ne!(after.split('.').next(), token.split('.').next());
    drop(mint);
    let mint = TokenMint::open(directory.path(), noon()).unwrap();
    assert!(mint.verify(&token, noon()).is_ok());
    assert!(mint.verify(&after, noon()).is_ok());
    mint.rotate(noon() + HOUR + Duration::from_secs(1)).unwrap();
    assert_eq!(mint.verify(&token, noon()), Err(TokenRefused::Invalid));
    assert!(mint.verify(&after, noon()).is_ok());
}

#[test]
fn keys_are_rotated_when_they_are_old() {
    let (_directory, mint) = mint();
    assert!(
        !mint
            .rotate_when_due(noon() + KEY_LIFETIME - Duration::from_secs(1))
            .unwrap()
    );
    assert!(mint.rotate_when_due(noon() + KEY_LIFETIME).unwrap());
    assert!(!mint.rotate_when_due(noon() + KEY_LIFETIME).unwrap());
}

#[test]
fn the_key_file_is_private_and_a_damaged_one_is_left_alone() {
    let (directory, _mint) = mint();
    let path = directory.path().join("token-keys.json");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    for damage in ["", "{}", r#"{"keys":[]}"#] {
        fs::write(&path, damage).unwrap();
        let opened = TokenMint::open(directory.path(), noon());
        assert!(matches!(opened, Err(KeyRingError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), damage);
    }
}

/// Numbers from a fixed seed (xorshift).
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    }
}

#[test]
fn a_token_changed_anywhere_opens_nothing() {
    let (_directory, mint) = mint();
    let token = mint
        .mint("microvm-1", &ports([(80, 80)]), HOUR, noon())
        .unwrap();
    let mut number = numbers(0x9e37_79b9_7f4a_7c15);
    let alphabet = b"ABCabc019-_.=+/ {\x7f\xc3";
    for _ in 0..5000 {
        let mut bytes = token.clone().into_bytes();
        for _ in 0..=number(3) {
            let at = number(bytes.len());
            match number(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, alphabet[number(alphabet.len())]),
                2 => bytes.truncate(at.max(8)),
                _ => bytes[at] = alphabet[number(alphabet.len())],
            }
        }
        let changed = String::from_utf8_lossy(&bytes);
        if changed != token {
            assert_eq!(
                mint.verify(&changed, noon()),
                Err(TokenRefused::Invalid),
                "{changed}"
            );
        }
    }
}
