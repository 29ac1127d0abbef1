//! What a guest is answered, and what it is not, over connections of its own.
#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use colibri_metadata::{About, Metadata, NoCredentials, NotRunning, RoleCredentials, Subject};
use colibri_network::{GuestListener, GuestStream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

struct Connections(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl GuestListener for Connections {
    async fn accept(&mut self) -> io::Result<Box<dyn GuestStream>> {
        let stream = self.0.recv().await;
        Ok(Box::new(stream.ok_or(io::ErrorKind::BrokenPipe)?))
    }
}

struct Machine {
    about: About,
    busy: Mutex<Duration>,
    runs: bool,
    suspended: watch::Sender<bool>,
    role: Option<Result<RoleCredentials, NoCredentials>>,
}

#[async_trait]
impl Subject for Machine {
    fn about(&self) -> &About {
        &self.about
    }

    fn be_busy(&self, time: Duration) {
        *self.busy.lock().unwrap() = time;
    }

    fn busy_for(&self) -> Duration {
        *self.busy.lock().unwrap()
    }

    fn may_suspend(&self) -> Result<(), NotRunning> {
        self.runs.then_some(()).ok_or(NotRunning)
    }

    async fn suspend(&self) {
        self.suspended.send_replace(true);
    }

    fn has_role(&self) -> bool {
        self.role.is_some()
    }

    async fn credentials(&self) -> Result<RoleCredentials, NoCredentials> {
        self.role.clone().unwrap_or(Err(NoCredentials::Failed))
    }
}

struct Guest {
    connect: mpsc::UnboundedSender<DuplexStream>,
    machine: Arc<Machine>,
}

impl Guest {
    fn of(service: &Arc<Metadata>, id: &str) -> Self {
        Self::that(service, id, true)
    }

    fn that(service: &Arc<Metadata>, id: &str, runs: bool) -> Self {
        Self::with_role(service, id, runs, None)
    }

    fn with_role(
        service: &Arc<Metadata>,
        id: &str,
        runs: bool,
        role: Option<Result<RoleCredentials, NoCredentials>>,
    ) -> Self {
        let machine = Arc::new(Machine {
            about: About {
                microvm_id: id.into(),
                image_arn: "arn:aws:lambda:us-east-1:000000000000:microvm-image:hello".into(),
                image_version: "1.0".into(),
                region: "us-east-1".into(),
                account_id: "000000000000".into(),
                started_at: 1.5,
                ends_at: 2.5,
            },
            busy: Mutex::default(),
            runs,
            suspended: watch::channel(false).0,
            role,
        });
        let (connect, connections) = mpsc::unbounded_channel();
        let served = Arc::clone(service).serve(
            Box::new(Connections(connections)),
            Arc::clone(&machine) as Arc<dyn Subject>,
        );
        tokio::spawn(served);
        Self { connect, machine }
    }

    fn dial(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.connect.send(far).unwrap();
        near
    }

    /// Status and body.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.dial();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.get(9..12).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.unwrap_or(0), body.to_owned())
    }

    async fn token(&self) -> String {
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
        let (status, token) = self.ask("PUT", "/latest/api/token", ttl, "").await;
        assert_eq!(status, 200);
        format!("X-aws-ec2-metadata-token: {token}\r\n")
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_without_a_token_of_ones_own() {
    let service = Arc::new(Metadata::new());
    let (guest, other) = (
        Guest::of(&service, "microvm-1"),
        Guest::of(&service, "microvm-2"),
    );
    let paths = [
        ("GET", "/colibri/v1/identity"),
        ("POST", "/colibri/v1/suspend"),
        ("PUT", "/colibri/v1/busy"),
        ("GET", "/latest/meta-data/iam/security-credentials/"),
        ("GET", "/nowhere"),
    ];
    let foreign = other.token().await;
    for (method, path) in paths {
        for headers in ["", "X-aws-ec2-metadata-token: AAAA\r\n", &foreign] {
            assert_eq!(guest.ask(method, path, headers, "").await.0, 401, "{path}");
        }
    }
    assert!(!*guest.machine.suspended.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_with_its_lifetime_and_not_through_a_proxy() {
    let guest = Guest::of(&Arc::new(Metadata::new()), "microvm-1");
    let ask = |headers: &'static str| guest.ask("PUT", "/latest/api/token", headers, "");
    assert_eq!(ask("").await.0, 400);
    for bad in ["0", "21601", "-1", "x"] {
        let header = format!("X-aws-ec2-metadata-token-ttl-seconds: {bad}\r\n");
        let asked = guest.ask("PUT", "/latest/api/token", &header, "").await;
        assert_eq!(asked.0, 400, "{bad}");
    }
    let proxied = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(ask(proxied).await.0, 403);
    let token = guest.token().await;
    assert_eq!(
        guest.ask("GET", "/latest/api/token", &token, "").await.0,
        405
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(
        guest.ask("GET", "/colibri/v1/identity", &token, "").await.0,
        401
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_learns_who_it_is_and_that_it_has_no_role() {
    let guest = Guest::of(&Arc::new(Metadata::new()), "microvm-1");
    let token = guest.token().await;
    let get = |path: &'static str| guest.ask("GET", path, &token, "");
    let (status, body) = get("/colibri/v1/identity").await;
    let about: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, about["microvmId"].as_str()),
        (200, Some("microvm-1"))
    );
    assert_eq!(about["imageVersion"], "1.0");
    assert_eq!(get("/latest/meta-data/instance-id").await.1, "microvm-1");
    assert_eq!(
        get("/latest/meta-data/placement/region").await.1,
        "us-east-1"
    );
    let role = get("/latest/meta-data/iam/security-credentials/").await;
    assert_eq!(role.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_busy_for_as_long_as_it_says_within_an_hour() {
    let guest = Guest::of(&Arc::new(Metadata::new()), "microvm-1");
    let token = guest.token().await;
    let busy = |method: &'static str, body: &'static str| {
        guest.ask(method, "/colibri/v1/busy", &token, body)
    };
    let said = busy("PUT", r#"{"seconds": 300}"#).await;
    assert_eq!((said.0, busy("GET", "").await.0), (200, 200));
    assert_eq!(guest.machine.busy_for(), Duration::from_secs(300));
    for bad in [
        "",
        "{}",
        r#"{"seconds": 0}"#,
        r#"{"seconds": 3601}"#,
        r#"{"seconds": 1, "x": 1}"#,
    ] {
        assert_eq!(busy("PUT", bad).await.0, 400, "{bad}");
    }
    assert_eq!(busy("POST", "").await.0, 405);
    assert_eq!(busy("DELETE", "").await.0, 200);
    assert_eq!(guest.machine.busy_for(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_asks_for_its_suspension_is_answered_first() {
    let guest = Guest::of(&Arc::new(Metadata::new()), "microvm-1");
    let token = guest.token().await;
    let mut stream = guest.dial();
    let request = format!("POST /colibri/v1/suspend HTTP/1.1\r\nHost: x\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert!(
        !*guest.machine.suspended.borrow(),
        "the guest has not closed yet"
    );
    drop(stream);
    let mut suspended = guest.machine.suspended.subscribe();
    suspended.wait_for(|suspended| *suspended).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_does_not_run_yet_is_not_suspended() {
    let guest = Guest::that(&Arc::new(Metadata::new()), "microvm-1", false);
    let token = guest.token().await;
    assert_eq!(
        guest.ask("POST", "/colibri/v1/suspend", &token, "").await.0,
        409
    );
    assert!(!*guest.machine.suspended.borrow());
}

#[tokio::test(start_paused = true)]
async fn silence_long_heads_and_long_bodies_have_their_bounds() {
    let guest = Guest::of(&Arc::new(Metadata::new()), "microvm-1");
    let mut silent = guest.dial();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    let long = format!("X-Long: {}\r\n", "x".repeat(32 * 1024));
    assert_eq!(guest.ask("GET", "/", &long, "").await.0, 431);
    let token = guest.token().await;
    let body = " ".repeat(2000);
    assert_eq!(
        guest.ask("PUT", "/colibri/v1/busy", &token, &body).await.0,
        400
    );
    let crowd: Vec<_> = (0..40).map(|_| guest.dial()).collect();
    // Those that are silent make way when their time is up.
    assert_eq!(
        guest.ask("GET", "/colibri/v1/identity", &token, "").await.0,
        200
    );
    drop(crowd);
}

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";

#[tokio::test(start_paused = true)]
async fn credentials_are_where_clients_look_for_them_and_only_where_there_is_a_role() {
    let service = Arc::new(Metadata::new());
    let given = RoleCredentials {
        access_key_id: "ASIAEXAMPLE".into(),
        secret_access_key: "secret".into(),
        session_token: "token".into(),
        issued_at: 1_795_305_600_999,
        expires_at: 1_795_308_900_999,
    };
    assert!(!format!("{given:?}").contains("secret"));
    let guest = Guest::with_role(&service, "microvm-1", true, Some(Ok(given)));
    let token = guest.token().await;
    let listed = guest.ask("GET", CREDENTIALS, &token, "").await;
    assert_eq!(listed, (200, "execution_role".to_owned()));
    let path = format!("{CREDENTIALS}execution_role");
    assert_eq!(guest.ask("GET", &path, "", "").await.0, 401);
    let (status, document) = guest.ask("GET", &path, &token, "").await;
    let expected = json!({
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret",
        "Token": "token", "LastUpdated": "2026-11-22T00:00:00Z", "Expiration": "2026-11-22T00:55:00Z",
    });
    assert_eq!(
        (status, serde_json::from_str::<Value>(&document).unwrap()),
        (200, expected)
    );
    let other = format!("{CREDENTIALS}another");
    assert_eq!(guest.ask("GET", &other, &token, "").await.0, 404);
    assert_eq!(guest.ask("POST", &path, &token, "").await.0, 405);

    let untrusted = NoCredentials::Untrusted {
        role: "arn:aws:iam::000000000000:role/worker".into(),
        service: "lambda.amazonaws.com".into(),
    };
    let guest = Guest::with_role(&service, "microvm-2", true, Some(Err(untrusted)));
    let (status, document) = guest.ask("GET", &path, &guest.token().await, "").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(
        (status, &document["Code"]),
        (200, &json!("AssumeRoleUnauthorizedAccess"))
    );
    assert_eq!(document.get("AccessKeyId"), None);

    let guest = Guest::of(&service, "microvm-3");
    let token = guest.token().await;
    for path in [CREDENTIALS, &path] {
        assert_eq!(guest.ask("GET", path, &token, "").await.0, 404);
    }
}
