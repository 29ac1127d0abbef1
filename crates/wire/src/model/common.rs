//! Shapes that several groups of operations share. Constraints as the published model states them; a
//! test walks them against it (`tests/model_drift.rs`).

use super::{Pattern, Shape, TextRule, member};

pub(super) static IMAGE_ARN_PATTERN: Pattern =
    Pattern::new(r"arn:[a-z0-9-]+:lambda:[a-z0-9-]*:[a-z0-9]*:microvm-image:.+");

pub(super) static LOG_GROUP: Pattern = Pattern::new(r"[a-zA-Z0-9_\-/.#]+");

pub(super) static LOG_STREAM: Pattern = Pattern::new(r"[^:*]*");

pub(super) static NAME: Pattern = Pattern::new(r"[a-zA-Z0-9-_]+");

pub(super) static NO_WHITESPACE: Pattern = Pattern::new(r"[^\s]+");

pub(super) static ROLE_ARN_PATTERN: Pattern =
    Pattern::new(r"arn:aws[a-z\-]*:iam::[0-9]{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+");

pub(super) static TAGGABLE_PATTERN: Pattern = Pattern::new(
    r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector|microvm-image):[a-zA-Z0-9-_]+)",
);

pub(super) static TAG_PATTERN: Pattern = Pattern::new(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)");

pub(super) static PORT_NUMBER: Shape = Shape::Integer {
    min: Some(1),
    max: Some(65535),
};

pub(super) static UNIT: Shape = Shape::Structure(&[]);

pub(super) static NON_BLANK_STRING: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(2048),
    pattern: Some(&NO_WHITESPACE),
});

pub(super) static VERSION: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(2048),
    pattern: Some(&NO_WHITESPACE),
});

pub(super) static ROLE_ARN: Shape = Shape::Text(TextRule {
    min: Some(20),
    max: Some(2048),
    pattern: Some(&ROLE_ARN_PATTERN),
});

pub(super) static STRING: Shape = Shape::Text(TextRule {
    min: None,
    max: None,
    pattern: None,
});

pub(super) static CLOUD_WATCH_LOGGING_LOG_GROUP_STRING: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(512),
    pattern: Some(&LOG_GROUP),
});

pub(super) static CLOUD_WATCH_LOGGING_LOG_STREAM_STRING: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(512),
    pattern: Some(&LOG_STREAM),
});

pub(super) static CLOUD_WATCH_LOGGING: Shape = Shape::Structure(&[
    member("logGroup", &CLOUD_WATCH_LOGGING_LOG_GROUP_STRING),
    member("logStream", &CLOUD_WATCH_LOGGING_LOG_STREAM_STRING),
]);

pub(super) static LOGGING: Shape = Shape::Union(&[
    member("disabled", &UNIT),
    member("cloudWatch", &CLOUD_WATCH_LOGGING),
]);

pub(super) static NETWORK_CONNECTOR: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(2048),
    pattern: None,
});

pub(super) static INTEGER: Shape = Shape::Integer {
    min: None,
    max: None,
};

pub(super) static TAG_KEY: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(128),
    pattern: Some(&TAG_PATTERN),
});

pub(super) static TAG_VALUE: Shape = Shape::Text(TextRule {
    min: Some(0),
    max: Some(256),
    pattern: Some(&TAG_PATTERN),
});

pub(super) static TAGS: Shape = Shape::Map {
    key: &TAG_KEY,
    value: &TAG_VALUE,
    min: None,
    max: None,
};

pub(super) static CLIENT_TOKEN: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(128),
    pattern: None,
});

pub(super) static TIMESTAMP: Shape = Shape::Timestamp;

pub(super) static MICROVM_IMAGE_IDENTIFIER: Shape = Shape::Text(TextRule {
    min: Some(1),
    max: Some(256),
    pattern: None,
});

pub(super) static MAX_RESULTS: Shape = Shape::Integer {
    min: Some(1),
    max: Some(50),
};
