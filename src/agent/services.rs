//! What the agent answers about Services. The lock that the controller needs is held only while an answer is made of what the
//! balancer has; everything else is gathered before or after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::context::Context;
use super::control::Name;
use super::routing;
use crate::config::Services;
use crate::local::{Method, Problem, Response, Router};
use crate::service::object::ServiceName;
use crate::service::show::{self, ServiceList};
use crate::service::table;
use crate::service::trace::{self, Packet, Surroundings, Trace};

/// Adds the routes.
pub(super) fn route(router: &mut Router, context: &Arc<Context>) {
    let all = Arc::clone(context);
    router.route(Method::GET, "/v1/services", move |_| {
        let context = Arc::clone(&all);
        blocking(move || Response::json(&list(&context, &BTreeSet::new())))
    });
    let some = Arc::clone(context);
    router.route(Method::GET, "/v1/services/{names}", move |request| {
        let context = Arc::clone(&some);
        blocking(move || Response::json(&list(&context, &names(request.param("names"))?)))
    });
    let traced = Arc::clone(context);
    router.route(Method::GET, "/v1/services/trace/{source}/{target}", move |request| {
        let context = Arc::clone(&traced);
        blocking(move || {
            let packet = Packet::parse(request.param("source"), request.param("target"));
            Response::json(&follow(&context, &packet.map_err(Problem::bad_request)?))
        })
    });
}

/// Runs `answer` where it may wait for the controller and for the kernel.
async fn blocking(
    answer: impl FnOnce() -> Result<Response, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    tokio::task::spawn_blocking(answer).await.unwrap_or_else(|error| Err(Problem::internal(error)))
}

fn names(text: &str) -> Result<BTreeSet<ServiceName>, Problem> {
    let name = |text: &str| {
        show::parse_name(text).ok_or_else(|| Problem::bad_request(format!("{text:?} is not NAMESPACE/NAME")))
    };
    text.split(',').map(name).collect()
}

/// Who serves instead of this agent.
fn other_proxy(context: &Context) -> Option<String> {
    let role = context.role.get();
    let text = match (role.serves, role.other.as_deref()) {
        (Some(true), _) => return None,
        (None, _) => "not known yet whether kube-proxy serves the Services of this node".to_owned(),
        (Some(false), _) if context.config.services == Services::Off => {
            "another proxy serves the Services of this node (services = \"off\")".to_owned()
        }
        (Some(false), None) => "kube-proxy serves the Services of this node, but does not answer".to_owned(),
        (Some(false), Some("")) => "another proxy serves the Services of this node".to_owned(),
        (Some(false), Some(mode)) => format!("kube-proxy serves the Services of this node, in mode {mode}"),
    };
    Some(text)
}

fn list(context: &Context, names: &BTreeSet<ServiceName>) -> ServiceList {
    let node = context.config.node_name.clone();
    let mut list = ServiceList { node, other_proxy: other_proxy(context), ..ServiceList::default() };
    if list.other_proxy.is_none() {
        list.enabled = true;
        {
            let balancer = context.balancer.lock();
            list.services = show::services(&balancer, names);
            list.absent = show::absent(&balancer, names);
            list.conflicts = show::conflicts(&balancer, names);
        }
        list.problem = context.board.problem(Name::Services);
        list.counters = counters();
    }
    list
}

fn counters() -> Option<BTreeMap<String, u64>> {
    let counters = table::counters().ok()?;
    Some(counters.into_iter().map(|(name, counter)| (name, counter.packets)).collect())
}

fn follow(context: &Context, packet: &Packet) -> Trace {
    let surroundings = surroundings(context);
    if let Some(other) = other_proxy(context) {
        return trace::other_proxy(&surroundings, packet, &other);
    }
    let trace = trace::trace(&context.balancer.lock(), &surroundings, packet);
    Trace { problem: context.board.problem(Name::Services), ..trace }
}

fn surroundings(context: &Context) -> Surroundings {
    let routing = routing::config(context);
    let facts = context.facts.get();
    Surroundings {
        node: context.config.node_name.clone(),
        own_addresses: facts.addresses.iter().map(|address| address.net.addr()).collect(),
        fabric_addresses: routing.fabric_addresses(),
        pod_cidrs: routing.pod_cidrs,
        cluster_pod_cidrs: routing.cluster_pod_cidrs,
        service_cidrs: context.service_ranges.get().to_vec(),
        non_masquerade_cidrs: context.config.non_masquerade_cidrs.clone(),
        member_addresses: routing.node_addresses.into(),
    }
}
