//! Notices that a configuration file has changed, whichever way: written in place, renamed over
//! by an editor, or swapped behind a symbolic link as Kubernetes swaps ConfigMaps.
//!
//! Invariant: what is watched are folders, so a file may go and come back; after each event the
//! way to the file is walked anew, because a link in it may lead elsewhere.
//! Read next: `mod.rs` (which waits for it).

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::read_link;
use std::future::pending;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::log::log;

/// How long events are gathered before they count as one change.
const SETTLE: Duration = Duration::from_millis(50);

/// Most symbolic links on the way to a file, as the kernel's own limit.
const LINKS_MAX: usize = 40;

/// Watches some files.
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    /// What the files are from now on.
    next: watch::Receiver<Vec<PathBuf>>,
    /// `None` where the kernel has no inotify instance left.
    inotify: Option<AsyncFd<Inotify>>,
    names: Names,
    /// Whether the names may be others now: a link has changed, or a folder is not there.
    has_ways_changed: bool,
}

/// Names whose change matters, with the folders that each is in.
#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<OsString, Vec<Arc<Path>>>,
    folders: HashSet<Arc<Path>>,
    /// Those that are, or were, symbolic links.
    links: HashSet<OsString>,
}

/// The way to a folder or a file.
struct Way {
    /// Where it is followed from next, and where it leads in the end.
    place: PathBuf,
    /// What is still to be followed, the last name first.
    rest: Vec<OsString>,
    links: usize,
}

impl Watch {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(mut next: watch::Receiver<Vec<PathBuf>>) -> Self {
        let files = next.borrow_and_update().clone();
        let inotify = if files.is_empty() { None } else { open() };
        let mut watch = Self {
            files,
            next,
            inotify,
            names: Names::default(),
            has_ways_changed: true,
        };
        watch.walk();
        watch
    }

    /// Waits for a change, and until it has settled.
    pub(crate) async fn changed(&mut self) {
        let mut next = self.next.clone();
        loop {
            tokio::select! {
                concerns = self.next_events() => if concerns { break },
                Ok(()) = next.changed() => {
                    self.files = next.borrow_and_update().clone();
                    self.has_ways_changed = true;
                    if self.inotify.is_none() {
                        self.inotify = open();
                    }
                    self.walk();
                }
            }
        }
        while tokio::time::timeout(SETTLE, self.next_events())
            .await
            .is_ok()
        {}
        self.walk();
    }

    /// Watches every folder on the way to the files. A folder watched already is left alone, and
    /// ways without a link that has changed are as before.
    fn walk(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        if std::mem::take(&mut self.has_ways_changed) {
            self.names = Names::on_the_way_to(&self.files);
        }
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
        for folder in &self.names.folders {
            // A folder that is not there (yet) is found at the next change above it.
            let mut watches = inotify.get_ref().watches();
            let added = watches.add(folder, mask | WatchMask::ONLYDIR);
            self.has_ways_changed |= added.is_err();
        }
    }

    /// Reads what has happened; true if it concerns one of the names.
    async fn next_events(&mut self) -> bool {
        let Some(inotify) = &mut self.inotify else {
            return pending().await;
        };
        let mut buffer = [0; 4096];
        let Ok(mut ready) = inotify.readable_mut().await else {
            return pending().await;
        };
        let read = ready.try_io(|inotify| {
            let mut concerns = false;
            for event in inotify.get_mut().read_events(&mut buffer)? {
                let overflow = event.mask.contains(EventMask::Q_OVERFLOW);
                let Some((name, folders)) = event
                    .name
                    .and_then(|name| Some((name, self.names.by_name.get(name)?)))
                else {
                    concerns |= overflow;
                    self.has_ways_changed |= overflow;
                    continue;
                };
                let is_link = folders.iter().any(|it| it.join(name).is_symlink());
                // A new file is empty: the close after its first writing counts.
                concerns |= is_link || !event.mask.contains(EventMask::CREATE);
                self.has_ways_changed |= is_link || self.names.links.contains(name);
            }
            Ok::<_, io::Error>(concerns)
        });
        matches!(read, Ok(Ok(true)))
    }
}

fn open() -> Option<AsyncFd<Inotify>> {
    #[expect(
        deprecated,
        reason = "sound here: Inotify keeps one descriptor for life; the successor is unsafe to call"
    )]
    let opened = Inotify::init().and_then(AsyncFd::new);
    match opened {
        Ok(inotify) => Some(inotify),
        Err(error) => {
            let advice = "send SIGHUP after a change, or raise fs.inotify.max_user_instances";
            log!(
                Warn,
                "cannot watch the configuration",
                error = error,
                advice = advice
            );
            None
        }
    }
}

