//! Whom the agent believes.

use std::time::{Duration, Instant};

use selvedge_lab::isolated;
use selvedge_lab::traffic::Ping;
use serde_json::{Value, json};

use crate::cluster::{Claim, Cluster, peer};

/// Annotations that nobody may be believed with, each with the reason given.
fn hostile(own_key: &str, other_key: &str) -> Vec<(&'static str, Value, &'static str)> {
    let megabyte = "A".repeat(200_000);
    vec![
        ("bad base64", json!({"selvedge.dev/public-key": "not base64!"}), "MalformedAnnotation"),
        ("a low-order key", json!({"selvedge.dev/public-key": "A".repeat(43) + "="}), "MalformedAnnotation"),
        ("our key", json!({"selvedge.dev/public-key": own_key}), "OwnKey"),
        ("another node's key", json!({"selvedge.dev/public-key": other_key}), "KeyTaken"),
        ("a default route", json!({"selvedge.dev/pod-cidrs": "0.0.0.0/0"}), "MalformedAnnotation"),
        ("CIDRs of no pod", json!({"selvedge.dev/pod-cidrs": "192.168.0.0/24"}), "CIDROutside"),
        ("another node's CIDR", json!({"selvedge.dev/pod-cidrs": "10.244.2.0/24"}), "CIDRsUnconfirmed"),
        ("a loopback endpoint", json!({"selvedge.dev/endpoints": "127.0.0.1:51830"}), "MalformedAnnotation"),
        ("a multicast endpoint", json!({"selvedge.dev/endpoints": "[ff02::1]:51830"}), "MalformedAnnotation"),
        ("an endpoint in a pod", json!({"selvedge.dev/endpoints": "10.244.2.2:51830"}), "EndpointInside"),
        ("no epoch", json!({"selvedge.dev/key-epoch": null}), "MalformedAnnotation"),
        ("a negative epoch", json!({"selvedge.dev/key-epoch": "-1"}), "MalformedAnnotation"),
        ("much text", json!({"selvedge.dev/location": megabyte}), "MalformedAnnotation"),
        ("control characters", json!({"selvedge.dev/features": "\u{1b}[2J\u{7}"}), "MalformedAnnotation"),
    ]
}

#[test]
fn a_hostile_node_affects_nobody_but_itself() {
    isolated!(|| {
        let cluster = Cluster::start();
        let status = cluster.status(0).unwrap();
        let own_key = status.public_key.to_string();
        let other_key = cluster.status(1).unwrap().public_key.to_string();
        let (pod, _) = cluster.lab.create_pod("one", "node1", &[]).unwrap();
        let (_, there) = cluster.lab.create_pod("two", "node2", &[]).unwrap();
        let canary = cluster.lab.canary().clone();
        let ping = Ping::start(&pod, there[0], Duration::from_millis(1), &canary).unwrap();
        let before = peer(&cluster, "node2").map(|peer| peer.allowed_ips);

        for (number, (what, annotations, reason)) in (0..).zip(hostile(&own_key, &other_key)) {
            let name = format!("evil-{number}");
            cluster.create(&Claim::good(&name, 0));
            cluster.annotate(&name, &annotations);
            cluster.wait_for(&format!("{what} to be refused as {reason}"), |cluster| {
                cluster.refusals(&name).iter().any(|given| given == reason)
            });
            cluster.wait_for(&format!("no peer with {what}"), |cluster| !cluster.has_peer(&name));
            cluster.wait_for(&format!("an Event about {what}"), |cluster| cluster.has_event(&name, reason));
            assert!(
                cluster.get("/metrics").contains(&format!("selvedge_refusals_total{{reason=\"{reason}\"}}")),
                "{what} is in no metric"
            );
            cluster.delete(&name);
            cluster
                .wait_for(&format!("{what} to be forgotten"), |cluster| cluster.refusals(&name).is_empty());
        }
        assert_eq!(
            peer(&cluster, "node2").map(|peer| peer.allowed_ips),
            before,
            "an honest peer was changed"
        );
        let report = ping.stop();
        cluster.assert_nothing_lost(&report);
        println!("{} pings to an honest node, none lost", report.sent);
    });
}

