//! NetworkManager, which takes every device for its own unless told not to (NetworkManager.conf(5)).

use std::collections::BTreeMap;

use super::finding::Finding;
use super::host::Host;
use super::ini;
use crate::pod::attachment::PREFIX;
use crate::pod::gateway::BRIDGE;

const CHECK: &str = "networkmanager";
const NEAR: &str = "/etc/NetworkManager/conf.d";
const RUN: &str = "/run/NetworkManager/conf.d";
const FAR: &str = "/usr/lib/NetworkManager/conf.d";
const MAIN: &str = "/etc/NetworkManager/NetworkManager.conf";

/// A section that names no devices.
const EVERY: (&str, bool) = ("*", false);

/// What it leaves alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    running: bool,
    /// Device lists whose devices it does not manage.
    unmanaged: Vec<String>,
}

impl Facts {
    pub(super) fn gather(host: &Host) -> Self {
        // In the order in which it reads them: what is later counts.
        let mut entries = ini::folder(host, FAR, &[NEAR, RUN]);
        entries.extend(ini::folder(host, RUN, &[NEAR]));
        entries.extend(ini::entries(&host.read(MAIN).unwrap_or_default()));
        entries.extend(ini::folder(host, NEAR, &[]));
        let mut facts = Self { running: host.exists("/run/NetworkManager"), unmanaged: Vec::new() };
        // The devices of a section, and whether it leaves them alone; in whatever order it says so.
        let mut sections: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
        for (section, key, value) in &entries {
            let of_devices = section.starts_with("device");
            match key.as_str() {
                "unmanaged-devices" if section == "keyfile" => facts.unmanaged = vec![value.clone()],
                "unmanaged-devices+" if section == "keyfile" => facts.unmanaged.push(value.clone()),
                "match-device" if of_devices => sections.entry(section).or_insert(EVERY).0 = value,
                "managed" if of_devices => {
                    sections.entry(section).or_insert(EVERY).1 =
                        ["0", "no", "false"].contains(&value.as_str());
                }
                _ => {}
            }
        }
        facts
            .unmanaged
            .extend(sections.values().filter(|(_, alone)| *alone).map(|(list, _)| (*list).to_owned()));
        facts
    }

    fn leaves_alone(&self, name: &str, kind: &str) -> bool {
        self.unmanaged.iter().any(|list| matches_list(list, name, kind))
    }
}

/// Device lists: `interface-name:eth*;type:veth;except:...`.
fn matches_list(list: &str, name: &str, kind: &str) -> bool {
    let specs = || list.split([';', ',']).map(str::trim).filter(|spec| !spec.is_empty());
    let matches = |spec: &str| match spec.split_once(':') {
        Some(("interface-name", pattern)) => glob(pattern.strip_prefix('=').unwrap_or(pattern), name),
        Some(("type", pattern)) => glob(pattern, kind),
        Some(_) => false,
        None => glob(spec, name),
    };
    let excepted = specs().filter_map(|spec| spec.strip_prefix("except:")).any(matches);
    !excepted && specs().any(matches)
}

/// Whether `text` is as `pattern` says, in which `*` stands for anything and `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => (0..=text.len()).any(|at| text.is_char_boundary(at) && glob(rest, &text[at..])),
        _ => text.chars().next().is_some_and(|letter| {
            (first == '?' || first == letter) && glob(rest, &text[letter.len_utf8()..])
        }),
    }
}

