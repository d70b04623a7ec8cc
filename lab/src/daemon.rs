//! A lab that stays up and takes commands on its socket.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use selvedge::kernel::netns::NetNs;
use serde_json::Value;

use crate::api::resource::PODS;
use crate::control::{self, Answer, Entry, LinkStatus, NodeStatus, PodStatus, Request, Status};
use crate::lab::Lab;
use crate::space::Space;
use crate::{manifest, node, state};

/// Serves commands until one says that the lab is to end.
pub fn serve(lab: Lab, name: &str, listener: UnixListener) -> io::Result<()> {
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
    ending.lab.nodes().iter().for_each(|node| node.hold());
    Ok(())
}

struct Daemon {
    lab: Lab,
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
            Request::Status => self.status().map(|status| Answer::Status { status: Box::new(status) }),
            Request::Down => Ok(Answer::Done),
            Request::Enter { target } => {
                let (entry, namespaces) = self.enter(target.as_deref())?;
                *files = namespaces;
                Ok(Answer::Enter { entry })
            }
            Request::Create { objects } => self.create(objects),
            Request::DeletePod { name } => {
                self.lab.delete_pod(&name).map_err(|error| error.to_string())?;
                Ok(Answer::Done)
            }
        }
    }

    fn create(&self, objects: Vec<Value>) -> Result<Answer, String> {
        let mut pods = Vec::new();
        for object in objects {
            let resource = manifest::resource(&object).map_err(|error| error.to_string())?;
            // The API server would schedule it; this way of creating goes past it.
            let object = if resource == &PODS { self.scheduled(object) } else { object };
            let stored = self.lab.store().create(resource, object).map_err(|failure| failure.to_string())?;
            if resource == &PODS && stored["metadata"]["namespace"] == "default" {
                pods.extend(stored["metadata"]["name"].as_str().map(str::to_owned));
            }
        }
        for pod in pods {
            self.lab.wait_pod(&pod).map_err(|error| error.to_string())?;
        }
        Ok(Answer::Done)
    }

    fn scheduled(&self, mut pod: Value) -> Value {
        if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            let (_, pods) = self.lab.store().list(&PODS, None);
            let on = |name: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == name).count();
            let emptiest = self.lab.nodes().iter().min_by_key(|node| on(node.name()));
            pod["spec"]["nodeName"] = emptiest.map(|node| node.name().to_owned()).into();
        }
        pod
    }

    fn enter(&self, target: Option<&str>) -> Result<(Entry, Vec<File>), String> {
        let open =
            |kind: &str| File::open(format!("/proc/self/ns/{kind}")).map_err(|error| error.to_string());
        let mut files = vec![open("user")?, open("pid")?];
        let root = self.lab.options().folder.parent().unwrap_or(Path::new("/"));
        let mut env = vec![
            ("KUBECONFIG".to_owned(), self.lab.kubeconfig().display().to_string()),
            (state::ROOT.to_owned(), root.display().to_string()),
        ];
        let copy = |file: &File| file.try_clone().map_err(|error| error.to_string());
        match target {
            None => files.extend([open("net")?, open("mnt")?, open("uts")?]),
            Some(target) => {
                let (space, net) = self.find(target)?;
                let [own, mounts, host] = space.files();
                let net = match net {
                    Some(net) => File::from(std::os::fd::OwnedFd::from(net)),
                    None => {
                        let own_env = node::environment().into_iter();
                        env.extend(
                            own_env.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
                        );
                        copy(own)?
                    }
                };
                files.extend([net, copy(mounts)?, copy(host)?]);
            }
        }
        let path = self.lab.options().binary.parent().map(Path::to_owned).unwrap_or_default();
        Ok((Entry { env, path }, files))
    }

    /// A node, or a pod (`NAME` or `NAMESPACE/NAME`) and the node that it is on.
    fn find(&self, target: &str) -> Result<(Arc<Space>, Option<NetNs>), String> {
        if let Some(node) = self.lab.nodes().iter().find(|node| node.name() == target) {
            return Ok((node.space(), None));
        }
        let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
        let key = (namespace.to_owned(), name.to_owned());
        for (number, node) in self.lab.nodes().iter().enumerate() {
            if let Some((ns, _)) = self.lab.kubelet(number).pod(&key) {
                let ns = ns.run(NetNs::current).and_then(|ns| ns).map_err(|error| error.to_string())?;
                return Ok((node.space(), Some(ns)));
            }
        }
        let names: Vec<&str> = self.lab.nodes().iter().map(|node| node.name()).collect();
        Err(format!("there is no node and no running pod {target}; nodes: {}", names.join(", ")))
    }

    fn status(&self) -> Result<Status, String> {
        let lab = &self.lab;
        let nodes = lab.nodes().iter().enumerate().map(|(number, node)| {
            let why = lab.kubelet(number).not_ready();
            NodeStatus {
                name: node.name().to_owned(),
                ready: why.is_none(),
                message: why,
                addresses: node.addresses(),
                pod_cidrs: node.pod_cidrs().to_vec(),
                tunnel: node.tunnel.pid().map(nix::unistd::Pid::as_raw),
                agent: node.agent.pid().map(nix::unistd::Pid::as_raw),
            }
        });
        let seen = lab.capture().seen().map_err(|error| error.to_string())?;
        let links = seen.into_iter().map(|seen| LinkStatus {
            example: seen.examples.first().map(|leak| leak.finding.to_string()),
            name: seen.link,
            frames: seen.frames,
            bytes: seen.bytes,
            drops: seen.drops,
            leaks: seen.leaks,
        });
        Ok(Status {
            name: self.name.clone(),
            families: lab.plan().families,
            folder: lab.options().folder.clone(),
            kubeconfig: lab.kubeconfig(),
            nodes: nodes.collect(),
            pods: self.pods(),
            links: links.collect(),
        })
    }

    fn pods(&self) -> Vec<PodStatus> {
        let (_, pods) = self.lab.store().list(&PODS, None);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = |pod: &Arc<Value>| {
            let key = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
            let leaving = pod["metadata"]["deletionTimestamp"].is_string();
            let phase = pod["status"]["phase"].as_str().unwrap_or("Pending");
            let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
            let failures = (0..self.lab.nodes().len()).map(|number| self.lab.kubelet(number).failure(&key));
            PodStatus {
                node: text(&pod["spec"]["nodeName"]),
                phase: if leaving { "Terminating" } else { phase }.to_owned(),
                addresses: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
                message: failures.flatten().next(),
                namespace: key.0,
                name: key.1,
            }
        };
        pods.iter().map(status).collect()
    }
}
