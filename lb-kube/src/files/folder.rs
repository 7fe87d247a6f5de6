//! A folder of manifests: which objects its files hold, and what changes in them.
//!
//! Invariant: of an object that several files have, the one in the file whose path sorts first
//! counts, whatever was written last; a file that cannot be read or parsed keeps what it held. Only
//! files whose stamp has changed are parsed again.
//! Read next: `read.rs` (one file), `walk.rs` (which files there are).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{Contents, Found, PassedOver, read};
use super::report::Report;
use super::walk::{Walk, is_manifest};
use crate::object::{ObjectRef, Origin};

pub use super::walk::FILES_MAX;

/// Largest file in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A folder and what was last read in it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, Known>,
    /// Those of them of which there is something to say.
    noteworthy: BTreeSet<PathBuf>,
    /// The files that have an object, in the order in which they count; in all but a few cases one.
    claims: HashMap<ObjectRef, Vec<PathBuf>>,
    /// Objects that several files have.
    disputed: BTreeSet<ObjectRef>,
    /// What is wrong with the folder itself.
    reports: Vec<Report>,
    /// Folders and the folders that links lead to: a change in one of them may change a file.
    folders: BTreeSet<PathBuf>,
}

/// What happened to an object.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// It is new, or may differ from before.
    Apply(Found),
    /// No file has it any more.
    Delete(ObjectRef),
}

/// A file as last read.
#[derive(Debug, Default)]
struct Known {
    name: Arc<str>,
    stamp: Option<Stamp>,
    objects: BTreeMap<ObjectRef, Origin>,
    passed_over: Vec<PassedOver>,
    reports: Vec<Report>,
}