#[test]
fn an_accepted_claim_stays_and_a_second_one_is_refused() {
    isolated!(|| {
        let cluster = Cluster::start();
        let first = Claim::good("first", 1);
        cluster.create(&first);
        cluster.wait_for("first to be believed", |cluster| cluster.has_peer("first"));

        // Over a restart of the agent, too: what was accepted is on disk.
        cluster.lab.nodes()[0].agent.hold();
        let thief = Claim { key: first.key, ..Claim::good("thief", 2) };
        let squatter = Claim { pod_cidr: first.pod_cidr.clone(), ..Claim::good("squatter", 3) };
        cluster.create(&thief);
        cluster.create(&squatter);
        cluster.lab.nodes()[0].agent.resume();
        cluster.wait_for("thief to be refused", |cluster| cluster.refusals("thief") == ["KeyTaken"]);
        cluster.wait_for("squatter to be refused", |cluster| cluster.refusals("squatter") == ["CIDRTaken"]);
        assert!(cluster.has_peer("first") && !cluster.has_peer("thief") && !cluster.has_peer("squatter"));

        // An epoch never goes back.
        cluster.annotate("first", &json!({"selvedge.dev/key-epoch": "7"}));
        cluster.wait_for("the new epoch", |cluster| epochs(cluster, "first") == [7]);
        cluster.annotate("first", &json!({"selvedge.dev/key-epoch": "6"}));
        cluster.wait_for("the old epoch to be refused", |cluster| cluster.refusals("first") == ["EpochBack"]);
    });
}

#[test]
fn of_two_new_claimants_neither_is_believed() {
    isolated!(|| {
        let cluster = Cluster::start();
        cluster.lab.nodes()[0].agent.hold();
        let one = Claim::good("one", 1);
        cluster.create(&one);
        cluster.create(&Claim { key: one.key, ..Claim::good("two", 2) });
        let three = Claim::good("three", 3);
        cluster.create(&three);
        cluster.create(&Claim { pod_cidr: three.pod_cidr.clone(), ..Claim::good("four", 4) });
        cluster.lab.nodes()[0].agent.resume();
        for (node, reason) in [
            ("one", "KeyDisputed"),
            ("two", "KeyDisputed"),
            ("three", "CIDRDisputed"),
            ("four", "CIDRDisputed"),
        ] {
            cluster.wait_for(&format!("{node} to be refused"), |cluster| cluster.refusals(node) == [reason]);
            assert!(!cluster.has_peer(node));
        }
        assert!(cluster.has_peer("node2"));
    });
}

#[test]
fn a_deleted_node_is_gone_and_comes_back_with_another_key() {
    isolated!(|| {
        let cluster = Cluster::start();
        let claim = Claim::good("guest", 1);
        for _ in 0..3 {
            // The same name with a new UID and a new key.
            let claim = Claim { key: Claim::good("guest", 1).key, ..claim.clone() };
            cluster.create(&claim);
            let came = cluster.wait_for("guest to be a peer", |cluster| cluster.has_peer("guest"));
            assert_eq!(cluster.refusals("guest"), [] as [&str; 0]);
            cluster.delete("guest");
            let went = cluster.wait_for("guest to be gone", |cluster| !cluster.has_peer("guest"));
            println!("peer after {came:?}, gone after {went:?}");
        }
    });
}

/// The epochs of a peer's keys that the tunnel of node1 uses.
fn epochs(cluster: &Cluster, name: &str) -> Vec<u64> {
    let sessions = peer(cluster, name).map(|peer| peer.sessions).unwrap_or_default();
    sessions.iter().map(|session| session.peer_epoch).collect()
}

/// As a hostile node does that wants every agent of the cluster to write all the time.
#[test]
fn a_claim_that_changes_all_the_time_is_reported_now_and_then() {
    isolated!(|| {
        let cluster = Cluster::start();
        let claim = Claim::good("flapping", 1);
        cluster.create(&claim);
        cluster.wait_for("flapping to be believed", |cluster| cluster.has_peer("flapping"));
        let counted = |cluster: &Cluster| -> u64 {
            let metrics = cluster.get("/metrics");
            let line = "selvedge_refusals_total{reason=\"MalformedAnnotation\"} ";
            let count = metrics.lines().find_map(|text| text.strip_prefix(line)?.parse().ok());
            count.unwrap_or_default()
        };
        let begun = Instant::now();
        for number in 0..60 {
            let endpoints =
                if number % 2 == 0 { "nonsense".to_owned() } else { format!("{}:51830", claim.address) };
            cluster.annotate("flapping", &json!({"selvedge.dev/endpoints": endpoints}));
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.wait_for("each refusal to be counted", |cluster| counted(cluster) >= 15);
        let requests = cluster.lab.api().requests();
        let writes = requests.iter().map(|record| &record.request).filter(|request| {
            let writes = ["create", "patch"].contains(&request.verb);
            request.user == "agent:node1" && request.path.contains("/events") && writes
        });
        // At once, after 5 s, after 15 s, and so on: the pauses double.
        let (writes, passed) = (writes.count(), begun.elapsed());
        let (mut most, mut next) = (1, Duration::from_secs(5));
        while next < passed {
            (most, next) = (most + 1, next * 2 + Duration::from_secs(5));
        }
        println!("{} refusals in {passed:?}, {writes} Events", counted(&cluster));
        assert!((1..=most).contains(&writes), "{writes} Events in {passed:?}, at most {most}");
    });
}