impl Names {
    /// Every name on the ways to `files` whose change may change what a path leads to: the files'
    /// own, and those of symbolic links. The way to a folder is walked once, however many of the
    /// files are in it.
    fn on_the_way_to(files: &[PathBuf]) -> Self {
        let mut names = Self::default();
        let mut folders: HashMap<PathBuf, Arc<Path>> = HashMap::new();
        for file in files {
            let file = std::path::absolute(file).unwrap_or_default();
            let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else {
                continue; // a folder's own name, which cannot be a file's
            };
            let folder = match folders.get(parent) {
                Some(folder) => Arc::clone(folder),
                None => {
                    let folder = Way::new(parent).follow(true, &mut names);
                    folders.insert(parent.to_path_buf(), Arc::clone(&folder));
                    folder
                }
            };
            if folder.join(name).is_symlink() {
                Way::new(&file).follow(false, &mut names);
            } else {
                names.add(&folder, name.to_owned());
            }
        }
        names
    }

    fn add(&mut self, folder: &Arc<Path>, name: OsString) {
        if !self.folders.contains(folder) {
            self.folders.insert(Arc::clone(folder));
        }
        let folders = self.by_name.entry(name).or_default();
        if !folders.contains(folder) {
            folders.push(Arc::clone(folder));
        }
    }
}

impl Way {
    fn new(path: &Path) -> Self {
        Self {
            place: PathBuf::from("/"),
            rest: components(path),
            links: 0,
        }
    }

    /// Adds the names of the links that are on it, and its last one unless it leads to a folder;
    /// returns where it leads.
    fn follow(mut self, is_folder: bool, names: &mut Names) -> Arc<Path> {
        while let Some(name) = self.rest.pop() {
            if name == ".." {
                self.place.pop();
                continue;
            }
            let path = self.place.join(&name);
            match read_link(&path) {
                Ok(target) if self.links < LINKS_MAX => {
                    self.links += 1;
                    names.links.insert(name.clone());
                    names.add(&Arc::from(&*self.place), name);
                    if target.is_absolute() {
                        self.place = PathBuf::from("/");
                    }
                    self.rest.extend(components(&target));
                }
                _ if self.rest.is_empty() && !is_folder => {
                    names.add(&Arc::from(&*self.place), name);
                }
                _ => self.place = path,
            }
        }
        self.place.into()
    }
}

/// The names in a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Only a failure waits this long.
    const SOON: Duration = Duration::from_secs(30);

    /// A folder of the test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Whether `change` is noticed.
    fn noticed(file: &Path, within: Duration, change: impl FnOnce()) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_files, next) = watch::channel(vec![file.to_path_buf()]);
            let mut watch = Watch::new(next);
            change();
            tokio::time::timeout(within, watch.changed()).await.is_ok()
        })
    }

    #[test]
    fn the_ways_in_which_files_change() {
        let folder = Folder::new("ways");
        let (file, other) = (folder.0.join("lb.yaml"), folder.0.join("other"));
        fs::write(&file, "a").unwrap();
        assert!(
            noticed(&file, SOON, || fs::write(&file, "b").unwrap()),
            "written in place"
        );
        assert!(
            noticed(&file, SOON, || {
                fs::write(&other, "c").unwrap();
                fs::rename(&other, &file).unwrap();
            }),
            "renamed over"
        );
        assert!(
            !noticed(&file, SETTLE * 4, || fs::write(&other, "d").unwrap()),
            "a neighbour"
        );
    }

    /// The way to a file is another one once a link stands in its place.
    #[test]
    fn a_file_becomes_a_link_and_a_file_again() {
        let folder = Folder::new("becomes");
        let other = Folder::new("becomes-other");
        let (file, far) = (folder.0.join("a.pem"), other.0.join("b.pem"));
        fs::write(&file, "a").unwrap();
        fs::write(&far, "a").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (_files, next) = watch::channel(vec![file.clone()]);
            let mut watch = Watch::new(next);
            let new = folder.0.join("new");
            symlink(&far, &new).unwrap();
            fs::rename(&new, &file).unwrap();
            tokio::time::timeout(SOON, watch.changed()).await.unwrap();
            fs::write(&far, "b").unwrap();
            tokio::time::timeout(SOON, watch.changed()).await.unwrap();
            fs::write(&new, "c").unwrap();
            fs::rename(&new, &file).unwrap();
            tokio::time::timeout(SOON, watch.changed()).await.unwrap();
            assert!(watch.names.links.is_empty());
            fs::write(&file, "d").unwrap();
            tokio::time::timeout(SOON, watch.changed()).await.unwrap();
        });
    }

    #[test]
    fn a_config_map_is_swapped_behind_a_link() {
        let folder = Folder::new("configmap");
        let at = |name: &str| folder.0.join(name);
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("lb.yaml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/lb.yaml", at("lb.yaml")).unwrap();
        let names = Names::on_the_way_to(&[at("lb.yaml"), at("other.pem")]);
        let folders = |name: &str| names.by_name[OsStr::new(name)].len();
        assert_eq!(names.by_name.len(), 3);
        assert_eq!(
            [folders("lb.yaml"), folders("..data"), folders("other.pem")],
            [2, 1, 1]
        );
        assert_eq!(names.folders.len(), 2);
        assert!(noticed(&at("lb.yaml"), SOON, || {
            symlink("..2", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        }));
        assert_eq!(fs::read_to_string(at("lb.yaml")).unwrap(), "b");
    }
}
