//! How long a CNI plugin takes for ADD and DEL: Selvedge's beside bridge and host-local of the CNI project.
//!
//! Each has a node of its own, with the pods' namespaces made beforehand. They take turns, so that what else the machine
//! does hits both alike, and the pods stay until all are there. What is timed is the plugin's process, from spawn to exit.

mod plugin;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use plugin::Node;
pub use report::Report;

use crate::error::{Doing as _, Error};

/// What is compared.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many pods.
    pub pods: usize,
    /// An empty folder.
    pub folder: PathBuf,
    /// Selvedge's binary.
    pub selvedge: PathBuf,
    /// Folder with the plugins of the CNI project.
    pub plugins: PathBuf,
}

/// What was measured of one plugin.
#[derive(Debug, Default)]
pub struct Times {
    /// Of each ADD.
    pub add: Vec<Duration>,
    /// Of each DEL.
    pub del: Vec<Duration>,
}

/// Adds all pods and deletes them again, in turns; `say` hears how far it is.
pub fn compare(options: &Options, say: &dyn Fn(&str)) -> Result<Report, Error> {
    let nodes = [Node::selvedge(options)?, Node::bridge(options)?];
    let mut times = [Times::default(), Times::default()];
    say(&format!("making the namespaces of {} pods on each of two nodes", options.pods));
    nodes.iter().try_for_each(|node| node.make_pods(options.pods))?;
    for verb in ["ADD", "DEL"] {
        say(&format!("{verb} of {} pods each, in turns", options.pods));
        for pod in 0..options.pods {
            for turn in 0..nodes.len() {
                let which = (pod + turn) % nodes.len();
                let took = nodes[which].call(verb, pod)?;
                let of = &mut times[which];
                if verb == "ADD" { &mut of.add } else { &mut of.del }.push(took);
            }
        }
    }
    let [selvedge, bridge] = &times;
    Ok(Report::new(selvedge, bridge, bridge_configuration(Path::new("DATA"))))
}

/// As people use it, for both families.
fn bridge_configuration(data: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "dataDir": data,
            "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    })
}

/// Writes a file of a node's disk.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text)).doing(format!("write {}", path.display()))
}
