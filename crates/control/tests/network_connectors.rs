//! Network connectors: their operations and versions, and what they let a MicroVM reach from its launch to
//! its end.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "members are given as json! literals"
)]

mod common;

use colibri_control::{SecurityGroup, SecurityRule, Settings, Subnet};
use colibri_network::{Egress, Protocol};
use colibri_store::{NewConnectorVersion, Store};
use colibri_testkit::{Fault, Operation};
use colibri_wire::ApiError;
use colibri_wire::shape::microvm::MicrovmState;
use common::{Daemon, IMAGE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ROLE: &str = "arn:aws:iam::000000000000:role/operator";
const INTERNET: &str =
    "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS";

/// Two subnets, and a group that narrows them.
fn declared(settings: &mut Settings) {
    let subnet = |range: &str| Subnet {
        reach: vec![range.parse().unwrap()],
        internet: false,
    };
    let rule = SecurityRule {
        to: "10.1.7.0/24".parse().unwrap(),
        protocol: Protocol::Tcp,
        ports: Some((5432, 5432)),
    };
    let group = SecurityGroup { egress: vec![rule] };
    settings.vpc.subnets = [
        ("subnet-1".into(), subnet("10.1.0.0/16")),
        ("subnet-2".into(), subnet("10.2.0.0/16")),
    ]
    .into();
    settings.vpc.security_groups = [("sg-1".into(), group)].into();
}

async fn daemon() -> Daemon {
    let daemon = Daemon::start_with(declared).await;
    daemon.create_image(json!({})).await;
    daemon
}

fn with(mut members: Value, more: Value) -> Value {
    let object = members.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    members
}

fn vpc(subnets: &[&str]) -> Value {
    json!({ "VpcEgressConfiguration": { "SubnetIds": subnets } })
}

/// Calls an operation with members as they are on the wire.
macro_rules! call {
    ($daemon:expr, $operation:ident, $members:expr) => {
        answer($daemon.control.$operation(request($members)).await)
    };
}

fn request<T: DeserializeOwned>(members: Value) -> T {
    serde_json::from_value(members).unwrap()
}

fn answer<T: Serialize>(outcome: Result<T, ApiError>) -> Result<Value, ApiError> {
    outcome.map(|answer| serde_json::to_value(answer).unwrap())
}

async fn create(daemon: &Daemon, more: Value) -> Result<Value, ApiError> {
    let members = json!({
        "Name": "office", "Configuration": vpc(&["subnet-1"]), "OperatorRole": ROLE,
    });
    call!(daemon, create_network_connector, with(members, more))
}

async fn get(daemon: &Daemon, identifier: &str) -> Result<Value, ApiError> {
    call!(
        daemon,
        get_network_connector,
        json!({ "Identifier": identifier })
    )
}

async fn update(daemon: &Daemon, identifier: &str, more: Value) -> Result<Value, ApiError> {
    let members = with(json!({ "Identifier": identifier }), more);
    call!(daemon, update_network_connector, members)
}

async fn delete(daemon: &Daemon, identifier: &str) -> Result<Value, ApiError> {
    call!(
        daemon,
        delete_network_connector,
        json!({ "Identifier": identifier })
    )
}

async fn versions(daemon: &Daemon, more: Value) -> Result<Value, ApiError> {
    let members = with(json!({ "Identifier": "office" }), more);
    call!(daemon, list_network_connector_versions, members)
}

/// A connector that is made; its ARN.
async fn made(daemon: &Daemon, name: &str, subnet: &str) -> String {
    let members = json!({ "Name": name, "Configuration": vpc(&[subnet]) });
    let created = create(daemon, members).await.unwrap();
    assert!(daemon.control.connector_settled(name).await.unwrap());
    created["Arn"].as_str().unwrap().to_owned()
}

async fn updated(daemon: &Daemon, name: &str, more: Value) -> Value {
    update(daemon, name, more).await.unwrap();
    daemon.control.connector_settled(name).await.unwrap();
    get(daemon, name).await.unwrap()
}

/// The networks that a MicroVM's only slot is granted, in the world where nothing else runs.
fn granted(daemon: &Daemon) -> Vec<String> {
    let mut slots = daemon.world.egress();
    assert_eq!(slots.len(), 1);
    match slots.remove(0) {
        Egress::Granted(grants) => {
            let allow = grants.iter().flat_map(|grant| &grant.allow);
            allow.map(|allow| allow.to.to_string()).collect()
        }
        other => vec![format!("{other:?}")],
    }
}

fn attached(arn: &str) -> Value {
    json!({ "egressNetworkConnectors": [arn] })
}

#[tokio::test(start_paused = true)]
async fn a_connector_is_pending_then_active_and_found_by_id_name_and_arn() {
    let daemon = daemon().await;
    let created = create(&daemon, json!({ "Tags": { "team": "a" } }))
        .await
        .unwrap();
    let (arn, id) = (
        created["Arn"].as_str().unwrap(),
        created["Id"].as_str().unwrap(),
    );
    assert_eq!(created["State"], "PENDING");
    assert_eq!(created["Version"], 1);
    assert_eq!(created["VersionArn"], format!("{arn}:1"));
    assert!(arn.ends_with(&format!(":network-connector:{id}")) && id.starts_with("nc-"));

    daemon.control.connector_settled("office").await.unwrap();
    let got = get(&daemon, "office").await.unwrap();
    assert_eq!(got["State"], "ACTIVE");
    assert_eq!(got["LatestVersion"], 1);
    assert_eq!(got["LatestVersionArn"], format!("{arn}:1"));
    assert!(got.get("VersionArn").is_none() && got.get("LastUpdateStatus").is_none());
    assert!(got["LastModified"].as_str().unwrap().ends_with('Z'));
    for identifier in [id, arn] {
        assert_eq!(get(&daemon, identifier).await.unwrap(), got);
    }
    let version = get(&daemon, &format!("{arn}:1")).await.unwrap();
    assert_eq!(version["VersionArn"], format!("{arn}:1"));
    assert!(version.get("LatestVersion").is_none());
    let tags = call!(daemon, list_tags, json!({ "Resource": arn })).unwrap();
    assert_eq!(tags, json!({ "Tags": { "team": "a" } }));
}

#[tokio::test(start_paused = true)]
async fn a_connector_of_what_is_not_declared_fails_with_a_code_and_no_microvm_gets_it() {
    let daemon = daemon().await;
    let groups = json!({ "VpcEgressConfiguration": {
        "SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-9"],
    } });
    for (name, configuration, code) in [
        ("a", vpc(&["subnet-1", "subnet-9"]), "InvalidSubnet"),
        ("b", groups, "InvalidSecurityGroup"),
    ] {
        let members = json!({ "Name": name, "Configuration": configuration });
        let created = create(&daemon, members).await.unwrap();
        daemon.control.connector_settled(name).await.unwrap();
        let got = get(&daemon, name).await.unwrap();
        assert_eq!(
            (&got["State"], &got["StateReasonCode"]),
            (&json!("FAILED"), &json!(code))
        );
        let run = Daemon::run_request(attached(created["Arn"].as_str().unwrap()));
        let refusal = daemon.control.run_microvm(run).await.unwrap_err();
        assert!(matches!(refusal, ApiError::Validation { .. }), "{refusal}");
        assert!(refusal.to_string().contains("FAILED"));
        let refusal = update(
            &daemon,
            name,
            json!({ "Configuration": vpc(&["subnet-1"]) }),
        )
        .await;
        assert!(matches!(refusal, Err(ApiError::Conflict { .. })));
        delete(&daemon, name).await.unwrap();
    }
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn the_same_token_makes_one_connector_and_another_request_under_it_is_refused() {
    let mut daemon = daemon().await;
    let first = create(&daemon, json!({ "ClientToken": "t" }))
        .await
        .unwrap();
    daemon.control.connector_settled("office").await.unwrap();
    daemon.crash_and_restart().await;
    let again = create(&daemon, json!({ "ClientToken": "t" }))
        .await
        .unwrap();
    assert_eq!(
        (&again["Id"], &again["State"]),
        (&first["Id"], &json!("ACTIVE"))
    );
    let other = create(&daemon, json!({ "ClientToken": "t", "Name": "b" })).await;
    assert!(matches!(other, Err(ApiError::Conflict { .. })));
    let taken = create(&daemon, json!({ "ClientToken": "u" }))
        .await
        .unwrap_err();
    assert!(matches!(taken, ApiError::Conflict { .. }) && taken.to_string().contains("exists"));

    let change = json!({ "Configuration": vpc(&["subnet-2"]), "ClientToken": "t" });
    let first = update(&daemon, "office", change.clone()).await.unwrap();
    daemon.control.connector_settled("office").await.unwrap();
    let again = update(&daemon, "office", change).await.unwrap();
    assert_eq!(
        (&first["Version"], &again["Version"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        (&first["LastUpdateStatus"], &again["LastUpdateStatus"]),
        (&json!("InProgress"), &json!("Successful"))
    );

    // With the connector its tokens go: nothing wedges on one that is gone.
    delete(&daemon, "office").await.unwrap();
    let anew = create(&daemon, json!({ "ClientToken": "t" }))
        .await
        .unwrap();
    assert_ne!(anew["Id"], first["Id"]);
}

#[tokio::test(start_paused = true)]
async fn each_change_is_a_version_a_failed_one_leaves_the_last_good_one_and_no_change_is_none() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let same = update(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-1"]) }),
    )
    .await;
    let same = same.unwrap();
    assert_eq!(
        (&same["Version"], &same["LastUpdateStatus"]),
        (&json!(1), &json!("Successful"))
    );

    let got = updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-2"]) }),
    )
    .await;
    assert_eq!(
        (&got["LatestVersion"], &got["LastUpdateStatus"]),
        (&json!(2), &json!("Successful"))
    );
    let got = updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-9"]) }),
    )
    .await;
    assert_eq!(
        (&got["State"], &got["LatestVersion"]),
        (&json!("ACTIVE"), &json!(2))
    );
    assert_eq!(got["LastUpdateStatus"], "Failed");
    assert_eq!(got["LastUpdateStatusReasonCode"], "InvalidSubnet");
    let role = json!({ "OperatorRole": "arn:aws:iam::000000000000:role/other" });
    let got = updated(&daemon, "office", role).await;
    assert_eq!(
        (&got["LatestVersion"], &got["LastUpdateStatus"]),
        (&json!(4), &json!("Successful"))
    );
    assert!(got.get("LastUpdateStatusReasonCode").is_none());

    let first = get(&daemon, &format!("{arn}:1")).await.unwrap();
    assert_eq!(
        first["Configuration"]["VpcEgressConfiguration"]["SubnetIds"],
        json!(["subnet-1"])
    );
    let refusal = update(&daemon, &format!("{arn}:1"), json!({})).await;
    assert!(matches!(refusal, Err(ApiError::Validation { .. })));
}

