//! Who may talk to a node's processes: root and their own user, nobody else.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use selvedge_lab::isolate::as_user;
use selvedge_lab::isolated_with_users;
use selvedge_lab::node::Node;
use selvedge_lab::plan::Families;

use crate::cluster::lab;

/// A user that is nobody's: not root, and not the one that the processes run as.
const STRANGER: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(5);
const FOLDERS: [&str; 2] = ["/run/selvedge", "/run/wireguard"];

fn sockets() -> Vec<PathBuf> {
    let entries = FOLDERS.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let mut sockets: Vec<_> =
        entries.filter(|entry| entry.file_type().unwrap().is_socket()).map(|entry| entry.path()).collect();
    sockets.sort();
    sockets
}

/// Whatever a socket answers to a request that it understands; an error if there is no connection to be had.
fn ask(path: &Path) -> std::io::Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "sock") {
        let stream = UnixStream::connect(path)?;
        let request: &[u8] = match path.starts_with("/run/wireguard") {
            true => b"get=1\n\n",
            false => b"GET /v1/status HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n",
        };
        return Ok(exchange(stream, request));
    }
    // The takeover socket keeps the borders of messages.
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(exchange(UnixStream::from(socket), b"take 99"))
}

/// What comes back, until the other end has enough of it.
fn exchange(mut stream: UnixStream, request: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = vec![0; 4096];
    // The other end may have closed before.
    let _ = stream.write_all(request);
    let length = stream.read(&mut answer).unwrap_or_else(|error| {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "neither answer nor end");
        0
    });
    answer.truncate(length);
    answer
}

fn on(node: &Node, body: impl FnOnce() + Send) {
    node.space().run(body).unwrap();
}

#[test]
fn nobody_else_is_answered_on_any_socket() {
    isolated_with_users!(|| {
        let lab = lab(Families::Ipv4, 1);
        on(&lab.nodes()[0], || {
            let sockets = sockets();
            println!("{sockets:?}");
            let names: Vec<_> =
                sockets.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
            for expected in [
                "agent.sock",
                "ports.sock",
                "tunnel-selvedge0.sock",
                "tunnel-selvedge0.door",
                "selvedge0.sock",
            ] {
                assert!(names.contains(&expected), "{names:?}");
            }
            for path in &sockets {
                let metadata = path.metadata().unwrap();
                assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0), "{}", path.display());
                assert!(!ask(path).unwrap().is_empty(), "{} answers its own user", path.display());
                let refused = as_user(STRANGER, || ask(path)).unwrap().unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{}", path.display());
            }
            for folder in FOLDERS {
                assert_eq!(Path::new(folder).metadata().unwrap().mode() & 0o7777, 0o700, "{folder}");
                let list = as_user(STRANGER, || std::fs::read_dir(folder).map(drop)).unwrap();
                assert!(list.is_err(), "{folder}");
            }
            // Somebody opened the files: whoever comes is looked at all the same.
            let open =
                |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            FOLDERS.map(Path::new).into_iter().chain(sockets.iter().map(PathBuf::as_path)).for_each(open);
            for path in &sockets {
                let answer = as_user(STRANGER, || ask(path)).unwrap().unwrap();
                let text = String::from_utf8_lossy(&answer);
                assert!(answer.is_empty(), "{} answers anybody: {text}", path.display());
                assert!(!ask(path).unwrap().is_empty(), "{} still answers its own user", path.display());
            }
        });
    });
}