/// `interface`: the tunnel's device.
pub(super) fn judge(facts: &Facts, interface: &str) -> Option<Finding> {
    if !facts.running {
        return None;
    }
    let port = format!("{PREFIX}0123456789a");
    let devices = [(interface, "tun"), (BRIDGE, "bridge"), (port.as_str(), "veth")];
    let managed: Vec<_> = devices.iter().filter(|(name, kind)| !facts.leaves_alone(name, kind)).collect();
    if managed.is_empty() {
        return Some(Finding::ok(CHECK, "NetworkManager leaves Selvedge's devices alone"));
    }
    let names: Vec<_> = managed.iter().map(|(_, kind)| *kind).collect();
    Some(Finding::warning(
        CHECK,
        format!("NetworkManager may change Selvedge's devices ({})", names.join(", ")),
        format!(
            "write [keyfile] and unmanaged-devices+=interface-name:{interface};interface-name:{BRIDGE};\
             interface-name:{PREFIX}* to /etc/NetworkManager/conf.d/selvedge.conf, reload NetworkManager"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::*;

    fn severity(files: &[(&str, &str)]) -> Option<Severity> {
        let files = [&[("/run/NetworkManager/state", "")], files].concat();
        judge(&Facts::gather(&Fake::with(&files).host), "selvedge0").map(|finding| finding.severity)
    }

    #[test]
    fn it_counts_only_where_it_runs() {
        assert_eq!(judge(&Facts::gather(&Fake::with(&[]).host), "selvedge0"), None);
        assert_eq!(severity(&[]), Some(Severity::Warning));
    }

    #[test]
    fn all_of_our_devices_have_to_be_unmanaged() {
        let keyfile = |list: &str| format!("[keyfile]\nunmanaged-devices={list}\n");
        for (list, expected) in [
            ("interface-name:selvedge*;interface-name:slv*", Severity::Ok),
            ("selvedge*,slv*", Severity::Ok),
            ("*,except:interface-name:eth*", Severity::Ok),
            ("*;except:type:bridge", Severity::Warning),
            ("interface-name:selvedge0", Severity::Warning),
            ("type:veth;type:tun;type:bridge", Severity::Ok),
            ("mac:00:11:22:33:44:55", Severity::Warning),
        ] {
            let text = keyfile(list);
            assert_eq!(severity(&[("/etc/NetworkManager/conf.d/k8s.conf", &text)]), Some(expected), "{list}");
        }
    }

    #[test]
    fn later_files_replace_or_add() {
        let ours = "[keyfile]\nunmanaged-devices=interface-name:selvedge*;interface-name:slv*\n";
        let other = "[keyfile]\nunmanaged-devices=interface-name:cali*\n";
        let added = "[keyfile]\nunmanaged-devices+=interface-name:cali*\n";
        let (first, second) = ("/etc/NetworkManager/conf.d/10.conf", "/etc/NetworkManager/conf.d/20.conf");
        assert_eq!(severity(&[(first, ours), (second, other)]), Some(Severity::Warning));
        assert_eq!(severity(&[(first, ours), (second, added)]), Some(Severity::Ok));
        assert_eq!(
            severity(&[("/run/NetworkManager/conf.d/x.conf", ours), (MAIN, other)]),
            Some(Severity::Warning)
        );
        assert_eq!(
            severity(&[("/usr/lib/NetworkManager/conf.d/10.conf", other), (first, ours)]),
            Some(Severity::Ok)
        );
        let device =
            "[device-selvedge]\nmatch-device=interface-name:selvedge*;interface-name:slv*\nmanaged=0\n";
        assert_eq!(severity(&[(MAIN, device)]), Some(Severity::Ok));
        assert_eq!(severity(&[(MAIN, &device.replace('0', "1"))]), Some(Severity::Warning));
        let first =
            "[device-selvedge]\nmanaged=0\nmatch-device=interface-name:selvedge*;interface-name:slv*\n";
        assert_eq!(severity(&[(MAIN, first)]), Some(Severity::Ok));
        let fake = Fake::with(&[("/run/NetworkManager/state", ""), (MAIN, device)]);
        let renamed = judge(&Facts::gather(&fake.host), "mesh0").unwrap();
        assert!(
            renamed.severity == Severity::Warning
                && renamed.remedy.unwrap().contains("interface-name:mesh0;")
        );
    }
}
