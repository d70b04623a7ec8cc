//! An installation over an older one: what that one was told, and what of it would be lost.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::config::values;
use crate::cluster::installed::Installed;
use crate::config::Config;
use crate::manifest::{Settings, configuration};

const REMEDY: &str = "--reconfigure, if that is meant";

/// Whether nodes pull the image from a registry, in place of having it loaded by hand.
pub(super) fn is_pulled(image: &str) -> bool {
    !image.starts_with("localhost/")
}

/// The image of this version in the same repository, where its tags are versions like ours.
pub(super) fn successor(image: &str) -> Option<String> {
    let (repository, tag) = image.rsplit_once(':')?;
    let numbers: Vec<&str> = tag.split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok());
    is_version.then(|| format!("{repository}:{}", env!("CARGO_PKG_VERSION")))
}

/// What the new settings say otherwise, without having been told to; a sentence each.
pub(super) fn losses(installed: &Installed, settings: &Settings) -> Vec<String> {
    let mut losses = match &installed.config {
        None => Vec::new(),
        Some(config) => match configuration::parse(Path::new(&config.map), &config.text) {
            Ok(before) => changes(&before, &settings.config),
            // Nothing of it holds for this version; what does, its reader has to say.
            Err(_) if config.text == settings.text => Vec::new(),
            Err(error) => vec![format!("what is installed cannot be compared with this: {error}")],
        },
    };
    if let (Some(before), None) = (&installed.api_server, &settings.api_server) {
        losses.push(format!(
            "agents would no longer be told that the API server is at {before}: give --api-server {before}, or {REMEDY}"
        ));
    }
    losses
}

fn changes(before: &Config, after: &Config) -> Vec<String> {
    let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (values(before).into_iter().collect(), values(after).into_iter().collect());
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |of: Option<&String>| of.map_or("none", String::as_str).to_owned();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let sentence = |key: &String| {
        format!("{key} is {} and becomes {}: {REMEDY}", value(before.get(key)), value(after.get(key)))
    };
    changed.map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_that_are_versions_have_a_successor() {
        let ours = |repository: &str| Some(format!("{repository}:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(successor("registry.example:5000/selvedge:0.0.1"), ours("registry.example:5000/selvedge"));
        for image in [
            "registry.example:5000/selvedge",
            "registry.example/selvedge:latest",
            "registry.example/selvedge:v1.2.3",
            "registry.example/selvedge:1.2.3@sha256:0a",
        ] {
            assert_eq!(successor(image), None, "{image}");
        }
        assert!(is_pulled("registry.example/selvedge:1") && !is_pulled("localhost/selvedge:0.1.0"));
    }

    #[test]
    fn every_key_that_changes_is_named_once() {
        let parse = |more: &str| {
            let ranges = "clusterPodCIDRs = [\"10.1.0.0/16\"]\nserviceCIDRs = [\"10.2.0.0/16\"]\n";
            configuration::parse(Path::new("x"), &format!("{ranges}{more}")).unwrap()
        };
        let before = parse("mtu = 1400\ntrustedSources = [\"192.0.2.1/32\"]\n");
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let text = changes(&before, &parse("[agent]\nstartupTaint = \"a/b\"\n")).join("\n");
        for part in [
            "mtu is 1400 and becomes none",
            "trustedSources is 192.0.2.1/32 and becomes none",
            "agent.startupTaint is selvedge.dev/not-ready and becomes a/b",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
