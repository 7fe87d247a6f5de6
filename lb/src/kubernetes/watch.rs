//! Notices what changes in a folder of manifests, and which file.
//!
//! Invariant: a file that somebody has open for writing is not named before it is closed; what
//! cannot be told file by file (a folder, a link, lost events) means everything.
//! Read next: `lb_kube::files::Folder` (which looks again).

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::log::log;

/// How long it must be quiet before what was seen is taken up.
const SETTLE: Duration = Duration::from_millis(25);

/// How long events are gathered at most, however many come.
const GATHER_MAX: Duration = Duration::from_millis(75);

/// What was seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Anything may have changed.
    pub(crate) everything: bool,
    /// Files that have.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Files that somebody is writing.
    pub(crate) being_written: BTreeSet<PathBuf>,
}

/// Watches folders.
pub(crate) struct FolderWatch {
    root: PathBuf,
    inotify: Option<AsyncFd<Inotify>>,
    watched: Rc<Watched>,
    seen: Seen,
}

/// The folders that are watched; shared with whoever finds new ones.
pub(crate) struct Watched {
    watches: RefCell<Option<Watches>>,
    folders: RefCell<HashMap<WatchDescriptor, PathBuf>>,
}

impl Watched {
    /// Watches these folders, too; whether any is new.
    pub(crate) fn add<'a>(&self, folders: impl Iterator<Item = &'a Path>) -> bool {
        let mut watches = self.watches.borrow_mut();
        let Some(watches) = watches.as_mut() else {
            return false;
        };
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut any_new = false;
        for folder in folders {
            // One that is gone by now is reported as gone by the folder above.
            if let Ok(descriptor) = watches.add(folder, mask) {
                let mut known = self.folders.borrow_mut();
                any_new |= known.insert(descriptor, folder.to_path_buf()).is_none();
            }
        }
        any_new
    }
}

impl FolderWatch {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(root: &Path) -> Self {
        #[expect(
            deprecated,
            reason = "sound here: Inotify keeps one descriptor for life; the successor is unsafe"
        )]
        let inotify = Inotify::init().and_then(AsyncFd::new);
        let inotify = inotify.map_err(|error| {
            let advice = "send SIGHUP after a change, or raise fs.inotify.max_user_instances";
            log!(
                Warn,
                "cannot watch manifests",
                error = error,
                advice = advice
            );
        });
        let inotify = inotify.ok();
        let watches = inotify.as_ref().map(|inotify| inotify.get_ref().watches());
        Self {
            root: root.to_path_buf(),
            inotify,
            watched: Rc::new(Watched {
                watches: RefCell::new(watches),
                folders: RefCell::default(),
            }),
            seen: Seen::default(),
        }
    }

    /// What is watched.
    pub(crate) fn watched(&self) -> Rc<Watched> {
        Rc::clone(&self.watched)
    }

    /// Waits until something has changed and is quiet again.
    pub(crate) async fn changed(&mut self) -> Seen {
        while !self.next_events().await {}
        let latest = Instant::now() + GATHER_MAX;
        loop {
            let quiet = latest.min(Instant::now() + SETTLE);
            match timeout_at(quiet, self.next_events()).await {
                Ok(_) if Instant::now() < latest => {}
                _ => break,
            }
        }
        Seen {
            everything: std::mem::take(&mut self.seen.everything),
            files: std::mem::take(&mut self.seen.files),
            being_written: self.seen.being_written.clone(),
        }
    }

    /// Reads what has happened; true if it is to be acted on.
    async fn next_events(&mut self) -> bool {
        let Some(inotify) = &mut self.inotify else {
            return pending().await;
        };
        let mut buffer = [0; 16 * 1024];
        let Ok(mut ready) = inotify.readable_mut().await else {
            return pending().await;
        };
        let (watched, seen, root) = (&self.watched, &mut self.seen, &self.root);
        let read = ready.try_io(|inotify| {
            let mut concerns = false;
            for event in inotify.get_mut().read_events(&mut buffer)? {
                if event.mask.contains(EventMask::IGNORED) {
                    watched.folders.borrow_mut().remove(&event.wd);
                    continue;
                }
                let folder = watched.folders.borrow().get(&event.wd).cloned();
                concerns |= seen.take(root, folder.as_deref(), event.mask, event.name);
            }
            Ok::<_, io::Error>(concerns)
        });
        matches!(read, Ok(Ok(true)))
    }
}