fn numbers(page: &Value) -> Vec<u64> {
    let items = page["NetworkConnectorVersions"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["Version"].as_u64().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn lists_are_paged_and_filtered_before_they_are_paged() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    for subnet in ["subnet-2", "subnet-9", "subnet-1"] {
        updated(
            &daemon,
            "office",
            json!({ "Configuration": vpc(&[subnet]) }),
        )
        .await;
    }
    assert_eq!(
        numbers(&versions(&daemon, json!({})).await.unwrap()),
        [4, 3, 2, 1]
    );
    let filter = json!({ "State": "ACTIVE", "MaxItems": 2 });
    let page = versions(&daemon, filter.clone()).await.unwrap();
    assert_eq!(numbers(&page), [4, 2]);
    let rest = with(filter, json!({ "Marker": page["NextMarker"] }));
    let rest = versions(&daemon, rest).await.unwrap();
    assert_eq!(numbers(&rest), [1]);
    assert!(rest.get("NextMarker").is_none());
    let unfiltered = versions(&daemon, json!({ "Marker": page["NextMarker"] })).await;
    assert!(matches!(unfiltered, Err(ApiError::Validation { .. })));
    let other_list = json!({ "Marker": page["NextMarker"] });
    assert!(call!(daemon, list_network_connectors, other_list).is_err());

    create(
        &daemon,
        json!({ "Name": "bad", "Configuration": vpc(&["subnet-9"]) }),
    )
    .await
    .unwrap();
    daemon.control.connector_settled("bad").await.unwrap();
    let listed = call!(daemon, list_network_connectors, json!({})).unwrap();
    let listed = listed["NetworkConnectors"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 2);
    // Made in the same millisecond of a clock that stands: either may be the first.
    let office = listed.iter().find(|item| item["Name"] == "office").unwrap();
    assert_eq!(
        (&office["Arn"], &office["Type"]),
        (&json!(arn), &json!("VPC_EGRESS"))
    );
    let failed = json!({ "State": "FAILED", "MaxItems": 1 });
    let failed = call!(daemon, list_network_connectors, failed).unwrap();
    assert_eq!(failed["NetworkConnectors"][0]["Name"], "bad");
    assert!(failed.get("NextMarker").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_connector_is_gone_and_its_deletion_can_be_repeated() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-2"]) }),
    )
    .await;
    let latest = delete(&daemon, &format!("{arn}:2")).await;
    assert!(matches!(latest, Err(ApiError::Conflict { .. })));
    for _ in 0..2 {
        let gone = delete(&daemon, &format!("{arn}:1")).await.unwrap();
        assert_eq!(
            (&gone["Version"], &gone["State"]),
            (&json!(1), &json!("DELETING"))
        );
    }
    assert_eq!(numbers(&versions(&daemon, json!({})).await.unwrap()), [2]);
    let missing = delete(&daemon, &format!("{arn}:7")).await;
    assert!(matches!(missing, Err(ApiError::ResourceNotFound { .. })));
    for identifier in [arn.as_str(), "office", arn.as_str()] {
        let gone = delete(&daemon, identifier).await.unwrap();
        assert_eq!(
            (&gone["Arn"], &gone["State"]),
            (&json!(arn), &json!("DELETING"))
        );
    }
    let missing = get(&daemon, &arn).await;
    assert!(matches!(missing, Err(ApiError::ResourceNotFound { .. })));
    let never = delete(&daemon, "never").await;
    assert!(matches!(never, Err(ApiError::ResourceNotFound { .. })));
    // The name is free again.
    assert_ne!(made(&daemon, "office", "subnet-1").await, arn);
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_connectors_and_versions_than_the_settings_say() {
    let daemon = Daemon::start_with(|settings| {
        declared(settings);
        settings.max_connectors = 1;
        settings.max_connector_versions = 2;
    })
    .await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let second = create(&daemon, json!({ "Name": "b" })).await.unwrap_err();
    assert_eq!(second.wire_name(), "NetworkConnectorLimitExceededException");
    updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-2"]) }),
    )
    .await;
    let change = json!({ "Configuration": vpc(&["subnet-1"]) });
    let third = update(&daemon, "office", change.clone()).await.unwrap_err();
    assert_eq!(third.wire_name(), "NetworkConnectorLimitExceededException");
    delete(&daemon, &format!("{arn}:1")).await.unwrap();
    assert_eq!(updated(&daemon, "office", change).await["LatestVersion"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_microvm_reaches_what_its_connectors_allow_and_resumes_with_what_they_allow_then() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let id = daemon.run(attached(&arn)).await;
    assert_eq!(granted(&daemon), ["10.1.0.0/16"]);

    // An update leaves those who run alone; who resumes gets it.
    updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-2"]) }),
    )
    .await;
    assert_eq!(granted(&daemon), ["10.1.0.0/16"]);
    daemon.suspended(&id).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(granted(&daemon), ["10.2.0.0/16"]);
    assert_eq!(
        daemon.get(&id).await.egress_network_connectors,
        Some(vec![arn.clone()])
    );
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;

    let id = daemon.run(attached(&format!("{arn}:1"))).await;
    assert_eq!(
        granted(&daemon),
        ["10.1.0.0/16"],
        "a version stays what it is"
    );
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    let both = json!({ "egressNetworkConnectors": [arn, INTERNET] });
    let id = daemon.run(both).await;
    assert_eq!(granted(&daemon), ["10.2.0.0/16", "0.0.0.0/0"]);
    daemon.terminate(&id).await.unwrap();
    daemon.terminated(&id).await;
    daemon.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_security_group_narrows_what_a_subnet_reaches() {
    let daemon = daemon().await;
    let configuration = json!({ "VpcEgressConfiguration": {
        "SubnetIds": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"],
    } });
    let members = json!({ "Configuration": configuration });
    let created = create(&daemon, members).await.unwrap();
    daemon.control.connector_settled("office").await.unwrap();
    daemon.run(attached(created["Arn"].as_str().unwrap())).await;
    assert_eq!(granted(&daemon), ["10.1.7.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connector_cuts_its_users_off_at_once_and_for_good() {
    let mut daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let id = daemon.run(attached(&arn)).await;
    delete(&daemon, "office").await.unwrap();
    assert_eq!(granted(&daemon), Vec::<String>::new());
    assert_eq!(daemon.get(&id).await.state, MicrovmState::Running);

    daemon.suspended(&id).await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(granted(&daemon), Vec::<String>::new());
    daemon.crash_and_restart().await;
    daemon.request(&id).await;
    assert_eq!(granted(&daemon), Vec::<String>::new());
    let again = Daemon::run_request(attached(&arn));
    let refusal = daemon.control.run_microvm(again).await.unwrap_err();
    assert!(
        matches!(refusal, ApiError::ResourceNotFound { .. }),
        "{refusal}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_was_admitted_before_the_end_of_its_connector_gets_nothing_of_it() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let faults = daemon.world.faults();
    let before = faults.calls(Operation::AcquireSlot);
    let hour = std::time::Duration::from_secs(3600);
    faults.next(Operation::AcquireSlot, Fault::Delay(hour));
    let id = daemon.launch(attached(&arn)).await;
    while faults.calls(Operation::AcquireSlot) == before {
        tokio::task::yield_now().await;
    }
    delete(&daemon, "office").await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(granted(&daemon), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_could_not_cut_everybody_off_is_not_done_and_can_be_repeated() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    daemon.run(attached(&arn)).await;
    daemon.world.faults().next(Operation::Withdraw, Fault::Fail);
    let failure = delete(&daemon, "office").await.unwrap_err();
    assert!(matches!(failure, ApiError::InternalServer { .. }));
    assert_eq!(get(&daemon, "office").await.unwrap()["State"], "DELETING");
    delete(&daemon, "office").await.unwrap();
    assert_eq!(granted(&daemon), Vec::<String>::new());
    assert!(get(&daemon, "office").await.is_err());
}

/// A connector that nobody settles: it is written behind the daemon's back.
async fn pending(daemon: &Daemon) -> String {
    let store = Store::open(daemon.directory().join("state.db"))
        .await
        .unwrap();
    let version = NewConnectorVersion {
        config: json!({ "SubnetIds": ["subnet-1"], "AssociatedComputeResourceTypes": ["MicroVm"] }),
        role: ROLE.into(),
        at: 1,
    };
    let id = "nc-00000000-0000-4000-8000-000000000000";
    let answer = |_: &_, _: &_| Value::Null;
    store
        .create_connector(
            id.into(),
            "slow".into(),
            json!({}),
            version,
            10,
            None,
            answer,
        )
        .await
        .unwrap();
    format!("arn:aws:lambda:us-east-1:000000000000:network-connector:{id}")
}

#[tokio::test(start_paused = true)]
async fn a_pending_connector_refuses_what_needs_an_active_one_and_the_next_daemon_settles_it() {
    let mut daemon = daemon().await;
    let arn = pending(&daemon).await;
    let run = Daemon::run_request(attached(&arn));
    let refusal = daemon.control.run_microvm(run).await.unwrap_err();
    assert!(matches!(refusal, ApiError::Conflict { .. }), "{refusal}");
    assert!(refusal.to_string().contains("PENDING"));
    let image = Daemon::image_request(with(json!({ "name": "other" }), attached(&arn)));
    assert!(matches!(
        daemon.control.create_microvm_image(image).await,
        Err(ApiError::Conflict { .. })
    ));
    assert!(matches!(
        update(&daemon, "slow", json!({})).await,
        Err(ApiError::Conflict { .. })
    ));
    assert!(matches!(
        delete(&daemon, "slow").await,
        Err(ApiError::Conflict { .. })
    ));
    daemon.crash_and_restart().await;
    assert_eq!(get(&daemon, "slow").await.unwrap()["State"], "ACTIVE");
}

#[tokio::test(start_paused = true)]
async fn a_connector_of_what_is_declared_no_more_is_inactive_until_it_is_again() {
    let mut daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let id = daemon.run(attached(&arn)).await;
    let subnet = daemon.settings.vpc.subnets.remove("subnet-1").unwrap();
    daemon.crash_and_restart().await;
    let got = get(&daemon, "office").await.unwrap();
    assert_eq!(
        (&got["State"], &got["StateReasonCode"]),
        (&json!("INACTIVE"), &json!("InvalidSubnet"))
    );
    daemon.request(&id).await;
    assert_eq!(granted(&daemon), Vec::<String>::new());
    let run = Daemon::run_request(attached(&arn));
    let refusal = daemon.control.run_microvm(run).await;
    assert!(matches!(refusal, Err(ApiError::Conflict { .. })));

    daemon
        .settings
        .vpc
        .subnets
        .insert("subnet-1".into(), subnet);
    daemon.crash_and_restart().await;
    let got = get(&daemon, "office").await.unwrap();
    assert_eq!(
        (&got["State"], got.get("StateReason")),
        (&json!("ACTIVE"), None)
    );
    daemon.request(&id).await;
    assert_eq!(granted(&daemon), ["10.1.0.0/16"]);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_built_and_run_with_its_own_connector() {
    let daemon = daemon().await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let image = Daemon::image_request(with(json!({ "name": "inner" }), attached(&arn)));
    daemon.control.create_microvm_image(image).await.unwrap();
    let inner = IMAGE.replace("hello", "inner");
    daemon.control.image_settled(&inner).await.unwrap();
    let build = daemon.world.builds().pop().unwrap();
    let Egress::Granted(grants) = build.egress else {
        panic!("{:?}", build.egress)
    };
    assert_eq!(grants[0].allow[0].to.to_string(), "10.1.0.0/16");
    let id = daemon.run(json!({ "imageIdentifier": inner })).await;
    assert_eq!(granted(&daemon), ["10.1.0.0/16"]);
    assert_eq!(
        daemon.get(&id).await.egress_network_connectors,
        Some(vec![arn])
    );
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_the_pool_is_granted_what_its_launch_may_reach() {
    let daemon = Daemon::start_with(|settings| {
        declared(settings);
        settings.pool.enabled = true;
        settings.pool.memory_mib = 10_000;
        settings.pool.machines_per_version = 1;
    })
    .await;
    let (office, other) = (
        made(&daemon, "office", "subnet-1").await,
        made(&daemon, "other", "subnet-2").await,
    );
    daemon.create_image(attached(&office)).await;
    // Paused, it waits.
    let waits = || {
        let machines = daemon.world.machines();
        let paused = |id: &String| {
            daemon
                .world
                .guest(id)
                .is_some_and(|guest| !guest.is_running())
        };
        machines.len() == 1 && machines[0].starts_with("pool-") && machines.iter().all(paused)
    };
    for _ in 0..100_000 {
        if waits() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(waits());
    let id = daemon.run(attached(&other)).await;
    let guest = daemon.world.guest(&id).unwrap();
    assert!(guest.name().starts_with("pool-"), "it waited");
    daemon.control.shutdown().await;
    assert_eq!(granted(&daemon), ["10.2.0.0/16"]);
}

#[tokio::test(start_paused = true)]
async fn a_kept_process_wakes_with_what_its_connector_allows_then() {
    let daemon = Daemon::start_with(|settings| {
        declared(settings);
        settings.hot.enabled = true;
        settings.hot.memory_mib = 10_000;
    })
    .await;
    daemon.create_image(json!({})).await;
    let arn = made(&daemon, "office", "subnet-1").await;
    let id = daemon.run(attached(&arn)).await;
    daemon.suspended(&id).await;
    assert_eq!(granted(&daemon), ["10.1.0.0/16"], "its slot is kept");
    updated(
        &daemon,
        "office",
        json!({ "Configuration": vpc(&["subnet-2"]) }),
    )
    .await;
    daemon.resume(&id).await.unwrap();
    daemon.reaches(&id, MicrovmState::Running).await;
    assert_eq!(granted(&daemon), ["10.2.0.0/16"]);
}

#[tokio::test(start_paused = true)]
async fn a_connector_for_something_else_is_not_attached_and_tags_can_be_changed() {
    let daemon = daemon().await;
    let configuration = json!({ "VpcEgressConfiguration": {
        "SubnetIds": ["subnet-1"], "AssociatedComputeResourceTypes": ["WebFunction"],
    } });
    let members = json!({ "Configuration": configuration });
    let arn = create(&daemon, members).await.unwrap()["Arn"].clone();
    let arn = arn.as_str().unwrap();
    daemon.control.connector_settled("office").await.unwrap();
    let run = daemon
        .control
        .run_microvm(Daemon::run_request(attached(arn)));
    assert!(matches!(run.await, Err(ApiError::Validation { .. })));

    let tags = json!({ "Resource": arn, "Tags": { "a": "1", "b": "2" } });
    call!(daemon, tag_resource, tags).unwrap();
    let keys = json!({ "Resource": arn, "TagKeys": ["a", "z"] });
    call!(daemon, untag_resource, keys).unwrap();
    let tags = call!(daemon, list_tags, json!({ "Resource": arn })).unwrap();
    assert_eq!(tags, json!({ "Tags": { "b": "2" } }));
    let other = arn.replace("nc-", "nd-");
    let missing = call!(daemon, list_tags, json!({ "Resource": other }));
    assert!(matches!(missing, Err(ApiError::ResourceNotFound { .. })));
}
