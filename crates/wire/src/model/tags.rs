//! Shapes of the tag operations, whose front end Lambda shares between its resources. Constraints as the
//! published model states them; a test walks them against it (`tests/model_drift.rs`).

use super::common::{TAG_KEY, TAGGABLE_PATTERN, TAGS};
use super::{Shape, TextRule, member};

pub(super) static TAGGABLE_RESOURCE: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(10000),
    pattern: Some(&TAGGABLE_PATTERN),
});

pub(super) static TAG_KEY_LIST: Shape = Shape::List {
    element: &TAG_KEY,
    min: None,
    max: None,
};

pub(super) static LIST_TAGS_REQUEST: Shape =
    Shape::Structure(&[member("Resource", &TAGGABLE_RESOURCE).required().in_path()]);

pub(super) static LIST_TAGS_RESPONSE: Shape = Shape::Structure(&[member("Tags", &TAGS)]);

pub(super) static TAG_RESOURCE_REQUEST: Shape = Shape::Structure(&[
    member("Resource", &TAGGABLE_RESOURCE).required().in_path(),
    member("Tags", &TAGS).required(),
]);

pub(super) static UNTAG_RESOURCE_REQUEST: Shape = Shape::Structure(&[
    member("Resource", &TAGGABLE_RESOURCE).required().in_path(),
    member("TagKeys", &TAG_KEY_LIST)
        .required()
        .in_query("tagKeys"),
]);
