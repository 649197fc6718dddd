//! PostgreSQL's programs, and the user they run as.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::postgres::private::PrivateError;
use crate::postgres::private::folder::Home;

/// Users who may own a cluster where Millrace is root, the best first.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Folders above the versions' own where distributions put the server's programs, off the PATH: Debian and Ubuntu,
/// Fedora and Red Hat, builds from source, Homebrew.
const PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/usr/local", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
];

/// The server's programs, of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    /// Makes a cluster.
    pub initdb: PathBuf,
    /// The server.
    pub postgres: PathBuf,
    /// Version, such as `15.18`.
    pub version: String,
}

impl Programs {
    /// The newest that are installed; those of major version `made_by` where a cluster is there already.
    ///
    /// # Errors
    /// [`PrivateError::NoPrograms`], [`PrivateError::OtherVersion`].
    pub fn find(made_by: Option<&str>, home: &Home) -> Result<Self, PrivateError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found: Vec<Self> = folders(&path).iter().filter_map(|folder| Self::in_folder(folder)).collect();
        if found.is_empty() {
            return Err(PrivateError::NoPrograms);
        }
        let versions: Vec<String> = found.iter().map(|programs| programs.version.clone()).collect();
        newest(found, made_by).ok_or_else(|| PrivateError::OtherVersion {
            folder: home.path().to_owned(),
            made_by: made_by.unwrap_or_default().to_owned(),
            found: versions.join(", "),
        })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
        if !initdb.is_file() || !postgres.is_file() {
            return None;
        }
        let answer = Command::new(&postgres).arg("--version").output().ok()?;
        let version = version_in(&String::from_utf8_lossy(&answer.stdout))?;
        Some(Self { initdb, postgres, version })
    }
}

/// Folders that may hold the programs: where `initdb` of the PATH really is, then the distributions' own.
fn folders(path: &OsStr) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path)
        .filter_map(|folder| folder.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned))
        .collect();
    for (above, below) in PLACES {
        let Ok(entries) = fs::read_dir(above) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_ours = above.ends_with("postgresql") || is_versioned(&name.to_string_lossy());
            if is_ours {
                folders.push(entry.path().join(below));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// `pgsql`, `pgsql-17`, `postgresql`, `postgresql@17`.
fn is_versioned(name: &str) -> bool {
    name.starts_with("pgsql") || name.starts_with("postgresql")
}

/// The newest, of one major version if it is named.
fn newest(mut found: Vec<Programs>, major: Option<&str>) -> Option<Programs> {
    found.retain(|programs| {
        major.is_none_or(|major| programs.version.split('.').next() == Some(major.trim()))
    });
    found.into_iter().max_by_key(|programs| numbers(&programs.version))
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; of `17beta1` the number.
fn version_in(text: &str) -> Option<String> {
    let word = text.split_whitespace().skip_while(|word| !word.ends_with("(PostgreSQL)")).nth(1)?;
    let version: String = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!version.is_empty()).then_some(version)
}

/// A user of this system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl User {
    /// Whom the server runs as, when it cannot run as the user of this process; `None` when it can.
    ///
    /// # Errors
    /// [`PrivateError::NoUser`].
    pub fn for_server() -> Result<Option<Self>, PrivateError> {
        // SAFETY: geteuid(2) takes nothing, and always succeeds.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        unprivileged(&users).map(Some).ok_or(PrivateError::NoUser)
    }

    /// The first folder on the way to `path` that this user may not enter.
    pub fn is_stopped_at(&self, path: &Path) -> Option<PathBuf> {
        use std::os::unix::fs::MetadataExt as _;
        let above: Vec<&Path> = path.ancestors().collect();
        let mut way = above.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty());
        let stop = way.find(|folder| {
            fs::metadata(folder)
                .is_ok_and(|metadata| !may_enter(metadata.mode(), metadata.uid(), metadata.gid(), self))
        });
        stop.map(Path::to_owned)
    }
}

/// Whether a folder of this mode and owner lets `user` through.
fn may_enter(mode: u32, uid: u32, gid: u32, user: &User) -> bool {
    let bit = if uid == user.uid {
        0o100
    } else if gid == user.gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

/// The best of [`USERS`] in a text like that of `/etc/passwd`.
fn unprivileged(users: &str) -> Option<User> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then_some(User { name, uid, gid })
    };
    let users: Vec<User> = users.lines().filter_map(user).collect();
    USERS.iter().find_map(|name| users.iter().find(|user| user.name == *name).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(version: &str) -> Programs {
        let path = |name: &str| PathBuf::from(format!("/pg/{version}/{name}"));
        Programs { initdb: path("initdb"), postgres: path("postgres"), version: version.to_owned() }
    }

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        let version = |text: &str| version_in(text);
        assert_eq!(
            version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(),
            Some("15.18")
        );
        assert_eq!(version("postgres (PostgreSQL) 19beta1\n").as_deref(), Some("19"));
        assert_eq!(version("something else 1.2"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn the_newest_is_taken_or_the_one_that_made_the_folder() {
        let found = ["9.6.24", "15.2", "15.18", "14.9"].map(programs).to_vec();
        let version =
            |major| newest(found.clone(), major).map(|programs| programs.version).unwrap_or_default();
        assert_eq!(version(None), "15.18", "numbers, not letters");
        assert_eq!(version(Some("14\n")), "14.9");
        assert_eq!(version(Some("16")), "");
    }

    #[test]
    fn an_unprivileged_user_is_found_by_name() {
        let nobody =
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(unprivileged(nobody), Some(User { name: String::from("nobody"), uid: 65534, gid: 65534 }));
        let both = format!("{nobody}postgres:x:104:110::/var/lib/postgresql:/bin/bash\n");
        assert_eq!(unprivileged(&both).map(|user| (user.uid, user.gid)), Some((104, 110)));
        assert_eq!(unprivileged("postgres:x:0:0::/:/bin/sh\nbroken\n"), None, "root under another name");
    }

    #[test]
    fn who_may_enter_a_folder() {
        let user = User { name: String::from("postgres"), uid: 104, gid: 110 };
        assert!(may_enter(0o40700, 104, 0, &user), "its owner");
        assert!(!may_enter(0o40077, 104, 110, &user), "the owner's own bits count");
        assert!(may_enter(0o40710, 0, 110, &user), "its group");
        assert!(may_enter(0o41777, 0, 0, &user), "everybody, as /tmp");
        assert!(!may_enter(0o40700, 0, 0, &user), "root's own");
    }
}
