//! The tables against the published model that the AWS clients are generated from, and the typed
//! shapes against the tables.

use std::collections::{BTreeMap, BTreeSet};

use colibri_wire::check::run::SERVICE_DURATION_SECONDS;
use colibri_wire::model::{
    CORE_ERRORS, CORE_OPERATIONS, ERRORS, ErrorModel, Location, Member, OPERATIONS, OperationModel,
    Pattern, Shape, operations,
};
use colibri_wire::shape::connector::{
    ConnectorChangeResponse, GetNetworkConnectorResponse, ListNetworkConnectorVersionsResponse,
    ListNetworkConnectorsResponse, UpdateNetworkConnectorResponse,
};
use colibri_wire::shape::image::{
    DeleteMicrovmImageResponse, DeleteMicrovmImageVersionResponse, GetMicrovmImageBuildResponse,
    GetMicrovmImageResponse, ImageChangeResponse, ImageVersionDescription,
    ListManagedMicrovmImageVersionsResponse, ListManagedMicrovmImagesResponse,
    ListMicrovmImageBuildsResponse, ListMicrovmImageVersionsResponse, ListMicrovmImagesResponse,
};
use colibri_wire::shape::microvm::{AuthTokenResponse, ListMicrovmsResponse, MicrovmDescription};
use colibri_wire::shape::tag::ListTagsResponse;
use colibri_wire::{Operation, Request, Route};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Path of `service-2.json` of `lambda-microvms`, as botocore ships it.
const MICROVMS_MODEL: &str = "COLIBRI_LAMBDA_MICROVMS_MODEL";
/// Path of `service-2.json` of `lambda-core`.
const CORE_MODEL: &str = "COLIBRI_LAMBDA_CORE_MODEL";

/// Operations of `lambda-core` that are not served: managed runtimes of functions, of which Colibri has none.
const NOT_SERVED: &[&str] = &[
    "CreateRuntime",
    "CreateRuntimeAlias",
    "CreateRuntimeVersion",
    "DeleteRuntime",
    "DeleteRuntimeAlias",
    "DeleteRuntimeVersion",
    "GetRuntime",
    "GetRuntimeAlias",
    "GetRuntimeVersion",
    "ListRuntimeAliases",
    "ListRuntimeVersions",
    "ListRuntimes",
    "RestoreRuntime",
    "UpdateRuntime",
    "UpdateRuntimeAlias",
    "UpdateRuntimeVersion",
];
/// Errors of `lambda-core` that none but those operations give.
const NOT_GIVEN: &[&str] = &["ServiceQuotaExceededException"];

#[test]
#[ignore = "needs botocore's service-2.json of lambda-microvms, named by COLIBRI_LAMBDA_MICROVMS_MODEL"]
fn the_tables_say_what_the_published_model_says() {
    compare_models(MICROVMS_MODEL, OPERATIONS, ERRORS, &[], &[]);
}

#[test]
#[ignore = "needs botocore's service-2.json of lambda-core, named by COLIBRI_LAMBDA_CORE_MODEL"]
fn the_tables_of_the_connectors_say_what_the_published_model_says() {
    compare_models(
        CORE_MODEL,
        CORE_OPERATIONS,
        CORE_ERRORS,
        NOT_SERVED,
        NOT_GIVEN,
    );
}

