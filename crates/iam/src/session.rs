//! Giving out temporary keys: `AssumeRole` and `GetSessionToken`.

use std::time::{Duration, SystemTime};

use colibri_store::{IamChange, IamOwner, IamSession, StoreError};
use rand::rand_core::OsError;

use crate::credential::Secret;
use crate::directory::Role;
use crate::edit::millis;
use crate::identity::{Identity, Principal};
use crate::keys;
use crate::name::{NameOf, NotAName};
use crate::policy::{
    Caller, Context, Decision, PolicyDocument, PolicyError, Request, Resource, Trust,
};
use crate::principals::Principals;

/// Temporary keys that are good at the same time; more are refused.
const MAX_SESSIONS: usize = 5_000;
/// Those of one user or role, so that nobody takes all of them.
const MAX_SESSIONS_OF_ONE: usize = 500;
/// Those of a role that a service takes: there may be a thousand MicroVMs, each with an old one and a new one.
const MAX_SESSIONS_OF_SERVICE: usize = 2_500;
/// Longest policy of a session, as STS has it.
const MAX_POLICY: usize = 2_048;
/// Shortest session.
const SHORTEST: Duration = Duration::from_secs(15 * 60);
/// Session of a role where nobody says how long, and the longest of a role that a role assumes.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Session of a user where nobody says how long.
const HALF_A_DAY: Duration = Duration::from_secs(12 * 60 * 60);
/// For so long after its end a key is told that it has ended; then it is as unknown as any other.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// Longest session of a user.
const LONGEST: Duration = Duration::from_secs(36 * 60 * 60);

/// What `AssumeRole` asks for.
#[derive(Debug, Clone, Default)]
pub struct RoleRequest {
    /// ARN of the role.
    pub role_arn: String,
    /// What the caller calls the session.
    pub session_name: String,
    /// How long it shall be, seconds.
    pub duration_seconds: Option<u32>,
    /// A policy that takes away.
    pub policy: Option<String>,
    /// Circumstances of the call.
    pub context: Context,
}

/// What a service asks for when it takes a role that was passed to it.
#[derive(Debug, Clone, Default)]
pub struct ServiceRoleRequest {
    /// The service, as trust policies name it: `lambda.amazonaws.com`.
    pub service: String,
    /// ARN of the role.
    pub role_arn: String,
    /// For whom, as the session's name.
    pub session_name: String,
    /// How long it shall be.
    pub duration: Duration,
    /// Circumstances, which the trust policy may ask for.
    pub context: Context,
}

