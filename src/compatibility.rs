//! What one version writes and another reads: files of the node, annotations, and the tunnel's control API. Parts of
//! neighbouring minor versions run beside each other during every update, so each has to do with what the other says.
//!
//! `tests/compatibility/VERSION` has what a version wrote. It is never changed; a change of a form adds a folder. What
//! is written today is the same as in the newest folder, or the test says so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::mesh::annotation::{PREFIX, parse, render};
use crate::mesh::record::Records;
use crate::pod::lease::Lease;
use crate::pod::node::NodeInfo;
use crate::tunnel::api::{DeviceConfig, DeviceStatus, Event, PeerState};

fn sample(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/compatibility/0.1");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn again<T: DeserializeOwned + Serialize>(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), value);
}

/// The same text, of a later version that says more.
fn with_more(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap();
    value["saidSinceThen"] = json!({"by": "a later version"});
    value
}

#[test]
fn what_the_parts_write_is_what_they_wrote() {
    again::<DeviceConfig>(&sample("device-config.json"));
    again::<DeviceStatus>(&sample("device-status.json"));
    again::<NodeInfo>(&sample("node.json"));
    again::<Lease>(&sample("lease.json"));
    sample("events.jsonl").lines().for_each(again::<Event>);

    let texts: BTreeMap<String, String> = serde_json::from_str(&sample("annotations.json")).unwrap();
    let texts: BTreeMap<_, _> =
        texts.into_iter().map(|(name, text)| (format!("{PREFIX}{name}"), text)).collect();
    assert_eq!(render(&parse(&texts).unwrap().unwrap()), texts);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.json");
    std::fs::write(&path, sample("records.json")).unwrap();
    let (records, damaged) = Records::open(&path).unwrap();
    assert_eq!((records.nodes.len(), damaged), (1, None));
    records.save(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), sample("records.json"));
}

#[test]
fn what_is_said_by_a_later_version_is_understood_as_far_as_it_goes() {
    serde_json::from_value::<DeviceStatus>(with_more(&sample("device-status.json"))).unwrap();
    serde_json::from_value::<NodeInfo>(with_more(&sample("node.json"))).unwrap();
    serde_json::from_value::<Lease>(with_more(&sample("lease.json"))).unwrap();
    let later: Event = serde_json::from_value(json!({"type": "rotated", "peer": "node2"})).unwrap();
    assert_eq!(later, Event::Unknown);
    assert_eq!(serde_json::from_value::<PeerState>(json!("resting")).unwrap(), PeerState::Unknown);

    let mut texts: BTreeMap<String, String> = serde_json::from_str(&sample("annotations.json")).unwrap();
    texts.insert("later".into(), "anything".into());
    texts.insert("features".into(), "handover,lanes=4,later".into());
    let texts = texts.into_iter().map(|(name, text)| (format!("{PREFIX}{name}"), text)).collect();
    assert_eq!(parse(&texts).unwrap().unwrap().features, ["handover", "lanes=4", "later"]);
}

/// A configuration is a command. What a tunnel does not understand it must not leave out.
#[test]
fn a_configuration_that_asks_for_more_than_is_known_is_refused() {
    let error = serde_json::from_value::<DeviceConfig>(with_more(&sample("device-config.json"))).unwrap_err();
    assert!(error.to_string().contains("saidSinceThen"), "{error}");
}
