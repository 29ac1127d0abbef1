//! How long a log group's events are kept.

use colibri_logs::GroupName;

use super::Call;
use super::fault::LogsFault;
use super::shapes::{LogGroupRequest, PutRetentionPolicyRequest};

/// The days that can be chosen. CloudWatch Logs API: `PutRetentionPolicy`, `retentionInDays`.
const DAYS: [u32; 22] = [
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922,
    3288, 3653,
];

/// `PutRetentionPolicy`.
pub(crate) fn put(call: &Call, request: &PutRetentionPolicyRequest) -> Result<(), LogsFault> {
    let name = GroupName::parse(&request.log_group_name)?;
    let days = u32::try_from(request.retention_in_days)
        .ok()
        .filter(|days| DAYS.contains(days))
        .ok_or_else(|| {
            LogsFault::Invalid(format!(
                "1 validation error detected: Value '{}' at 'retentionInDays' failed to satisfy constraint: \
                 Member must be one of {DAYS:?}",
                request.retention_in_days
            ))
        })?;
    Ok(call.logs.set_retention(&name, Some(days))?)
}

/// `DeleteRetentionPolicy`: back to the retention of groups that have none of their own.
pub(crate) fn delete(call: &Call, request: &LogGroupRequest) -> Result<(), LogsFault> {
    let name = GroupName::parse(&request.log_group_name)?;
    Ok(call.logs.set_retention(&name, None)?)
}
