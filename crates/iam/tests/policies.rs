//! What policies are read as, refused for, and say to requests.

use std::sync::Arc;

use colibri_iam::policy::{
    Caller, Context, Decision, NamedPolicy, PolicyDocument, PolicySet, Request, Resource, Source,
    Trust, TrustPolicy, evaluate,
};
use serde_json::{Value, json};

const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:hello";

fn document(statements: &Value) -> Arc<PolicyDocument> {
    let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    Arc::new(PolicyDocument::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn set(statements: &Value) -> PolicySet {
    PolicySet {
        identity: vec![NamedPolicy {
            name: "p".to_owned(),
            document: document(statements),
        }],
        session: None,
    }
}

fn request(action: &str, resource: &str, context: &[(&str, &str)]) -> Request {
    let mut request = Request {
        action: action.to_owned(),
        resource: Resource::new(resource),
        context: Context::default(),
    };
    for (key, value) in context {
        request.context.set(key, *value);
    }
    request
}

fn allows(statements: &Value, action: &str, resource: &str) -> bool {
    evaluate(&set(statements), &request(action, resource, &[])).is_allowed()
}

/// Whether a condition holds in a context, as an Allow and as a Deny see it.
fn holds(condition: &Value, context: &Context) -> bool {
    let statement =
        json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition});
    let mut request = request("lambda:RunMicrovm", IMAGE, &[]);
    request.context = context.clone();
    evaluate(&set(&statement), &request).is_allowed()
}

