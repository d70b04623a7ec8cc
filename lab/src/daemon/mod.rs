//! A lab that stays up and takes commands on its socket, whoever its control plane is.

mod embedded;
mod kubernetes;

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use selvedge::kernel::netns::NetNs;
use serde_json::Value;

use crate::capture::Seen;
use crate::control::{self, Answer, Entry, LinkStatus, Request, Status};
use crate::space::Space;
use crate::state;

pub use kubernetes::Real;

/// Where a command can be run.
pub struct Place {
    /// The node's namespaces.
    pub space: Arc<Space>,
    /// The network of a pod on it; none for the node itself.
    pub pod: Option<NetNs>,
}

/// A lab, to its daemon.
pub trait Kept: Send + Sync {
    /// How it is; the daemon gives it its name.
    fn status(&self) -> Result<Status, String>;
    /// Creates objects, and waits until those that are pods run.
    fn create(&self, objects: Vec<Value>) -> Result<(), String>;
    /// Deletes a pod and waits until it is gone.
    fn delete_pod(&self, name: &str) -> Result<(), String>;
    /// The place of a node or of a running pod; none for a target that is neither.
    fn find(&self, target: &str) -> Result<Option<Place>, String>;
    /// The names of the nodes.
    fn node_names(&self) -> Vec<String>;
    /// What programs get in their environment, on a node or beside all of them.
    fn environment(&self, on_node: bool) -> Vec<(String, String)>;
    /// Folders in which programs look for others first.
    fn programs(&self) -> Vec<PathBuf>;
    /// Its folder.
    fn folder(&self) -> &Path;
    /// Before it is dropped.
    fn end(&self);
}

/// Serves commands until one says that the lab is to end.
pub fn serve(lab: Box<dyn Kept>, name: &str, listener: UnixListener) -> io::Result<()> {
    let daemon = Arc::new(Daemon { lab, name: name.to_owned() });
    let (end, ended) = channel();
    let ending = daemon.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (daemon, end) = (daemon.clone(), end.clone());
            std::thread::spawn(move || daemon.handle(&stream, &end));
        }
    });
    let _ = ended.recv();
    ending.lab.end();
    Ok(())
}

struct Daemon {
    lab: Box<dyn Kept>,
    name: String,
}

impl Daemon {
    fn handle(&self, stream: &UnixStream, end: &Sender<()>) {
        let request = match control::read(stream) {
            Ok(request) => request,
            Err(error) => return tracing::warn!(%error, "a command could not be read"),
        };
        let down = matches!(request, Request::Down);
        let mut files = Vec::new();
        let answer = self.answer(request, &mut files).unwrap_or_else(|error| Answer::Failed { error });
        if let Err(error) = control::answer(stream, &answer, &files.iter().collect::<Vec<_>>()) {
            tracing::warn!(%error, "an answer could not be given");
        }
        if down {
            let _ = end.send(());
        }
    }

    fn answer(&self, request: Request, files: &mut Vec<File>) -> Result<Answer, String> {
        match request {
            Request::Status => {
                let status = Status { name: self.name.clone(), ..self.lab.status()? };
                Ok(Answer::Status { status: Box::new(status) })
            }
            Request::Down => Ok(Answer::Done),
            Request::Enter { target } => {
                let (entry, namespaces) = self.enter(target.as_deref())?;
                *files = namespaces;
                Ok(Answer::Enter { entry })
            }
            Request::Create { objects } => self.lab.create(objects).map(|()| Answer::Done),
            Request::DeletePod { name } => self.lab.delete_pod(&name).map(|()| Answer::Done),
        }
    }

    /// Namespaces, in the order of [`Entry`]: users, processes, network, mounts, host name.
    fn enter(&self, target: Option<&str>) -> Result<(Entry, Vec<File>), String> {
        let open =
            |kind: &str| File::open(format!("/proc/self/ns/{kind}")).map_err(|error| error.to_string());
        let copy = |file: &File| file.try_clone().map_err(|error| error.to_string());
        let mut files = vec![open("user")?, open("pid")?];
        let mut on_node = false;
        match target {
            None => files.extend([open("net")?, open("mnt")?, open("uts")?]),
            Some(target) => {
                let unknown = || {
                    let names = self.lab.node_names().join(", ");
                    format!("there is no node and no running pod {target}; nodes: {names}")
                };
                let Place { space, pod } = self.lab.find(target)?.ok_or_else(unknown)?;
                let [own, mounts, host] = space.files();
                on_node = pod.is_none();
                let net = match pod {
                    Some(net) => File::from(std::os::fd::OwnedFd::from(net)),
                    None => copy(own)?,
                };
                files.extend([net, copy(mounts)?, copy(host)?]);
            }
        }
        let root = self.lab.folder().parent().unwrap_or(Path::new("/"));
        let mut env = self.lab.environment(on_node);
        env.push((state::ROOT.to_owned(), root.display().to_string()));
        Ok((Entry { env, programs: self.lab.programs() }, files))
    }
}

/// What a capture has seen, as it is told.
fn link(seen: Seen) -> LinkStatus {
    LinkStatus {
        example: seen.examples.first().map(|leak| leak.finding.to_string()),
        name: seen.link,
        frames: seen.frames,
        bytes: seen.bytes,
        drops: seen.drops,
        leaks: seen.leaks,
    }
}

/// `NAMESPACE/NAME`, or the name of a pod in `default`.
fn pod_name(target: &str) -> (String, String) {
    let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
    (namespace.to_owned(), name.to_owned())
}
