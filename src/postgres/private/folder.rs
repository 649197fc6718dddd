//! The folder of a private cluster: `lock`, `log`, and Postgres' own `data`. Whoever holds the lock owns the rest; the
//! system gives the lock back when its process ends, however it ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::postgres::private::programs::User;
use crate::postgres::private::{PrivateError, system};

/// First letters of temporary folders.
const PREFIX: &str = "millrace-postgres-";
/// The same while they are made.
const MADE_PREFIX: &str = "millrace-made-";
/// Where temporary folders are tried after the system's own answer: a user without rights may enter these.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// What a cluster's folder may hold.
const OURS: [&str; 4] = ["lock", "log", "data", "data.new"];

/// A locked folder.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    lock: File,
    is_temporary: bool,
}

impl Home {
    /// A new temporary folder that `user` may work in. Those of processes that were killed are removed.
    ///
    /// # Errors
    /// [`PrivateError`].
    pub fn temporary(user: Option<&User>) -> Result<Self, PrivateError> {
        let above = temporary_place(user)?;
        sweep(&above, user);
        let number = uuid::Uuid::new_v4().simple();
        let (made, path) =
            (above.join(format!("{MADE_PREFIX}{number}")), above.join(format!("{PREFIX}{number}")));
        DirBuilder::new()
            .mode(0o711)
            .create(&made)
            .map_err(|source| system("make the folder", &made, source))?;
        // It gets the name that is swept when it is locked: before, it would look left behind.
        let lock = lock(&made)?;
        fs::rename(&made, &path).map_err(|source| system("rename the folder", &made, source))?;
        Ok(Self { path, lock, is_temporary: true })
    }

    /// The folder at `path`, made when it is not there. With a `user` who must be able to enter it.
    ///
    /// # Errors
    /// [`PrivateError`].
    pub fn kept(path: &Path, user: Option<&User>) -> Result<Self, PrivateError> {
        fs::create_dir_all(path).map_err(|source| system("make the folder", path, source))?;
        let path = path.canonicalize().map_err(|source| system("find the folder", path, source))?;
        check_ours(&path)?;
        if let Some(user) = user
            && let Some(blocked) = user.is_stopped_at(&path)
        {
            return Err(PrivateError::Closed { user: user.name.clone(), blocked });
        }
        let lock = lock(&path)?;
        Ok(Self { path, lock, is_temporary: false })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Postgres' own folder.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where a cluster is made, so that one that is half made is never taken for a whole one.
    pub fn unfinished(&self) -> PathBuf {
        self.path.join("data.new")
    }

    /// What the programs write.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Whether it goes at the end.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The major version that made the cluster; `None` when there is none yet.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn made_by(&self) -> Result<Option<String>, PrivateError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(system("read", path, source)),
        }
    }

    /// Removes the cluster; the folder stays.
    ///
    /// # Errors
    /// [`PrivateError::System`].
    pub fn forget(self) -> Result<(), PrivateError> {
        for folder in [self.data(), self.unfinished()] {
            remove(&folder)?;
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, folder = %self.path.display(), "a temporary folder could not be removed");
        }
        // Closing alone would not do: a process that is being started by another thread holds a copy of the file until
        // it executes its program, and the lock with it.
        let _ = self.lock.unlock();
    }
}

/// Removes a folder with all that is in it; nothing when it is not there.
pub fn remove(folder: &Path) -> Result<(), PrivateError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(system("remove the folder", folder, error))
        }
        _ => Ok(()),
    }
}

