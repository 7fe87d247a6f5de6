//! Certificates with their keys that were read before: one of thousands is renewed, and the others
//! need not be read and parsed again.
//!
//! Invariant: what is known is what reading it again would give: its files have not been touched,
//! by what the kernel says of them, since before they were read.
//! Read next: `tls.rs` (who reads).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb_l7::tls::ServerCertificate;

/// Within the grain of a file system's clock, a file may change twice at one time. No such file's
/// time says anything, until it has rested for so long.
const REST: Duration = Duration::from_secs(2);

thread_local! {
    /// Of the thread that reads configurations.
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// Where a certificate is read from, and what it is made to be shown for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ocsp: Option<PathBuf>,
    pub(super) server_names: Vec<String>,
}

/// What the kernel says of the files of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([Option<FileStamp>; 3]);

/// Device, inode, size, and when content and inode were changed, in nanoseconds since 1970.
type FileStamp = (u64, u64, u64, i128, i128);

#[derive(Default)]
struct Known {
    /// How many times configurations were read.
    readings: u64,
    by_source: HashMap<Source, Entry>,
}

struct Entry {
    stamp: Option<Stamp>,
    certificate: Arc<ServerCertificate>,
    /// The reading in which it was asked for last.
    reading: u64,
}

impl Source {
    /// What is to be said of its files, before they are read; `None` where that is of no use.
    pub(super) fn stamp(&self, now: SystemTime) -> Option<Stamp> {
        let certificate = stamp(&self.certificate, now)?;
        let key = (self.key != self.certificate).then(|| stamp(&self.key, now));
        let ocsp = self.ocsp.as_ref().map(|ocsp| stamp(ocsp, now));
        // What is there must be good for something.
        if matches!(key, Some(None)) || matches!(ocsp, Some(None)) {
            return None;
        }
        Some(Stamp([Some(certificate), key.flatten(), ocsp.flatten()]))
    }
}

/// What was read of `source` before, and whether its files are still those.
pub(super) fn find(
    source: &Source,
    stamp: Option<&Stamp>,
) -> Option<(Arc<ServerCertificate>, bool)> {
    KNOWN.with_borrow_mut(|known| {
        let reading = known.readings;
        let entry = known.by_source.get_mut(source)?;
        entry.reading = reading;
        let is_as_before = stamp.is_some() && entry.stamp.as_ref() == stamp;
        Some((Arc::clone(&entry.certificate), is_as_before))
    })
}

/// Keeps what was read of files that had this stamp before.
pub(super) fn keep(source: Source, stamp: Option<Stamp>, certificate: &Arc<ServerCertificate>) {
    KNOWN.with_borrow_mut(|known| {
        let entry = Entry {
            stamp,
            certificate: Arc::clone(certificate),
            reading: known.readings,
        };
        known.by_source.insert(source, entry);
    });
}

/// Calls `read`, which reads a whole configuration, and then forgets what that did not ask for, if
/// it was a good one.
pub(super) fn reading<T, E>(read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    KNOWN.with_borrow_mut(|known| known.readings += 1);
    let result = read();
    if result.is_ok() {
        KNOWN.with_borrow_mut(|known| {
            let reading = known.readings;
            known.by_source.retain(|_, it| it.reading == reading);
        });
    }
    result
}

fn stamp(path: &Path, now: SystemTime) -> Option<FileStamp> {
    let found = fs::metadata(path).ok()?;
    let at = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let changed = at(found.ctime(), found.ctime_nsec());
    let rested = now.checked_sub(REST)?;
    let rested = rested.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let written = at(found.mtime(), found.mtime_nsec());
    (changed < rested.as_nanos() as i128)
        .then(|| (found.dev(), found.ino(), found.size(), written, changed))
}

#[cfg(test)]
mod tests {
    use lb_core::plan::{Certificate, Plan, Protocol};
    use rcgen::{CertificateParams, KeyPair};

    use super::super::{Names, Sources};
    use super::*;

    /// A folder of the test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-known-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// A new certificate with its key, put into its place as a whole.
        fn renew(&self, name: &str) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            self.replace(name, &(certificate.pem() + &key.serialize_pem()));
        }

        fn replace(&self, name: &str, text: &str) {
            fs::write(self.0.join("new"), text).unwrap();
            fs::rename(self.0.join("new"), self.0.join(name)).unwrap();
        }

        fn sources(&self, names: &[&str]) -> Sources {
            let path = |name: &&str| format!("{{certificate: '{}'}}", self.0.join(name).display());
            let certificates: Vec<_> = names.iter().map(path).collect();
            let text = format!(
                "clusters: {{c: {{backends: [10.0.0.1:1]}}}}\n\
                 listeners: [{{address: 443, http: {{cluster: c, tls: {{certificates: [{}]}}}}}}]\n",
                certificates.join(", ")
            );
            self.replace("lb.yaml", &text);
            Sources {
                files: vec![self.0.join("lb.yaml")],
                ..Sources::default()
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn certificates(plan: &Plan) -> Vec<Arc<Certificate>> {
        match &plan.listeners[0].protocol {
            Protocol::Http(http) => http.tls.as_ref().unwrap().certificates.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_did_not_change_stays_the_same_object() {
        let folder = Folder::new("same");
        folder.renew("a");
        folder.renew("b");
        let sources = folder.sources(&["a", "b"]);
        let load = || certificates(&sources.load().unwrap().plan(&Names::new()));
        let first = load();
        folder.renew("b");
        // Touched only.
        let text = fs::read_to_string(folder.0.join("a")).unwrap();
        folder.replace("a", &text);
        let second = load();
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        assert_ne!(first[1], second[1]);
        // A configuration that is wrong forgets nothing, and one without them all.
        folder.replace("b", "nothing");
        assert!(sources.load().is_err());
        folder.renew("b");
        let third = load();
        assert!(Arc::ptr_eq(&first[0], &third[0]));
        assert_ne!(second[1], third[1]);
        folder.sources(&["b"]).load().unwrap();
        let known = KNOWN.with_borrow(|known| known.by_source.len());
        assert_eq!(known, 1);
        fs::remove_file(folder.0.join("b")).unwrap();
        assert!(sources.load().is_err());
    }

    #[test]
    fn only_files_that_have_rested_are_known_by_their_times() {
        let folder = Folder::new("rested");
        let before = lb_core::rt::wall_clock();
        folder.renew("a");
        folder.renew("b");
        let path = folder.0.join("a");
        let mut source = Source {
            certificate: path.clone(),
            key: path,
            ocsp: None,
            server_names: Vec::new(),
        };
        assert_eq!(source.stamp(before), None);
        let later = before + Duration::from_hours(1);
        let stamp = source.stamp(later).unwrap();
        assert_eq!(source.stamp(later), Some(stamp));
        folder.renew("a");
        assert_ne!(source.stamp(later), Some(stamp));
        source.key = folder.0.join("b");
        let stamp = source.stamp(later).unwrap();
        folder.renew("b");
        assert_ne!(source.stamp(later), Some(stamp));
        source.ocsp = Some(folder.0.join("none"));
        assert_eq!(source.stamp(later), None);
    }
}