/// Every operation and error of the model is in the tables, or on its list of what is left out, and no
/// other is.
fn compare_models(
    variable: &str,
    tables: &[OperationModel],
    errors_table: &[ErrorModel],
    not_served: &[&'static str],
    not_given: &[&'static str],
) {
    let path = std::env::var(variable).expect(variable);
    let text = std::fs::read_to_string(&path).expect("the model's file");
    let model: Value = serde_json::from_str(&text).expect("JSON");
    let operations = model["operations"].as_object().expect("operations");
    let ours: BTreeSet<&str> = tables
        .iter()
        .map(|ours| ours.operation.name())
        .chain(not_served.iter().copied())
        .collect();
    assert_eq!(ours, operations.keys().map(String::as_str).collect());
    for ours in tables {
        let name = ours.operation.name();
        let theirs = &operations[name];
        assert_eq!(theirs["http"]["method"], ours.method, "{name}");
        assert_eq!(theirs["http"]["requestUri"], ours.uri, "{name}");
        assert_eq!(theirs["http"]["responseCode"], ours.status, "{name}");
        compare(&model, &theirs["input"]["shape"], ours.input, name);
        match ours.output {
            Some(output) => compare(&model, &theirs["output"]["shape"], output, name),
            None => assert!(theirs["output"].is_null(), "{name}"),
        }
        let errors: BTreeSet<&str> = ours
            .errors
            .iter()
            .map(|error| error.model().wire_name)
            .collect();
        let listed = theirs["errors"].as_array().expect("errors");
        assert_eq!(
            errors,
            listed
                .iter()
                .filter_map(|error| error["shape"].as_str())
                .collect(),
            "{name}"
        );
    }
    let thrown = model["shapes"]
        .as_object()
        .expect("shapes")
        .iter()
        .filter(|(_, shape)| shape["exception"] == true);
    let thrown: BTreeMap<&str, &Value> =
        thrown.map(|(name, shape)| (name.as_str(), shape)).collect();
    let given: BTreeSet<&str> = errors_table
        .iter()
        .map(|ours| ours.wire_name)
        .chain(not_given.iter().copied())
        .collect();
    assert_eq!(given, thrown.keys().copied().collect());
    for ours in errors_table {
        let theirs = thrown[ours.wire_name];
        assert_eq!(
            theirs["error"]["httpStatusCode"], ours.status,
            "{}",
            ours.wire_name
        );
        compare(&model, &json!(ours.wire_name), ours.members, ours.wire_name);
    }
}

fn compare(model: &Value, name: &Value, ours: &Shape, at: &str) {
    let theirs = &model["shapes"][name.as_str().expect("a shape's name")];
    let bound = |value: Option<usize>| value.map_or(Value::Null, Value::from);
    let kind = match ours {
        Shape::Text(rule) => {
            assert_eq!(
                (&theirs["min"], &theirs["max"]),
                (&bound(rule.min), &bound(rule.max)),
                "{at}"
            );
            let pattern = rule
                .pattern
                .map_or(Value::Null, |pattern| json!(pattern.text()));
            assert_eq!(theirs["pattern"], pattern, "{at}");
            assert!(theirs["enum"].is_null(), "{at}");
            "string"
        }
        Shape::Choice(choices) => {
            assert_eq!(theirs["enum"], json!(choices), "{at}");
            "string"
        }
        Shape::Integer { min, max } => {
            // The one bound that is the operator's to set, and the service's by default.
            let max = match name.as_str() {
                Some("RunMicrovmRequestMaximumDurationInSecondsInteger") => {
                    Some(i64::from(SERVICE_DURATION_SECONDS))
                }
                _ => *max,
            };
            assert_eq!(
                (&theirs["min"], &theirs["max"]),
                (&json!(min), &json!(max)),
                "{at}"
            );
            "integer"
        }
        Shape::Long { min } => {
            assert_eq!(
                (&theirs["min"], &theirs["max"]),
                (&json!(min), &Value::Null),
                "{at}"
            );
            "long"
        }
        Shape::Boolean => "boolean",
        Shape::Timestamp => {
            assert!(theirs["timestampFormat"].is_null(), "{at}");
            "timestamp"
        }
        Shape::IsoTimestamp => {
            assert_eq!(theirs["timestampFormat"], "iso8601", "{at}");
            "timestamp"
        }
        Shape::List { element, min, max } => {
            assert_eq!(
                (&theirs["min"], &theirs["max"]),
                (&bound(*min), &bound(*max)),
                "{at}"
            );
            compare(
                model,
                &theirs["member"]["shape"],
                element,
                &format!("{at}[]"),
            );
            "list"
        }
        Shape::Map {
            key,
            value,
            min,
            max,
        } => {
            assert_eq!(
                (&theirs["min"], &theirs["max"]),
                (&bound(*min), &bound(*max)),
                "{at}"
            );
            compare(model, &theirs["key"]["shape"], key, &format!("{at}{{key}}"));
            compare(
                model,
                &theirs["value"]["shape"],
                value,
                &format!("{at}{{}}"),
            );
            "map"
        }
        Shape::Structure(members) | Shape::Union(members) => {
            assert_eq!(
                theirs["union"] == true,
                matches!(ours, Shape::Union(_)),
                "{at}"
            );
            compare_members(model, theirs, members, at);
            "structure"
        }
    };
    assert_eq!(theirs["type"], kind, "{at}");
}

fn compare_members(model: &Value, theirs: &Value, members: &[Member], at: &str) {
    let listed = theirs["members"].as_object().expect("members");
    let names: BTreeSet<&str> = members.iter().map(|member| member.name).collect();
    assert_eq!(names, listed.keys().map(String::as_str).collect(), "{at}");
    let required = theirs["required"].as_array().cloned().unwrap_or_default();
    for member in members {
        let at = format!("{at}.{}", member.name);
        let theirs = &listed[member.name];
        assert_eq!(
            required.contains(&json!(member.name)),
            member.required,
            "{at}"
        );
        let location = match member.location {
            Location::Body => (Value::Null, Value::Null),
            Location::Path => (json!("uri"), json!(member.name)),
            Location::Query(key) => (json!("querystring"), json!(key)),
            Location::Header(name) => (json!("header"), json!(name)),
        };
        assert_eq!(
            (theirs["location"].clone(), theirs["locationName"].clone()),
            location,
            "{at}"
        );
        compare(model, &theirs["shape"], member.shape, &at);
    }
}

/// A value with every member set, one for each choice of each union.
fn samples(shape: &Shape) -> Vec<Value> {
    match shape {
        Shape::Text(rule) => vec![text_sample(rule.pattern.map(Pattern::text))],
        Shape::Choice(choices) => choices.iter().map(|choice| json!(choice)).collect(),
        Shape::Integer { min, max } => vec![json!(max.or(*min).unwrap_or(7))],
        Shape::Long { .. } => vec![json!(i64::from(i32::MAX) + 1)],
        Shape::Boolean => vec![json!(true)],
        Shape::Timestamp => vec![json!(1_789_483_142.026)],
        Shape::IsoTimestamp => vec![json!("2026-09-15T14:39:02.026Z")],
        Shape::List { element, .. } => samples(element)
            .into_iter()
            .map(|sample| json!([sample]))
            .collect(),
        Shape::Map { key, value, .. } => {
            let key = samples(key).remove(0);
            let key = key.as_str().expect("a string").to_owned();
            samples(value)
                .into_iter()
                .map(|sample| json!({ key.clone(): sample }))
                .collect()
        }
        Shape::Structure(members) => {
            let choices: Vec<Vec<Value>> =
                members.iter().map(|member| samples(member.shape)).collect();
            let most = choices.iter().map(Vec::len).max().unwrap_or(1);
            let object = |index: usize| {
                let values = members.iter().zip(&choices);
                values
                    .map(|(member, choice)| {
                        (member.name.to_owned(), choice[index % choice.len()].clone())
                    })
                    .collect()
            };
            (0..most)
                .map(|index| Value::Object(object(index)))
                .collect()
        }
        Shape::Union(members) => members
            .iter()
            .flat_map(|member| {
                samples(member.shape)
                    .into_iter()
                    .map(|sample| json!({ member.name: sample }))
            })
            .collect(),
    }
}

fn text_sample(pattern: Option<&str>) -> Value {
    match pattern {
        Some(pattern) if pattern.starts_with("(arn:aws[a-zA-Z-]*:lambda") => {
            json!("arn:aws:lambda:us-east-1:000000000000:network-connector:nc-1:2")
        }
        Some(pattern) if pattern.starts_with("subnet-") => json!("subnet-1"),
        Some(pattern) if pattern.starts_with("sg-") => json!("sg-1"),
        Some(pattern) if pattern.contains("iam") => json!("arn:aws:iam::000000000000:role/r"),
        Some(pattern) if pattern.contains("microvm-image") => {
            json!("arn:aws:lambda:us-east-1:000000000000:microvm-image:a")
        }
        _ => json!("a"),
    }
}

#[test]
fn every_request_that_the_tables_allow_is_read_and_written_back_whole() {
    for model in operations() {
        for sample in samples(model.input) {
            let (mut path, mut query, mut body) = (model.uri.to_owned(), String::new(), json!({}));
            for member in model.input.members() {
                let value = &sample[member.name];
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), ToOwned::to_owned);
                match member.location {
                    Location::Path => {
                        let label = format!("{{{}}}", member.name);
                        path = path.replace(&label, &text.replace(':', "%3A"));
                    }
                    Location::Query(key) => {
                        let text = value[0].as_str().map_or(text, ToOwned::to_owned);
                        query += &format!("&{key}={text}");
                    }
                    _ => body[member.name] = value.clone(),
                }
            }
            let route = Route::find(model.method, &path).expect("a route");
            let request = Request::parse(route, Some(&query), body.to_string().as_bytes())
                .expect("a request");
            assert_eq!(request.operation(), model.operation);
            assert_eq!(written(&request), sample, "{:?}", model.operation);
        }
    }
}

