//! What is to be installed: as the options say, and what they leave open as the cluster says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;

use super::super::{Exit, Failure};
use super::again;
use super::{Args, Serve};
use crate::cluster::discover::{Facts, Found};
use crate::cluster::installed::Installed;
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
    /// What an earlier installation was told, and would lose.
    pub(super) losses: Vec<String>,
}

/// Where what is not given is looked for.
#[derive(Debug, Clone, Copy, Default)]
struct Known<'a> {
    facts: Option<&'a Facts>,
    installed: Option<&'a Installed>,
}

impl Choice {
    /// Without asking the cluster; none if it has to be asked for its ranges.
    pub(super) fn offline(args: &Args) -> Result<Option<Self>, Failure> {
        let complete = args.config.is_some() || !(args.pods.is_empty() || args.services.is_empty());
        complete.then(|| make(args, Known::default())).transpose()
    }

    /// With what the cluster says, and what is installed there.
    pub(super) fn online(args: &Args, facts: &Facts, installed: Option<&Installed>) -> Result<Self, Failure> {
        make(args, Known { facts: Some(facts), installed })
    }
}

fn make(args: &Args, known: Known<'_>) -> Result<Choice, Failure> {
    let mut found = Vec::new();
    let distribution = distribution(args, known.facts, &mut found);
    let (place, mut text) = text(args, known, distribution, &mut found)?;
    if args.iptables_forward_rules {
        text = configuration::with_forward_rules(&text);
    }
    if let Some(serve) = args.serve_services {
        text = configuration::with_services(&text, serve == Serve::Auto);
    }
    let config = configuration::parse(&place, &text).map_err(|error| Failure::new(Exit::Usage, error))?;
    folders(&place, &text, distribution)?;
    let image = image(args, known.installed, distribution, &mut found)?;
    let mut api_server = args.api_server.clone();
    if api_server.is_none()
        && says_nothing(args)
        && let Some(before) = known.installed.and_then(|installed| installed.api_server.as_ref())
    {
        found.push(format!("API server {before}: as it is installed"));
        api_server = Some(before.clone());
    }
    let settings = Settings { distribution, text, config, image, api_server };
    let losses = known.installed.map(|installed| again::losses(installed, &settings)).unwrap_or_default();
    Ok(Choice { settings, found, losses })
}

/// Whether what is installed is to stay as it was told.
fn says_nothing(args: &Args) -> bool {
    args.config.is_none() && args.pods.is_empty() && args.services.is_empty()
}

/// The text of config.toml, and what errors in it are said to be in.
fn text(
    args: &Args,
    known: Known<'_>,
    distribution: Distribution,
    found: &mut Vec<String>,
) -> Result<(PathBuf, String), Failure> {
    if let Some(file) = &args.config {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        return Ok((file.clone(), text.map_err(|error| Failure::new(Exit::Usage, error))?));
    }
    let installed = known.installed.filter(|_| says_nothing(args));
    if let Some(config) = installed.and_then(|installed| installed.config.as_ref()) {
        found.push(format!("configuration of ConfigMap {}: as it is installed", config.map));
        return Ok((format!("ConfigMap {}", config.map).into(), config.text.clone()));
    }
    Ok((WRITTEN.into(), configuration::text(&ranges(args, known.facts, found)?, distribution)))
}

/// Where the usual folders are not the container runtime's, a configuration has to name them.
fn folders(place: &Path, text: &str, distribution: Distribution) -> Result<(), Failure> {
    let Some(cni) = distribution.folders() else { return Ok(()) };
    let table: toml::Table = text.parse().unwrap_or_default();
    let named = |key: &str| table.get("cni").and_then(|cni| cni.get(key)).is_some();
    if named("binDir") && named("confDir") {
        return Ok(());
    }
    Err(usage(&format!(
        "{} does not name both folders, and those of {} are others than the usual ones; write\n[cni]\nbinDir = \
         {:?}\nconfDir = {:?}",
        place.display(),
        distribution.name(),
        cni.bin_dir,
        cni.conf_dir
    )))
}

