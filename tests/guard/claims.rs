//! Annotations that vanish, that name unknown keys, and that claim what is another node's.

use std::time::Duration;

use selvedge::mesh::annotation::{ENDPOINTS, KEY_EPOCH, NAMES, NODE_ADDRESSES, POD_CIDRS, PUBLIC_KEY};
use selvedge_keys::PrivateKey;
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::NODES;
use selvedge_lab::isolated;
use selvedge_lab::process::wait_for;
use serde_json::{Map, Value, json};

use crate::flow::targets;
use crate::stage::{POD_PORT, SOON, Stage};
use crate::watch::Watch;

/// An address of nobody.
const NOWHERE: &str = "172.31.250.77";
const WIREGUARD: [u8; 2] = 51830_u16.to_be_bytes();

impl Stage {
    fn annotate(&self, name: &str, annotations: &Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.lab.store().patch(&NODES, "", name, &patch).unwrap();
    }

    fn annotation(&self, name: &str, key: &str) -> Value {
        self.lab.store().get(&NODES, "", name).unwrap()["metadata"]["annotations"][key].clone()
    }

    /// A Node that says what it likes, in annotations and in its object.
    fn create_mallory(&self, key: &Value, cidrs: &Value, addresses: &[String]) {
        let internal: Vec<Value> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let list: Vec<&str> = cidrs.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        // Nobody listens there, but packets to it can be seen.
        let endpoint = format!("{}:51830", self.lab.plan().control().addresses()[0]);
        let annotations = json!({
            PUBLIC_KEY: key, KEY_EPOCH: "1", ENDPOINTS: endpoint,
            POD_CIDRS: list.join(","), NODE_ADDRESSES: addresses.join(","),
        });
        let node = json!({
            "metadata": {"name": "mallory", "annotations": annotations},
            "spec": {"podCIDRs": cidrs},
            "status": {"addresses": internal},
        });
        self.lab.store().create(&NODES, node).unwrap();
    }

    fn delete_mallory(&self) {
        self.lab.store().delete(&NODES, "", "mallory", &Deletion::default()).unwrap();
    }

    /// Waits until an Event about a Node says that something of it is refused.
    fn refused(&self, name: &str) {
        let events = || self.lab.store().list(&selvedge_lab::api::resource::EVENTS, None).1;
        let about = || events().iter().any(|event| event["involvedObject"]["name"] == name);
        wait_for(&format!("an event about {name}"), SOON, about).unwrap();
    }
}

#[test]
fn claims_are_contested() {
    isolated!(|| {
        let stage = Stage::start();
        let key = || Value::from(PrivateKey::generate().unwrap().public_key().to_string());
        let agent = &stage.node(1).agent;
        stage.scenario("annotations removed", || {
            agent.hold();
            let nothing: Map<String, Value> =
                NAMES.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
            stage.annotate("node2", &nothing.into());
            stage.keeps_sending(100);
            String::new()
        });
        stage.scenario("annotations back", || {
            agent.resume();
            format!("answers after {:?}", stage.recovers("answers"))
        });
        stage.scenario("peer's key unknown to it", || {
            agent.hold();
            let epoch: u64 = stage.annotation("node2", KEY_EPOCH).as_str().unwrap().parse().unwrap();
            stage.annotate("node2", &json!({PUBLIC_KEY: key(), KEY_EPOCH: (epoch + 1).to_string()}));
            stage.keeps_sending(100);
            String::new()
        });
        stage.scenario("peer has new keys", || {
            agent.resume();
            format!("answers after {:?}", stage.recovers("answers"))
        });
        // Whoever is believed gets handshakes.
        let control = Watch::start(stage.lab.underlay().router(), "control", |frame| {
            frame.get(12..14) == Some(&[8, 0])
                && frame.get(23) == Some(&17)
                && frame.get(36..38) == Some(&WIREGUARD)
        });
        let own = json!(["10.244.9.0/24", "fd00:10:244:9::/64"]);
        let theirs = json!(["10.244.2.0/24", "fd00:10:244:2::/64"]);
        let addresses = [NOWHERE.to_owned()];
        let there = ["10.244.9.5", "fd00:10:244:9::5"].map(|text| text.parse().unwrap());
        stage.send_from(&stage.near.ns, targets("no pod of mallory's", &there, POD_PORT, &stage.secret()));
        stage.scenario("two nodes claim one key", || {
            stage.create_mallory(&stage.annotation("node2", PUBLIC_KEY), &own, &addresses);
            stage.refused("mallory");
            let recovered = stage.recovers("answers of the one that had it");
            stage.delete_mallory();
            format!("answers after {recovered:?}")
        });
        stage.scenario("two nodes claim one CIDR", || {
            stage.create_mallory(&key(), &theirs, &addresses);
            stage.keeps_sending(40);
            let recovered = stage.recovers("answers of the one that had it");
            stage.delete_mallory();
            format!("answers after {recovered:?}")
        });
        assert_eq!(control.times().len(), 0, "a refused claimant gets handshakes");
        stage.scenario("two nodes claim one address", || {
            let addresses: Vec<String> = stage.node(1).addresses().iter().map(ToString::to_string).collect();
            stage.create_mallory(&key(), &own, &addresses);
            stage.keeps_sending(40);
            let recovered = stage.recovers("answers of the one that had it");
            wait_for("handshakes with the one that lacks an address", SOON, || !control.times().is_empty())
                .unwrap();
            stage.delete_mallory();
            format!("answers after {recovered:?}")
        });
        assert!(stage.recovers("answers at the end") < Duration::from_secs(10));
        stage.end();
    });
}
