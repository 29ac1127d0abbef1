//! What a policy is asked: may this be done to that, in these circumstances?

use std::collections::BTreeMap;

/// Circumstances of a request by the names that conditions give them (`aws:SourceIp`). Names are
/// compared in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    values: BTreeMap<String, Vec<String>>,
}

impl Context {
    /// Sets a key of one value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_lowercase(), vec![value.into()]);
    }

    /// Sets a key of any number of values, as `aws:TagKeys`. None at all is a key that is not there.
    pub fn set_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if values.is_empty() {
            self.values.remove(&key.to_lowercase());
        } else {
            self.values.insert(key.to_lowercase(), values);
        }
    }

    /// Takes over every key of another.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
    }

    /// The values of a key, given in lower case.
    pub(super) fn all(&self, key: &str) -> Option<&[String]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// The value of a key that has one only.
    pub(super) fn single(&self, key: &str) -> Option<&str> {
        match self.all(key)? {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    arn: String,
    forms: Vec<String>,
}

impl Resource {
    /// A resource by its ARN.
    #[must_use]
    pub fn new(arn: impl Into<String>) -> Self {
        Self {
            arn: arn.into(),
            forms: Vec::new(),
        }
    }

    /// Everything: what operations that name no resource act on.
    #[must_use]
    pub fn any() -> Self {
        Self::new("*")
    }

    /// The same resource under another ARN: an image's version is the image as well.
    #[must_use]
    pub fn or(mut self, arn: impl Into<String>) -> Self {
        self.forms.push(arn.into());
        self
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Every ARN that it goes by.
    pub(super) fn forms(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.arn)
            .chain(&self.forms)
            .map(String::as_str)
    }
}

/// A question to policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is done: `lambda:RunMicrovm`.
    pub action: String,
    /// On what.
    pub resource: Resource,
    /// In which circumstances.
    pub context: Context,
}
