//! Keys, roles, temporary keys and declarations, on a store of the test's own.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use colibri_iam::declaration::Declaration;
use colibri_iam::policy::{Context, Decision, Request, Resource, Source};
use colibri_iam::session::{RoleRequest, ServiceRoleRequest, SessionError, TemporaryKey};
use colibri_iam::{CredentialSource, Identity, Principal, Principals, edit};
use colibri_store::{IamChange, IamOwner, IamSession, InlinePolicy, Store};
use serde_json::{Value, json};

const ACCOUNT: &str = "000000000000";
const ROLE: &str = "arn:aws:iam::000000000000:role/ci";

struct Account {
    store: Store,
    principals: Arc<Principals>,
    directory: tempfile::TempDir,
}

impl Account {
    /// An account with the user ana, who has a key, and the role ci, which trusts whom it is told.
    async fn new(trusted: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("state.db"))
            .await
            .unwrap();
        let trust = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": trusted}}
        ]});
        let now = SystemTime::now();
        let made = vec![
            edit::create_user("ana", now).unwrap(),
            edit::create_role("ci", &trust.to_string(), 7200, now).unwrap(),
        ];
        store.change_iam(made).await.unwrap();
        let root = colibri_iam::root::open(directory.path(), "us-east-1", ACCOUNT).unwrap();
        let principals = Principals::open(store.clone(), root).await.unwrap();
        Self {
            store,
            principals,
            directory,
        }
    }

    async fn allow(&self, owner: IamOwner, action: &str) {
        let statement = json!({"Effect": "Allow", "Action": action, "Resource": "*"});
        let put = IamChange::PutInline(InlinePolicy {
            owner,
            name: "own".into(),
            document: json!({"Version": "2012-10-17", "Statement": statement}).to_string(),
        });
        self.change(put).await;
    }

    async fn change(&self, change: IamChange) {
        self.store.change_iam(vec![change]).await.unwrap();
        self.principals.refresh().await.unwrap();
    }

    /// Ana asks for a role.
    async fn assume(&self, request: RoleRequest) -> Result<TemporaryKey, SessionError> {
        let now = SystemTime::now();
        self.principals.assume_role(&self.ana(), request, now).await
    }

    fn ana(&self) -> Identity {
        self.principals.directory().user("ana", "AKIAANA").unwrap()
    }

    fn decide(&self, identity: &Identity, action: &str) -> Decision {
        let request = Request {
            action: action.into(),
            resource: Resource::any(),
            context: Context::default(),
        };
        self.principals.directory().decide(identity, request)
    }
}

fn ana() -> IamOwner {
    IamOwner::User("ana".into())
}

fn ci() -> IamOwner {
    IamOwner::Role("ci".into())
}

fn job() -> RoleRequest {
    RoleRequest {
        role_arn: ROLE.into(),
        session_name: "job".into(),
        ..RoleRequest::default()
    }
}

#[tokio::test]
async fn a_key_that_another_process_makes_is_good_and_one_that_it_disables_is_not() {
    let account = Account::new(json!(ACCOUNT)).await;
    let command = Store::open(account.directory.path().join("state.db"))
        .await
        .unwrap();
    let records = command.iam().await.unwrap();
    let (change, id, secret) = edit::create_access_key(&records, "ana", SystemTime::now()).unwrap();
    assert!(account.principals.credential(&id).is_none());
    command.change_iam(vec![change]).await.unwrap();
    account.principals.refresh().await.unwrap();
    let credential = account.principals.credential(&id).unwrap();
    assert!(credential.secret.matches(secret.expose()));
    assert_eq!(
        credential.identity.principal_arn,
        "arn:aws:iam::000000000000:user/ana"
    );
    assert_eq!(credential.identity.kind(), "IAMUser");
    let disable = IamChange::SetAccessKey {
        id: id.clone(),
        active: false,
    };
    command.change_iam(vec![disable]).await.unwrap();
    account.principals.refresh().await.unwrap();
    assert!(account.principals.credential(&id).is_none());
}

#[tokio::test(start_paused = true)]
async fn changes_are_noticed_without_being_told_of() {
    let account = Account::new(json!(ACCOUNT)).await;
    let principals = Arc::clone(&account.principals);
    let watching = tokio::spawn(async move { principals.watch().await });
    let user = edit::create_user("ben", SystemTime::now()).unwrap();
    account.store.change_iam(vec![user]).await.unwrap();
    while account.principals.directory().user("ben", "").is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watching.abort();
}

