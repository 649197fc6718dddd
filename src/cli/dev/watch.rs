//! Watches the files of a project by looking at them: modification time, size and inode of each. That works on every
//! file system, and with editors that write a new file and rename it; a few hundred files cost about a millisecond.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How often the files are looked at. A change counts when two looks have seen the same, so that a file that is just
/// being written, or is away for a moment, is not read half.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Folders of a project.
const FOLDERS: [&str; 6] = ["connectors", "topics", "pipelines", "kpis", "schemas", "fixtures"];
/// Folders in folders are looked at this deep.
const DEPTH_MAX: usize = 5;
/// More files are not watched.
const FILES_MAX: usize = 10_000;

/// What is known of a file without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// The files, by path below the project's folder.
pub type Look = BTreeMap<PathBuf, Seen>;

/// Tells every change that is over of the project in `root` and of `others` that it names, until nobody listens. A change
/// is one since `first`, a look from before the project was read: what is saved in between must not go unseen.
pub async fn run(
    first: Look,
    root: PathBuf,
    others: Arc<Mutex<BTreeSet<PathBuf>>>,
    tell: mpsc::Sender<Vec<PathBuf>>,
) {
    let mut watch = Watch::new(first);
    let mut followed = BTreeSet::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !tell.is_closed() {
        ticks.tick().await;
        let root = root.clone();
        let others = others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let looked_for = others.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || look(&root, &looked_for)).await else { return };
        watch.adopt(&now, others.difference(&followed));
        followed = others;
        let changed = watch.next(now);
        if !changed.is_empty() {
            // Nobody listens any more: the loop ends.
            let _ = tell.send(changed).await;
        }
    }
}

/// Looks at the files of the project in `root`, and at `others` that it names. What editors leave beside a file is left
/// out.
pub fn look(root: &Path, others: &BTreeSet<PathBuf>) -> Look {
    let mut seen = Look::new();
    for folder in FOLDERS {
        add_folder(root, Path::new(folder), DEPTH_MAX, &mut seen);
    }
    for path in others {
        add(root, path.clone(), &mut seen);
    }
    seen
}

fn add_folder(root: &Path, folder: &Path, depth: usize, seen: &mut Look) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries.flatten() {
        if seen.len() >= FILES_MAX || is_by_the_way(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => add_folder(root, &path, depth - 1, seen),
            Ok(kind) if kind.is_dir() => {}
            _ => add(root, path, seen),
        }
    }
}

fn add(root: &Path, path: PathBuf, seen: &mut Look) {
    if let Ok(found) = fs::metadata(root.join(&path)) {
        let modified = found.modified().ok();
        seen.insert(path, Seen { modified, bytes: found.len(), inode: found.ino() });
    }
}

/// Hidden files, backups, and what vim tries before it writes.
fn is_by_the_way(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with(['~', '#']) || name == "4913"
}

/// Tells a change when it is over.
#[derive(Debug)]
struct Watch {
    known: Look,
    moving: Option<Look>,
}

impl Watch {
    /// Changes from `known` on.
    fn new(known: Look) -> Self {
        Self { known, moving: None }
    }

    /// Watches further files as they are now: that they are looked at is no change of them.
    fn adopt<'a>(&mut self, now: &Look, paths: impl Iterator<Item = &'a PathBuf>) {
        for path in paths {
            if let (Some(seen), false) = (now.get(path), self.known.contains_key(path)) {
                self.known.insert(path.clone(), seen.clone());
            }
        }
    }

    /// Takes a look, and gives the files that have changed since the last change that was told; none while they still
    /// change.
    fn next(&mut self, now: Look) -> Vec<PathBuf> {
        if now == self.known {
            self.moving = None;
            return Vec::new();
        }
        if self.moving.as_ref() != Some(&now) {
            self.moving = Some(now);
            return Vec::new();
        }
        let changed = differences(&self.known, &now);
        self.known = now;
        self.moving = None;
        changed
    }
}

fn differences(before: &Look, now: &Look) -> Vec<PathBuf> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(now.keys()).collect();
    paths.into_iter().filter(|path| before.get(*path) != now.get(*path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: u64, inode: u64) -> Seen {
        Seen { modified: None, bytes, inode }
    }

    fn of(files: &[(&str, Seen)]) -> Look {
        files.iter().map(|(path, seen)| (PathBuf::from(path), seen.clone())).collect()
    }

    #[test]
    fn a_change_is_told_once_when_it_is_over() {
        let (a, b) = ("pipelines/a.yaml", "pipelines/b.yaml");
        let mut watch = Watch::new(of(&[(a, seen(10, 1)), (b, seen(5, 2))]));
        assert!(watch.next(of(&[(a, seen(10, 1)), (b, seen(5, 2))])).is_empty(), "nothing has changed");
        // An editor renames the file away, writes a new one, and is done.
        assert!(watch.next(of(&[(b, seen(5, 2))])).is_empty());
        assert!(watch.next(of(&[(a, seen(3, 7)), (b, seen(5, 2))])).is_empty());
        assert!(watch.next(of(&[(a, seen(12, 7)), (b, seen(5, 2))])).is_empty());
        assert_eq!(watch.next(of(&[(a, seen(12, 7)), (b, seen(5, 2))])), [PathBuf::from(a)]);
        assert!(watch.next(of(&[(a, seen(12, 7)), (b, seen(5, 2))])).is_empty(), "told once");
        // A file that goes is a change; one that comes back as it was is none.
        assert!(watch.next(of(&[(a, seen(12, 7))])).is_empty());
        assert!(watch.next(of(&[(a, seen(12, 7)), (b, seen(5, 2))])).is_empty());
        assert!(watch.next(of(&[(a, seen(12, 7))])).is_empty());
        assert_eq!(watch.next(of(&[(a, seen(12, 7))])), [PathBuf::from(b)]);
    }

    #[test]
    fn a_file_that_is_named_anew_has_not_changed() {
        let mut watch = Watch::new(of(&[("topics/a.yaml", seen(1, 1))]));
        let now = of(&[("topics/a.yaml", seen(1, 1)), ("avro/a.avsc", seen(9, 2))]);
        watch.adopt(&now, [PathBuf::from("avro/a.avsc")].iter());
        assert!(watch.next(now.clone()).is_empty() && watch.next(now).is_empty());
        let later = of(&[("topics/a.yaml", seen(1, 1)), ("avro/a.avsc", seen(8, 2))]);
        watch.next(later.clone());
        assert_eq!(watch.next(later), [PathBuf::from("avro/a.avsc")]);
    }

    #[test]
    fn files_of_the_project_are_seen_and_nothing_else() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be written");
            fs::write(path, text).expect("the folder can be written");
        };
        for path in [
            "pipelines/a.yaml",
            "schemas/deep/b.avsc",
            "fixtures/stripe/c.json",
            "avro/d.avsc",
            "target/e.yaml",
            "pipelines/.a.yaml.swp",
            "pipelines/a.yaml~",
            "README.md",
        ] {
            write(path, "x");
        }
        let others = BTreeSet::from([PathBuf::from("avro/d.avsc"), PathBuf::from("avro/gone.avsc")]);
        let before = look(root.path(), &others);
        let paths: Vec<_> = before.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        assert_eq!(
            paths,
            ["avro/d.avsc", "fixtures/stripe/c.json", "pipelines/a.yaml", "schemas/deep/b.avsc"]
        );
        write("pipelines/a.yaml", "longer");
        assert_eq!(differences(&before, &look(root.path(), &others)), [PathBuf::from("pipelines/a.yaml")]);
    }
}