fn written(request: &Request) -> Value {
    macro_rules! each {
        ($($name:ident),*) => {
            match request { $(Request::$name(request) => serde_json::to_value(request),)* }
        };
    }
    each!(
        CreateMicrovmAuthToken,
        CreateMicrovmImage,
        CreateMicrovmShellAuthToken,
        DeleteMicrovmImage,
        DeleteMicrovmImageVersion,
        GetMicrovm,
        GetMicrovmImage,
        GetMicrovmImageBuild,
        GetMicrovmImageVersion,
        ListManagedMicrovmImageVersions,
        ListManagedMicrovmImages,
        ListMicrovmImageBuilds,
        ListMicrovmImageVersions,
        ListMicrovmImages,
        ListMicrovms,
        ListTags,
        ResumeMicrovm,
        RunMicrovm,
        SuspendMicrovm,
        TagResource,
        TerminateMicrovm,
        UntagResource,
        UpdateMicrovmImage,
        UpdateMicrovmImageVersion,
        CreateNetworkConnector,
        DeleteNetworkConnector,
        GetNetworkConnector,
        ListNetworkConnectorVersions,
        ListNetworkConnectors,
        UpdateNetworkConnector
    )
    .expect("JSON")
}

#[test]
fn every_answer_has_the_members_of_the_tables_and_no_other() {
    answers::<AuthTokenResponse>(Operation::CreateMicrovmAuthToken);
    answers::<AuthTokenResponse>(Operation::CreateMicrovmShellAuthToken);
    answers::<ImageChangeResponse>(Operation::CreateMicrovmImage);
    answers::<ImageChangeResponse>(Operation::UpdateMicrovmImage);
    answers::<DeleteMicrovmImageResponse>(Operation::DeleteMicrovmImage);
    answers::<DeleteMicrovmImageVersionResponse>(Operation::DeleteMicrovmImageVersion);
    answers::<MicrovmDescription>(Operation::GetMicrovm);
    answers::<MicrovmDescription>(Operation::RunMicrovm);
    answers::<GetMicrovmImageResponse>(Operation::GetMicrovmImage);
    answers::<GetMicrovmImageBuildResponse>(Operation::GetMicrovmImageBuild);
    answers::<ImageVersionDescription>(Operation::GetMicrovmImageVersion);
    answers::<ImageVersionDescription>(Operation::UpdateMicrovmImageVersion);
    answers::<ListManagedMicrovmImageVersionsResponse>(Operation::ListManagedMicrovmImageVersions);
    answers::<ListManagedMicrovmImagesResponse>(Operation::ListManagedMicrovmImages);
    answers::<ListMicrovmImageBuildsResponse>(Operation::ListMicrovmImageBuilds);
    answers::<ListMicrovmImageVersionsResponse>(Operation::ListMicrovmImageVersions);
    answers::<ListMicrovmImagesResponse>(Operation::ListMicrovmImages);
    answers::<ListMicrovmsResponse>(Operation::ListMicrovms);
    answers::<ListTagsResponse>(Operation::ListTags);
    answers::<ConnectorChangeResponse>(Operation::CreateNetworkConnector);
    answers::<ConnectorChangeResponse>(Operation::DeleteNetworkConnector);
    answers::<GetNetworkConnectorResponse>(Operation::GetNetworkConnector);
    answers::<ListNetworkConnectorVersionsResponse>(Operation::ListNetworkConnectorVersions);
    answers::<ListNetworkConnectorsResponse>(Operation::ListNetworkConnectors);
    answers::<UpdateNetworkConnectorResponse>(Operation::UpdateNetworkConnector);
}

/// A full answer is read and written back whole; one with the required members only is read, and
/// written without a null.
fn answers<T: Serialize + DeserializeOwned>(operation: Operation) {
    let shape = operation.model().output.expect("an answer");
    for sample in samples(shape) {
        let answer: T = serde_json::from_value(sample.clone()).expect("an answer");
        assert_eq!(
            serde_json::to_value(&answer).expect("JSON"),
            sample,
            "{operation:?}"
        );
        let mut least = sample.as_object().expect("an object").clone();
        least.retain(|name, _| {
            shape
                .members()
                .iter()
                .any(|member| member.name == name && member.required)
        });
        if !least.is_empty() {
            let answer: T =
                serde_json::from_value(Value::Object(least.clone())).expect("an answer");
            assert_eq!(
                serde_json::to_value(&answer).expect("JSON"),
                Value::Object(least),
                "{operation:?}"
            );
        }
    }
}
