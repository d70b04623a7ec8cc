//! What is to be installed: as the options say, and what they leave open as the cluster says.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;

use super::super::{Exit, Failure};
use super::Args;
use crate::cluster::discover::{Facts, Found};
use crate::config::ClusterRanges;
use crate::manifest::{Distribution, Settings, configuration, default_image};

/// What errors in ranges that were given or found are said to be in.
const WRITTEN: &str = "the configuration made of these ranges";

/// The settings, and what was found out for them.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) settings: Settings,
    /// Sentences.
    pub(super) found: Vec<String>,
}

impl Choice {
    /// Without asking the cluster; none if it has to be asked for its ranges.
    pub(super) fn offline(args: &Args) -> Result<Option<Self>, Failure> {
        let complete = args.config.is_some() || !(args.pods.is_empty() || args.services.is_empty());
        complete.then(|| make(args, None)).transpose()
    }

    /// With what the cluster says.
    pub(super) fn online(args: &Args, facts: &Facts) -> Result<Self, Failure> {
        make(args, Some(facts))
    }
}

fn make(args: &Args, facts: Option<&Facts>) -> Result<Choice, Failure> {
    let mut found = Vec::new();
    let distribution = distribution(args, facts, &mut found);
    let text = match &args.config {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))
            .map_err(|error| Failure::new(Exit::Usage, error))?,
        None => configuration::text(&ranges(args, facts, &mut found)?, distribution),
    };
    let file = args.config.as_deref().unwrap_or(Path::new(WRITTEN));
    let config = configuration::parse(file, &text).map_err(|error| Failure::new(Exit::Usage, error))?;
    if let Some(cni) = distribution.folders()
        && !text.contains("[cni]")
    {
        return Err(usage(&format!(
            "{} names no folders, and those of {} are others than the usual ones; write\n[cni]\nbinDir = {:?}\nconfDir = {:?}",
            file.display(),
            distribution.name(),
            cni.bin_dir,
            cni.conf_dir
        )));
    }
    let image = match &args.image {
        Some(image) => image.clone(),
        None if distribution == Distribution::Managed => {
            return Err(usage(
                "nobody can load an image onto the nodes of a cloud by hand: give --image with one in a registry that \
                 they can reach",
            ));
        }
        None => default_image(),
    };
    let settings = Settings { distribution, text, config, image, api_server: args.api_server.clone() };
    Ok(Choice { settings, found })
}

fn distribution(args: &Args, facts: Option<&Facts>, found: &mut Vec<String>) -> Distribution {
    if let Some(given) = args.distribution {
        return given;
    }
    let Some(facts) = facts else { return Distribution::Kubeadm };
    let (distribution, why) = facts.distribution();
    found.push(format!("distribution {}: {why}", distribution.name()));
    distribution
}

fn ranges(args: &Args, facts: Option<&Facts>, found: &mut Vec<String>) -> Result<ClusterRanges, Failure> {
    let pods = || facts.and_then(Facts::pod_cidrs);
    let services = || facts.and_then(Facts::service_cidrs);
    let pods = range(&args.pods, pods, "pod addresses", found);
    let services = range(&args.services, services, "Service addresses", found);
    match (pods, services) {
        (Some(pods), Some(services)) => Ok(ClusterRanges { pods, services }),
        (pods, services) => Err(usage(&missing(pods.is_none(), services.is_none()))),
    }
}

fn range(
    given: &[IpNet],
    find: impl FnOnce() -> Option<Found>,
    what: &str,
    found: &mut Vec<String>,
) -> Option<Vec<IpNet>> {
    if !given.is_empty() {
        return Some(given.to_vec());
    }
    let Found { cidrs, from } = find()?;
    let list: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    found.push(format!("{what} {}: {from}", list.join(", ")));
    Some(cidrs)
}

fn missing(pods: bool, services: bool) -> String {
    let (mut what, mut flags) = (Vec::new(), Vec::new());
    if pods {
        what.push("pod addresses (kube-controller-manager's --cluster-cidr)");
        flags.push("--cluster-pod-cidr 10.244.0.0/16");
    }
    if services {
        what.push("Service addresses (kube-apiserver's --service-cluster-ip-range)");
        flags.push("--service-cidr 10.96.0.0/12");
    }
    format!(
        "the cluster does not tell its {}: looked at ServiceCIDRs, the ConfigMaps kubeadm-config and kube-proxy, and the \
         control plane's pods. Give what it was made with, both families if it has both:\n  selvedge install {}",
        what.join(" nor its "),
        flags.join(" ")
    )
}

fn usage(text: &str) -> Failure {
    Failure::new(Exit::Usage, anyhow!("{text}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::super::{Cli, Verb};
    use super::*;

    fn args(line: &str) -> Box<Args> {
        let words = ["selvedge", "install"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Install(args) => args,
            other => panic!("{other:?}"),
        }
    }

    const RANGES: &str = "--cluster-pod-cidr 10.244.0.0/16,fd00::/56 --service-cidr 10.96.0.0/12";

    #[test]
    fn with_ranges_given_nobody_has_to_be_asked() {
        let choice = Choice::offline(&args(RANGES)).unwrap().unwrap();
        assert_eq!(choice.settings.config.cluster_pod_cidrs.len(), 2);
        assert_eq!(choice.settings.distribution, Distribution::Kubeadm);
        assert!(choice.found.is_empty());
        assert!(Choice::offline(&args("--service-cidr 10.96.0.0/12")).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_is_named_with_its_flag() {
        let failure = Choice::online(&args("--service-cidr 10.96.0.0/12"), &Facts::default()).unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(text.contains("--cluster-pod-cidr") && !text.contains("--service-cidr"), "{text}");
    }

    #[test]
    fn what_is_found_is_said_with_its_place() {
        let kubeadm = "networking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16}";
        let facts = Facts { kubeadm: Some(kubeadm.into()), ..Facts::default() };
        let choice = Choice::online(&args(""), &facts).unwrap();
        assert_eq!(choice.settings.config.cluster_pod_cidrs, ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(choice.found.len(), 3);
        assert_eq!(choice.found[1], "pod addresses 10.1.0.0/16: podSubnet of the ConfigMap kubeadm-config");
    }

    #[test]
    fn a_cloud_needs_an_image_and_k3s_its_folders() {
        let failure = Choice::offline(&args(&format!("{RANGES} --distribution managed"))).unwrap_err();
        assert!(failure.to_string().contains("--image"), "{failure}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "clusterPodCIDRs = [\"10.42.0.0/16\"]\nserviceCIDRs = [\"10.43.0.0/16\"]\n")
            .unwrap();
        let line = format!("--distribution k3s --config {}", file.display());
        let failure = Choice::offline(&args(&line)).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.to_string().contains("binDir"), "{failure}");
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let failure =
            Choice::offline(&args("--cluster-pod-cidr 10.0.0.0/8 --service-cidr 10.96.0.0/12")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
    }
}
