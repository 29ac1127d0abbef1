//! ARNs of log groups and streams, and the two ways in which a request may name a group.

use colibri_logs::{GroupName, StreamName};

use super::fault::LogsFault;

/// Region and account of everything that is logged.
#[derive(Debug, Clone)]
pub(crate) struct LogsPlace {
    prefix: String,
}

impl LogsPlace {
    pub(crate) fn new(region: &str, account: &str) -> Self {
        Self {
            prefix: format!("arn:aws:logs:{region}:{account}:log-group:"),
        }
    }

    /// How the ARN of every log group begins.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Without the trailing `:*`.
    pub(crate) fn group_arn(&self, group: &GroupName) -> String {
        format!("{}{group}", self.prefix)
    }

    pub(crate) fn stream_arn(&self, group: &GroupName, stream: &StreamName) -> String {
        format!("{}{group}:log-stream:{stream}", self.prefix)
    }

    /// The group of a name or an ARN. The trailing `:*` of `DescribeLogGroups`' `arn` is taken, too.
    pub(crate) fn group(&self, identifier: &str) -> Result<GroupName, LogsFault> {
        if !identifier.starts_with("arn:") {
            return Ok(GroupName::parse(identifier)?);
        }
        let name = identifier
            .strip_prefix(&self.prefix)
            .ok_or_else(|| {
                LogsFault::Invalid(format!(
                    "`{identifier}` is no log group of this account and region; their ARNs begin with {}",
                    self.prefix
                ))
            })?;
        Ok(GroupName::parse(name.strip_suffix(":*").unwrap_or(name))?)
    }

    /// The group of a request that has exactly one of the two members.
    pub(crate) fn group_of(
        &self,
        name: Option<&str>,
        identifier: Option<&str>,
    ) -> Result<GroupName, LogsFault> {
        match (name, identifier) {
            (Some(name), None) => Ok(GroupName::parse(name)?),
            (None, Some(identifier)) => self.group(identifier),
            _ => Err(LogsFault::Invalid(
                "exactly one of logGroupName and logGroupIdentifier must be given".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LogsPlace;

    #[test]
    fn a_group_is_named_by_its_name_or_its_arn_and_by_no_other_accounts() {
        let place = LogsPlace::new("us-east-1", "000000000000");
        let arn = "arn:aws:logs:us-east-1:000000000000:log-group:/a/b";
        for identifier in ["/a/b", arn, &format!("{arn}:*")] {
            assert_eq!(place.group(identifier).unwrap().as_str(), "/a/b");
        }
        for identifier in [
            "arn:aws:logs:us-east-1:111111111111:log-group:/a/b",
            "arn:aws:logs:us-east-1:000000000000:log-group:",
            "arn:aws:logs:us-east-1:000000000000:log-group:/a/b:log-stream:c",
        ] {
            assert!(place.group(identifier).is_err(), "{identifier}");
        }
        assert!(place.group_of(None, None).is_err());
        assert!(place.group_of(Some("a"), Some("a")).is_err());
    }
}