/// A temporary key.
#[derive(Debug, Clone)]
pub struct TemporaryKey {
    /// Whose it is.
    pub identity: Identity,
    /// Secret access key.
    pub secret: Secret,
    /// What must come with it.
    pub token: Secret,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// Why no temporary key is given.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The role does not trust the caller, or is not there: which of them is not told.
    #[error("the role does not trust the caller")]
    Untrusted,
    /// A policy denies it.
    #[error("the policies of the caller do not allow it")]
    Denied(Decision),
    /// A session's key asks for what only a lasting one gets.
    #[error("Cannot call GetSessionToken with session credentials")]
    FromSession,
    /// The session's name.
    #[error(transparent)]
    Name(#[from] NotAName),
    /// The duration.
    #[error("DurationSeconds must be {least} to {most} here; it is {given}")]
    Duration {
        /// As asked for.
        given: u64,
        /// Shortest.
        least: u64,
        /// Longest for this role or user.
        most: u64,
    },
    /// The session's policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The session's policy is too long.
    #[error("the session policy has {0} characters; the most is {MAX_POLICY}")]
    PolicyTooLong(usize),
    /// There are too many.
    #[error(
        "there are as many temporary keys as can be, {MAX_SESSIONS_OF_ONE} of one user or role and {MAX_SESSIONS} \
         of all; wait for some to end, or end them with `colibri iam session delete`"
    )]
    TooMany,
    /// No random bytes.
    #[error("could not get random bytes for a temporary key from the system")]
    Random(#[source] OsError),
    /// The store.
    #[error("a temporary key could not be stored")]
    Store(#[from] StoreError),
}

impl Principals {
    /// Gives out a session of a role.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn assume_role(
        &self,
        caller: &Identity,
        request: RoleRequest,
        now: SystemTime,
    ) -> Result<TemporaryKey, SessionError> {
        let directory = self.directory();
        let role = directory.role_of_arn(&request.role_arn);
        let decision = directory.decide(
            caller,
            Request {
                action: "sts:AssumeRole".to_owned(),
                resource: Resource::new(&request.role_arn),
                context: request.context.clone(),
            },
        );
        let Some(role) = role else {
            return Err(SessionError::Untrusted);
        };
        admit(caller, role, &request.context, decision)?;
        NameOf::Session.check(&request.session_name)?;
        let longest = match caller.principal {
            Principal::AssumedRole { .. } => HOUR.min(role.max_session),
            Principal::Root | Principal::User { .. } => role.max_session,
        };
        let duration = duration(request.duration_seconds, HOUR.min(longest), longest)?;
        if let Some(policy) = &request.policy {
            if policy.len() > MAX_POLICY {
                return Err(SessionError::PolicyTooLong(policy.len()));
            }
            PolicyDocument::parse(policy)?;
        }
        let owner = Some(IamOwner::Role(role.name.clone()));
        let name = Some(request.session_name);
        self.issue(
            owner,
            name,
            request.policy,
            now,
            duration,
            MAX_SESSIONS_OF_ONE,
        )
        .await
    }

    /// Gives a service a session of a role that it was passed and that trusts it.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn assume_for_service(
        &self,
        request: ServiceRoleRequest,
        now: SystemTime,
    ) -> Result<TemporaryKey, SessionError> {
        let directory = self.directory();
        let role = directory.role_of_arn(&request.role_arn);
        let role = role.ok_or(SessionError::Untrusted)?;
        let trusted = role.trust.as_ref().is_some_and(|trust| {
            trust.trusts_service(&request.service, "sts:AssumeRole", &request.context)
        });
        if !trusted {
            return Err(SessionError::Untrusted);
        }
        NameOf::Session.check(&request.session_name)?;
        let owner = Some(IamOwner::Role(role.name.clone()));
        let name = Some(request.session_name);
        let duration = request.duration.min(role.max_session);
        self.issue(owner, name, None, now, duration, MAX_SESSIONS_OF_SERVICE)
            .await
    }

    /// Gives out a session of the caller itself.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn session_token(
        &self,
        caller: &Identity,
        duration_seconds: Option<u32>,
        now: SystemTime,
    ) -> Result<TemporaryKey, SessionError> {
        if caller.session.is_some() {
            return Err(SessionError::FromSession);
        }
        let (owner, usual, longest) = match &caller.principal {
            Principal::Root => (None, HOUR, HOUR),
            Principal::User { name } => (Some(IamOwner::User(name.clone())), HALF_A_DAY, LONGEST),
            Principal::AssumedRole { .. } => return Err(SessionError::FromSession),
        };
        let duration = duration(duration_seconds, usual, longest)?;
        self.issue(owner, None, None, now, duration, MAX_SESSIONS_OF_ONE)
            .await
    }

    async fn issue(
        &self,
        owner: Option<IamOwner>,
        session_name: Option<String>,
        policy: Option<String>,
        now: SystemTime,
        duration: Duration,
        most_of_one: usize,
    ) -> Result<TemporaryKey, SessionError> {
        let (of_one, of_all) = self.directory().sessions(owner.as_ref(), now);
        if of_one >= most_of_one || of_all >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        let (access_key_id, secret) = keys::access_key("ASIA").map_err(SessionError::Random)?;
        let token = keys::session_token().map_err(SessionError::Random)?;
        // Whole seconds, as it is told.
        let created_at = millis(now) / 1000 * 1000;
        let session = IamSession {
            access_key_id: access_key_id.clone(),
            secret: secret.expose().to_owned(),
            token: token.expose().to_owned(),
            owner,
            session_name,
            policy,
            created_at,
            expires_at: created_at + whole_millis(duration),
        };
        let changes = vec![
            IamChange::ForgetSessions(created_at - whole_millis(REMEMBERED)),
            IamChange::CreateSession(session),
        ];
        self.store.change_iam(changes).await?;
        self.refresh().await?;
        let directory = self.directory();
        // It may have been ended in this moment, with its role.
        let credential = directory
            .credential(&access_key_id)
            .ok_or(SessionError::Untrusted)?;
        let session = credential.identity.session.as_ref();
        Ok(TemporaryKey {
            identity: credential.identity.clone(),
            secret,
            token,
            expires_at: session.map_or(now, |session| session.expires_at),
        })
    }
}

/// Whether a caller may have a role: the role must trust it, and where the role trusts its account only,
/// its own policies must allow it.
fn admit(
    caller: &Identity,
    role: &Role,
    context: &Context,
    decision: Decision,
) -> Result<(), SessionError> {
    let role_arn = match &caller.principal {
        Principal::AssumedRole { role_arn, .. } => Some(role_arn.as_str()),
        Principal::Root | Principal::User { .. } => None,
    };
    let asking = Caller {
        account: &caller.account,
        arn: &caller.principal_arn,
        role_arn,
    };
    let mut circumstances = context.clone();
    circumstances.extend(caller.context());
    let trust = role.trust.as_ref().map_or(Trust::No, |trust| {
        trust.trusts(&asking, "sts:AssumeRole", &circumstances)
    });
    match (trust, decision) {
        (Trust::No, _) => Err(SessionError::Untrusted),
        (Trust::Account | Trust::Caller, Decision::Allowed(_)) => Ok(()),
        (Trust::Caller, Decision::NotAllowed(crate::policy::Source::Identity)) => Ok(()),
        (Trust::Account | Trust::Caller, denied) => Err(SessionError::Denied(denied)),
    }
}

fn whole_millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn duration(
    asked: Option<u32>,
    usual: Duration,
    longest: Duration,
) -> Result<Duration, SessionError> {
    let Some(seconds) = asked else {
        return Ok(usual);
    };
    let duration = Duration::from_secs(u64::from(seconds));
    if (SHORTEST..=longest).contains(&duration) {
        return Ok(duration);
    }
    Err(SessionError::Duration {
        given: duration.as_secs(),
        least: SHORTEST.as_secs(),
        most: longest.as_secs(),
    })
}
