//! IAM policies on hostile text: documents that may say anything, and what they say to a request.
//!
//! An input is a text of up to four parts, with a line `--` between them: a policy of the caller, one of
//! the caller's session (or nothing), a request, and a role's trust policy. A request's lines are its
//! action, its resource, another ARN of the same resource, and `key=value` for each circumstance.
//!
//! Nothing may panic or take long, and what must be true of every policy is asserted. The fuzz target
//! `policy` and a test of `colibri-iam`, which tries the corpus again, share this file.

use std::collections::BTreeMap;
use std::sync::Arc;

use colibri_iam::policy::{
    Caller, Context, Decision, NamedPolicy, PolicyDocument, PolicySet, Request, Resource,
    TrustPolicy, evaluate,
};

const BETWEEN: &str = "\n--\n";
const ALLOW_ALL: &str = r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const DENY_ALL: &str = r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#;

/// Tries an input. Bytes that are no text are no policy.
pub(crate) fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut parts = text.split(BETWEEN);
    let mut part = || parts.next().unwrap_or_default();
    let (identity, session, asked, trust) = (part(), part(), part(), part());
    let request = request(asked);
    trusted(trust, &request);
    let Some(document) = document(identity) else {
        return;
    };
    let session = document_or_none(session);
    decided(&document, &request);
    combined(&document, session.as_ref(), &request);
}

/// A document, where it is one. What is read twice is the same, and what is refused says why.
fn document(text: &str) -> Option<Arc<PolicyDocument>> {
    match PolicyDocument::parse(text) {
        Ok(document) => {
            assert_eq!(PolicyDocument::parse(text).as_ref(), Ok(&document));
            Some(Arc::new(document))
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fn document_or_none(text: &str) -> Option<Arc<PolicyDocument>> {
    (!text.is_empty()).then(|| document(text)).flatten()
}

fn request(text: &str) -> Request {
    let mut lines = text.lines();
    let action = lines.next().unwrap_or_default().to_owned();
    let resource = Resource::new(lines.next().unwrap_or("*"));
    let resource = match lines.next() {
        Some(other) if !other.is_empty() => resource.or(other),
        _ => resource,
    };
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in lines.filter_map(|line| line.split_once('=')) {
        values.entry(key).or_default().push(value.to_owned());
    }
    let mut context = Context::default();
    for (key, values) in values {
        context.set_all(key, values);
    }
    Request {
        action,
        resource,
        context,
    }
}

/// One document alone.
fn decided(document: &Arc<PolicyDocument>, request: &Request) {
    let decision = evaluate(&set(&[document], None), request);
    assert_eq!(decision, evaluate(&set(&[document], None), request));
    match &decision {
        Decision::Allowed(statement) | Decision::Denied(_, statement) => {
            assert_eq!(statement.policy, "0");
            assert!(statement.number >= 1);
        }
        Decision::NotAllowed(_) => {}
    }
    // Actions are compared in any case.
    let shouted = Request {
        action: request.action.to_ascii_uppercase(),
        ..request.clone()
    };
    let in_capitals = evaluate(&set(&[document], None), &shouted);
    assert_eq!(in_capitals, decision);
}

/// What other policies beside it add and take away.
fn combined(
    document: &Arc<PolicyDocument>,
    session: Option<&Arc<PolicyDocument>>,
    request: &Request,
) {
    let ask = |identity: &[&Arc<PolicyDocument>], session: Option<&Arc<PolicyDocument>>| {
        evaluate(&set(identity, session), request)
    };
    let allow = Arc::new(PolicyDocument::parse(ALLOW_ALL).expect("a policy"));
    let deny = Arc::new(PolicyDocument::parse(DENY_ALL).expect("a policy"));
    let alone = ask(&[document], None);
    assert!(!ask(&[], None).is_allowed(), "allowed by nothing");
    assert!(
        !ask(&[document, &deny], None).is_allowed(),
        "an explicit deny lost"
    );
    assert!(
        !ask(&[&deny, document], None).is_allowed(),
        "an explicit deny lost"
    );
    let denies = matches!(alone, Decision::Denied(..));
    for decision in [
        ask(&[document, &allow], None),
        ask(&[&allow, document], None),
    ] {
        assert_eq!(
            decision.is_allowed(),
            !denies,
            "{decision:?} beside an Allow of everything"
        );
    }
    assert_eq!(ask(&[document, document], None), alone, "said twice");
    // The policy of a session takes away and never adds.
    assert_eq!(
        ask(&[document], Some(&allow)).is_allowed(),
        alone.is_allowed()
    );
    assert!(!ask(&[document], Some(&deny)).is_allowed());
    let Some(session) = session else {
        return;
    };
    let both = ask(&[document], Some(session)).is_allowed();
    let session_alone = ask(&[session], None).is_allowed();
    assert_eq!(both, alone.is_allowed() && session_alone, "{request:?}");
    let one = ask(&[document, session], None).is_allowed();
    assert_eq!(
        one,
        ask(&[session, document], None).is_allowed(),
        "order of policies"
    );
}

/// Whom a role trusts, whatever its policy says.
fn trusted(text: &str, request: &Request) {
    let Ok(policy) = TrustPolicy::parse(text) else {
        return;
    };
    for arn in [
        "arn:aws:iam::000000000000:root",
        "arn:aws:iam::000000000000:user/ana",
        "arn:aws:sts::000000000000:assumed-role/build/session",
    ] {
        let caller = Caller {
            account: "000000000000",
            arn,
            role_arn: arn
                .contains("assumed-role")
                .then_some("arn:aws:iam::000000000000:role/build"),
        };
        let trust = policy.trusts(&caller, &request.action, &request.context);
        assert_eq!(
            trust,
            policy.trusts(&caller, &request.action, &request.context)
        );
    }
}

fn set(identity: &[&Arc<PolicyDocument>], session: Option<&Arc<PolicyDocument>>) -> PolicySet {
    PolicySet {
        identity: identity
            .iter()
            .enumerate()
            .map(|(number, document)| NamedPolicy {
                name: number.to_string(),
                document: Arc::clone(document),
            })
            .collect(),
        session: session.cloned(),
    }
}
