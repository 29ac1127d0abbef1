//! ETags as S3 makes them: the MD5 of the bytes, or for a multipart object the MD5 of the parts' MD5s
//! and their number.

use s3s::crypto::{Checksum as _, Md5};

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The ETag of an object of parts with these ETags (MD5s in hexadecimal).
pub(crate) fn of_parts(parts: &[&str]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(&unhex(part));
    }
    format!("{}-{}", hex(&md5.finalize()), parts.len())
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_of_parts_is_the_one_that_s3_gives() {
        let part = hex(&Md5::checksum(b"hello"));
        assert_eq!(part, "5d41402abc4b2a76b9719d911017c592");
        // printf '5d41402abc4b2a76b9719d911017c592%.0s' 1 2 | xxd -r -p | md5sum
        assert_eq!(
            of_parts(&[&part, &part]),
            "616b22817b80eed9f65c3aa38cd29054-2"
        );
    }
}
