//! Every operation of every service, asked for by someone without rights, by someone with exactly the
//! rights that it needs, and by someone who lacks one of them.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use colibri_control::{Clock, Control, EndpointForm, LogSink, MintFailure, Parts, Settings};
use colibri_iam::{Principals, edit};
use colibri_store::{IamChange, IamOwner, InlinePolicy, Store};
use colibri_testkit::World;
use colibri_wire::id::place::{Account, Place, Region};
use colibri_wire::id::port::AllowedPorts;
use colibri_wire::model::operations;
use colibri_wire::page::PageKey;
use colibri_wire::{ApiError, Operation, Request, Route};
use serde_json::{Value, json};

use super::{AccountRoles, Caller, lambda, logs};
use crate::{logs as service, sts};

const IMAGE: &str = "arn:aws:lambda:us-east-1:000000000000:microvm-image:hello";
const MANAGED: &str = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
const ROLE: &str = "arn:aws:iam::000000000000:role/build";
const CONNECTORS: &str = "arn:aws:lambda:us-east-1:000000000000:network-connector:*";
const CONNECTOR: &str = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:";
const LOGS: &str = "arn:aws:logs:us-east-1:000000000000:log-group:";

struct Silent;

#[async_trait]
impl LogSink for Silent {
    async fn append(&self, _: &str, _: &str, _: Vec<(i64, String)>) {}
}

impl colibri_control::TokenMint for Silent {
    fn endpoint_token(&self, _: &str, _: &AllowedPorts, _: u32) -> Result<String, MintFailure> {
        Ok(String::new())
    }

    fn shell_token(&self, _: &str, _: u32) -> Result<String, MintFailure> {
        Ok(String::new())
    }
}

/// A control plane with one image and one MicroVM, and a user who may do nothing yet.
struct Trial {
    control: Arc<Control>,
    principals: Arc<Principals>,
    store: Store,
    microvm: String,
    _directory: tempfile::TempDir,
}

impl Trial {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("state.db"))
            .await
            .unwrap();
        let world = World::new();
        let place = Place {
            region: Region::parse("us-east-1").unwrap(),
            account: Account::parse("000000000000").unwrap(),
        };
        let endpoint = EndpointForm::UnderDomain("microvm.localhost".into());
        let key = PageKey::new([7; 32]);
        let root = colibri_iam::root::open(directory.path(), "us-east-1", "000000000000").unwrap();
        let user = edit::create_user("ana", SystemTime::now()).unwrap();
        store.change_iam(vec![user]).await.unwrap();
        let principals = Principals::open(store.clone(), root).await.unwrap();
        let parts = Parts {
            settings: Settings::new(place, directory.path().into(), endpoint, key),
            store: store.clone(),
            vmm: world.vmm(),
            network: world.network(),
            builder: world.builder(),
            logs: Arc::new(Silent),
            tokens: Arc::new(Silent),
            roles: Arc::new(AccountRoles::new(Arc::clone(&principals))),
            clock: Clock::system(),
        };
        let control = Control::start(parts).await.unwrap();
        let Request::CreateMicrovmImage(create) = request(
            "POST",
            "/2025-09-09/microvm-images",
            &image(&json!({"name": "hello"})),
        ) else {
            panic!("another operation");
        };
        control.create_microvm_image(create).await.unwrap();
        control.image_settled(IMAGE).await.unwrap();
        let run = json!({"imageIdentifier": IMAGE});
        let Request::RunMicrovm(run) = request("POST", "/2025-09-09/microvms", &run) else {
            panic!("another operation");
        };
        let microvm = control.run_microvm(run).await.unwrap().microvm_id;
        Self {
            control,
            principals,
            store,
            microvm,
            _directory: directory,
        }
    }

    /// Gives the user exactly these rights, and no others.
    async fn grant(&self, rights: &[(String, String)]) -> Caller {
        let owner = IamOwner::User("ana".into());
        let statement = |(action, resource): &(String, String)| json!({"Effect": "Allow", "Action": action, "Resource": resource});
        let nothing = [("none:None".to_owned(), "*".to_owned())];
        let rights = if rights.is_empty() {
            &nothing[..]
        } else {
            rights
        };
        let statements: Vec<Value> = rights.iter().map(statement).collect();
        let put = IamChange::PutInline(InlinePolicy {
            owner,
            name: "rights".into(),
            document: json!({"Version": "2012-10-17", "Statement": statements}).to_string(),
        });
        self.store.change_iam(vec![put]).await.unwrap();
        self.principals.refresh().await.unwrap();
        let ana = self.principals.directory().user("ana", "AKIAANA").unwrap();
        Caller::new(Arc::clone(&self.principals), ana, "us-east-1", None)
    }

    async fn ask(&self, rights: &[(String, String)], request: &Request) -> Result<(), ApiError> {
        let caller = self.grant(rights).await;
        lambda::authorize(&caller, &self.control, request).await
    }
}

