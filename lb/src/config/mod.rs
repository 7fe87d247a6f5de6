//! Configuration: what the user wrote, on the command line and in files, to a plan.
//!
//! Invariant: nothing below a plan reads user input, and a source with one mistake changes
//! nothing: all of its mistakes are returned instead.
//! Read next: `file.rs` (what was written), then `compile.rs` (what it means).

mod balancing;
mod client_auth;
mod compile;
mod compile_cluster;
mod decode;
mod edge;
mod exchange;
pub(crate) mod file;
mod flags;
mod http2;
mod known;
pub(crate) mod logs;
mod notation;
mod problem;
mod read;
mod read_cluster;
mod routes;
mod secret;
mod settings;
mod tls;
mod yaml;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::balancing::hash_key as parse_hash_key;
pub(crate) use self::compile::{Draft, Names};
use self::decode::Problems;
use self::file::File;
pub(crate) use self::file::Settings as WrittenSettings;
pub(crate) use self::flags::{
    AffinityFlag, Flags, HealthFlag, ListenFlag, NameFlag, RouteFlag, TrustedFlag,
};
pub(crate) use self::notation::{
    BackendText, Host, congestion as parse_congestion, duration as parse_duration,
    listen as parse_listen, listen_local as parse_listen_local, prefixes as parse_prefixes,
    word as parse_word,
};
pub(crate) use self::problem::{Located, Place, Problem};
pub(crate) use self::read::PROXY_VERSION_WORDS;
pub(crate) use self::settings::{AccessLog, AdminAddress, Engine, LogFormat, Settings, Workers};
pub(crate) use self::tls::TlsFlags;
use self::yaml::Node;
use crate::kubernetes::KubernetesFlags;

/// Largest configuration file, so that a wrong path (`/dev/zero`, a log) ends in a message.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where the configuration comes from; read again on every reload.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) flags: Flags,
    /// Kubernetes objects: beside what all others say.
    pub(crate) kubernetes: KubernetesFlags,
    /// What nobody wrote: the demo.
    pub(crate) built_in: Option<File>,
    /// Every file that the sources named when they were last read, good or bad.
    pub(crate) named: RefCell<BTreeSet<PathBuf>>,
    /// Given as flags: they win over those of files.
    pub(crate) settings: WrittenSettings,
}

impl Sources {
    /// Reads and checks all sources.
    pub(crate) fn load(&self) -> Result<Draft, Problems> {
        known::reading(|| self.load_all())
    }

    fn load_all(&self) -> Result<Draft, Problems> {
        let mut problems = Vec::new();
        let mut named: BTreeSet<_> = self.files.iter().cloned().collect();
        let mut files: Vec<_> = self
            .files
            .iter()
            .filter_map(|path| read_file(path, &mut named, &mut problems))
            .collect();
        named.extend(self.flags.tls.files().cloned());
        self.named.replace(named);
        files.extend(self.flags.file(&mut problems));
        let files: Vec<&File> = files.iter().chain(&self.built_in).collect();
        let has_objects = self.kubernetes.manifests.is_some();
        if problems.is_empty() && !has_objects && files.iter().all(|file| file.listeners.is_empty())
        {
            problems.push(self.no_listener());
        }
        let mut draft = compile::compile(&files, &mut problems);
        draft.settings.overlay(&self.settings);
        if problems.is_empty() {
            problems = draft.last_word();
        }
        if problems.is_empty() {
            return Ok(draft);
        }
        problems.sort_by(|a, b| a.place.order().cmp(&b.place.order()));
        Err(problems)
    }

    /// What is known to be named before anything is read.
    pub(crate) fn named_by_flags(&self) -> Vec<PathBuf> {
        let files = self.files.iter().chain(self.flags.tls.files());
        files.cloned().collect()
    }

    /// An empty file is more probably a half-written one than a wish to serve nothing.
    fn no_listener(&self) -> Problem {
        let file = self
            .files
            .first()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let place = Place::File {
            file: file.into(),
            line: 1,
            column: 1,
            key: String::new(),
        };
        Problem::new(
            &place,
            "there is no listener; a file has at least one under \"listeners\"",
        )
    }
}

fn read_file(path: &Path, named: &mut BTreeSet<PathBuf>, problems: &mut Problems) -> Option<File> {
    let name: Arc<str> = path.display().to_string().into();
    let found = read_text(path).map_err(|reason| {
        let file = Arc::clone(&name);
        let place = Place::File {
            file,
            line: 1,
            column: 1,
            key: String::new(),
        };
        Problem::new(&place, reason)
    });
    match found.and_then(|text| Node::parse(&name, &text)) {
        Ok(root) => {
            named.extend(tls::files(&root));
            read::file(&root, problems)
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    use std::io::{ErrorKind, Read as _};
    let open = std::fs::File::open(path);
    let mut text = String::new();
    let read = open.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err("larger than 16 MiB".to_owned()),
        Ok(_) => Ok(text),
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => "no such file; check the path given to --config".to_owned(),
            ErrorKind::PermissionDenied => {
                "may not be read by this user; check its owner and mode (ls -l)".to_owned()
            }
            ErrorKind::IsADirectory => "is a folder; give the YAML file in it".to_owned(),
            ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
            _ => format!("cannot be read: {error}"),
        }),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod routes_tests;
