//! How commands reach a running lab: one JSON request and one answer, a line each, over a unix socket. With the
//! answer to [`Request::Enter`] come open namespaces.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Families;

/// What a lab can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request")]
pub enum Request {
    /// How it is: [`Status`].
    Status,
    /// To end.
    Down,
    /// The namespaces of the lab itself, a node or a pod: [`Entry`].
    Enter {
        /// The node or pod; nothing: the lab itself.
        target: Option<String>,
    },
    /// To store objects, and to wait until the pods among them run.
    Create {
        /// The objects.
        objects: Vec<Value>,
    },
    /// To delete a pod of the default namespace and wait until it is gone.
    DeletePod {
        /// The pod.
        name: String,
    },
}

/// What a lab answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum Answer {
    /// Done.
    Done,
    /// It failed.
    Failed {
        /// Why.
        error: String,
    },
    /// To [`Request::Status`].
    Status {
        /// How it is.
        status: Box<Status>,
    },
    /// To [`Request::Enter`].
    Enter {
        /// What the program in there needs to know.
        entry: Entry,
    },
}

/// How a lab is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its families.
    pub families: Families,
    /// Its folder.
    pub folder: PathBuf,
    /// Its kubeconfig, for programs in the lab's own namespaces.
    pub kubeconfig: PathBuf,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// The pods of all namespaces.
    pub pods: Vec<PodStatus>,
    /// What the captures have seen.
    pub links: Vec<LinkStatus>,
}

/// How a node is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Ready for pods.
    pub ready: bool,
    /// Why not, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// On the underlay.
    pub addresses: Vec<IpAddr>,
    /// Its pods'.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// Process id of the tunnel, while it runs.
    pub tunnel: Option<i32>,
    /// Process id of the agent, while it runs.
    pub agent: Option<i32>,
}

/// How a pod is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// `Running`, `Pending`, `Terminating`.
    pub phase: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Why it does not run, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What was seen on a link of the underlay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// Frames captured and looked at.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that the capture missed.
    pub drops: u64,
    /// Frames with something of the cluster in them.
    pub leaks: u64,
    /// The first leak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,
}

/// What a program needs that enters a lab. The namespaces come with it, in the order user, PID, network, mounts and
/// host name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Environment to add.
    pub env: Vec<(String, String)>,
    /// Folder of the product's binary, to be found first.
    pub programs: Vec<PathBuf>,
}

/// How many namespaces come with an [`Entry`].
pub const NAMESPACES: usize = 5;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no lab.
    #[error("no lab answers on {socket}: {source}; `selvedge-lab up` starts one")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It went away, or speaks otherwise.
    #[error("the lab broke off: {0}")]
    Broken(#[from] io::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the lab on `socket`; gives its answer and the namespaces that came with it.
pub fn ask(socket: &Path, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
    let unreachable = |source| Error::Unreachable { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    writeln!(stream, "{}", serde_json::to_string(request).map_err(io::Error::other)?)?;
    let (mut bytes, files) = receive(&stream)?;
    stream.read_to_end(&mut bytes)?;
    match serde_json::from_slice(&bytes).map_err(io::Error::other)? {
        Answer::Failed { error } => Err(Error::Refused(error)),
        answer => Ok((answer, files)),
    }
}

/// Listens for commands at `socket`, in place of a lab that is no more.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(socket),
    }
}

/// Reads a request.
pub fn read(stream: &UnixStream) -> io::Result<Request> {
    const LIMIT: u64 = 16 << 20;
    let mut line = String::new();
    BufReader::new(stream.take(LIMIT)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// Answers, with these namespaces.
pub fn answer(mut stream: &UnixStream, answer: &Answer, files: &[&File]) -> io::Result<()> {
    let line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    let raw: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { &rights[..] };
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&line)], rights, MsgFlags::empty(), None)?;
    stream.write_all(&line[sent..])
}

/// The beginning of an answer and what came with it.
#[expect(unsafe_code, reason = "descriptors that are received have no owner yet")]
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    use std::os::fd::FromRawFd as _;
    let mut bytes = vec![0; 64 << 10];
    let mut space = nix::cmsg_space!([RawFd; NAMESPACES]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            files.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    bytes.truncate(length);
    Ok((bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_with_their_namespaces() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        assert!(matches!(ask(&socket, &Request::Status), Err(Error::Unreachable { .. })));
        let listener = listen(&socket).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (stream, _) = listener.accept().unwrap();
                match read(&stream).unwrap() {
                    Request::Enter { target: Some(target) } => {
                        let files: Vec<File> = ["net", "mnt", "uts"]
                            .iter()
                            .map(|kind| File::open(format!("/proc/self/ns/{kind}")).unwrap())
                            .collect();
                        let entry =
                            Entry { env: vec![("NAME".into(), target)], programs: vec!["/bin".into()] };
                        answer(&stream, &Answer::Enter { entry }, &files.iter().collect::<Vec<_>>()).unwrap();
                    }
                    request => {
                        answer(&stream, &Answer::Failed { error: format!("{request:?}") }, &[]).unwrap();
                    }
                }
            }
        });
        let (found, files) = ask(&socket, &Request::Enter { target: Some("node1".into()) }).unwrap();
        let Answer::Enter { entry } = found else { panic!("{found:?}") };
        assert_eq!((entry.env[0].1.as_str(), files.len()), ("node1", 3));
        let refused = ask(&socket, &Request::Down).unwrap_err();
        assert_eq!(refused.to_string(), "Down");
        server.join().unwrap();
    }
}