fn request(method: &str, target: &str, body: &Value) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let route = Route::find(method, path).unwrap_or_else(|| panic!("no route: {method} {target}"));
    Request::parse(route, Some(query), body.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

fn image(more: &Value) -> Value {
    let mut image = json!({
        "baseImageArn": MANAGED,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": "s3://apps/hello.zip"},
    });
    let members = image.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    image
}

/// Path and body of a request of each operation, and the rights that it needs: nobody can add an
/// operation without saying so here.
fn case(operation: Operation, microvm: &str) -> (String, Value, Vec<(String, String)>) {
    let path = |text: &str| {
        let escaped = |arn: &str| arn.replace(':', "%3A");
        let image = format!("/2025-09-09/microvm-images/{}", escaped(IMAGE));
        text.replace("IMAGE", &image)
            .replace("MICROVM", &format!("/2025-09-09/microvms/{microvm}"))
            .replace("TAGS", &format!("/2017-03-31/tags/{}", escaped(IMAGE)))
            .replace(
                "MANAGED",
                &format!("/2025-09-09/managed-microvm-images/{}", escaped(MANAGED)),
            )
    };
    let on = |resource: &str| vec![(format!("lambda:{}", operation.name()), resource.to_owned())];
    let with = |resource: &str, more: &[(&str, &str)]| {
        let mut rights = on(resource);
        let more = more
            .iter()
            .map(|(action, resource)| ((*action).to_owned(), (*resource).to_owned()));
        rights.extend(more);
        rights
    };
    let egress = format!("{CONNECTOR}INTERNET_EGRESS");
    let ingress = format!("{CONNECTOR}HTTP_INGRESS");
    let building = [
        ("iam:PassRole", ROLE),
        ("lambda:PassNetworkConnector", egress.as_str()),
        ("s3:GetObject", "arn:aws:s3:::apps/hello.zip"),
    ];
    let version = format!("{IMAGE}:1.0");
    let none = Value::Null;
    match operation {
        Operation::CreateMicrovmImage => {
            let new = IMAGE.replace("hello", "new");
            let body = image(&json!({"name": "new"}));
            (
                path("/2025-09-09/microvm-images"),
                body,
                with(&new, &building),
            )
        }
        Operation::UpdateMicrovmImage => (path("IMAGE"), image(&json!({})), with(IMAGE, &building)),
        Operation::GetMicrovmImage | Operation::DeleteMicrovmImage => {
            (path("IMAGE"), none, on(IMAGE))
        }
        Operation::ListMicrovmImageVersions => (path("IMAGE/versions"), none, on(IMAGE)),
        Operation::GetMicrovmImageVersion | Operation::DeleteMicrovmImageVersion => {
            (path("IMAGE/versions/1.0"), none, on(&version))
        }
        Operation::UpdateMicrovmImageVersion => (
            path("IMAGE/versions/1.0"),
            json!({"status": "INACTIVE"}),
            on(&version),
        ),
        Operation::ListMicrovmImageBuilds => {
            (path("IMAGE/versions/1.0/builds"), none, on(&version))
        }
        Operation::GetMicrovmImageBuild => {
            let build = "11111111-2222-4333-8444-555555555555";
            (
                path(&format!("IMAGE/versions/1.0/builds/{build}")),
                none,
                on(&version),
            )
        }
        Operation::ListMicrovmImages => (path("/2025-09-09/microvm-images"), none, on("*")),
        Operation::ListManagedMicrovmImages => {
            (path("/2025-09-09/managed-microvm-images"), none, on("*"))
        }
        Operation::ListManagedMicrovmImageVersions => (path("MANAGED/versions"), none, on(MANAGED)),
        Operation::RunMicrovm => {
            let role = "arn:aws:iam::000000000000:role/run";
            let body = json!({"imageIdentifier": IMAGE, "executionRoleArn": role});
            let passed = [
                ("iam:PassRole", role),
                ("lambda:PassNetworkConnector", ingress.as_str()),
                ("lambda:PassNetworkConnector", egress.as_str()),
            ];
            (path("/2025-09-09/microvms"), body, with(&version, &passed))
        }
        Operation::GetMicrovm | Operation::TerminateMicrovm => (path("MICROVM"), none, on(IMAGE)),
        Operation::SuspendMicrovm => (path("MICROVM/suspend"), none, on(&version)),
        Operation::ResumeMicrovm => (path("MICROVM/resume"), none, on(&format!("{IMAGE}:*"))),
        Operation::CreateMicrovmAuthToken => {
            let body = json!({"expirationInMinutes": 5, "allowedPorts": [{"port": 80}]});
            (path("MICROVM/auth-token"), body, on(IMAGE))
        }
        Operation::CreateMicrovmShellAuthToken => (
            path("MICROVM/shell-auth-token"),
            json!({"expirationInMinutes": 5}),
            on(IMAGE),
        ),
        Operation::ListMicrovms => (path("/2025-09-09/microvms"), none, on("*")),
        Operation::ListTags => (path("TAGS"), none, on(IMAGE)),
        Operation::TagResource => (path("TAGS"), json!({"Tags": {"a": "b"}}), on(IMAGE)),
        Operation::UntagResource => (path("TAGS?tagKeys=a"), none, on(IMAGE)),
        Operation::CreateNetworkConnector => {
            let vpc = json!({"VpcEgressConfiguration": {"SubnetIds": ["subnet-1"]}});
            let body = json!({"Name": "new", "Configuration": vpc, "OperatorRole": ROLE});
            let rights = with(CONNECTORS, &[("iam:PassRole", ROLE)]);
            (path("/2026-04-04/network-connectors"), body, rights)
        }
        Operation::UpdateNetworkConnector => (
            path("/2026-04-04/network-connectors/office"),
            json!({"OperatorRole": ROLE}),
            with(CONNECTORS, &[("iam:PassRole", ROLE)]),
        ),
        // There is none of that name: only who may act on all of them learns it.
        Operation::GetNetworkConnector | Operation::DeleteNetworkConnector => (
            path("/2026-04-04/network-connectors/office"),
            none,
            on(CONNECTORS),
        ),
        Operation::ListNetworkConnectorVersions => (
            path("/2026-04-04/network-connectors/office/versions"),
            none,
            on(CONNECTORS),
        ),
        Operation::ListNetworkConnectors => (path("/2026-04-04/network-connectors"), none, on("*")),
    }
}

#[tokio::test]
async fn every_operation_on_microvms_needs_its_rights_all_of_them_and_no_more() {
    let trial = Trial::new().await;
    for model in operations() {
        let name = model.operation.name();
        let (target, body, rights) = case(model.operation, &trial.microvm);
        let request = request(model.method, &target, &body);
        assert_eq!(request.operation(), model.operation);
        let refused = trial.ask(&[], &request).await.unwrap_err();
        assert_eq!(
            (refused.status(), refused.wire_name()),
            (403, "AccessDeniedException"),
            "{name}"
        );
        let expected =
            "User: arn:aws:iam::000000000000:user/ana is not authorized to perform: lambda:";
        assert!(refused.to_string().starts_with(expected), "{refused}");
        let allowed = trial.ask(&rights, &request).await;
        assert_eq!(allowed, Ok(()), "{name}");
        for (index, (action, _)) in rights.iter().enumerate() {
            let mut fewer = rights.clone();
            fewer.remove(index);
            let refused = trial.ask(&fewer, &request).await.unwrap_err().to_string();
            assert!(
                refused.contains(action.as_str()),
                "{name} without {action}: {refused}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_only_to_those_who_may_act_on_everything() {
    let trial = Trial::new().await;
    let get = |id: &str| request("GET", &format!("/2025-09-09/microvms/{id}"), &Value::Null);
    let unknown = get("microvm-00000000-0000-4000-8000-000000000000");
    let right = |resource: &str| [("lambda:GetMicrovm".to_owned(), resource.to_owned())];
    for microvm in [&unknown, &get(&trial.microvm)] {
        let other = right(&IMAGE.replace("hello", "other"));
        assert_eq!(trial.ask(&other, microvm).await.unwrap_err().status(), 403);
        assert_eq!(trial.ask(&right("*"), microvm).await, Ok(()));
    }
    assert_eq!(
        trial
            .ask(&right(IMAGE), &unknown)
            .await
            .unwrap_err()
            .status(),
        403
    );
}

#[tokio::test]
async fn tags_of_image_and_request_are_known_to_conditions() {
    let trial = Trial::new().await;
    let tag = |key: &str| {
        request(
            "POST",
            &format!("/2017-03-31/tags/{}", IMAGE.replace(':', "%3A")),
            &json!({"Tags": {key: "red"}}),
        )
    };
    let Request::TagResource(red) = tag("team") else {
        panic!("another operation");
    };
    trial.control.tag_resource(red).await.unwrap();
    let decide = async |condition: Value, request: &Request| {
        let statement = json!({"Effect": "Allow", "Action": "lambda:*", "Resource": "*", "Condition": condition});
        let put = IamChange::PutInline(InlinePolicy {
            owner: IamOwner::User("ana".into()),
            name: "rights".into(),
            document: json!({"Version": "2012-10-17", "Statement": statement}).to_string(),
        });
        trial.store.change_iam(vec![put]).await.unwrap();
        trial.principals.refresh().await.unwrap();
        let ana = trial.principals.directory().user("ana", "AKIAANA").unwrap();
        let caller = Caller::new(Arc::clone(&trial.principals), ana, "us-east-1", None);
        lambda::authorize(&caller, &trial.control, request)
            .await
            .is_ok()
    };
    let get = request(
        "GET",
        &format!("/2025-09-09/microvms/{}", trial.microvm),
        &Value::Null,
    );
    let resource_tag = |value: &str| json!({"StringEquals": {"aws:ResourceTag/team": value}});
    assert!(decide(resource_tag("red"), &get).await);
    assert!(!decide(resource_tag("blue"), &get).await);
    let keys = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}, "StringEquals": {"aws:RequestTag/team": "red"}});
    assert!(decide(keys.clone(), &tag("team")).await);
    assert!(!decide(keys, &tag("other")).await);
}

#[tokio::test]
async fn an_image_is_built_from_what_its_role_may_read_where_there_is_such_a_role() {
    let trial = Trial::new().await;
    let trust = json!({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}});
    let role = edit::create_role("build", &trust.to_string(), 3600, SystemTime::now()).unwrap();
    trial.store.change_iam(vec![role]).await.unwrap();
    let (target, body, rights) = case(Operation::CreateMicrovmImage, &trial.microvm);
    let create = request("POST", &target, &body);
    let refused = trial.ask(&rights, &create).await.unwrap_err().to_string();
    assert!(
        refused.contains("assumed-role/build/") && refused.contains("s3:GetObject"),
        "{refused}"
    );
    let reads = json!({"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::apps/*"}});
    let put = IamChange::PutInline(InlinePolicy {
        owner: IamOwner::Role("build".into()),
        name: "reads".into(),
        document: reads.to_string(),
    });
    trial.store.change_iam(vec![put]).await.unwrap();
    assert_eq!(trial.ask(&rights, &create).await, Ok(()));
}

