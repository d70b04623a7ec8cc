//! The list of network configurations in the runtime's folder. Pure.
//!
//! Its head (`cniVersion`, `cniVersions`, `name`) and the first plugin are ours. What others chain behind that (bandwidth,
//! tuning, a service mesh) is theirs and stays as they wrote it, in their order, and so does what else the list says. An entry
//! in any other place is not chained to ours: before it there is no interface to work on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::request::{VERSIONS, Version};
use crate::paths::Paths;

/// Name of the plugin's program, and `type` in the configuration.
pub const PLUGIN: &str = "selvedge";
const PLUGINS: &str = "plugins";

/// A list as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What to write; nothing when it says so already.
    pub text: Option<String>,
    /// Types of the plugins that are not chained to ours and go.
    pub dropped: Vec<String>,
}

/// What the list should say that says `found` now.
#[must_use]
pub fn wanted(found: &[u8], paths: &Paths, network: &str) -> Wanted {
    let (head, own) = (head(network), own_entry(paths));
    let Some(list) = List::read(found) else {
        let list = List { others: BTreeMap::new(), plugins: vec![] };
        return Wanted { text: Some(list.text(&head, &own)), dropped: vec![] };
    };
    let (chained, strays) =
        list.plugins.iter().enumerate().partition::<Vec<_>, _>(|(index, _)| list.is_chained(*index));
    let is_first = list.plugins.first().is_some_and(|first| first.value() == Some(own.clone()));
    let right = is_first && strays.len() == 1 && head.iter().all(|(key, value)| list.says(key, value));
    let dropped =
        strays.iter().filter(|(_, entry)| !entry.is_ours()).map(|(_, entry)| entry.name()).collect();
    let chained = chained.into_iter().map(|(_, entry)| entry.clone()).collect();
    let text = (!right).then(|| List { others: list.others.clone(), plugins: chained }.text(&head, &own));
    Wanted { text, dropped }
}

/// Types of the plugins that are chained to ours.
#[must_use]
pub fn chained(found: &[u8]) -> Vec<String> {
    let Some(list) = List::read(found) else { return vec![] };
    let entries = list.plugins.iter().enumerate().filter(|(index, _)| list.is_chained(*index));
    entries.map(|(_, entry)| entry.name()).collect()
}

