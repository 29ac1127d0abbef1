//! `[microvms]` of the configuration as the control plane's choices.

use colibri_control::{IdleSignals, Settings as Choices, SuspendHookFailure as Failure};
use colibri_wire::check::run::{LifetimeBound, SERVICE_DURATION_SECONDS};

use crate::settings::{Microvms, SettingsError, SuspendHookFailure, parsed};

/// Longest lifetime that may be set, seconds: a year. Times are counted in milliseconds of 64 bits.
const LONGEST: u32 = 365 * 24 * 3600;

/// What the file says of MicroVMs' lives.
pub(crate) fn choose(settings: &Microvms, choices: &mut Choices) -> Result<(), SettingsError> {
    choices.lifetime = lifetime(settings)?;
    if let Some(words) = &settings.idle_signals {
        choices.idle_signals = parsed::<IdleSignals>("microvms.idle_signals", words)?;
    }
    choices.suspend_hook_failure = match settings.suspend_hook_failure {
        SuspendHookFailure::Terminate => Failure::Terminate,
        SuspendHookFailure::KeepRunning => Failure::KeepRunning,
    };
    if let Some(mib) = settings.keep_last_good_mib {
        choices.keep_last_good_mib = mib;
    }
    Ok(())
}

fn lifetime(settings: &Microvms) -> Result<LifetimeBound, SettingsError> {
    let maximum_seconds = settings
        .maximum_duration_seconds
        .unwrap_or(SERVICE_DURATION_SECONDS);
    let default_seconds = settings
        .default_duration_seconds
        .unwrap_or(SERVICE_DURATION_SECONDS.min(maximum_seconds));
    within(
        "microvms.maximum_duration_seconds",
        maximum_seconds,
        LONGEST,
    )?;
    within(
        "microvms.default_duration_seconds",
        default_seconds,
        maximum_seconds,
    )?;
    Ok(LifetimeBound {
        default_seconds,
        maximum_seconds,
    })
}

fn within(setting: &'static str, seconds: u32, most: u32) -> Result<(), SettingsError> {
    if (1..=most).contains(&seconds) {
        return Ok(());
    }
    Err(SettingsError::Refused {
        setting,
        problem: format!("it must be from 1 to {most} (it says {seconds})"),
    })
}

#[cfg(test)]
mod tests {
    use super::lifetime;
    use crate::settings::Microvms;

    fn bounds(maximum: Option<u32>, default: Option<u32>) -> Result<(u32, u32), String> {
        let settings = Microvms {
            maximum_duration_seconds: maximum,
            default_duration_seconds: default,
            ..Microvms::default()
        };
        lifetime(&settings)
            .map(|bound| (bound.default_seconds, bound.maximum_seconds))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lifetimes_are_the_services_unless_the_file_says_otherwise() {
        assert_eq!(bounds(None, None), Ok((28_800, 28_800)));
        assert_eq!(bounds(Some(604_800), None), Ok((28_800, 604_800)));
        assert_eq!(bounds(Some(60), None), Ok((60, 60)));
        assert_eq!(bounds(Some(604_800), Some(86_400)), Ok((86_400, 604_800)));
    }

    #[test]
    fn a_lifetime_that_cannot_be_is_refused_by_name() {
        for (maximum, default) in [
            (Some(0), None),
            (None, Some(28_801)),
            (Some(u32::MAX), None),
        ] {
            let refusal = bounds(maximum, default).err();
            assert!(
                refusal.is_some_and(|text| text.contains("microvms.") && text.contains("from 1"))
            );
        }
    }
}
