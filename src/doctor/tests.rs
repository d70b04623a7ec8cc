//! What the checks' tests share.

use std::path::Path;

use crate::config::{Config, Overrides};

/// A configuration with `lines`, and with ranges where they give none: pods 10.244.0.0/16, Services 10.96.0.0/12.
pub(super) fn config(lines: &str) -> Config {
    let pods = "clusterPodCIDRs = [\"10.244.0.0/16\"]\n";
    let pods = if lines.contains("clusterPodCIDRs") { "" } else { pods };
    let text = format!("nodeName = \"n1\"\n{pods}serviceCIDRs = [\"10.96.0.0/12\"]\n{lines}\n");
    Config::parse(Path::new("x"), &text, &Overrides::default()).unwrap()
}
