//! The files of Unix socket listeners: what is left of an earlier process is cleared away, what
//! another one uses is not, and what we made goes when the listener does.
//!
//! Invariant: a file is removed only by who made it, and only while it is still the same one.
//! Read next: `bind.rs`.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lb_core::plan::ListenSocket;
use lb_core::rt::{listen_unix, unix_address, unix_path};

/// The file of a socket that we listen on; dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nobody is left to tell; the next start clears it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at the Unix socket `address`. One that is our `own` already is replaced: at no moment is
/// there none.
pub(super) fn bind(
    address: SocketAddr,
    settings: &ListenSocket,
    own: bool,
) -> io::Result<(TcpListener, Option<SocketFile>)> {
    let path = unix_path(address).ok_or(ErrorKind::InvalidInput)?;
    let mode = settings.mode.unwrap_or(ListenSocket::MODE_DEFAULT);
    let listen = |address| listen_unix(address, settings.backlog, mode);
    if path.starts_with('@') {
        return Ok((listen(address)?, None));
    }
    let path = Path::new(&*path);
    if !own {
        clear(path)?;
        let listener = listen(address)?;
        return Ok((listener, Some(SocketFile::of(path)?)));
    }
    let aside = aside(path);
    let _ = fs::remove_file(&aside);
    let aside_address = unix_address(&aside.to_string_lossy()).map_err(io::Error::other)?;
    let listener = listen(aside_address)?;
    fs::rename(&aside, path)?;
    Ok((listener, Some(SocketFile::of(path)?)))
}

/// A name beside `path`, no longer than it, as that may be as long as the kernel takes.
fn aside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:x}", std::process::id()))
}

/// Removes a socket on which nobody listens.
fn clear(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        let reason = "there is a file that is no socket; remove it or choose another path";
        return Err(io::Error::new(ErrorKind::AlreadyExists, reason));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_someone) => Err(ErrorKind::AddrInUse.into()),
    }
}

/// Why an address could not be listened on, and what would help.
pub(super) fn advise(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another process listens there; `ss -lxp` shows which".to_owned(),
        ErrorKind::NotFound => "the directory does not exist".to_owned(),
        ErrorKind::PermissionDenied => {
            "the directory, or a socket that is left there, is not ours to write".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lb-unix-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn address(path: &Path) -> SocketAddr {
        unix_address(path.to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_used_one_is_not() {
        let folder = folder("stale");
        let path = folder.join("a.sock");
        let settings = ListenSocket::default();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, file) = bind(address(&path), &settings, false).unwrap();
        let error = bind(address(&path), &settings, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(path.exists(), "a refused one takes nothing away");
        drop(listener);
        drop(file);
        assert!(!path.exists());
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = folder("file");
        let path = folder.join("notes");
        fs::write(&path, "mine").unwrap();
        let error = bind(address(&path), &ListenSocket::default(), false).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn our_own_is_replaced_with_other_settings_and_the_old_file_takes_nothing_along() {
        let folder = folder("own");
        let path = folder.join("a.sock");
        let (_old, old_file) = bind(address(&path), &ListenSocket::default(), false).unwrap();
        let settings = ListenSocket {
            mode: Some(0o600),
            ..ListenSocket::default()
        };
        let (_new, new_file) = bind(address(&path), &settings, true).unwrap();
        drop(old_file);
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(new_file);
        assert!(!path.exists());
        fs::remove_dir(folder).unwrap();
    }
}
