//! The three operations on tags.

use std::collections::HashMap;

use aws_sdk_lambdamicrovms::Client;

use crate::FIRST;
use crate::report::{Outcome, check, equal};

/// The tags that `first` is made with.
pub const TAGS: [(&str, &str); 2] = [
    ("team", "conformance"),
    ("a key:with/odd=+chars@._-", "välue"),
];

/// Lists, adds and takes away.
pub async fn drive(api: &Client) {
    check("ListTags", tagged(api, &TAGS)).await;
    check("TagResource", tag(api)).await;
    check("UntagResource", untag(api)).await;
}

async fn tagged(api: &Client, expected: &[(&str, &str)]) -> Outcome {
    let answer = api.list_tags().resource(FIRST).send().await?;
    let expected = expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    equal(
        "tags",
        answer.tags(),
        Some(&expected.collect::<HashMap<_, _>>()),
    )
}

async fn tag(api: &Client) -> Outcome {
    let call = api.tag_resource().resource(FIRST);
    call.tags("team", "other").tags("extra", "").send().await?;
    tagged(api, &[("team", "other"), TAGS[1], ("extra", "")]).await
}

async fn untag(api: &Client) -> Outcome {
    let call = api.untag_resource().resource(FIRST);
    call.tag_keys(TAGS[0].0).tag_keys(TAGS[1].0).send().await?;
    tagged(api, &[("extra", "")]).await
}
