//! What the store promises: what was written is there after a reopening, one bad row hides no other,
//! a base cannot go while a MicroVM uses it, a client token admits once.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use colibri_store::{
    Admission, BuildOutcome, BuildState, ClientToken, ImageState, Microvm, MicrovmFilter, NewBuild,
    NewMicrovm, NewVersion, Phase, RunOutcome, Store, StoreError, Transition, VersionState,
    VersionStatus,
};
use serde_json::{Value, json};

const UNLIMITED: Admission = Admission {
    running: u32::MAX,
    kept: u32::MAX,
    running_memory_mib: u64::MAX,
    kept_memory_mib: u64::MAX,
};

fn version(build: &str) -> NewVersion {
    NewVersion {
        config: json!({ "description": "a test" }),
        builds: vec![NewBuild {
            id: build.into(),
            architecture: "X86_64".into(),
            chipset: "INTEL".into(),
            chipset_generation: "1".into(),
        }],
        at: 1_000,
    }
}

fn microvm(id: &str, build: &str) -> NewMicrovm {
    NewMicrovm {
        id: id.into(),
        label: format!("label-of-{id}"),
        image_name: "hello".into(),
        version: 1,
        build_id: build.into(),
        settings: json!({ "port": 9000 }),
        run_payload: Some("secret".into()),
        memory_mib: 512,
        at: 2_000,
    }
}

fn token() -> ClientToken {
    ClientToken {
        account: "000000000000".into(),
        operation: "RunMicrovm",
        token: "t-1".into(),
        request_hash: "h".into(),
        at: 2_000,
    }
}

async fn store_with_image(path: &std::path::Path) -> Store {
    let store = Store::open(path).await.unwrap();
    store
        .create_image("hello".into(), json!({}), version("b-1"), None, |_, _| {
            Value::Null
        })
        .await
        .unwrap();
    store
}

async fn build_succeeds(store: &Store) {
    store.begin_build("b-1".into(), 1_100).await.unwrap();
    let outcome = BuildOutcome::Succeeded {
        memory_bytes: 1,
        code_bytes: 2,
        disk_bytes: 3,
    };
    store
        .finish_build("b-1".into(), outcome, 1_200)
        .await
        .unwrap();
}

async fn admitted(store: &Store, id: &str) -> Microvm {
    match store
        .admit_microvm(microvm(id, "b-1"), UNLIMITED, None, |_| Value::Null)
        .await
        .unwrap()
    {
        RunOutcome::Admitted(microvm) => *microvm,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = store_with_image(&path).await;
    build_succeeds(&store).await;
    admitted(&store, "microvm-a").await;
    let running = Transition::to(Phase::Running)
        .slot(Some(7))
        .machine(Some(&json!({ "pid": 1 })))
        .payload_spent();
    store
        .change_microvm("microvm-a".into(), running)
        .await
        .unwrap();
    drop(store);

    let store = Store::open(&path).await.unwrap();
    let image = store.image("hello".into()).await.unwrap().unwrap();
    assert_eq!(
        (image.state, image.latest_active, image.latest_failed),
        (ImageState::Created, Some(1), None)
    );
    let version = store.version(image.id, 1).await.unwrap().unwrap();
    assert_eq!(
        (version.state, version.status),
        (VersionState::Successful, VersionStatus::Active)
    );
    assert_eq!(
        store.build("b-1".into()).await.unwrap().unwrap().state,
        BuildState::Successful
    );
    let microvm = store.microvm("microvm-a".into()).await.unwrap().unwrap();
    assert_eq!(
        (microvm.phase, microvm.slot, microvm.run_payload),
        (Phase::Running, Some(7), None)
    );
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let _store = store_with_image(&directory.path().join("state.db")).await;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.path()
        );
    }
}

#[tokio::test]
async fn a_corrupt_row_is_named_and_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = store_with_image(&path).await;
    admitted(&store, "microvm-a").await;
    admitted(&store, "microvm-b").await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute(
        "UPDATE microvms SET phase = 'floating' WHERE id = 'microvm-a'",
        [],
    )
    .unwrap();

    let listing = store.all_microvms().await.unwrap();
    assert_eq!(
        listing
            .rows
            .iter()
            .map(|row| row.id.as_str())
            .collect::<Vec<_>>(),
        ["microvm-b"]
    );
    assert!(
        matches!(&listing.corrupt[..], [StoreError::CorruptRow { key, .. }] if key == "microvm-a")
    );
    assert!(store.microvm("microvm-a".into()).await.is_err());
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    for id in ["microvm-c", "microvm-a", "microvm-b"] {
        admitted(&store, id).await;
    }
    let first = store
        .microvms(MicrovmFilter::default(), None, 2)
        .await
        .unwrap();
    let second = store
        .microvms(MicrovmFilter::default(), first.next.clone(), 2)
        .await
        .unwrap();
    let ids: Vec<String> = first
        .rows
        .into_iter()
        .chain(second.rows)
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, ["microvm-a", "microvm-b", "microvm-c"]);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn a_base_stays_while_a_microvm_uses_it_and_takes_no_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    build_succeeds(&store).await;
    admitted(&store, "microvm-a").await;
    store
        .begin_image_removal("hello".into(), &[ImageState::Created], 3_000)
        .await
        .unwrap()
        .unwrap();
    store
        .finish_image_removal("hello".into(), 3_000)
        .await
        .unwrap();

    assert_eq!(store.image("hello".into()).await.unwrap(), None);
    assert!(store.was_deleted("hello".into(), 0).await.unwrap());
    assert!(store.removable_builds().await.unwrap().rows.is_empty());
    assert!(store.forget_build("b-1".into()).await.is_err());
    let late = store
        .admit_microvm(microvm("microvm-b", "b-1"), UNLIMITED, None, |_| {
            Value::Null
        })
        .await
        .unwrap();
    assert!(matches!(late, RunOutcome::NoBuild));

    store
        .change_microvm(
            "microvm-a".into(),
            Transition::to(Phase::Terminated).ended_at(4_000),
        )
        .await
        .unwrap();
    assert_eq!(store.removable_builds().await.unwrap().rows.len(), 1);
    store.forget_build("b-1".into()).await.unwrap();
}