fn image(
    args: &Args,
    installed: Option<&Installed>,
    distribution: Distribution,
    found: &mut Vec<String>,
) -> Result<String, Failure> {
    if let Some(image) = &args.image {
        return Ok(image.clone());
    }
    if let Some(before) = installed.map(|installed| &*installed.image).filter(|image| again::is_pulled(image))
    {
        let image = again::successor(before).ok_or_else(|| {
            usage(&format!(
                "the installed image is {before}, whose tag is no version: give --image with the new one"
            ))
        })?;
        found.push(format!("image {image}: of the repository that is installed"));
        return Ok(image);
    }
    match distribution {
        Distribution::Managed => Err(usage(
            "nobody can load an image onto the nodes of a cloud by hand: give --image with one in a registry that \
             they can reach",
        )),
        _ => Ok(default_image()),
    }
}

fn distribution(args: &Args, facts: Option<&Facts>, found: &mut Vec<String>) -> Distribution {
    if let Some(given) = args.distribution {
        return given;
    }
    let Some(facts) = facts else {
        found.push("distribution kubeadm: no cluster was asked; --distribution names another".into());
        return Distribution::Kubeadm;
    };
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
    use crate::cluster::installed::Text;

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
        assert_eq!(
            choice.found,
            ["distribution kubeadm: no cluster was asked; --distribution names another"]
        );
        let k3s = Choice::offline(&args(&format!("{RANGES} --distribution k3s"))).unwrap().unwrap();
        assert_eq!(k3s.found, Vec::<String>::new());
        assert!(Choice::offline(&args("--service-cidr 10.96.0.0/12")).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_is_named_with_its_flag() {
        let failure =
            Choice::online(&args("--service-cidr 10.96.0.0/12"), &Facts::default(), None).unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(text.contains("--cluster-pod-cidr") && !text.contains("--service-cidr"), "{text}");
    }

    #[test]
    fn what_is_found_is_said_with_its_place() {
        let kubeadm = "networking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16}";
        let facts = Facts { kubeadm: Some(kubeadm.into()), ..Facts::default() };
        let choice = Choice::online(&args(""), &facts, None).unwrap();
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
        let ranges = "clusterPodCIDRs = [\"10.42.0.0/16\"]\nserviceCIDRs = [\"10.43.0.0/16\"]\n";
        let line = format!("--distribution k3s --config {}", file.display());
        for incomplete in ["# [cni]\n", "[cni]\nbinDir = \"/b\"\n"] {
            std::fs::write(&file, format!("{ranges}{incomplete}")).unwrap();
            let failure = Choice::offline(&args(&line)).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.to_string().contains("confDir"), "{failure}");
        }
        std::fs::write(&file, format!("{ranges}cni = {{ binDir = \"/b\", confDir = \"/c\" }}\n")).unwrap();
        Choice::offline(&args(&line)).unwrap();
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let failure =
            Choice::offline(&args("--cluster-pod-cidr 10.0.0.0/8 --service-cidr 10.96.0.0/12")).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
    }
    fn installed(image: &str) -> Installed {
        let text =
            "clusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\nlistenPort = 4000\n";
        Installed {
            image: image.into(),
            config: Some(Text { map: "selvedge-config-x".into(), text: text.into() }),
            api_server: Some("192.0.2.10:6443".parse().unwrap()),
        }
    }

    #[test]
    fn what_is_installed_stays_unless_something_is_said() {
        let before = installed("registry.example/selvedge:0.0.1");
        let again = |line: &str| Choice::online(&args(line), &Facts::default(), Some(&before)).unwrap();
        let same = again("");
        assert_eq!(same.settings.config.listen_port, 4000);
        assert_eq!(same.settings.api_server, before.api_server);
        assert!(same.settings.image.starts_with("registry.example/selvedge:"), "{}", same.settings.image);
        assert_eq!((same.found.len(), same.losses.len()), (4, 0), "{:?}", same.found);
        let told = again(RANGES);
        assert_eq!((told.settings.config.listen_port, told.settings.api_server), (51830, None));
        assert_eq!(told.losses.len(), 3, "{:?}", told.losses);
    }

    #[test]
    fn an_image_whose_successor_nobody_knows_is_asked_for() {
        let before = installed("registry.example/selvedge:stable");
        let again = |line: &str| Choice::online(&args(line), &Facts::default(), Some(&before));
        let failure = again("").unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.to_string().contains("--image"), "{failure}");
        assert_eq!(
            again("--image registry.example/selvedge:9").unwrap().settings.image,
            "registry.example/selvedge:9"
        );
    }
}
