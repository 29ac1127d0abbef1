//! Members that several operations share.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that never shows in logs: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive<T>(pub T);

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(sensitive)")
    }
}

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;

/// `{}` on the wire: a union's member without content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Logging {
    /// Nowhere.
    Disabled(Unit),
    /// CloudWatch Logs.
    CloudWatch(CloudWatchLogging),
}

/// Names in CloudWatch Logs; each has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudWatchLogging {
    /// Log group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_group: Option<String>,
    /// Log stream, used verbatim for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_stream: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// Continues the list; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
    /// The page's items; may be none on a page that is not the last.
    pub items: Vec<T>,
}

/// How much of a list is wanted; part of every list request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paging {
    /// Most items wanted, 1 to 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_results: Option<u32>,
    /// Continues an earlier page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

impl Paging {
    /// Items on a page when the request does not say; the model's maximum.
    pub const DEFAULT_RESULTS: usize = 50;

    /// Most items that the page may have.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.max_results
            .and_then(|wanted| usize::try_from(wanted).ok())
            .unwrap_or(Self::DEFAULT_RESULTS)
    }
}

/// Architecture of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Architecture {
    /// 64-bit ARM.
    #[serde(rename = "ARM_64")]
    Arm64,
    /// 64-bit x86.
    #[serde(rename = "X86_64")]
    X86_64,
}

/// Maker of the processors that a build is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Chipset {
    /// AWS Graviton.
    Graviton,
    /// Intel.
    Intel,
}

/// Switch of a lifecycle hook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HookState {
    /// Never called.
    #[default]
    Disabled,
    /// Called.
    Enabled,
}

#[cfg(test)]
mod tests {
    use super::{Logging, Sensitive, Unit};

    #[test]
    fn an_empty_member_of_a_union_is_written_as_an_empty_object() {
        let text = serde_json::to_string(&Logging::Disabled(Unit {})).expect("JSON");
        assert_eq!(text, r#"{"disabled":{}}"#);
    }

    #[test]
    fn a_sensitive_value_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Sensitive("hunter2")), "(sensitive)");
    }
}