/// Runtimes that know `cniVersions` take the newest of it that they speak (STATUS and GC came with 1.1.0); to all others
/// 1.1.0 would be an error.
fn head(network: &str) -> [(&'static str, Value); 3] {
    [("cniVersion", json!(Version::V1_0_0)), ("cniVersions", json!(VERSIONS)), ("name", network.into())]
}

/// Folders other than the usual ones are written into it, because the runtime's environment is not the agent's.
fn own_entry(paths: &Paths) -> Value {
    let usual = Paths::default();
    let mut plugin = Map::new();
    plugin.insert("type".to_owned(), PLUGIN.into());
    plugin.insert("capabilities".to_owned(), json!({"portMappings": true}));
    let folders = [
        ("stateDir", &paths.state, &usual.state),
        ("runDir", &paths.run, &usual.run),
        ("config", &paths.config, &usual.config),
    ];
    for (key, path, _) in folders.into_iter().filter(|(_, path, usual)| path != usual) {
        plugin.insert(key.to_owned(), path.display().to_string().into());
    }
    Value::Object(plugin)
}

/// A list with its texts as they are written.
struct List {
    /// All but the plugins.
    others: BTreeMap<String, Box<RawValue>>,
    plugins: Vec<Entry>,
}

/// A plugin's entry.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Entry(Box<RawValue>);

impl List {
    /// Nothing when it is not a list of plugins.
    fn read(text: &[u8]) -> Option<Self> {
        let mut others: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(text).ok()?;
        let plugins = others.remove(PLUGINS)?;
        Some(Self { others, plugins: serde_json::from_str(plugins.get()).ok()? })
    }

    fn says(&self, key: &str, value: &Value) -> bool {
        self.others.get(key).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()).as_ref()
            == Some(value)
    }

    /// Somebody else's plugin behind ours.
    fn is_chained(&self, index: usize) -> bool {
        let entry = &self.plugins[index];
        !entry.is_ours() && entry.kind().is_some() && self.plugins[..index].iter().any(Entry::is_ours)
    }

    fn text(&self, head: &[(&str, Value)], own: &Value) -> String {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Part<'a> {
            Ours(&'a Value),
            Theirs(&'a RawValue),
            Plugins(Vec<Part<'a>>),
        }
        let theirs = self.plugins.iter().map(|entry| Part::Theirs(&entry.0));
        let plugins = Part::Plugins([Part::Ours(own)].into_iter().chain(theirs).collect());
        let mut parts: BTreeMap<&str, Part<'_>> =
            self.others.iter().map(|(key, raw)| (key.as_str(), Part::Theirs(raw))).collect();
        parts.extend(head.iter().map(|(key, value)| (*key, Part::Ours(value))));
        parts.insert(PLUGINS, plugins);
        let text = serde_json::to_string_pretty(&parts).expect("a map by text of what was JSON is JSON");
        text + "\n"
    }
}

impl Entry {
    fn value(&self) -> Option<Value> {
        serde_json::from_str(self.0.get()).ok()
    }

    /// The plugin's type, without which no runtime takes the list.
    fn kind(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let typed: Typed = serde_json::from_str(self.0.get()).ok()?;
        Some(typed.r#type).filter(|kind| !kind.is_empty())
    }

    fn is_ours(&self) -> bool {
        self.kind().as_deref() == Some(PLUGIN)
    }

    fn name(&self) -> String {
        self.kind().unwrap_or_else(|| "an entry without type".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::request::{Environment, Verb, parse};

    fn text_of(found: &str) -> String {
        wanted(found.as_bytes(), &Paths::default(), "selvedge").text.unwrap()
    }

    fn is_right(found: &str) -> bool {
        wanted(found.as_bytes(), &Paths::default(), "selvedge").text.is_none()
    }

    /// Our list with these entries behind ours.
    fn with(entries: &str) -> String {
        let ours = text_of("");
        let end = ours.rfind("\n  ]").unwrap();
        format!("{}{entries}{}", &ours[..end], &ours[end..])
    }

    #[test]
    fn what_it_writes_the_plugin_takes() {
        let paths = Paths { run: "/run/other".into(), ..Paths::default() };
        let text = wanted(b"", &paths, "selvedge").text.unwrap();
        let conflist: Value = serde_json::from_str(&text).unwrap();
        // As libcni makes a plugin's input of a conflist.
        let mut input = conflist["plugins"][0].clone();
        input["name"] = conflist["name"].clone();
        input["cniVersion"] = conflist["cniVersions"][2].clone();
        assert_eq!(
            (&conflist["cniVersion"], &conflist["cniVersions"][1]),
            (&json!("1.0.0"), &json!("1.0.0"))
        );
        let environment = Environment { command: "STATUS".to_owned(), ..Environment::default() };
        let request = parse(&environment, input.to_string().as_bytes()).1.unwrap();
        assert_eq!(request.verb, Verb::Status);
        assert_eq!(request.config.paths(Paths::default()), paths);
        assert!(input.get("stateDir").is_none());
    }

    const BANDWIDTH: &str = r#",{"type": "bandwidth",
          "capabilities": {"bandwidth":true}, "rate": 12345678901234567890123, "x": 1e400}"#;
    const ISTIO: &str =
        r#", {"name":"istio-cni", "type":"istio-cni", "kubernetes": {"exclude_namespaces": ["a"]}}"#;

    #[test]
    fn what_others_chain_stays_as_it_is_written() {
        for entries in ["", BANDWIDTH, ISTIO, &format!("{ISTIO}{BANDWIDTH}")] {
            assert!(is_right(&with(entries)), "{}", with(entries));
            // An upgrade changes our part alone; what the list says else stays too.
            let older = with(entries)
                .replace(r#""portMappings": true"#, r#""portMappings": false"#)
                .replacen(r#""name": "selvedge""#, r#""disableCheck": true, "name": "older""#, 1);
            let text = text_of(&older);
            let list: Value = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&text)
                .map(|list| json!([list["name"].get(), list["disableCheck"].get()]))
                .unwrap();
            assert_eq!(list, json!(["\"selvedge\"", "true"]));
            for entry in [BANDWIDTH, ISTIO] {
                let kept = entry.trim_start_matches([',', ' ']);
                assert_eq!(text.contains(kept), entries.contains(entry), "{text}");
            }
            assert!(is_right(&text), "{text}");
        }
        let both = with(&format!("{ISTIO}{BANDWIDTH}"));
        assert_eq!(chained(both.as_bytes()), ["istio-cni", "bandwidth"]);
    }

    #[test]
    fn a_broken_list_is_repaired() {
        let whole = text_of("");
        for broken in
            ["", "{", "[]", "null", "{}", r#"{"type": "bridge", "name": "x"}"#, r#"{"plugins": {}}"#]
        {
            assert_eq!(text_of(broken), whole, "{broken}");
        }
        for broken in [
            &format!("{whole}}}"),
            &with(r#", {"type": 7}"#),
            &with(r#", "bandwidth""#),
            &with(r#", {"type": "selvedge"}"#),
            &with(r#", null"#),
        ] {
            assert_eq!(text_of(broken), whole, "{broken}");
        }
    }

    #[test]
    fn what_is_not_behind_ours_goes_and_is_named() {
        let [bandwidth, istio] = [BANDWIDTH, ISTIO].map(|entry| entry.trim_start_matches([',', ' ']));
        let found = with(BANDWIDTH).replacen("[\n    {", &format!("[{istio},\n    {{"), 1);
        let found = wanted(found.as_bytes(), &Paths::default(), "selvedge");
        let text = found.text.unwrap();
        assert_eq!(
            (found.dropped, chained(text.as_bytes())),
            (vec!["istio-cni".to_owned()], vec!["bandwidth".to_owned()])
        );
        assert!(is_right(&text), "{text}");
        // Somebody else's network in our file.
        let other = format!(r#"{{"plugins": [{istio}, {bandwidth}]}}"#);
        let found = wanted(other.as_bytes(), &Paths::default(), "selvedge");
        assert_eq!((found.dropped.len(), found.text), (2, Some(text_of(""))));
    }

    proptest! {
        /// Whatever is found, what is written is right, and nobody's entry behind ours is lost or changed.
        #[test]
        fn what_is_written_is_right(
            entries in prop::collection::vec(prop::sample::select(vec![
                r#"{"type":"selvedge"}"#, r#"{"type":"a","n":0.10}"#, r#"{"type":"b"}"#, r#"{"type":""}"#, "7", "{}",
            ]), 0..6),
            name in prop::sample::select(vec!["selvedge", "x"]),
        ) {
            let found = format!(r#"{{"name": "{name}", "extra": [1.50], "plugins": [{}]}}"#, entries.join(","));
            let text = text_of(&found);
            prop_assert!(is_right(&text), "{}", text);
            let ours = entries.iter().position(|entry| entry.contains("selvedge")).unwrap_or(entries.len());
            let kept: Vec<&str> = entries[ours..].iter().copied().filter(|entry| entry.contains("\"a\"") || entry.contains("\"b\"")).collect();
            let list: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text).unwrap();
            let plugins: Vec<Box<RawValue>> = serde_json::from_str(list["plugins"].get()).unwrap();
            let texts: Vec<&str> = plugins[1..].iter().map(|entry| entry.get()).collect();
            prop_assert_eq!(texts, kept);
            prop_assert_eq!(list["extra"].get(), "[1.50]");
        }

        #[test]
        fn any_bytes_become_a_list(found in ".{0,80}") {
            let text = wanted(found.as_bytes(), &Paths::default(), "selvedge").text;
            prop_assert!(text.is_some_and(|text| is_right(&text)));
        }
    }
}
