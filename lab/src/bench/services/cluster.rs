//! A cluster of objects and the two programs that serve it: Selvedge's agent, and kube-proxy in nftables mode. Each has a node
//! in namespaces of its own and an API server of its own with the same objects, so that a change for one is none for the other.

use std::net::{Ipv6Addr, TcpListener};
use std::sync::Arc;

use selvedge::kernel::netns::NetNs;

use super::contender::{Contender, Parts};
use super::{Options, ground, object};
use crate::api::resource::{ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES};
use crate::api::{self, Server as ApiServer, Store};
use crate::error::{Doing as _, Error};
use crate::plan::{API_PORT, Families, Plan};
use crate::underlay::Underlay;

/// Selvedge and, if wanted, kube-proxy.
pub(super) struct Cluster {
    // In the order in which they have to end.
    pub(super) contenders: Vec<Contender>,
    pub(super) underlay: Underlay,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// Stores the objects of that many Services, and the one whose packets are observed. Neither program runs yet.
    pub(super) fn build(options: &Options, services: u32, with_proxy: bool) -> Result<Self, Error> {
        let what = "build the nodes and their API servers";
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.doing("start a runtime")?;
        let plan = Plan::new(Families::Ipv4, if with_proxy { 2 } else { 1 });
        let (underlay, contenders) = runtime.block_on(async {
            let (nodes, control) = (plan.node_plans(), plan.control());
            let underlay = ground::router(nodes.iter().map(|node| &node.cable).chain([&control])).await?;
            underlay.plug(&control, &NetNs::current().doing(what)?).await.doing(what)?;
            let mut contenders = Vec::new();
            for (node, port) in nodes.into_iter().zip(API_PORT..) {
                let api = serve(&plan, port).doing(what)?;
                fill(api.store(), &plan, services).doing("store the objects")?;
                let url = format!("https://{}:{port}", plan.api().ip());
                let parts = Parts { options, plan, node, underlay: &underlay, api, url, services };
                contenders.push(match contenders.is_empty() {
                    true => Contender::selvedge(parts).await?,
                    false => Contender::kube_proxy(parts).await?,
                });
            }
            Ok::<_, Error>((underlay, contenders))
        })?;
        Ok(Self { contenders, underlay, _runtime: runtime })
    }
}

fn serve(plan: &Plan, port: u16) -> Result<ApiServer, api::StartError> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let names = plan.control().addresses().iter().map(ToString::to_string).collect();
    ApiServer::start(vec![listener], api::Options { names, ..api::Options::default() })
}

fn fill(store: &Arc<Store>, plan: &Plan, services: u32) -> Result<(), api::Failure> {
    for node in plan.node_plans() {
        store.create(&NODES, object::node(&node))?;
    }
    let cidrs =
        serde_json::json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": plan.service_cidrs()}});
    store.create(&SERVICE_CIDRS, cidrs)?;
    for number in 0..services {
        store.create(&SERVICES, object::service(number))?;
        store.create(&ENDPOINT_SLICES, object::slice(number, 0))?;
    }
    store.create(&SERVICES, object::probe())?;
    store.create(&ENDPOINT_SLICES, object::probe_slice(0))?;
    store.make_texts(&SERVICES);
    store.make_texts(&ENDPOINT_SLICES);
    Ok(())
}
