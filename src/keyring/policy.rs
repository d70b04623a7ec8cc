//! What the organisation demands of keys, and where that was found.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use serde::Serialize;

use crate::cluster::Error;
use crate::cluster::installed::Installed;
use crate::config::{Config, KeyPolicy, Overrides};
use crate::duration;
use crate::manifest::configuration;

/// The policy that keys are compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyringPolicy {
    /// How long a key may be used.
    #[serde(with = "duration::text")]
    pub cryptoperiod: Duration,
    /// Who is responsible for the keys; empty if nobody was named.
    pub custodian: String,
    /// Where it is from, for people.
    pub source: String,
}

/// What the command line says of it, which comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Policy")]
pub struct Given {
    /// How long a key may be used; as the agents are configured by default.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub cryptoperiod: Option<Duration>,
    /// Who is responsible for the keys; as the agents are configured by default.
    #[arg(long, value_name = "TEXT")]
    pub custodian: Option<String>,
}

impl Given {
    /// What remains to be found elsewhere.
    fn is_whole(&self) -> bool {
        self.cryptoperiod.is_some() && self.custodian.is_some()
    }

    fn over(&self, found: KeyPolicy, source: &str) -> KeyringPolicy {
        let source = match self {
            _ if self.is_whole() => "the command line".to_owned(),
            Self { cryptoperiod: None, custodian: None } => source.to_owned(),
            _ => format!("the command line, and {source}"),
        };
        KeyringPolicy {
            cryptoperiod: self.cryptoperiod.unwrap_or(found.cryptoperiod),
            custodian: self.custodian.clone().unwrap_or(found.custodian),
            source,
        }
    }
}

/// The policy of the cluster: as the ConfigMap of its agents has it, or the file `local`, where there is no such ConfigMap or it
/// may not be read.
///
/// # Errors
/// When it cannot be found out, or the configuration is not valid.
pub async fn of_cluster(client: &Client, given: &Given, local: &Path) -> Result<KeyringPolicy, Error> {
    if given.is_whole() {
        return Ok(given.over(KeyPolicy::default(), ""));
    }
    let installed = match Installed::fetch(client).await {
        Err(Error::Call { .. }) if local.exists() => None,
        installed => installed?,
    };
    match installed.and_then(|installed| installed.config) {
        Some(text) => {
            let source = format!("ConfigMap {}", text.map);
            let read = configuration::parse(Path::new(&source), &text.text);
            let config = read.map_err(|error| Error::Config(advise(&error)))?;
            Ok(given.over(config.keys, &source))
        }
        None => of_file(given, local).map_err(Error::Config),
    }
}

/// The policy of one node: as the file `local` has it, or the defaults if there is none.
///
/// # Errors
/// When the file is not valid, for people.
pub fn of_file(given: &Given, local: &Path) -> Result<KeyringPolicy, String> {
    if given.is_whole() || !local.exists() {
        return Ok(given.over(KeyPolicy::default(), "the defaults: no configuration was found"));
    }
    let overrides = Overrides { node_name: Some("node".into()), ..Overrides::from_env() };
    let config = Config::load(local, &overrides).map_err(|error| advise(&error))?;
    Ok(given.over(config.keys, &local.display().to_string()))
}

fn advise(error: &impl std::fmt::Display) -> String {
    format!("the key policy is not known: {error}\ngive it by --cryptoperiod and --custodian")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn given(days: Option<u32>, custodian: Option<&str>) -> Given {
        Given { cryptoperiod: days.map(|days| DAY * days), custodian: custodian.map(str::to_owned) }
    }

    #[test]
    fn the_command_line_comes_before_the_file_and_the_source_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let none = of_file(&given(None, None), &file).unwrap();
        assert_eq!((none.cryptoperiod, none.custodian.as_str()), (DAY * 90, ""));
        assert!(none.source.starts_with("the defaults"), "{none:?}");
        let write = |keys: &str| {
            let ranges = "clusterPodCIDRs = [\"10.1.0.0/16\"]\nserviceCIDRs = [\"10.2.0.0/16\"]\n";
            std::fs::write(&file, format!("{ranges}[keys]\n{keys}\n")).unwrap();
        };
        write("cryptoperiod = \"30d\"\ncustodian = \"Ops\"");
        let path = file.display().to_string();
        for (days, custodian, expected) in [
            (None, None, (DAY * 30, "Ops", path.clone())),
            (Some(7), None, (DAY * 7, "Ops", format!("the command line, and {path}"))),
            (None, Some("Sec"), (DAY * 30, "Sec", format!("the command line, and {path}"))),
            (Some(7), Some("Sec"), (DAY * 7, "Sec", "the command line".to_owned())),
        ] {
            let policy = of_file(&given(days, custodian), &file).unwrap();
            assert_eq!((policy.cryptoperiod, policy.custodian.as_str(), policy.source), expected);
        }
        write("cryptoperiod = \"400d\"");
        let error = of_file(&given(None, None), &file).unwrap_err();
        assert!(error.contains("line 4: keys.cryptoperiod") && error.contains("--custodian"), "{error}");
    }
}
