//! Why a policy document is refused.

/// A document that is no policy. `Display` says what is wrong with it, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than is read.
    #[error("the policy has {length} bytes; the most is {most}")]
    TooLong {
        /// Its length.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// Not JSON, or not of a policy's members.
    #[error("the policy is not understood: {0}")]
    Malformed(String),
    /// A version of the language that does not exist.
    #[error("the policy's Version is `{0}`; it must be 2012-10-17 or 2008-10-17")]
    Version(String),
    /// No statement.
    #[error("the policy has no Statement")]
    NoStatement,
    /// Two statements of the same name, or a name of other characters than letters and digits.
    #[error("the Sid `{0}` is not letters and digits, or two statements have it")]
    Sid(String),
    /// A statement lacks a member, has both of two that exclude each other, or one of the other kind
    /// of policy.
    #[error("statement {statement}: {problem}")]
    Statement {
        /// Which, counted from 1.
        statement: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// An action that is none.
    #[error("`{0}` is no action: it must be `*` or like `lambda:RunMicrovm` or `s3:Get*`")]
    Action(String),
    /// A resource that is none.
    #[error(
        "`{0}` is no resource: it must be `*` or an ARN, `arn:partition:service:region:account:…`"
    )]
    Resource(String),
    /// A principal that is none.
    #[error(
        "`{0}` is no principal: it must be `*`, an account's 12 digits, or an ARN of an account, a user or a role"
    )]
    Principal(String),
    /// A variable that cannot be read.
    #[error(
        "a policy variable in `{0}` is not like ${{aws:username}} or ${{aws:username, 'default'}}"
    )]
    Variable(String),
    /// An operator that is not known: it would be a condition that nobody checks.
    #[error(
        "`{0}` is no condition operator that is known here; the condition could not be checked"
    )]
    Operator(String),
    /// The same key twice in a block: one would be lost.
    #[error("`{0}` is there twice in the same object")]
    Twice(String),
    /// A value that its operator cannot compare.
    #[error("`{value}` is no value for {operator} of `{key}`: {expected}")]
    Value {
        /// The operator, as written.
        operator: String,
        /// The condition's key.
        key: String,
        /// The value.
        value: String,
        /// What would be one.
        expected: &'static str,
    },
}
