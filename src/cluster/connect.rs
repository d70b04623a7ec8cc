//! The way to a cluster's API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Error;
use crate::api_server::introduce;

/// Oldest Kubernetes whose API has admission policies in their final form.
const OLDEST: u32 = 30;
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct Access {
    /// The kubeconfig; KUBECONFIG, ~/.kube/config or the pod's service account by default.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, in place of its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// A client of the cluster, once it has answered; and its minor version, if that is older than Selvedge needs.
///
/// # Errors
/// When the kubeconfig cannot be used, or nobody answers.
pub async fn connect(access: &Access) -> Result<(Client, Option<u32>), Error> {
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = config(access).await?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(ANSWER);
    introduce(&mut config, "cli");
    let url = config.cluster_url.clone();
    let client = Client::try_from(config)
        .map_err(|error| Error::Config(format!("cannot make a client of {url}: {error}")))?;
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| Error::call(format!("ask {url} for its version"), error))?;
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    Ok((client, minor.parse().ok().filter(|minor| *minor < OLDEST)))
}

async fn config(access: &Access) -> Result<kube::Config, Error> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let Some(file) = &access.kubeconfig {
        let wrong =
            |error| Error::Config(format!("the kubeconfig {} cannot be used: {error}", file.display()));
        let read = Kubeconfig::read_from(file).map_err(wrong)?;
        return kube::Config::from_custom_kubeconfig(read, &options).await.map_err(wrong);
    }
    let remedy = "give --kubeconfig FILE, or set KUBECONFIG";
    if access.context.is_some() {
        return kube::Config::from_kubeconfig(&options)
            .await
            .map_err(|error| Error::Config(format!("no cluster: {error}; {remedy}")));
    }
    let inferred = kube::Config::infer().await;
    inferred.map_err(|error| Error::Config(format!("no cluster is configured: {error}; {remedy}")))
}
