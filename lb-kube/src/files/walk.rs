//! The files and folders below a folder, links followed.
//!
//! Invariant: no folder is entered from within itself, and nothing whose name begins with a dot,
//! so what a ConfigMap volume holds is met once. What cannot be listed is told apart from what is
//! not there.
//! Read next: `folder.rs` (what is read of them).

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::Report;

/// Most files of one folder, those below it included.
pub const FILES_MAX: usize = 100_000;

/// Deepest sub-folder.
const DEPTH_MAX: usize = 32;

/// What there is below a folder.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) files: Vec<PathBuf>,
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) reports: Vec<Report>,
    present: BTreeSet<PathBuf>,
    unlisted: Vec<PathBuf>,
}

impl Walk {
    pub(super) fn through(root: &Path) -> Self {
        let mut walk = Self::default();
        walk.enter(root, &mut Vec::new());
        walk.files.sort();
        walk.present = walk.files.iter().cloned().collect();
        walk
    }

    /// Whether a file is there, or may be, where nothing can be seen.
    pub(super) fn may_have(&self, path: &Path) -> bool {
        let hidden = || self.unlisted.iter().any(|folder| path.starts_with(folder));
        self.present.contains(path) || hidden()
    }

    /// `above` has the identities of the folders that lead here.
    fn enter(&mut self, folder: &Path, above: &mut Vec<(u64, u64)>) {
        let listed = fs::metadata(folder).and_then(|metadata| {
            let identity = (metadata.dev(), metadata.ino());
            Ok((identity, list(folder)?))
        });
        let (identity, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.skip(folder, &format!("cannot be listed: {error}")),
        };
        if above.contains(&identity) {
            return;
        }
        if above.len() >= DEPTH_MAX {
            let reason = format!("is more than {DEPTH_MAX} folders deep");
            return self.skip(folder, &reason);
        }
        self.folders.insert(folder.to_path_buf());
        above.push(identity);
        for entry in entries {
            self.meet(&entry, above);
        }
        above.pop();
    }

    fn meet(&mut self, entry: &DirEntry, above: &mut Vec<(u64, u64)>) {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            return;
        }
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link {
            self.follow(&path);
        }
        let is_folder = match entry.file_type() {
            Ok(kind) if !is_link => kind.is_dir(),
            _ => path.is_dir(),
        };
        if is_folder {
            return self.enter(&path, above);
        }
        if !is_manifest(&path) || (is_link && !path.exists()) {
            return;
        }
        if self.files.len() < FILES_MAX {
            self.files.push(path);
        } else if self.files.len() == FILES_MAX {
            self.skip(
                &path,
                &format!("and others are more than {FILES_MAX} files"),
            );
        }
    }

    /// Notes the folders on the way to what a link leads to.
    fn follow(&mut self, link: &Path) {
        const LINKS_MAX: usize = 40; // as the kernel's own limit
        let mut path = link.to_path_buf();
        for _ in 0..LINKS_MAX {
            let Some(folder) = path.parent().map(Path::to_path_buf) else {
                return;
            };
            self.folders.insert(folder.clone());
            // The folder may itself be a link, as `..data` is.
            if let (Ok(_), Some(above)) = (fs::read_link(&folder), folder.parent()) {
                self.folders.insert(above.to_path_buf());
            }
            match fs::read_link(&path) {
                Ok(leads_to) => path = folder.join(leads_to),
                Err(_) => return,
            }
        }
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        let name: Arc<str> = path.display().to_string().into();
        let report = Report::of_file(&name, format!("{reason}; what it held before goes on"));
        self.reports.push(report);
        self.unlisted.push(path.to_path_buf());
    }
}

/// Whether a file is one that is read, by its name.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("json" | "yaml" | "yml")) && !path.file_name().is_some_and(hidden)
}

fn list(folder: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}