#[tokio::test]
async fn a_session_of_a_role_may_do_what_the_role_may_until_it_ends() {
    let account = Account::new(json!("arn:aws:iam::000000000000:user/ana")).await;
    account.allow(ci(), "lambda:*").await;
    let now = SystemTime::now();
    let key = account
        .principals
        .assume_role(&account.ana(), job(), now)
        .await
        .unwrap();
    assert!(key.identity.access_key_id.starts_with("ASIA"));
    let credential = account
        .principals
        .credential(&key.identity.access_key_id)
        .unwrap();
    assert!(
        credential
            .session_token
            .unwrap()
            .matches(key.token.expose())
    );
    let identity = credential.identity;
    assert_eq!(
        identity.principal_arn,
        "arn:aws:sts::000000000000:assumed-role/ci/job"
    );
    assert_eq!(identity.policy_arn(), ROLE);
    assert!(matches!(identity.principal, Principal::AssumedRole { .. }));
    assert!(account.decide(&identity, "lambda:RunMicrovm").is_allowed());
    assert!(!account.decide(&identity, "s3:GetObject").is_allowed());
    let id = &identity.access_key_id;
    let credential = account.principals.credential(id).unwrap();
    let ended_after = |seconds| credential.has_ended(now + Duration::from_secs(seconds));
    assert!(!ended_after(3598) && ended_after(3601));
    account.change(IamChange::DeleteRole("ci".into())).await;
    assert!(account.principals.credential(id).is_none());
    assert!(!account.decide(&identity, "lambda:RunMicrovm").is_allowed());
}

#[tokio::test]
async fn a_key_that_has_ended_is_remembered_for_an_hour() {
    let account = Account::new(json!("arn:aws:iam::000000000000:user/ana")).await;
    let began = SystemTime::now() - Duration::from_secs(3 * 3600);
    let assume = async |hours: u64| {
        let now = began + Duration::from_secs(hours * 3600);
        let key = account
            .principals
            .assume_role(&account.ana(), job(), now)
            .await;
        key.unwrap().identity.access_key_id
    };
    let first = assume(0).await;
    assume(1).await;
    let ended = account.principals.credential(&first).unwrap();
    assert!(ended.has_ended(SystemTime::now()));
    assume(3).await;
    assert!(account.principals.credential(&first).is_none());
}

#[tokio::test]
async fn a_service_is_given_a_role_that_trusts_it_by_name() {
    let account = Account::new(json!(ACCOUNT)).await;
    let trust = |statements: Value| {
        let document = json!({"Version": "2012-10-17", "Statement": statements});
        let role = edit::create_role("worker", &document.to_string(), 7200, SystemTime::now());
        vec![IamChange::DeleteRole("worker".into()), role.unwrap()]
    };
    let people = json!({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"});
    let service = json!({
        "Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"],
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}},
    });
    let deny = json!({"Effect": "Deny", "Action": "sts:*", "Principal": {"Service": ["lambda.amazonaws.com"]}});
    let first = edit::create_role(
        "worker",
        &json!({"Statement": people}).to_string(),
        7200,
        SystemTime::now(),
    );
    account.change(first.unwrap()).await;
    for (statements, good) in [
        (json!([people]), false),
        (json!([service]), true),
        (json!([service, deny]), false),
    ] {
        account
            .store
            .change_iam(trust(statements.clone()))
            .await
            .unwrap();
        account.principals.refresh().await.unwrap();
        let mut context = Context::default();
        context.set("aws:SourceAccount", ACCOUNT);
        let request = ServiceRoleRequest {
            service: "lambda.amazonaws.com".into(),
            role_arn: ROLE.replace("ci", "worker"),
            session_name: "microvm-1".into(),
            duration: Duration::from_secs(3300),
            context,
        };
        let now = SystemTime::now();
        let given = account
            .principals
            .assume_for_service(request.clone(), now)
            .await;
        assert_eq!(given.is_ok(), good, "{statements}");
        let other = ServiceRoleRequest {
            service: "ec2.amazonaws.com".into(),
            ..request
        };
        let refused = account.principals.assume_for_service(other, now).await;
        assert!(matches!(refused, Err(SessionError::Untrusted)));
    }
}