#[test]
fn nothing_is_allowed_by_default_and_a_deny_beats_every_allow() {
    let run = request("lambda:RunMicrovm", IMAGE, &[]);
    let nothing = evaluate(&PolicySet::default(), &run);
    assert_eq!(nothing, Decision::NotAllowed(Source::Identity));
    let both = json!([
        {"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Sid": "NoRun", "Effect": "Deny", "Action": "lambda:Run*", "Resource": "*"},
    ]);
    match evaluate(&set(&both), &run) {
        Decision::Denied(Source::Identity, statement) => {
            assert_eq!(
                (
                    statement.number,
                    statement.sid.as_deref(),
                    statement.policy.as_str()
                ),
                (2, Some("NoRun"), "p")
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(allows(&both, "lambda:GetMicrovm", IMAGE));
}

#[test]
fn actions_are_compared_in_any_case_and_resources_in_their_own() {
    let statement = |action: &str, resource: &str| json!({"Effect": "Allow", "Action": action, "Resource": resource});
    for (action, resource, allowed) in [
        ("lambda:RunMicrovm", IMAGE, true),
        ("LAMBDA:runmicrovm", IMAGE, true),
        ("lambda:*Microvm", IMAGE, true),
        ("lambda:Ru?Microvm", "*", true),
        ("lambda:RunMicrov", IMAGE, false),
        ("s3:*", "*", false),
        (
            "lambda:RunMicrovm",
            "arn:aws:lambda:*:*:microvm-image:h*",
            true,
        ),
        (
            "lambda:RunMicrovm",
            "arn:aws:lambda:us-east-1:000000000000:microvm-image:Hello",
            false,
        ),
        (
            "lambda:RunMicrovm",
            "arn:aws:lambda:us-east-1:000000000000:microvm-image:hello:*",
            false,
        ),
    ] {
        let found = allows(&statement(action, resource), "lambda:RunMicrovm", IMAGE);
        assert_eq!(found, allowed, "{action} {resource}");
    }
}

#[test]
fn a_resource_of_two_forms_is_covered_by_either() {
    let run = Request {
        resource: Resource::new(IMAGE).or(format!("{IMAGE}:1.0")),
        ..request("lambda:RunMicrovm", IMAGE, &[])
    };
    let decide = |effect: &str, element: &str, resource: &str| {
        let statements = json!([
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": effect, "Action": "*", element: resource},
        ]);
        let statements = if effect == "Allow" {
            json!([statements[1]])
        } else {
            statements
        };
        evaluate(&set(&statements), &run).is_allowed()
    };
    for form in [
        IMAGE.to_owned(),
        format!("{IMAGE}:*"),
        format!("{IMAGE}:1.0"),
    ] {
        assert!(decide("Allow", "Resource", &form), "{form}");
        assert!(!decide("Deny", "Resource", &form), "{form}");
        assert!(!decide("Allow", "NotResource", &form), "{form}");
        assert!(decide("Deny", "NotResource", &form), "{form}");
    }
    assert!(!decide("Allow", "Resource", &format!("{IMAGE}:2.0")));
}

#[test]
fn what_is_excepted_is_not_allowed_by_the_exception() {
    let statement = json!({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"});
    assert!(allows(&statement, "lambda:RunMicrovm", IMAGE));
    assert!(!allows(
        &statement,
        "iam:PassRole",
        "arn:aws:iam::000000000000:role/x"
    ));
}

#[test]
fn a_sessions_policy_only_takes_away() {
    let mut policies = set(&json!({"Effect": "Allow", "Action": "lambda:*", "Resource": "*"}));
    policies.session = Some(document(
        &json!({"Effect": "Allow", "Action": ["lambda:Get*", "s3:*"], "Resource": "*"}),
    ));
    let decide = |action: &str| evaluate(&policies, &request(action, "*", &[]));
    assert!(decide("lambda:GetMicrovm").is_allowed());
    assert_eq!(
        decide("lambda:RunMicrovm"),
        Decision::NotAllowed(Source::Session)
    );
    assert_eq!(
        decide("s3:GetObject"),
        Decision::NotAllowed(Source::Identity)
    );
}

#[test]
fn operators_compare_what_they_are_for() {
    let mut context = Context::default();
    context.set("s", "Green");
    context.set("n", "10");
    context.set("d", "2026-11-25T12:00:00Z");
    context.set("b", "true");
    context.set("ip", "192.0.2.7");
    context.set("arn", "arn:aws:iam::000000000000:user/ana");
    for (condition, expected) in [
        (json!({"StringEquals": {"s": ["Red", "Green"]}}), true),
        (json!({"StringEquals": {"S": "green"}}), false),
        (json!({"StringEquals": {"s": "G*"}}), false),
        (json!({"StringEqualsIgnoreCase": {"s": "green"}}), true),
        (json!({"StringLike": {"s": "G*"}}), true),
        (json!({"StringNotLike": {"s": ["R*", "G*"]}}), false),
        (json!({"StringNotEquals": {"s": ["Red", "Blue"]}}), true),
        (json!({"NumericLessThan": {"n": 11}}), true),
        (json!({"NumericLessThan": {"n": "9"}}), false),
        (json!({"NumericEquals": {"n": "10.0"}}), true),
        (json!({"NumericNotEquals": {"n": [9, 10]}}), false),
        (json!({"NumericGreaterThanEquals": {"s": 1}}), false),
        (json!({"DateGreaterThan": {"d": "2026-11-25"}}), true),
        (
            json!({"DateLessThanEquals": {"d": "2026-11-25T11:59:59Z"}}),
            false,
        ),
        (json!({"DateGreaterThan": {"d": "1700000000"}}), true),
        (json!({"Bool": {"b": true}}), true),
        (json!({"Bool": {"b": "false"}}), false),
        (
            json!({"IpAddress": {"ip": ["10.0.0.0/8", "192.0.2.0/24"]}}),
            true,
        ),
        (json!({"IpAddress": {"ip": "192.0.2.8"}}), false),
        (json!({"NotIpAddress": {"ip": "192.0.2.0/24"}}), false),
        (json!({"ArnLike": {"arn": "arn:aws:iam::*:user/a*"}}), true),
        (
            json!({"ArnEquals": {"arn": "arn:aws:iam::*:user/b*"}}),
            false,
        ),
        (
            json!({"ArnNotLike": {"arn": "arn:aws:iam::*:user/b*"}}),
            true,
        ),
        (json!({"Null": {"s": "false", "t": true}}), true),
        (json!({"Null": {"s": true}}), false),
        (json!({"StringEquals": {"s": "Green", "t": "x"}}), false),
        (json!({"StringEquals": {"t": "x"}}), false),
        (json!({"StringNotEquals": {"t": "x"}}), true),
        (json!({"StringEqualsIfExists": {"t": "x"}}), true),
        (json!({"StringEqualsIfExists": {"s": "x"}}), false),
        (
            json!({"StringEquals": {"s": "Green"}, "Bool": {"b": "false"}}),
            false,
        ),
    ] {
        assert_eq!(holds(&condition, &context), expected, "{condition}");
    }
}

#[test]
fn sets_of_values_are_taken_together_as_the_prefix_says() {
    let with = |tags: &[&str]| {
        let mut context = Context::default();
        context.set_all("aws:TagKeys", tags.iter().map(|tag| (*tag).to_owned()));
        context
    };
    let holds = |operator: &str, tags: &[&str]| {
        holds(
            &json!({operator: {"aws:TagKeys": ["team", "cost"]}}),
            &with(tags),
        )
    };
    assert!(holds("ForAllValues:StringEquals", &["team", "cost"]));
    assert!(!holds("ForAllValues:StringEquals", &["team", "x"]));
    assert!(holds("ForAllValues:StringEquals", &[]));
    assert!(holds("ForAnyValue:StringEquals", &["team", "x"]));
    assert!(!holds("ForAnyValue:StringEquals", &["x"]));
    assert!(!holds("ForAnyValue:StringEquals", &[]));
    assert!(holds("ForAnyValue:StringNotEquals", &["team", "x"]));
    assert!(!holds("ForAllValues:StringNotEquals", &["team", "x"]));
    assert!(!holds("ForAnyValue:StringNotEquals", &[]));
}

#[test]
fn a_name_that_is_a_wildcard_opens_nothing() {
    let statement = json!({
        "Effect": "Allow", "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::home/${aws:username}/*"
    });
    let get = |key: &str, name: &str| {
        let resource = format!("arn:aws:s3:::home/{key}");
        evaluate(
            &set(&statement),
            &request("s3:GetObject", &resource, &[("aws:username", name)]),
        )
        .is_allowed()
    };
    assert!(get("ana/x", "ana"));
    assert!(!get("ben/x", "ana"));
    assert!(!get("ben/x", "*"));
    assert!(!allows(&statement, "s3:GetObject", "arn:aws:s3:::home//x"));
}

#[test]
fn a_variable_without_a_value_never_widens_a_policy() {
    let other = "arn:aws:s3:::home/ben/x";
    let not_resource = |effect: &str| json!({"Effect": effect, "Action": "*", "NotResource": "arn:aws:s3:::home/${aws:username}/*"});
    assert!(!allows(&not_resource("Allow"), "s3:GetObject", other));
    let all = json!({"Effect": "Allow", "Action": "*", "Resource": "*"});
    let denied = json!([all, not_resource("Deny")]);
    assert!(!allows(&denied, "s3:GetObject", other));
    let condition = json!({"StringNotEquals": {"aws:RequestTag/owner": "${aws:username}"}});
    let mut context = Context::default();
    context.set("aws:RequestTag/owner", "ben");
    assert!(!holds(&condition, &context));
}

#[test]
fn documents_that_are_not_fully_understood_are_refused() {
    let allow = json!({"Effect": "Allow", "Action": "*", "Resource": "*"});
    let with = |name: &str, value: Value| {
        let mut statement = allow.clone();
        statement[name] = value;
        json!({"Version": "2012-10-17", "Statement": statement}).to_string()
    };
    let without = |name: &str| {
        let mut statement = allow.clone();
        statement.as_object_mut().expect("an object").remove(name);
        json!({"Version": "2012-10-17", "Statement": statement}).to_string()
    };
    for (text, reason) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "invalid type"),
        ("{}".to_owned(), "Statement"),
        (r#"{"Statement":[["", "Allow", "*"]]}"#.to_owned(), "invalid type"),
        (json!({"Statement": []}).to_string(), "no Statement"),
        (json!({"Version": "2020-01-01", "Statement": allow}).to_string(), "2020-01-01"),
        (json!({"Statement": allow, "Statements": 1}).to_string(), "Statements"),
        (with("Effect", json!("allow")), "allow"),
        (with("Actions", json!("*")), "Actions"),
        (with("NotAction", json!("*")), "either Action or NotAction"),
        (with("Action", json!([])), "either Action or NotAction"),
        (with("Action", json!("RunMicrovm")), "no action"),
        (with("Action", json!("lambda:")), "no action"),
        (with("Action", json!("*:*")), "no action"),
        (with("Action", json!(7)), "invalid type"),
        (with("Resource", json!("hello")), "no resource"),
        (with("Resource", json!("arn:aws:s3:::${aws:username")), "variable"),
        (with("NotResource", json!("*")), "either Resource or NotResource"),
        (with("Principal", json!("*")), "trust policy"),
        (with("Sid", json!("a b")), "Sid"),
        (with("Condition", json!({"StringIs": {"a": "b"}})), "StringIs"),
        (with("Condition", json!({"Forall:StringEquals": {"a": "b"}})), "Forall:"),
        (with("Condition", json!({"NullIfExists": {"a": "true"}})), "NullIfExists"),
        (with("Condition", json!({"StringEquals": {"a": []}})), "one at least"),
        (with("Condition", json!({"StringEquals": {"a": {"b": "c"}}})), "invalid type"),
        (with("Condition", json!({"StringEquals": "a"})), "invalid type"),
        (with("Condition", json!({"NumericEquals": {"a": "many"}})), "a number"),
        (with("Condition", json!({"DateEquals": {"a": "soon"}})), "a time"),
        (with("Condition", json!({"Bool": {"a": "yes"}})), "true or false"),
        (with("Condition", json!({"IpAddress": {"a": "10.0.0.0/33"}})), "network"),
        (with("Condition", json!({"StringEquals": {"a": "b", "A": "c"}})), "twice"),
        (without("Effect"), "Effect"),
        (without("Action"), "either Action or NotAction"),
        (without("Resource"), "either Resource or NotResource"),
        (format!("{}{}", with("Sid", json!("a")), " ".repeat(20_000)), "the most is"),
        (
            r#"{"Statement":{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}}"#.to_owned(),
            "duplicate field",
        ),
        (
            r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"a":"true"},"Bool":{}}}}"#.to_owned(),
            "twice",
        ),
    ] {
        let error = PolicyDocument::parse(&text).expect_err(&text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(PolicyDocument::parse(&json!({"Statement": allow}).to_string()).is_ok());
    let twice = json!({"Statement": [with_sid(&allow), with_sid(&allow)]}).to_string();
    assert!(PolicyDocument::parse(&twice).is_err());
}

fn with_sid(statement: &Value) -> Value {
    let mut statement = statement.clone();
    statement["Sid"] = json!("Same");
    statement
}

#[test]
fn the_older_version_of_the_language_knows_no_variables() {
    let text =
        json!({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "arn:${aws:username}"}});
    let document = PolicyDocument::parse(&text.to_string()).expect("a policy");
    let policies = PolicySet {
        identity: vec![NamedPolicy {
            name: "p".to_owned(),
            document: Arc::new(document),
        }],
        session: None,
    };
    let ask = |resource: &str| {
        evaluate(
            &policies,
            &request("a:b", resource, &[("aws:username", "x")]),
        )
        .is_allowed()
    };
    assert!(ask("arn:${aws:username}") && !ask("arn:x"));
}

#[test]
fn a_role_trusts_whom_its_policy_names() {
    let ana = Caller {
        account: "000000000000",
        arn: "arn:aws:iam::000000000000:user/ana",
        role_arn: None,
    };
    let session = Caller {
        arn: "arn:aws:sts::000000000000:assumed-role/ci/job",
        role_arn: Some("arn:aws:iam::000000000000:role/ci"),
        ..ana
    };
    let trust = |statements: &Value, caller: &Caller<'_>| {
        let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let policy = TrustPolicy::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        policy.trusts(caller, "sts:AssumeRole", &Context::default())
    };
    let names = |principal: &Value| json!([{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}]);
    for (principal, to_ana, to_session) in [
        (
            json!({"AWS": "arn:aws:iam::000000000000:root"}),
            Trust::Account,
            Trust::Account,
        ),
        (
            json!({"AWS": ["000000000000"]}),
            Trust::Account,
            Trust::Account,
        ),
        (json!({"AWS": "000000000001"}), Trust::No, Trust::No),
        (
            json!({"AWS": "arn:aws:iam::000000000000:user/ana"}),
            Trust::Caller,
            Trust::No,
        ),
        (
            json!({"AWS": "arn:aws:iam::000000000000:role/ci"}),
            Trust::No,
            Trust::Caller,
        ),
        (json!("*"), Trust::Caller, Trust::Caller),
        (
            json!({"Service": "lambda.amazonaws.com"}),
            Trust::No,
            Trust::No,
        ),
    ] {
        let statements = names(&principal);
        assert_eq!(trust(&statements, &ana), to_ana, "{principal}");
        assert_eq!(trust(&statements, &session), to_session, "{principal}");
    }
    let mut denied = names(&json!("*"));
    denied.as_array_mut().expect("a list").push(
        json!({"Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::000000000000:user/ana"}, "Action": "*"}),
    );
    assert_eq!(trust(&denied, &ana), Trust::No);
    for principal in [
        json!("ana"),
        json!({"AWS": "arn:aws:iam::000000000000:user/*"}),
        json!({"AWS": "arn:aws:iam::000000000000:group/x"}),
        json!({"CanonicalUser": "x"}),
    ] {
        let text = json!({"Statement": names(&principal)}).to_string();
        assert!(TrustPolicy::parse(&text).is_err(), "{principal}");
    }
    let about =
        json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}});
    assert!(TrustPolicy::parse(&about.to_string()).is_err());
}
