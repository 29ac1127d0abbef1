//! Bounds of members, with the messages of a service that says which.

use super::fault::LogsFault;

/// A limit from 1 to `most`; `most` when it is not given.
pub(crate) fn limit(given: Option<i64>, most: usize) -> Result<usize, LogsFault> {
    let Some(given) = given else {
        return Ok(most);
    };
    usize::try_from(given)
        .ok()
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| {
            LogsFault::Invalid(format!(
                "1 validation error detected: Value '{given}' at 'limit' failed to satisfy constraint: Member \
                 must be from 1 to {most}"
            ))
        })
}

/// A time, milliseconds since 1970.
pub(crate) fn time(member: &str, given: Option<i64>) -> Result<Option<i64>, LogsFault> {
    match given {
        Some(given) if given < 0 => Err(LogsFault::Invalid(format!(
            "1 validation error detected: Value '{given}' at '{member}' failed to satisfy constraint: Member \
             must have value greater than or equal to 0"
        ))),
        given => Ok(given),
    }
}

/// Both ends of a range of time.
pub(crate) fn range(
    start: Option<i64>,
    end: Option<i64>,
) -> Result<(Option<i64>, Option<i64>), LogsFault> {
    let range = (time("startTime", start)?, time("endTime", end)?);
    if let (Some(start), Some(end)) = range
        && start > end
    {
        return Err(LogsFault::Invalid(format!(
            "startTime {start} must not be after endTime {end}"
        )));
    }
    Ok(range)
}

/// A member whose meaning Colibri does not have: refused rather than ignored.
pub(crate) fn unsupported(member: &str, asked: bool) -> Result<(), LogsFault> {
    if asked {
        return Err(LogsFault::Invalid(format!(
            "Colibri does not support `{member}`; leave it out"
        )));
    }
    Ok(())
}
