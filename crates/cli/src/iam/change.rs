//! The commands of `colibri iam` on single users, keys, roles, policies and sessions.

use std::error::Error;
use std::time::{Duration, SystemTime};

use colibri_iam::edit;
use colibri_store::{IamChange, IamOwner, IamRecords, Store};

use super::show::{date, document_of};
use super::{
    AccessKeyCommand, MaybeOwner, Owner, PolicyCommand, RoleCommand, SessionCommand, UserCommand,
    say, text_of,
};

type Done = Result<(), Box<dyn Error>>;

impl Owner {
    fn get(self) -> Option<IamOwner> {
        MaybeOwner {
            user: self.user,
            role: self.role,
        }
        .get()
    }
}

impl MaybeOwner {
    pub(super) fn get(self) -> Option<IamOwner> {
        let user = self.user.map(IamOwner::User);
        user.or(self.role.map(IamOwner::Role))
    }
}

async fn make(store: &Store, change: IamChange, done: impl std::fmt::Display) -> Done {
    store.change_iam(vec![change]).await?;
    say(done);
    Ok(())
}

pub(super) async fn user(
    store: &Store,
    records: &IamRecords,
    command: UserCommand,
    now: SystemTime,
) -> Done {
    match command {
        UserCommand::Create { name } => {
            let change = edit::create_user(&name, now)?;
            make(store, change, format!("created user {name}")).await
        }
        UserCommand::List => {
            records.users.iter().for_each(|user| say(&user.name));
            Ok(())
        }
        UserCommand::Delete { name } => {
            let done = format!("deleted user {name}");
            make(store, IamChange::DeleteUser(name), done).await
        }
    }
}

pub(super) async fn access_key(
    store: &Store,
    records: &IamRecords,
    command: AccessKeyCommand,
    now: SystemTime,
) -> Done {
    let set = |id: String, active| IamChange::SetAccessKey { id, active };
    match command {
        AccessKeyCommand::Create { user, profile } => {
            let (change, id, secret) = edit::create_access_key(records, &user, now)?;
            let file = format!(
                "[{profile}]\naws_access_key_id = {id}\naws_secret_access_key = {}",
                secret.expose()
            );
            make(store, change, file).await
        }
        AccessKeyCommand::List { user } => {
            for key in &records.access_keys {
                if user.as_ref().is_none_or(|user| *user == key.user) {
                    let state = if key.active { "active" } else { "disabled" };
                    say(format!("{} {} {state}", key.id, key.user));
                }
            }
            Ok(())
        }
        AccessKeyCommand::Disable { id } => {
            let done = format!("disabled access key {id}");
            make(store, set(id, false), done).await
        }
        AccessKeyCommand::Enable { id } => {
            let done = format!("enabled access key {id}");
            make(store, set(id, true), done).await
        }
        AccessKeyCommand::Delete { id } => {
            let done = format!("deleted access key {id}");
            make(store, IamChange::DeleteAccessKey(id), done).await
        }
    }
}

pub(super) async fn role(
    store: &Store,
    records: &IamRecords,
    command: RoleCommand,
    now: SystemTime,
) -> Done {
    match command {
        RoleCommand::Create {
            name,
            trust,
            max_session_seconds,
        } => {
            let change = edit::create_role(&name, &text_of(&trust)?, max_session_seconds, now)?;
            make(store, change, format!("created role {name}")).await
        }
        RoleCommand::Trust {
            name,
            trust,
            max_session_seconds,
        } => {
            let change = edit::update_role(&name, &text_of(&trust)?, max_session_seconds)?;
            make(store, change, format!("changed role {name}")).await
        }
        RoleCommand::List => {
            records.roles.iter().for_each(|role| say(&role.name));
            Ok(())
        }
        RoleCommand::Delete { name } => {
            let done = format!("deleted role {name}");
            make(store, IamChange::DeleteRole(name), done).await
        }
    }
}

pub(super) async fn policy(
    store: &Store,
    records: &IamRecords,
    command: PolicyCommand,
    now: SystemTime,
) -> Done {
    match command {
        PolicyCommand::Put { name, file, owner } => {
            let document = text_of(&file)?;
            match owner.get() {
                None => {
                    let change = edit::put_policy(&name, &document, now)?;
                    make(store, change, format!("put policy {name}")).await
                }
                Some(owner) => {
                    let change = edit::put_inline(records, &owner, &name, &document)?;
                    make(store, change, format!("put policy {name} of {owner} alone")).await
                }
            }
        }
        PolicyCommand::Attach { name, owner } => {
            let Some(owner) = owner.get() else {
                return Ok(());
            };
            let change = edit::attach(records, &owner, &name)?;
            make(store, change, format!("attached policy {name} to {owner}")).await
        }
        PolicyCommand::Detach { name, owner } => {
            let Some(owner) = owner.get() else {
                return Ok(());
            };
            let done = format!("detached policy {name} from {owner}");
            make(store, IamChange::Detach(owner, name), done).await
        }
        PolicyCommand::Delete { name, owner } => {
            let done = format!("deleted policy {name}");
            let change = match owner.get() {
                None => IamChange::DeletePolicy(name),
                Some(owner) => IamChange::DeleteInline(owner, name),
            };
            make(store, change, done).await
        }
        PolicyCommand::List => {
            records.policies.iter().for_each(|policy| say(&policy.name));
            Ok(())
        }
        PolicyCommand::Show { name, owner } => {
            say(document_of(records, owner.get().as_ref(), &name)?);
            Ok(())
        }
    }
}

pub(super) async fn session(store: &Store, records: &IamRecords, command: SessionCommand) -> Done {
    match command {
        SessionCommand::List => {
            for session in &records.sessions {
                let owner = session.owner.as_ref();
                let owner = owner.map_or_else(|| "the root".to_owned(), ToString::to_string);
                let name = session.session_name.as_deref().unwrap_or("-");
                let end = date(Duration::from_millis(session.expires_at.unsigned_abs()));
                say(format!(
                    "{} {owner} {name} until {end}",
                    session.access_key_id
                ));
            }
            Ok(())
        }
        SessionCommand::Delete { id } => {
            let done = format!("ended session {id}");
            make(store, IamChange::DeleteSession(id), done).await
        }
    }
}
