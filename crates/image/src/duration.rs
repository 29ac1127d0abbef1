//! Durations as the API's sentences spell them: ISO 8601, `PT5M`, `PT1H0.5S`.
//! Not a general ISO 8601 library: days and longer units never occur here.

use std::fmt::Write as _;
use std::time::Duration;

/// Spells a duration as the live service does: hours, minutes and seconds that are not zero
/// (`PT5M`, `PT1M30S`, `PT1H`), `PT0S` for none.
pub(crate) fn iso8601(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = duration.subsec_millis();
    let mut text = String::from("PT");
    if hours > 0 {
        let _ = write!(text, "{hours}H");
    }
    if minutes > 0 {
        let _ = write!(text, "{minutes}M");
    }
    if millis > 0 {
        let fraction = format!("{millis:03}");
        let _ = write!(text, "{rest}.{}S", fraction.trim_end_matches('0'));
    } else if rest > 0 || text == "PT" {
        let _ = write!(text, "{rest}S");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::iso8601;
    use std::time::Duration;

    #[test]
    fn a_duration_reads_as_the_live_service_spells_it() {
        for (seconds, text) in [
            (300, "PT5M"),
            (600, "PT10M"),
            (3600, "PT1H"),
            (30, "PT30S"),
            (90, "PT1M30S"),
            (3601, "PT1H1S"),
            (0, "PT0S"),
        ] {
            assert_eq!(iso8601(Duration::from_secs(seconds)), text);
        }
        assert_eq!(iso8601(Duration::from_millis(1500)), "PT1.5S");
    }
}
