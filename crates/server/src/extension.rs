//! What a call can say in a header that the service does not have: the signature must cover it.

use colibri_control::IfDamaged;
use colibri_wire::ApiError;
use http::HeaderMap;

/// Of `ResumeMicrovm`: what to do where the MicroVM's suspension turns out to be damaged.
pub(crate) const IF_DAMAGED: &str = "x-colibri-if-damaged";

/// What the header says; nothing is done without it.
pub(crate) fn if_damaged(headers: &HeaderMap) -> Result<IfDamaged, ApiError> {
    let mut said = headers.get_all(IF_DAMAGED).iter();
    match (said.next().map(http::HeaderValue::as_bytes), said.next()) {
        (None, _) => Ok(IfDamaged::Refuse),
        (Some(b"previous"), None) => Ok(IfDamaged::GoBack),
        _ => Err(ApiError::validation(
            "The header X-Colibri-If-Damaged can say `previous`, once, and nothing else",
        )),
    }
}

#[cfg(test)]
mod tests {
    use colibri_control::IfDamaged;
    use http::{HeaderMap, HeaderValue};

    use super::{IF_DAMAGED, if_damaged};

    #[test]
    fn only_the_one_word_goes_back_and_another_is_refused() {
        let said = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_DAMAGED, HeaderValue::from_static(value));
            }
            if_damaged(&headers).ok()
        };
        assert_eq!(said(&[]), Some(IfDamaged::Refuse));
        assert_eq!(said(&["previous"]), Some(IfDamaged::GoBack));
        for wrong in [
            &["Previous"][..],
            &["yes"],
            &[""],
            &["previous", "previous"],
        ] {
            assert_eq!(said(wrong), None);
        }
    }
}
