//! How the Kubernetes API is asked, and under which name.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The server ends every watch after this time, so one that was cut silently is noticed.
pub(crate) const WATCH_TIMEOUT_SECONDS: u32 = 120;
/// Every API server has a certificate for this name, whatever its address.
const SERVER_NAME: &str = "kubernetes.default.svc";
/// A connection on which nothing arrives for so long is dead: the server ends a live watch before.
const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT_SECONDS as u64 + 20);

/// Where the API server is and who asks: from `kubeconfig`, else `KUBECONFIG` or `~/.kube/config`, else in the cluster.
///
/// `part`: see [`introduce`].
///
/// # Errors
/// When there is none or it cannot be used.
pub(crate) async fn configuration(kubeconfig: Option<&Path>, part: &str) -> anyhow::Result<kube::Config> {
    let remedy = "set agent.kubeconfig, or run in a pod with a service account";
    let mut config = match kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("the kubeconfig {} cannot be used", file.display()))?
        }
        None => kube::Config::infer()
            .await
            .with_context(|| format!("no Kubernetes API is configured; {remedy}"))?,
    };
    // Without this, a request on a dead connection would wait for as long as the kernel takes to give it up.
    config.read_timeout = Some(SILENCE);
    introduce(&mut config, part);
    Ok(config)
}

/// Says in each request which part of Selvedge asks: audit logs and the API server's metrics tell it.
pub(crate) fn introduce(config: &mut kube::Config, part: &str) {
    let name = format!("selvedge-{part}/{}", env!("CARGO_PKG_VERSION"));
    config.headers.extend(HeaderValue::try_from(name).ok().map(|name| (USER_AGENT, name)));
}

/// The agent's clients, by [`configuration`].
pub(crate) struct Clients {
    /// For questions: what the API server is too busy for is asked again, unnoticed.
    pub(crate) questions: Client,
    /// For watches, which are begun again by themselves, and tell why they were not served.
    pub(crate) watches: Client,
    /// Where the API server is, if that is said by an address.
    pub(crate) server: Option<SocketAddr>,
}

/// Connects by `config`; to another server of the same cluster where that is named.
pub(crate) fn connect(config: kube::Config, other: Option<SocketAddr>) -> anyhow::Result<Clients> {
    let mut retrying = config;
    if let Some(other) = other {
        retrying.cluster_url =
            format!("https://{other}/").parse().with_context(|| format!("{other} makes no URL"))?;
        retrying.tls_server_name = Some(SERVER_NAME.to_owned());
    }
    let mut plain = retrying.clone();
    plain.default_retry = false;
    let client = |config| Client::try_from(config).context("cannot make a Kubernetes client");
    let server = address(&retrying.cluster_url);
    Ok(Clients { questions: client(retrying)?, watches: client(plain)?, server })
}

/// Where it is, if that is said by an address.
pub(crate) fn address(url: &http::Uri) -> Option<SocketAddr> {
    const HTTPS: u16 = 443;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, url.port_u16().unwrap_or(HTTPS)))
}
