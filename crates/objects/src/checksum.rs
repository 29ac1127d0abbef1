//! The five checksum algorithms of S3: which one a request uses, and the checksum of a multipart
//! object out of those of its parts. Not for ETags (MD5), and not for signatures.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crc_fast::CrcAlgorithm;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
use s3s::dto;
use serde::{Deserialize, Serialize};

/// Checksums by algorithm, as S3 prints them: base64, with `-<parts>` after a composite one.
pub(crate) type Checksums = BTreeMap<Algorithm, String>;

/// An algorithm of `x-amz-checksum-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// The name in `x-amz-checksum-algorithm`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// From a header or trailer name such as `x-amz-checksum-crc32`.
    pub(crate) fn from_header(header: &str) -> Option<Self> {
        header
            .trim()
            .to_ascii_lowercase()
            .strip_prefix("x-amz-checksum-")
            .and_then(Self::from_name)
    }

    /// Whether the checksum of a whole can be had from those of its parts.
    fn crc(self) -> Option<(CrcAlgorithm, usize)> {
        match self {
            Self::Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
            Self::Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
            Self::Crc64Nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// What a multipart upload with this algorithm gets when it names no type; the table of
    /// "Checking object integrity" in the S3 user guide.
    pub(crate) fn default_kind(self) -> Kind {
        if self == Self::Crc64Nvme {
            Kind::FullObject
        } else {
            Kind::Composite
        }
    }

    pub(crate) fn allows(self, kind: Kind) -> bool {
        match kind {
            Kind::FullObject => self.crc().is_some(),
            Kind::Composite => self != Self::Crc64Nvme,
        }
    }
}

/// What a multipart object's checksum is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Kind {
    /// Its bytes.
    FullObject,
    /// The checksums of its parts.
    Composite,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FullObject => dto::ChecksumType::FULL_OBJECT,
            Self::Composite => dto::ChecksumType::COMPOSITE,
        }
    }

    pub(crate) fn dto(self) -> dto::ChecksumType {
        dto::ChecksumType::from_static(self.name())
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A hasher for some algorithms at once.
pub(crate) fn hasher(algorithms: impl IntoIterator<Item = Algorithm>) -> ChecksumHasher {
    let mut hasher = ChecksumHasher::default();
    for algorithm in algorithms {
        match algorithm {
            Algorithm::Crc32 => hasher.crc32 = Some(Crc32::new()),
            Algorithm::Crc32c => hasher.crc32c = Some(Crc32c::new()),
            Algorithm::Crc64Nvme => hasher.crc64nvme = Some(Crc64Nvme::new()),
            Algorithm::Sha1 => hasher.sha1 = Some(Sha1::new()),
            Algorithm::Sha256 => hasher.sha256 = Some(Sha256::new()),
        }
    }
    hasher
}

/// What a hasher found.
pub(crate) fn finish(hasher: ChecksumHasher) -> Checksums {
    let sums = hasher.finalize();
    named(
        sums.checksum_crc32,
        sums.checksum_crc32c,
        sums.checksum_crc64nvme,
        sums.checksum_sha1,
        sums.checksum_sha256,
    )
}

/// Collects the five members that every S3 shape spells out.
pub(crate) fn named(
    crc32: Option<String>,
    crc32c: Option<String>,
    crc64nvme: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
) -> Checksums {
    [
        (Algorithm::Crc32, crc32),
        (Algorithm::Crc32c, crc32c),
        (Algorithm::Crc64Nvme, crc64nvme),
        (Algorithm::Sha1, sha1),
        (Algorithm::Sha256, sha256),
    ]
    .into_iter()
    .filter_map(|(algorithm, sum)| Some((algorithm, sum?)))
    .collect()
}

/// The checksum of the concatenation of `parts` (checksum, length in bytes), or `None` when a part
/// has none or the algorithm does not allow the kind.
pub(crate) fn combine(
    algorithm: Algorithm,
    kind: Kind,
    parts: &[(Option<&str>, u64)],
) -> Option<String> {
    if !algorithm.allows(kind) {
        return None;
    }
    match kind {
        Kind::Composite => composite(algorithm, parts),
        Kind::FullObject => full_object(algorithm, parts),
    }
}

fn composite(algorithm: Algorithm, parts: &[(Option<&str>, u64)]) -> Option<String> {
    let mut hasher = hasher([algorithm]);
    for (sum, _) in parts {
        hasher.update(&STANDARD.decode((*sum)?).ok()?);
    }
    let sum = finish(hasher).remove(&algorithm)?;
    Some(format!("{sum}-{}", parts.len()))
}

fn full_object(algorithm: Algorithm, parts: &[(Option<&str>, u64)]) -> Option<String> {
    let (crc, width) = algorithm.crc()?;
    let mut whole: Option<u64> = None;
    for (sum, length) in parts {
        let part = crc_value(&STANDARD.decode((*sum)?).ok()?, width)?;
        whole = Some(match whole {
            None => part,
            Some(before) => crc_fast::checksum_combine(crc, before, part, *length),
        });
    }
    Some(STANDARD.encode(&whole?.to_be_bytes()[8 - width..]))
}

fn crc_value(bytes: &[u8], width: usize) -> Option<u64> {
    (bytes.len() == width).then(|| {
        bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(data: &[u8]) -> Checksums {
        let mut hasher = hasher(Algorithm::ALL);
        hasher.update(data);
        finish(hasher)
    }

    #[test]
    fn a_full_object_checksum_of_parts_is_that_of_their_concatenation() {
        let (first, second, third) = (vec![1_u8; 5000], b"short".to_vec(), vec![9_u8; 77]);
        let parts = [sums(&first), sums(&second), sums(&third)];
        let whole = sums(&[first.clone(), second.clone(), third.clone()].concat());
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let lengths = [first.len(), second.len(), third.len()];
            let listed: Vec<_> = parts
                .iter()
                .zip(lengths)
                .map(|(part, length)| (Some(part[&algorithm].as_str()), length as u64))
                .collect();
            let combined = combine(algorithm, Kind::FullObject, &listed);
            assert_eq!(
                combined.as_ref(),
                Some(&whole[&algorithm]),
                "{}",
                algorithm.name()
            );
        }
    }

    #[test]
    fn a_composite_checksum_names_the_number_of_parts() {
        let part = sums(b"x");
        let listed = [(Some(part[&Algorithm::Sha256].as_str()), 1); 2];
        let combined = combine(Algorithm::Sha256, Kind::Composite, &listed);
        assert!(combined.is_some_and(|sum| sum.ends_with("=-2")));
    }

    #[test]
    fn a_full_object_hash_cannot_be_had_from_parts() {
        assert_eq!(
            combine(Algorithm::Sha256, Kind::FullObject, &[(Some(""), 1)]),
            None
        );
    }

    #[test]
    fn header_names_are_told_apart() {
        assert_eq!(
            Algorithm::from_header("X-Amz-Checksum-Crc64nvme"),
            Some(Algorithm::Crc64Nvme)
        );
        assert_eq!(Algorithm::from_header("x-amz-checksum-xxhash64"), None);
    }
}