#[tokio::test]
async fn nothing_that_was_under_way_undoes_the_end_of_a_microvm() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    admitted(&store, "microvm-a").await;
    let change = |transition| store.change_microvm("microvm-a".into(), transition);
    let others = || {
        [
            Transition::to(Phase::Running),
            Transition::to(Phase::Captured).suspended_at(Some(1)),
            Transition::to(Phase::Continuing).slot(Some(3)),
            Transition::within().machine(Some(&json!({ "pid": 1 }))),
        ]
    };
    for end in [Phase::Terminating, Phase::Terminated] {
        change(Transition::to(end).reason(Some("Success.".into())))
            .await
            .unwrap();
        for other in others() {
            let refused = change(other).await;
            assert!(matches!(refused, Err(StoreError::Ending { .. })));
        }
        let row = store.microvm("microvm-a".into()).await.unwrap().unwrap();
        assert_eq!((row.phase, row.slot, row.machine), (end, None, None));
    }
    let back = change(Transition::to(Phase::Terminating)).await;
    assert!(matches!(back, Err(StoreError::Ending { .. })));
}

#[tokio::test]
async fn launches_are_counted_by_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    for (id, at) in [
        ("microvm-a", 1_000),
        ("microvm-b", 2_000),
        ("microvm-c", 3_000),
    ] {
        let new = NewMicrovm {
            at,
            ..microvm(id, "b-1")
        };
        let admitted = store.admit_microvm(new, UNLIMITED, None, |_| Value::Null);
        admitted.await.unwrap();
    }
    let ended = Transition::to(Phase::Terminated).ended_at(4_000);
    store
        .change_microvm("microvm-c".into(), ended)
        .await
        .unwrap();
    let launched = store.launches_since(1_500, 2_500).await.unwrap();
    let [only] = &launched[..] else {
        panic!("{launched:?}")
    };
    assert_eq!((only.image_name.as_str(), only.version), ("hello", 1));
    assert_eq!((only.last_at, only.recent), (3_000, 1), "an ended one too");
    assert_eq!(store.launches_since(3_001, 3_001).await.unwrap(), []);
}

#[tokio::test]
async fn a_client_token_admits_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    let admit = |id: &'static str| {
        store.admit_microvm(
            microvm(id, "b-1"),
            UNLIMITED,
            Some(token()),
            |row| json!({ "id": row.id }),
        )
    };
    assert!(matches!(
        admit("microvm-a").await.unwrap(),
        RunOutcome::Admitted(_)
    ));
    match admit("microvm-b").await.unwrap() {
        RunOutcome::Replayed(record) => assert_eq!(record.response, json!({ "id": "microvm-a" })),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_host_admits_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    let one = Admission {
        running: 1,
        kept: 2,
        running_memory_mib: 4096,
        kept_memory_mib: u64::MAX,
    };
    let first = store
        .admit_microvm(microvm("microvm-a", "b-1"), one, None, |_| Value::Null)
        .await
        .unwrap();
    assert!(matches!(first, RunOutcome::Admitted(_)));
    let second = store
        .admit_microvm(microvm("microvm-b", "b-1"), one, None, |_| Value::Null)
        .await
        .unwrap();
    assert!(matches!(second, RunOutcome::NoCapacity(_)));
    store
        .change_microvm("microvm-a".into(), Transition::to(Phase::Suspended))
        .await
        .unwrap();
    let third = store
        .admit_microvm(microvm("microvm-c", "b-1"), one, None, |_| Value::Null)
        .await
        .unwrap();
    assert!(matches!(third, RunOutcome::Admitted(_)));
    store
        .change_microvm("microvm-c".into(), Transition::to(Phase::Suspended))
        .await
        .unwrap();
    let fourth = store
        .admit_microvm(microvm("microvm-d", "b-1"), one, None, |_| Value::Null)
        .await
        .unwrap();
    let RunOutcome::TooMany(in_use) = fourth else {
        panic!("{fourth:?}")
    };
    assert_eq!((in_use.kept, in_use.running), (2, 0), "both are asleep");
}

#[tokio::test]
async fn a_failed_build_fails_its_version_and_its_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    store
        .finish_build("b-1".into(), BuildOutcome::Failed("no".into()), 1_200)
        .await
        .unwrap();
    let image = store.image("hello".into()).await.unwrap().unwrap();
    assert_eq!(
        (image.state, image.latest_failed),
        (ImageState::CreateFailed, Some(1))
    );
    assert_eq!(
        store.version(image.id, 1).await.unwrap().unwrap().state,
        VersionState::Failed
    );
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_image(&directory.path().join("state.db")).await;
    let again = store
        .create_image("hello".into(), json!({}), version("b-2"), None, |_, _| {
            Value::Null
        })
        .await;
    assert!(matches!(again, Err(StoreError::Exists { .. })));
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    drop(store_with_image(&path).await);
    let whole = std::fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn[4096..].fill(0xAA);
    for content in [torn, b"this is not a database".repeat(500)] {
        std::fs::write(&path, content).unwrap();
        let refused = Store::open(&path).await.unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
        assert!(refused.to_string().contains(".recover"), "{refused}");
    }
    std::fs::write(&path, whole).unwrap();
    assert!(Store::open(&path).await.is_ok());
}
