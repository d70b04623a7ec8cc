//! `selvedge support bundle`: what somebody who helps needs to see of a node, and no secret.
//!
//! A file passes: `collect` -> `filter` (no private key, token or PEM key comes through) -> `archive`. The key store is
//! listed and never read for the bundle; the filter reads it, to know what must not leave the node.

pub mod archive;
mod collect;
pub mod filter;
mod label;
mod log;
mod pattern;
mod range;
mod render;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::doctor::Doctor;
use filter::Filter;

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Its name in the bundle.
    pub name: String,
    /// Its bytes.
    pub size: usize,
    /// How many secrets were taken out of it.
    pub redacted: usize,
}

/// What is not in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// The file, or what it is about.
    pub what: String,
    /// Why.
    pub why: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the program that made the bundle.
    pub version: &'static str,
    /// When.
    pub created: Timestamp,
    /// The node, as the configuration has it; empty without one.
    pub node: String,
    /// All files but this one.
    pub files: Vec<Listed>,
    /// What could not be collected.
    pub missing: Vec<Missing>,
}

/// A whole bundle, ready to be written.
#[derive(Debug)]
pub struct Bundle {
    /// Name of its folder.
    pub name: String,
    /// What is in it.
    pub manifest: Manifest,
    /// Its files, with `manifest.json`.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Name of the list of what is in a bundle.
const MANIFEST: &str = "manifest.json";

/// Collects all that there is. `doctor` says where.
///
/// # Errors
/// When the manifest itself holds a secret that cannot be taken out.
pub async fn bundle(doctor: &Doctor, now: Timestamp) -> anyhow::Result<Bundle> {
    let (filter, blind) = Filter::load(&doctor.paths.keys());
    let collect::Collected { files, mut missing } = collect::all(doctor).await;
    // A rotation may have made keys in the meantime.
    let (later, still_blind) = Filter::load(&doctor.paths.keys());
    let (filter, blind) = (filter.with(later), blind.or(still_blind));
    missing.extend(blind.map(|why| Missing { what: "filter for this node's keys".into(), why }));
    // Messages quote what they are about.
    for missing in &mut missing {
        let clean = filter.clean(missing.why.as_bytes()).map(|(clean, _)| clean).unwrap_or_default();
        missing.why = String::from_utf8_lossy(&clean).into_owned();
    }
    let node = doctor.config.as_ref().map(|config| config.node_name.clone()).unwrap_or_default();
    let mut bundle = Bundle {
        name: format!("selvedge-support{}{node}-{}", if node.is_empty() { "" } else { "-" }, compact(now)),
        manifest: Manifest {
            version: env!("CARGO_PKG_VERSION"),
            created: now,
            node,
            files: Vec::new(),
            missing,
        },
        files: BTreeMap::new(),
    };
    for (name, content) in files {
        bundle.add(name, &content, &filter);
    }
    bundle.seal(&filter)
}

fn compact(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

impl Bundle {
    fn add(&mut self, name: String, content: &[u8], filter: &Filter) {
        match filter.clean(content) {
            Ok((clean, redacted)) => {
                self.manifest.files.push(Listed { name: name.clone(), size: clean.len(), redacted });
                self.files.insert(name, clean);
            }
            Err(error) => self.manifest.missing.push(Missing { what: name, why: error.to_string() }),
        }
    }

    fn seal(mut self, filter: &Filter) -> anyhow::Result<Self> {
        let text = serde_json::to_vec_pretty(&self.manifest)?;
        let (clean, _) = filter.clean(&text)?;
        self.files.insert(MANIFEST.into(), clean);
        Ok(self)
    }
}
