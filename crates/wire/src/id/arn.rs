//! The six fields of an ARN. What the resource field means is for the kinds of ARN to say.

/// Fields of an ARN, none of them checked but for being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArnFields<'a> {
    pub(super) partition: &'a str,
    pub(super) service: &'a str,
    pub(super) region: &'a str,
    pub(super) account: &'a str,
    pub(super) resource: &'a str,
}

/// Why a text is no ARN; `Display` is what the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedArn {
    /// It does not start as one.
    #[error("Malformed ARN - doesn't start with 'arn:'")]
    Start,
    /// It ends before the partition does.
    #[error("Malformed ARN - no AWS partition specified")]
    Partition,
    /// It ends before the service does.
    #[error("Malformed ARN - no service specified")]
    Service,
    /// It ends before the region does.
    #[error("Malformed ARN - no AWS region specified")]
    Region,
    /// It ends before the account does.
    #[error("Malformed ARN - no AWS account specified")]
    Account,
    /// It has no resource.
    #[error("Malformed ARN - no resource specified")]
    Resource,
}

pub(super) fn split(text: &str) -> Result<ArnFields<'_>, MalformedArn> {
    let rest = text.strip_prefix("arn:").ok_or(MalformedArn::Start)?;
    let (partition, rest) = rest.split_once(':').ok_or(MalformedArn::Partition)?;
    let (service, rest) = rest.split_once(':').ok_or(MalformedArn::Service)?;
    let (region, rest) = rest.split_once(':').ok_or(MalformedArn::Region)?;
    let (account, resource) = rest.split_once(':').ok_or(MalformedArn::Account)?;
    if partition.is_empty() {
        return Err(MalformedArn::Partition);
    }
    if service.is_empty() {
        return Err(MalformedArn::Service);
    }
    if resource.is_empty() {
        return Err(MalformedArn::Resource);
    }
    Ok(ArnFields {
        partition,
        service,
        region,
        account,
        resource,
    })
}