#[tokio::test]
async fn a_sessions_policy_takes_away_and_never_adds() {
    let account = Account::new(json!("arn:aws:iam::000000000000:user/ana")).await;
    account.allow(ci(), "lambda:*").await;
    let only = json!({"Statement": {"Effect": "Allow", "Action": ["lambda:Get*", "s3:*"], "Resource": "*"}});
    let request = RoleRequest {
        policy: Some(only.to_string()),
        ..job()
    };
    let identity = account.assume(request).await.unwrap().identity;
    assert!(account.decide(&identity, "lambda:GetMicrovm").is_allowed());
    let run = account.decide(&identity, "lambda:RunMicrovm");
    assert_eq!(run, Decision::NotAllowed(Source::Session));
    let read = account.decide(&identity, "s3:GetObject");
    assert_eq!(read, Decision::NotAllowed(Source::Identity));
}

#[tokio::test]
async fn a_role_is_had_by_whom_it_trusts_and_whose_policies_allow_it() {
    let now = SystemTime::now();
    let account = Account::new(json!(ACCOUNT)).await;
    assert!(matches!(
        account.assume(job()).await,
        Err(SessionError::Denied(_))
    ));
    account.allow(ana(), "sts:AssumeRole").await;
    assert!(
        account
            .principals
            .assume_role(&account.ana(), job(), now)
            .await
            .is_ok()
    );
    let elsewhere = Account::new(json!("111111111111")).await;
    elsewhere.allow(ana(), "*").await;
    let refused = elsewhere
        .principals
        .assume_role(&elsewhere.ana(), job(), now)
        .await;
    assert!(matches!(refused, Err(SessionError::Untrusted)));
    let missing = RoleRequest {
        role_arn: format!("{ROLE}x"),
        ..job()
    };
    let refused = account
        .principals
        .assume_role(&account.ana(), missing, now)
        .await;
    assert!(matches!(refused, Err(SessionError::Untrusted)));
}