impl Seen {
    /// Anything may have changed.
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// Takes in one event; whether it is to be acted on.
    fn take(
        &mut self,
        root: &Path,
        folder: Option<&Path>,
        mask: EventMask,
        name: Option<&OsStr>,
    ) -> bool {
        let (Some(folder), Some(name)) = (folder, name) else {
            // Of the folder itself, of one no longer known, or lost.
            self.everything = true;
            return true;
        };
        let path = folder.join(name);
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if mask.contains(EventMask::ISDIR) || !folder.starts_with(root) || path.is_symlink() {
            let matters = !mask.intersects(EventMask::MODIFY | EventMask::ATTRIB);
            self.everything |= matters;
            return matters;
        }
        if hidden {
            // `..data` of a ConfigMap volume is a link that may be gone by now.
            let is_link = name.as_encoded_bytes().starts_with(b"..");
            self.everything |= is_link;
            return is_link;
        }
        let begins = mask.intersects(EventMask::CREATE | EventMask::MODIFY);
        if begins && !is_complete(&path, mask) {
            self.being_written.insert(path);
            return false;
        }
        if mask.contains(EventMask::ATTRIB) && self.being_written.contains(&path) {
            return false;
        }
        self.being_written.remove(&path);
        self.files.insert(path);
        true
    }
}

/// Whether a file that has just come is one that was there under another name.
fn is_complete(path: &Path, mask: EventMask) -> bool {
    let linked = || std::fs::symlink_metadata(path).is_ok_and(|it| it.nlink() > 1);
    mask.contains(EventMask::CREATE) && linked()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;

    /// Only a failure waits this long.
    const SOON: Duration = Duration::from_secs(30);

    fn watching(name: &str, test: impl AsyncFnOnce(&Path, FolderWatch)) {
        let root = std::env::temp_dir().join(format!("lb-folder-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let watch = FolderWatch::new(&root);
            assert!(watch.watched().add([root.as_path()].into_iter()));
            test(&root, watch).await;
        });
        fs::remove_dir_all(root).unwrap();
    }

    async fn next(watch: &mut FolderWatch) -> Seen {
        tokio::time::timeout(SOON, watch.changed()).await.unwrap()
    }

    #[test]
    fn a_file_is_named_once_it_is_closed() {
        watching("closed", async |root, mut watch| {
            let path = root.join("a.yaml");
            let mut file = File::create(&path).unwrap();
            file.write_all(b"half").unwrap();
            fs::write(root.join("b.yaml"), "whole").unwrap();
            let seen = next(&mut watch).await;
            assert_eq!(seen.files, BTreeSet::from([root.join("b.yaml")]));
            assert_eq!(seen.being_written, BTreeSet::from([path.clone()]));
            drop(file);
            let seen = next(&mut watch).await;
            assert_eq!(seen.files, BTreeSet::from([path.clone()]));
            assert!(seen.being_written.is_empty() && !seen.everything);
            fs::remove_file(&path).unwrap();
            assert_eq!(next(&mut watch).await.files, BTreeSet::from([path]));
        });
    }

    #[test]
    fn a_new_folder_and_a_swapped_link_mean_everything() {
        watching("everything", async |root, mut watch| {
            fs::create_dir(root.join("sub")).unwrap();
            assert!(next(&mut watch).await.everything);
            std::os::unix::fs::symlink("sub", root.join("..tmp")).unwrap();
            fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
            assert!(next(&mut watch).await.everything);
        });
    }
}
