//! Notices that a configuration file has changed, whichever way: written in place, renamed over
//! by an editor, or swapped behind a symbolic link as Kubernetes swaps ConfigMaps.
//!
//! Invariant: what is watched are folders, so a file may go and come back; after each event the
//! way to the file is walked anew, because a link in it may lead elsewhere.
//! Read next: `mod.rs` (which waits for it).

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::{Component, Path, PathBuf};
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
    /// Names whose change matters, with the folder each is in.
    names: Vec<(PathBuf, OsString)>,
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
            names: Vec::new(),
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

    /// Watches every folder on the way to the files. A folder watched already is left alone.
    fn walk(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        self.names = self.files.iter().flat_map(|file| way_to(file)).collect();
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
        for (folder, _) in &self.names {
            // A folder that is not there (yet) is found at the next change above it.
            let _ = inotify
                .get_ref()
                .watches()
                .add(folder, mask | WatchMask::ONLYDIR);
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
                let named = event.name.is_some_and(|name| {
                    self.names.iter().any(|(folder, known)| {
                        // A new file is empty: the close after its first writing counts.
                        let created = event.mask.contains(EventMask::CREATE);
                        known == name && (!created || folder.join(name).is_symlink())
                    })
                });
                concerns |= overflow || named;
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

/// Every name on the way to `file` whose change may change what the path leads to: the file's
/// own, and those of symbolic links.
fn way_to(file: &Path) -> Vec<(PathBuf, OsString)> {
    let mut names = Vec::new();
    let mut rest: Vec<OsString> = components(&std::path::absolute(file).unwrap_or_default());
    let mut folder = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            folder.pop();
            continue;
        }
        let path = folder.join(&name);
        match std::fs::read_link(&path) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                names.push((folder.clone(), name));
                if target.is_absolute() {
                    folder = PathBuf::from("/");
                }
                rest.extend(components(&target));
            }
            _ if rest.is_empty() => names.push((folder.clone(), name)),
            _ => folder = path,
        }
    }
    names
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
        let names: Vec<_> = way_to(&at("lb.yaml"))
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["lb.yaml", "..data", "lb.yaml"]);
        assert!(noticed(&at("lb.yaml"), SOON, || {
            symlink("..2", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        }));
        assert_eq!(fs::read_to_string(at("lb.yaml")).unwrap(), "b");
    }
}