/// A folder of somebody else's is not written into.
fn check_ours(path: &Path) -> Result<(), PrivateError> {
    let entries = fs::read_dir(path).map_err(|source| system("read the folder", path, source))?;
    let is_ours = |name: &std::ffi::OsStr| OURS.iter().any(|own| name == *own);
    match entries.flatten().find(|entry| !is_ours(&entry.file_name())) {
        Some(_) => Err(PrivateError::Foreign { folder: path.to_owned() }),
        None => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, PrivateError> {
    let name = path.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|source| system("open", &name, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PrivateError::Busy { folder: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(system("lock", &name, source)),
    }
}

/// A folder for temporary files that `user` may enter.
fn temporary_place(user: Option<&User>) -> Result<PathBuf, PrivateError> {
    let first = std::env::temp_dir();
    let places = std::iter::once(first.clone()).chain(TEMPORARY.map(PathBuf::from));
    let mut fits = places
        .filter(|place| place.is_dir())
        .filter(|place| user.is_none_or(|user| user.is_stopped_at(place).is_none()));
    match (fits.next(), user) {
        (Some(place), _) => Ok(place),
        (None, Some(user)) => Err(PrivateError::Closed { user: user.name.clone(), blocked: first }),
        (None, None) => Err(system("find the folder", first, io::Error::from(io::ErrorKind::NotFound))),
    }
}

/// Removes what killed processes left: temporary folders of ours whose lock nobody holds.
fn sweep(above: &Path, user: Option<&User>) {
    // SAFETY: geteuid(2) takes nothing, and always succeeds.
    let own = unsafe { libc::geteuid() };
    let is_owner = |uid: u32| uid == own || user.is_some_and(|user| user.uid == uid);
    let Ok(entries) = fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && is_owner(found.uid()));
        // One without a lock is just being made.
        if !is_ours || !path.join("lock").is_file() {
            continue;
        }
        if let Ok(_lock) = lock(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(%error, folder = %path.display(), "an old temporary folder stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_is_swept_away_while_it_is_made() {
        let make = || {
            for _ in 0..100 {
                let home = Home::temporary(None).expect("a folder");
                assert!(home.path().join("lock").is_file(), "it stays");
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(make);
            }
        });
    }

    #[test]
    fn a_folder_belongs_to_one_at_a_time() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("cluster");
        let first = Home::kept(&path, None).expect("it is free");
        assert!(matches!(Home::kept(&path, None), Err(PrivateError::Busy { .. })));
        drop(first);
        assert!(path.join("lock").is_file(), "a kept folder stays");
        Home::kept(&path, None).expect("it is free again");
    }

    #[test]
    fn a_folder_is_free_again_though_a_starting_process_has_a_copy_of_its_lock() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("cluster");
        let home = Home::kept(&path, None).expect("it is free");
        let copy = home.lock.try_clone().expect("a file can be copied");
        drop(home);
        Home::kept(&path, None).expect("it is free again");
        drop(copy);
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let above = tempfile::tempdir().expect("a temporary folder");
        fs::write(above.path().join("thesis.tex"), "").expect("the folder can be written");
        assert!(matches!(Home::kept(above.path(), None), Err(PrivateError::Foreign { .. })));
    }

    #[test]
    fn forgetting_removes_the_cluster_and_nothing_else() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let path = above.path().join("cluster");
        let home = Home::kept(&path, None).expect("it is free");
        fs::create_dir_all(home.data()).expect("the folder can be written");
        fs::write(home.data().join("PG_VERSION"), "15\n").expect("the folder can be written");
        assert_eq!(home.made_by().expect("readable").as_deref(), Some("15"));
        home.forget().expect("it can be removed");
        assert!(path.is_dir() && !path.join("data").exists());
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_use_is_not() {
        let above = tempfile::tempdir().expect("a temporary folder");
        let folder = |name: &str| above.path().join(format!("{PREFIX}{name}"));
        for name in ["dead", "alive", "young"] {
            fs::create_dir_all(folder(name)).expect("the folder can be written");
        }
        File::create(folder("dead").join("lock")).expect("the folder can be written");
        let held = lock(&folder("alive")).expect("it is free");
        std::os::unix::fs::symlink("/nowhere", folder("link")).expect("the folder can be written");
        sweep(above.path(), None);
        assert!(!folder("dead").exists());
        assert!(folder("alive").exists() && folder("young").exists());
        assert!(fs::symlink_metadata(folder("link")).is_ok());
        drop(held);
    }
}
