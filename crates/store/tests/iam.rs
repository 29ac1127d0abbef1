//! What the store promises of users, roles, policies and keys: changes are made all or none, seen by
//! another process, and gone with their owner.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use colibri_store::{
    IamAccessKey, IamChange, IamOwner, IamPolicy, IamRole, IamSession, IamUser, InlinePolicy,
    Store, StoreError,
};

fn user(name: &str) -> IamChange {
    IamChange::CreateUser(IamUser {
        name: name.into(),
        unique_id: format!("AIDA{name}"),
        created_at: 1,
    })
}

fn role(name: &str) -> IamChange {
    IamChange::CreateRole(IamRole {
        name: name.into(),
        unique_id: format!("AROA{name}"),
        trust: "{}".into(),
        max_session_seconds: 3600,
        created_at: 1,
    })
}

fn policy(name: &str, document: &str) -> IamChange {
    IamChange::PutPolicy(IamPolicy {
        name: name.into(),
        document: document.into(),
        created_at: 1,
    })
}

fn key(id: &str, user: &str) -> IamChange {
    IamChange::CreateAccessKey(IamAccessKey {
        id: id.into(),
        user: user.into(),
        secret: "s".into(),
        active: true,
        created_at: 1,
    })
}

fn session(id: &str, owner: Option<IamOwner>) -> IamChange {
    IamChange::CreateSession(IamSession {
        access_key_id: id.into(),
        secret: "s".into(),
        token: "t".into(),
        owner,
        session_name: Some("job".into()),
        policy: None,
        created_at: 1,
        expires_at: 10,
    })
}

fn ana() -> IamOwner {
    IamOwner::User("ana".into())
}

#[tokio::test]
async fn what_one_process_writes_another_finds_and_knows_to_look_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let daemon = Store::open(&path).await.unwrap();
    let before = daemon.iam_revision().await.unwrap();
    let command = Store::open(&path).await.unwrap();
    let inline = InlinePolicy {
        owner: IamOwner::Role("ci".into()),
        name: "own".into(),
        document: "{}".into(),
    };
    command
        .change_iam(vec![
            user("ana"),
            role("ci"),
            policy("readers", "{}"),
            IamChange::Attach(ana(), "readers".into()),
            IamChange::Attach(ana(), "readers".into()),
            IamChange::PutInline(inline.clone()),
            key("AKIA1", "ana"),
        ])
        .await
        .unwrap();
    let records = daemon.iam().await.unwrap();
    assert!(records.revision > before);
    assert_eq!(records.attachments, [(ana(), "readers".to_owned())]);
    assert_eq!(records.inline_policies, [inline]);
    assert_eq!(records.access_keys[0].user, "ana");
    assert_eq!(records.roles[0].max_session_seconds, 3600);
}

#[tokio::test]
async fn changes_are_made_all_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db"))
        .await
        .unwrap();
    let before = store.iam_revision().await.unwrap();
    let twice = store.change_iam(vec![user("ana"), user("ana")]).await;
    assert!(matches!(twice, Err(StoreError::Exists { what }) if what == "user ana"));
    let missing = store
        .change_iam(vec![user("ana"), key("AKIA1", "ben")])
        .await;
    assert!(matches!(missing, Err(StoreError::Missing { what }) if what == "user ben"));
    let missing = IamChange::Attach(ana(), "readers".into());
    let missing = store.change_iam(vec![user("ana"), missing]).await;
    assert!(matches!(missing, Err(StoreError::Missing { what }) if what == "policy readers"));
    let records = store.iam().await.unwrap();
    assert!(records.users.is_empty());
    assert_eq!(records.revision, before);
}

#[tokio::test]
async fn what_belongs_to_a_user_goes_with_it_and_a_policy_in_use_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db"))
        .await
        .unwrap();
    let attach = IamChange::Attach(ana(), "readers".into());
    store
        .change_iam(vec![
            user("ana"),
            role("ci"),
            policy("readers", "{}"),
            attach,
            key("AKIA1", "ana"),
            session("ASIA1", Some(ana())),
            session("ASIA2", Some(IamOwner::Role("ci".into()))),
            session("ASIA3", None),
        ])
        .await
        .unwrap();
    let delete = || vec![IamChange::DeletePolicy("readers".into())];
    let used = store.change_iam(delete()).await.unwrap_err();
    assert!(used.to_string().contains("detach it"), "{used}");
    store
        .change_iam(vec![IamChange::DeleteUser("ana".into())])
        .await
        .unwrap();
    store.change_iam(delete()).await.unwrap();
    let records = store.iam().await.unwrap();
    assert!(records.access_keys.is_empty() && records.attachments.is_empty());
    let sessions: Vec<&str> = records
        .sessions
        .iter()
        .map(|session| session.access_key_id.as_str())
        .collect();
    assert_eq!(sessions, ["ASIA2", "ASIA3"]);
    store
        .change_iam(vec![IamChange::ForgetSessions(11)])
        .await
        .unwrap();
    assert!(store.iam().await.unwrap().sessions.is_empty());
}

#[tokio::test]
async fn a_key_can_be_disabled_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db"))
        .await
        .unwrap();
    let set = |active| IamChange::SetAccessKey {
        id: "AKIA1".into(),
        active,
    };
    let make = vec![user("ana"), key("AKIA1", "ana"), set(false)];
    store.change_iam(make).await.unwrap();
    let keys = store.iam().await.unwrap().access_keys;
    assert!(!keys[0].active);
    assert!(!format!("{keys:?}").contains("\"s\""));
    let delete = || vec![IamChange::DeleteAccessKey("AKIA1".into())];
    store.change_iam(delete()).await.unwrap();
    let gone = store.change_iam(delete()).await.unwrap_err();
    assert_eq!(gone.to_string(), "access key AKIA1 does not exist");
    assert!(store.change_iam(vec![set(true)]).await.is_err());
}