#[tokio::test]
async fn a_session_is_refused_what_it_asks_for_wrongly() {
    let account = Account::new(json!("arn:aws:iam::000000000000:user/ana")).await;
    let ask = async |change: &dyn Fn(&mut RoleRequest)| {
        let mut request = job();
        change(&mut request);
        account.assume(request).await.unwrap_err()
    };
    let duration =
        |seconds| move |request: &mut RoleRequest| request.duration_seconds = Some(seconds);
    for seconds in [899, 7201] {
        let refused = ask(&duration(seconds)).await;
        assert!(
            matches!(refused, SessionError::Duration { most: 7200, .. }),
            "{refused}"
        );
    }
    let refused = ask(&|request| request.session_name = "a b".into()).await;
    assert!(matches!(refused, SessionError::Name(_)), "{refused}");
    let refused = ask(&|request| request.policy = Some("{}".into())).await;
    assert!(matches!(refused, SessionError::Policy(_)), "{refused}");
    let refused = ask(&|request| request.policy = Some(" ".repeat(2049))).await;
    assert!(
        matches!(refused, SessionError::PolicyTooLong(2049)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_users_session_is_the_user_and_gets_no_session_in_turn() {
    let account = Account::new(json!(ACCOUNT)).await;
    account.allow(ana(), "lambda:*").await;
    let now = SystemTime::now();
    let key = account
        .principals
        .session_token(&account.ana(), Some(900), now)
        .await
        .unwrap();
    assert_eq!(
        key.identity.principal_arn,
        "arn:aws:iam::000000000000:user/ana"
    );
    assert!(
        account
            .decide(&key.identity, "lambda:RunMicrovm")
            .is_allowed()
    );
    let again = account
        .principals
        .session_token(&key.identity, None, now)
        .await;
    assert!(matches!(again, Err(SessionError::FromSession)));
    let root = Identity::root(ACCOUNT, "AKIAROOT");
    let key = account
        .principals
        .session_token(&root, None, now)
        .await
        .unwrap();
    assert_eq!(key.identity.principal, Principal::Root);
}

#[tokio::test]
async fn nobody_takes_all_temporary_keys_from_the_others() {
    let account = Account::new(json!("arn:aws:iam::000000000000:user/ana")).await;
    let session = |number: usize| {
        IamChange::CreateSession(IamSession {
            access_key_id: format!("ASIA{number}"),
            secret: "s".into(),
            token: "t".into(),
            owner: Some(ana()),
            session_name: None,
            policy: None,
            created_at: 0,
            expires_at: i64::MAX,
        })
    };
    let many = (0..500).map(session).collect();
    account.store.change_iam(many).await.unwrap();
    account.principals.refresh().await.unwrap();
    let now = SystemTime::now();
    let more = account
        .principals
        .session_token(&account.ana(), None, now)
        .await;
    assert!(matches!(more, Err(SessionError::TooMany)));
    assert!(account.assume(job()).await.is_ok());
}

#[tokio::test]
async fn a_stored_policy_that_cannot_be_read_denies_everything() {
    let account = Account::new(json!(ACCOUNT)).await;
    account.allow(ana(), "*").await;
    assert!(
        account
            .decide(&account.ana(), "lambda:RunMicrovm")
            .is_allowed()
    );
    let damaged = IamChange::PutInline(InlinePolicy {
        owner: ana(),
        name: "damaged".into(),
        document: "{".into(),
    });
    account.change(damaged).await;
    let decision = account.decide(&account.ana(), "lambda:RunMicrovm");
    assert!(matches!(decision, Decision::Denied(..)), "{decision:?}");
}

fn declaration() -> Declaration {
    let allow = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "lambda:Get*", "Resource": "*"}});
    let trust = json!({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ACCOUNT}}});
    serde_json::from_value(json!({
        "policies": {"readers": allow},
        "users": {"ana": {"policies": ["readers"], "inline": {"own": allow.to_string()}}, "ben": {}},
        "roles": {"ci": {"trust": trust, "max_session_seconds": 3600, "policies": ["readers"]}},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_declaration_is_made_true_once_and_changes_nothing_the_second_time() {
    let account = Account::new(json!(ACCOUNT)).await;
    account.allow(ana(), "*").await;
    let plan = async |prune| {
        let records = account.store.iam().await.unwrap();
        declaration()
            .plan(&records, prune, SystemTime::now())
            .unwrap()
    };
    let first = plan(false).await;
    assert!(
        first.lines.contains(&"create policy readers".to_owned()),
        "{:?}",
        first.lines
    );
    assert!(
        first.lines.contains(&"change role ci".to_owned()),
        "{:?}",
        first.lines
    );
    account.store.change_iam(first.changes).await.unwrap();
    let second = plan(false).await;
    assert!(second.lines.is_empty(), "{:?}", second.lines);
    account.principals.refresh().await.unwrap();
    assert!(
        account
            .decide(&account.ana(), "lambda:GetMicrovm")
            .is_allowed()
    );
    assert!(
        !account
            .decide(&account.ana(), "lambda:RunMicrovm")
            .is_allowed()
    );
    account
        .change(edit::create_user("carl", SystemTime::now()).unwrap())
        .await;
    assert!(plan(false).await.lines.is_empty());
    assert_eq!(plan(true).await.lines, ["delete user carl"]);
}

#[tokio::test]
async fn a_declaration_that_names_what_is_nowhere_or_is_malformed_changes_nothing() {
    let records = colibri_store::IamRecords::default();
    let plan = |declared: Value| {
        let declaration: Declaration = serde_json::from_value(declared).unwrap();
        declaration.plan(&records, false, SystemTime::now())
    };
    let nowhere = plan(json!({"users": {"ana": {"policies": ["readers"]}}})).unwrap_err();
    assert!(
        nowhere
            .to_string()
            .contains("`readers`, which does not exist"),
        "{nowhere}"
    );
    assert!(plan(json!({"policies": {"p": {"Statement": []}}})).is_err());
    assert!(plan(json!({"users": {"a b": {}}})).is_err());
    assert!(serde_json::from_value::<Declaration>(json!({"groups": {}})).is_err());
}

#[test]
fn names_and_bounds_are_checked_when_something_is_made() {
    let now = SystemTime::now();
    assert!(edit::create_user("", now).is_err());
    assert!(edit::create_user("ana/../x", now).is_err());
    assert!(edit::put_policy("p", "{}", now).is_err());
    assert!(edit::create_role("ci", "{}", 3600, now).is_err());
    let trust =
        json!({"Statement": {"Effect": "Allow", "Action": "*", "Principal": "*"}}).to_string();
    assert!(edit::create_role("ci", &trust, 60, now).is_err());
    assert!(edit::create_role("ci", &trust, 3600, now).is_ok());
}
