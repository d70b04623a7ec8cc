//! The variables that a container runtime sets.

use std::path::PathBuf;

use crate::pod::attachment::{Attachment, PodName};
use crate::pod::error::{Code, Error};

/// The `CNI_*` variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container: Option<String>,
    /// `CNI_NETNS`
    pub netns: Option<String>,
    /// `CNI_IFNAME`
    pub interface: Option<String>,
    /// `CNI_ARGS`
    pub args: Option<String>,
}

impl Environment {
    /// The variables of this process. An empty one counts as missing.
    #[must_use]
    pub fn of_process() -> Self {
        let read = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let set = |name| read(name).filter(|value| !value.is_empty());
        Self {
            command: read("CNI_COMMAND").unwrap_or_default(),
            container: set("CNI_CONTAINERID"),
            netns: set("CNI_NETNS"),
            interface: set("CNI_IFNAME"),
            args: set("CNI_ARGS"),
        }
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`, checked.
    pub(super) fn attachment(&self) -> Result<Attachment, Error> {
        let container = variable(self.container.as_ref(), "CNI_CONTAINERID")?;
        let interface = variable(self.interface.as_ref(), "CNI_IFNAME")?;
        Ok(Attachment::new(container, interface)?)
    }

    /// `CNI_NETNS`.
    pub(super) fn netns(&self) -> Result<PathBuf, Error> {
        variable(self.netns.as_ref(), "CNI_NETNS").map(PathBuf::from)
    }

    /// The pod that `CNI_ARGS` names.
    pub(super) fn pod_name(&self) -> Result<PodName, Error> {
        pod_name(self.args.as_deref().unwrap_or_default())
    }
}

fn variable<'a>(value: Option<&'a String>, name: &str) -> Result<&'a str, Error> {
    value
        .map(String::as_str)
        .ok_or_else(|| Error::new(Code::InvalidEnvironment, format!("{name} is not set"), ""))
}

/// `KEY=value;KEY=value`; keys of others are left alone.
fn pod_name(args: &str) -> Result<PodName, Error> {
    let mut pod = PodName::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::new(Code::InvalidEnvironment, "CNI_ARGS is not KEY=value;KEY=value", ""))?;
        match key {
            "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut pod.name),
            "K8S_POD_UID" => value.clone_into(&mut pod.uid),
            _ => {}
        }
    }
    Ok(pod)
}
