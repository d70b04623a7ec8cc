//! Many at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::node::{Pod, node, ports, said};

#[test]
fn two_hundred_adds_give_two_hundred_addresses() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pods: Vec<Pod> = (0..200).map(|number| Pod::unconnected(&format!("pod{number}"))).collect();
        let input = node.config.to_string();
        let start = Instant::now();
        let started: Vec<_> = pods
            .iter()
            .map(|pod| node.start(&pod.variables("ADD").each_ref().map(|(n, v)| (*n, v.as_str())), &input))
            .collect();
        let all: Vec<_> = started.into_iter().map(said).collect();
        println!("200 ADDs in parallel took {:?}", start.elapsed());
        let mut seen = BTreeSet::new();
        let pods: Vec<Pod> = pods
            .into_iter()
            .zip(all)
            .map(|(pod, said)| {
                assert!(said.success, "{}: {}", pod.attachment, said.output);
                Pod { result: said.output, ..pod }
            })
            .collect();
        for address in pods.iter().flat_map(Pod::addresses) {
            assert!(seen.insert(address), "{address} was given twice");
        }
        assert_eq!(seen.iter().filter(|address: &&IpAddr| address.is_ipv4()).count(), 200);
        assert_eq!((ports().len(), node.leases().len()), (200, 200));
        for pod in [&pods[0], &pods[99], &pods[199]] {
            assert!(node.check(pod).success);
        }
        let deleting: Vec<_> = pods
            .iter()
            .map(|pod| node.start(&pod.variables("DEL").each_ref().map(|(n, v)| (*n, v.as_str())), &input))
            .collect();
        assert!(deleting.into_iter().map(said).all(|said| said.success));
        assert_eq!((ports().len(), node.leases().len()), (0, 0));
    });
}

/// Not a limit on time, which depends on the machine: it shows how long one takes.
#[test]
fn one_add_after_the_other() {
    selvedge_lab::isolated!(|| {
        let node = node();
        node.add("first");
        let mut times: Vec<Duration> = (0..20)
            .map(|number| {
                let pod = Pod::unconnected(&format!("pod{number}"));
                let start = Instant::now();
                node.connect(pod);
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("ADD: median {:?}, fastest {:?}, slowest {:?}", times[10], times[0], times[19]);
    });
}