/// What tells two versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Folder {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            noteworthy: BTreeSet::new(),
            claims: HashMap::new(),
            disputed: BTreeSet::new(),
            reports: Vec::new(),
            folders: BTreeSet::new(),
        }
    }

    /// Looks at every file, but for those that are `being_written`.
    pub fn look(&mut self, being_written: &BTreeSet<PathBuf>) -> Vec<Change> {
        let walk = Walk::through(&self.root);
        let gone = self.files.keys().filter(|path| !walk.may_have(path));
        let mut paths: Vec<PathBuf> = gone.cloned().collect();
        paths.extend(walk.files);
        paths.retain(|path| !being_written.contains(path));
        self.reports = walk.reports;
        self.folders = walk.folders;
        self.take(paths)
    }

    /// Looks at these files only.
    pub fn look_at(&mut self, paths: &BTreeSet<PathBuf>) -> Vec<Change> {
        let ours = |path: &&PathBuf| self.files.contains_key(*path) || is_manifest(path);
        let paths: Vec<_> = paths.iter().filter(ours).cloned().collect();
        self.take(paths)
    }

    /// Whether there is such a file, as last looked.
    #[must_use]
    pub fn has_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folders in which a change may change an object.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    /// How many files there are.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// How many objects of kinds that configure something there are.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.claims.len()
    }

    /// What is wrong with files, and with objects that could not be read.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        let of_files = self.noteworthy().flat_map(|known| &known.reports);
        let mut reports: Vec<_> = self.reports.iter().chain(of_files).cloned().collect();
        reports.extend(self.disputed.iter().flat_map(|object| self.dispute(object)));
        reports
    }

    /// Objects of kinds that configure nothing here.
    pub fn passed_over(&self) -> impl Iterator<Item = &PassedOver> {
        self.noteworthy().flat_map(|known| &known.passed_over)
    }

    fn noteworthy(&self) -> impl Iterator<Item = &Known> {
        let paths = self.noteworthy.iter();
        paths.filter_map(|path| self.files.get(path))
    }

    /// One report for each file whose version of an object does not count.
    fn dispute(&self, object: &ObjectRef) -> Vec<Report> {
        let files = self.claims.get(object).into_iter().flatten();
        let mut origins = files.filter_map(|path| self.files.get(path)?.objects.get(object));
        let Some(first) = origins.next() else {
            return Vec::new();
        };
        let report = |origin: &Origin| Report {
            document: origin.document,
            position: Some(super::Position {
                line: origin.line,
                column: 1,
            }),
            object: Some(object.clone()),
            ..Report::of_file(
                &origin.file,
                format!("it is here a second time; the one at {first} counts"),
            )
            .with_hint("remove one of them")
        };
        origins.map(report).collect()
    }

    /// Reads those of `paths` that have changed, and forgets those that are gone.
    fn take(&mut self, mut paths: Vec<PathBuf>) -> Vec<Change> {
        let mut applied: BTreeMap<ObjectRef, Found> = BTreeMap::new();
        let mut deleted = BTreeSet::new();
        while let Some(path) = paths.pop() {
            let contents = self.refresh(&path);
            let known = self.files.get(&path);
            let is_quiet =
                known.is_none_or(|it| it.reports.is_empty() && it.passed_over.is_empty());
            match is_quiet {
                true => self.noteworthy.remove(&path),
                false => self.noteworthy.insert(path.clone()),
            };
            let Some(contents) = contents else {
                continue;
            };
            let mut released = self.release(&path);
            for found in contents.objects {
                let object = found.object.reference();
                let origin = found.origin.clone();
                released.remove(&object);
                if self.claim(&path, object.clone(), origin) {
                    deleted.remove(&object);
                    applied.insert(object, found);
                }
            }
            for object in contents.kept {
                if let Some(origin) = released.remove(&object) {
                    self.claim(&path, object, origin);
                }
            }
            for (object, _) in released {
                match self.claims.get(&object).and_then(|files| files.first()) {
                    // Another file's turn: it is read once more.
                    Some(next) => {
                        if let Some(known) = self.files.get_mut(next) {
                            known.stamp = None;
                        }
                        paths.push(next.clone());
                    }
                    None => {
                        applied.remove(&object);
                        deleted.insert(object);
                    }
                }
            }
        }
        let deleted = deleted.into_iter().map(Change::Delete);
        let applied = applied.into_values().map(Change::Apply);
        deleted.chain(applied).collect()
    }

    /// What a file holds now; `None` if that is what it held before, or cannot be told.
    fn refresh(&mut self, path: &Path) -> Option<Contents> {
        let root = &self.root;
        let stamp = match std::fs::metadata(path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.files.contains_key(path).then(Contents::default);
            }
            Err(error) => {
                let known = self.known(path);
                known.stamp = None;
                known.reports = vec![unreadable(&known.name, &error)];
                return None;
            }
        };
        let name = shown(root, path);
        let known = self.files.entry(path.to_path_buf()).or_default();
        if known.stamp == Some(stamp) {
            return None;
        }
        known.name = Arc::clone(&name);
        known.stamp = Some(stamp);
        let text = read_text(path);
        match text {
            Ok(text) => match read(&name, &text) {
                Ok(contents) => Some(contents),
                Err(report) => {
                    known.reports = vec![*report];
                    None
                }
            },
            Err(error) => {
                known.reports = vec![unreadable(&name, &error)];
                None
            }
        }
        .map(|mut contents| {
            known.reports = std::mem::take(&mut contents.reports);
            known.passed_over = std::mem::take(&mut contents.passed_over);
            contents
        })
    }

    fn known(&mut self, path: &Path) -> &mut Known {
        let name = shown(&self.root, path);
        let known = self.files.entry(path.to_path_buf()).or_default();
        known.name = name;
        known
    }

    /// Ends all claims of a file, and forgets one that is gone; returns what it had.
    fn release(&mut self, path: &Path) -> BTreeMap<ObjectRef, Origin> {
        let Some(known) = self.files.get_mut(path) else {
            return BTreeMap::new();
        };
        let had = std::mem::take(&mut known.objects);
        for object in had.keys() {
            let Some(files) = self.claims.get_mut(object) else {
                continue;
            };
            files.retain(|file| file != path);
            if files.len() < 2 {
                self.disputed.remove(object);
            }
            if files.is_empty() {
                self.claims.remove(object);
            }
        }
        if !path.exists() {
            self.files.remove(path);
            self.noteworthy.remove(path);
        }
        had
    }

    /// Says that a file has an object; whether it is the one that counts.
    fn claim(&mut self, path: &Path, object: ObjectRef, origin: Origin) -> bool {
        let files = self.claims.entry(object.clone()).or_default();
        let index = match files.binary_search_by(|file| file.as_path().cmp(path)) {
            Ok(index) => index,
            Err(index) => {
                files.insert(index, path.to_path_buf());
                index
            }
        };
        if files.len() > 1 {
            self.disputed.insert(object.clone());
        }
        if let Some(known) = self.files.get_mut(path) {
            known.objects.insert(object, origin);
        }
        index == 0
    }
}

/// As the user named the folder, and the way from there.
fn shown(root: &Path, path: &Path) -> Arc<str> {
    debug_assert!(path.starts_with(root), "{path:?} is in {root:?}");
    path.display().to_string().into()
}

pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if bytes as u64 > FILE_BYTES_MAX {
        let reason = format!("larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(io::Error::other(reason));
    }
    Ok(text)
}

