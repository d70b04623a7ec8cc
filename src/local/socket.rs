//! Listening sockets in the file system.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

const BACKLOG: i32 = 128;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A living process serves this socket.
    #[error("{0} is served by another process; stop that one first")]
    Busy(PathBuf),
    /// The system refused.
    #[error("cannot listen on {path}: {source}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `path` with mode 0600, making its folder (mode 0700) if there is none.
///
/// A socket that nobody serves any more is replaced in one step: at no time is there no socket. The socket is
/// non-blocking.
///
/// # Errors
/// When another process answers on `path`, or the system refuses.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::Busy(path.to_owned()));
    }
    take_over(path)
}

/// The same, also where another process answers: whoever connects from now on comes to this one.
///
/// # Errors
/// When the system refuses.
pub fn take_over(path: &Path) -> Result<UnixListener, ListenError> {
    replace(path).map_err(|source| ListenError::System { path: path.to_owned(), source })
}

fn replace(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // The mode that a socket has when it is bound is the one its file gets, so it never is more than this.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // Short, because the whole path may have 107 bytes (unix(7)).
    let temporary = folder.join(format!(".{}", std::process::id()));
    remove(&temporary)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    socket.listen(BACKLOG)?;
    std::fs::rename(&temporary, path).inspect_err(|_| drop(remove(&temporary)))?;
    Ok(socket.into())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// True when a process of user `uid` may talk to this one: root and this process's own user may.
#[must_use]
pub fn may_talk(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn only_the_owner_may_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        let _listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(listen(&path).unwrap());
        let stale = std::fs::metadata(&path).unwrap().ino();
        let listener = listen(&path).unwrap();
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), stale);
        assert!(matches!(listen(&path), Err(ListenError::Busy(_))));
        drop(listener);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    /// As a user that is not root: otherwise both who may talk are one.
    #[test]
    fn root_and_the_own_user_may_talk_and_nobody_else() {
        const OWN: u32 = 65_534;
        selvedge_lab::isolated_with_users!(|| {
            let may = || [0, OWN, OWN - 1].map(may_talk);
            assert_eq!(selvedge_lab::isolate::as_user(OWN, may).unwrap(), [true, true, false]);
        });
    }
}