#[tokio::test]
async fn every_operation_on_logs_needs_the_right_of_its_name_on_what_it_names() {
    let trial = Trial::new().await;
    let body = json!({
        "logGroupName": "/a", "logGroupIdentifiers": ["/a"], "resourceArn": format!("{LOGS}/a:*"),
        "logStreamName": "s",
    });
    let body = body.to_string();
    for operation in service::Operation::ALL {
        let needs = || logs::needs(*operation, body.as_bytes(), LOGS);
        let refused = trial.grant(&[]).await.may(needs()).unwrap_err().to_string();
        let action = format!("logs:{}", operation.name());
        assert!(
            refused.contains(&format!("perform: {action} on resource: {LOGS}")),
            "{refused}"
        );
        let resources: BTreeSet<String> = needs()
            .iter()
            .map(|need| need.resource.arn().to_owned())
            .collect();
        let rights: Vec<(String, String)> = resources
            .into_iter()
            .map(|arn| (action.clone(), arn))
            .collect();
        assert_eq!(trial.grant(&rights).await.may(needs()), Ok(()), "{action}");
        let other = [(action.clone(), format!("{LOGS}/b*"))];
        assert!(trial.grant(&other).await.may(needs()).is_err(), "{action}");
    }
}

#[tokio::test]
async fn only_assuming_a_role_needs_a_right_of_sts() {
    let trial = Trial::new().await;
    for action in sts::Action::ALL {
        let body = format!(
            "Action={}&RoleArn=arn:aws:iam::000000000000:role/x&RoleSessionName=job",
            action.name()
        );
        let caller = trial.grant(&[]).await;
        let answer = sts::answer_action(body.as_bytes(), &caller, "id").await;
        let expected = if action == sts::Action::AssumeRole {
            403
        } else {
            200
        };
        assert_eq!(answer.status().as_u16(), expected, "{}", action.name());
    }
}

#[test]
fn a_refusal_says_who_what_on_what_and_why() {
    use colibri_iam::policy::{Decision, Source, StatementName};
    let statement = StatementName {
        policy: "p".into(),
        number: 1,
        sid: None,
    };
    for (decision, reason) in [
        (
            Decision::NotAllowed(Source::Identity),
            "because no identity-based policy allows the s3:GetObject action",
        ),
        (
            Decision::NotAllowed(Source::Session),
            "because no session policy allows the s3:GetObject action",
        ),
        (
            Decision::Denied(Source::Identity, statement.clone()),
            "with an explicit deny in an identity-based policy",
        ),
        (
            Decision::Denied(Source::Session, statement),
            "with an explicit deny in a session policy",
        ),
    ] {
        let denied = super::Denied::new("arn:ana", "s3:GetObject", "arn:o", &decision);
        let expected = format!(
            "User: arn:ana is not authorized to perform: s3:GetObject on resource: arn:o {reason}"
        );
        assert_eq!(denied.to_string(), expected);
    }
}