fn unreadable(name: &Arc<str>, error: &io::Error) -> Report {
    let reason = match error.kind() {
        ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        ErrorKind::Other => error.to_string(),
        _ => format!("cannot be read: {error}"),
    };
    Report::of_file(name, format!("{reason}; what it held before goes on"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::object::Object;

    /// A folder of the test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static SERIAL: AtomicU32 = AtomicU32::new(0);
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let name = format!("lb-kube-folder-{}-{serial}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn service(name: &str, ip: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: \"{ip}\"}}\n"
        )
    }

    /// Changes in a form to compare: `+a=1` and `-a`.
    fn look(folder: &mut Folder) -> Vec<String> {
        let changes = folder.look(&BTreeSet::new());
        changes.into_iter().map(short).collect()
    }

    fn short(change: Change) -> String {
        match change {
            Change::Apply(found) => {
                let Object::Service(service) = &found.object else {
                    panic!()
                };
                let ip = service.spec.as_ref().unwrap().cluster_ip.clone();
                format!("+{}={}", found.object.reference().name.name, ip.unwrap())
            }
            Change::Delete(object) => format!("-{}", object.name.name),
        }
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let place = Place::new();
        place.write("a.yaml", &service("a", "1"));
        place.write("sub/deep/b.json", &service("b", "1"));
        place.write("notes.txt", "not: [yaml");
        place.write(".hidden.yaml", &service("h", "1"));
        let mut folder = Folder::new(place.0.clone());
        assert_eq!(look(&mut folder), ["+a=1", "+b=1"]);
        assert_eq!(look(&mut folder), [""; 0]);
        place.write(
            "a.yaml",
            &(service("a", "22") + "---\n" + &service("c", "1")),
        );
        assert_eq!(look(&mut folder), ["+a=22", "+c=1"]);
        place.write("a.yaml", &service("c", "333"));
        assert_eq!(look(&mut folder), ["-a", "+c=333"]);
        fs::remove_dir_all(place.0.join("sub")).unwrap();
        assert_eq!(look(&mut folder), ["-b"]);
        assert_eq!((folder.file_count(), folder.object_count()), (1, 1));
    }

    #[test]
    fn a_file_that_does_not_parse_keeps_what_it_held() {
        let place = Place::new();
        place.write(
            "a.yaml",
            &(service("a", "1") + "---\n" + &service("b", "1")),
        );
        let mut folder = Folder::new(place.0.clone());
        look(&mut folder);
        place.write("a.yaml", "apiVersion: v1\nkind: [Serv");
        assert_eq!(look(&mut folder), [""; 0]);
        let report = folder.reports()[0].to_string();
        assert!(report.contains("a.yaml:2:"), "{report}");
        assert!(report.ends_with("what it held before goes on"), "{report}");
        let bad = service("b", "2\", externalIPs: \"3");
        place.write("a.yaml", &(service("a", "2") + "---\n" + &bad));
        assert_eq!(look(&mut folder), ["+a=2"], "b stays as it was");
        assert_eq!(folder.reports().len(), 1);
        place.write("a.yaml", &service("a", "3"));
        assert_eq!(look(&mut folder), ["-b", "+a=3"]);
        assert!(folder.reports().is_empty());
    }

    #[test]
    fn of_two_files_with_one_object_the_first_counts() {
        let place = Place::new();
        place.write("b.yaml", &service("x", "b"));
        let mut folder = Folder::new(place.0.clone());
        assert_eq!(look(&mut folder), ["+x=b"]);
        place.write("a.yaml", &service("x", "a"));
        assert_eq!(look(&mut folder), ["+x=a"]);
        let report = folder.reports()[0].to_string();
        assert!(
            report.contains("b.yaml:1:1: Service default/x: "),
            "{report}"
        );
        place.write("b.yaml", &service("x", "bb"));
        assert_eq!(look(&mut folder), [""; 0]);
        fs::remove_file(place.0.join("a.yaml")).unwrap();
        assert_eq!(look(&mut folder), ["+x=bb"]);
        assert!(folder.reports().is_empty());
        place.write("c.yaml", &service("x", "c"));
        assert_eq!(look(&mut folder), [""; 0]);
        fs::remove_file(place.0.join("b.yaml")).unwrap();
        fs::remove_file(place.0.join("c.yaml")).unwrap();
        assert_eq!(look(&mut folder), ["-x"]);
    }

    #[test]
    fn a_file_that_is_being_written_waits() {
        let place = Place::new();
        place.write("a.yaml", &service("a", "1"));
        let mut folder = Folder::new(place.0.clone());
        let path = place.0.join("a.yaml");
        assert!(folder.look(&BTreeSet::from([path.clone()])).is_empty());
        let changes = folder.look_at(&BTreeSet::from([path, place.0.join("none")]));
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn a_config_map_volume_is_followed_through_its_links() {
        let place = Place::new();
        for (version, ip) in [("..1", "1"), ("..2", "2")] {
            place.write(&format!("{version}/a.yaml"), &service("a", ip));
        }
        symlink("..1", place.0.join("..data")).unwrap();
        symlink("..data/a.yaml", place.0.join("a.yaml")).unwrap();
        symlink(".", place.0.join("loop")).unwrap();
        let mut folder = Folder::new(place.0.clone());
        assert_eq!(look(&mut folder), ["+a=1"]);
        symlink("..2", place.0.join("..tmp")).unwrap();
        fs::rename(place.0.join("..tmp"), place.0.join("..data")).unwrap();
        assert_eq!(look(&mut folder), ["+a=2"]);
    }

    #[test]
    fn a_folder_that_is_gone_keeps_what_it_held() {
        let place = Place::new();
        place.write("a.yaml", &service("a", "1"));
        let mut folder = Folder::new(place.0.clone());
        look(&mut folder);
        let beside = place.0.with_extension("beside");
        fs::rename(&place.0, &beside).unwrap();
        assert_eq!(look(&mut folder), [""; 0]);
        assert_eq!(folder.reports().len(), 1);
        fs::rename(&beside, &place.0).unwrap();
        assert_eq!(look(&mut folder), [""; 0]);
        assert!(folder.reports().is_empty());
    }
}
