//! What each operation of CloudWatch Logs needs: an action of its name, on the groups or the stream
//! that its request names.

use colibri_iam::policy::Resource;
use serde_json::Value;

use super::Need;
use crate::logs::Operation;

/// Everything that a request needs. `prefix` is how the ARNs of log groups begin here. A body that
/// cannot be read names nothing; its operation refuses it.
pub(crate) fn needs(operation: Operation, body: &[u8], prefix: &str) -> Vec<Need> {
    let action = format!("logs:{}", operation.name());
    // Taken loosely: a member that the operation itself does not read must not hide another.
    let named: Value = serde_json::from_slice(body).unwrap_or_default();
    match operation {
        // Of all groups, as AWS writes it.
        Operation::DescribeLogGroups => {
            let all = Resource::new(format!("{prefix}:log-stream:"));
            vec![Need::new(action, all)]
        }
        Operation::CreateLogGroup
        | Operation::DeleteLogGroup
        | Operation::DescribeLogStreams
        | Operation::CreateLogStream
        | Operation::FilterLogEvents
        | Operation::StartLiveTail
        | Operation::PutRetentionPolicy
        | Operation::DeleteRetentionPolicy
        | Operation::ListTagsForResource
        | Operation::ListTagsLogGroup => {
            let group = |arn: String| Resource::new(&arn).or(format!("{arn}:*"));
            let needs = groups(&named, prefix).into_iter();
            needs.map(|arn| Need::new(&action, group(arn))).collect()
        }
        Operation::GetLogEvents | Operation::DeleteLogStream => {
            let stream = named["logStreamName"].as_str().unwrap_or_default();
            let stream = |arn: String| Resource::new(format!("{arn}:log-stream:{stream}"));
            let needs = groups(&named, prefix).into_iter();
            needs.map(|arn| Need::new(&action, stream(arn))).collect()
        }
    }
}

/// ARNs of every group that a request names, in whichever way; of one without a name where it names none.
fn groups(named: &Value, prefix: &str) -> Vec<String> {
    let one = ["logGroupName", "logGroupIdentifier", "resourceArn"];
    let many = named["logGroupIdentifiers"].as_array();
    let mut arns: Vec<String> = one
        .iter()
        .map(|member| &named[*member])
        .chain(many.into_iter().flatten())
        .filter_map(Value::as_str)
        .map(|name| {
            let name = name.strip_suffix(":*").unwrap_or(name);
            if name.starts_with("arn:") {
                name.to_owned()
            } else {
                format!("{prefix}{name}")
            }
        })
        .collect();
    if arns.is_empty() {
        arns.push(prefix.to_owned());
    }
    arns
}

#[cfg(test)]
mod tests {
    use super::needs;
    use crate::logs::Operation;

    const PREFIX: &str = "arn:aws:logs:us-east-1:000000000000:log-group:";

    fn arns(operation: Operation, body: &str) -> Vec<String> {
        let needs = needs(operation, body.as_bytes(), PREFIX);
        needs
            .iter()
            .map(|need| need.resource.arn().to_owned())
            .collect()
    }

    #[test]
    fn every_group_that_a_request_names_must_be_allowed() {
        let name = r#"{"logGroupName":"/a"}"#;
        let both = format!(r#"{{"logGroupName":"/a","logGroupIdentifier":"{PREFIX}/b:*"}}"#);
        let list = format!(r#"{{"logGroupIdentifiers":["/a","{PREFIX}/b"]}}"#);
        let a = format!("{PREFIX}/a");
        let b = format!("{PREFIX}/b");
        assert_eq!(
            arns(Operation::FilterLogEvents, name),
            std::slice::from_ref(&a)
        );
        assert_eq!(
            arns(Operation::FilterLogEvents, &both),
            [a.clone(), b.clone()]
        );
        assert_eq!(arns(Operation::StartLiveTail, &list), [a.clone(), b]);
        let odd = r#"{"logGroupName":"/a","resourceArn":5,"logGroupIdentifiers":[{}]}"#;
        assert_eq!(arns(Operation::FilterLogEvents, odd), [a]);
    }

    #[test]
    fn a_stream_is_named_below_its_group_and_nothing_is_never_everything() {
        let body = r#"{"logGroupName":"/a","logStreamName":"s"}"#;
        let stream = format!("{PREFIX}/a:log-stream:s");
        assert_eq!(arns(Operation::GetLogEvents, body), [stream]);
        assert_eq!(arns(Operation::DeleteLogGroup, "nonsense"), [PREFIX]);
    }
}
