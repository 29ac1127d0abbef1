//! `user[:group]` of an image, resolved in the image's own `/etc/passwd` and `/etc/group` with the rules
//! that Docker has (runc's `libcontainer/user`, `GetExecUser`).

use colibri_guest_protocol::message::AgentFailure;

use crate::failure::failure;

/// Largest id that a number may name; runc's bound.
const MAX_ID: u32 = i32::MAX as u32;

/// Who the application runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) supplementary: Vec<u32>,
    /// Home directory of the user; `/` where the image does not know the user.
    pub(super) home: String,
}

/// Resolves `wanted`; empty means user 0.
pub(super) fn resolve(
    wanted: &str,
    passwd: &str,
    group: &str,
) -> Result<Credentials, AgentFailure> {
    let (user_part, group_part) = wanted.split_once(':').unwrap_or((wanted, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let entry = passwd_entries(passwd)
        .find(|entry| entry.name == user_part || number(user_part) == Some(entry.id));
    let mut credentials = match (&entry, number(user_part)) {
        (Some(entry), _) => Credentials {
            user: entry.id,
            group: entry.group,
            supplementary: Vec::new(),
            home: if entry.home.is_empty() {
                "/".to_owned()
            } else {
                entry.home.to_owned()
            },
        },
        (None, Some(user)) => Credentials {
            user,
            group: 0,
            supplementary: Vec::new(),
            home: "/".to_owned(),
        },
        (None, None) => return Err(unknown("user", user_part, "/etc/passwd")),
    };
    if group_part.is_empty() {
        if let Some(entry) = entry {
            credentials.supplementary = groups_of(entry.name, group);
        }
    } else {
        credentials.group = group_id(group_part, group)?;
    }
    Ok(credentials)
}

fn unknown(what: &str, name: &str, file: &str) -> AgentFailure {
    failure(
        format!("start the application as {what} {name}"),
        format!("there is no such {what} in the image's {file}"),
    )
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

struct PasswdEntry<'a> {
    name: &'a str,
    id: u32,
    group: u32,
    home: &'a str,
}

fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let (_password, id, group) = (
            fields.next()?,
            number(fields.next()?)?,
            number(fields.next()?)?,
        );
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry {
            name,
            id,
            group,
            home,
        })
    })
}

/// Name, id and members of each group.
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = number(fields.nth(1)?)?;
        Some((name, id, fields.next().unwrap_or_default()))
    })
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    group_entries(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, id, _)| id)
        .collect()
}

fn group_id(wanted: &str, group: &str) -> Result<u32, AgentFailure> {
    group_entries(group)
        .find(|(name, id, _)| *name == wanted || number(wanted) == Some(*id))
        .map(|(_, id, _)| id)
        .or_else(|| number(wanted))
        .ok_or_else(|| unknown("group", wanted, "/etc/group"))
}

#[cfg(test)]
mod tests {
    use super::{Credentials, resolve};

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:34:Web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,other\ndisk:x:6:root\n";

    fn credentials(user: u32, group: u32, supplementary: &[u32], home: &str) -> Credentials {
        Credentials {
            user,
            group,
            supplementary: supplementary.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn users_resolve_as_they_do_in_docker() {
        let resolved = |wanted| resolve(wanted, PASSWD, GROUP).unwrap();
        assert_eq!(resolved(""), credentials(0, 0, &[6], "/root"));
        assert_eq!(resolved("web"), credentials(33, 34, &[50], "/srv"));
        assert_eq!(resolved("33"), credentials(33, 34, &[50], "/srv"));
        assert_eq!(resolved("web:logs"), credentials(33, 50, &[], "/srv"));
        assert_eq!(resolved("1000"), credentials(1000, 0, &[], "/"));
        assert_eq!(resolved("1000:1001"), credentials(1000, 1001, &[], "/"));
    }

    #[test]
    fn an_unknown_name_is_refused_in_words() {
        let failure = resolve("nobody-here", PASSWD, GROUP).unwrap_err();
        assert_eq!(
            failure.reason,
            "there is no such user in the image's /etc/passwd"
        );
        assert!(resolve("web:nogroup-here", PASSWD, GROUP).is_err());
        assert!(resolve("4294967295", PASSWD, GROUP).is_err());
    }

    #[test]
    fn an_image_without_the_files_still_has_numbers() {
        assert_eq!(resolve("", "", "").unwrap(), credentials(0, 0, &[], "/"));
    }
}
