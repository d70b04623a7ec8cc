//! NetworkManager, which takes every device for its own unless told not to (NetworkManager.conf(5)).

use super::finding::Finding;
use super::host::Host;
use super::ini;

const CHECK: &str = "networkmanager";
const NEAR: &str = "/etc/NetworkManager/conf.d";
const RUN: &str = "/run/NetworkManager/conf.d";
const FAR: &str = "/usr/lib/NetworkManager/conf.d";
const MAIN: &str = "/etc/NetworkManager/NetworkManager.conf";
/// A device of each kind that Selvedge makes: name and type.
const DEVICES: [(&str, &str); 3] =
    [("selvedge0", "tun"), ("selvedge-br", "bridge"), ("slv0123456789a", "veth")];

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
        let mut matched = (String::new(), String::new());
        for (section, key, value) in &entries {
            match key.as_str() {
                "unmanaged-devices" if section == "keyfile" => facts.unmanaged = vec![value.clone()],
                "unmanaged-devices+" if section == "keyfile" => facts.unmanaged.push(value.clone()),
                "match-device" => matched = (section.clone(), value.clone()),
                "managed" if *section == matched.0 && ["0", "no", "false"].contains(&value.as_str()) => {
                    facts.unmanaged.push(matched.1.clone());
                }
                _ => {}
            }
        }
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

pub(super) fn judge(facts: &Facts) -> Option<Finding> {
    if !facts.running {
        return None;
    }
    let managed: Vec<_> = DEVICES.iter().filter(|(name, kind)| !facts.leaves_alone(name, kind)).collect();
    if managed.is_empty() {
        return Some(Finding::ok(CHECK, "NetworkManager leaves Selvedge's devices alone"));
    }
    let names: Vec<_> = managed.iter().map(|(_, kind)| *kind).collect();
    Some(Finding::warning(
        CHECK,
        format!("NetworkManager may change Selvedge's devices ({})", names.join(", ")),
        "write [keyfile] and unmanaged-devices+=interface-name:selvedge*;interface-name:slv* to \
         /etc/NetworkManager/conf.d/selvedge.conf, reload NetworkManager",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::*;

    fn severity(files: &[(&str, &str)]) -> Option<Severity> {
        let files = [&[("/run/NetworkManager/state", "")], files].concat();
        judge(&Facts::gather(&Fake::with(&files).host)).map(|finding| finding.severity)
    }

    #[test]
    fn it_counts_only_where_it_runs() {
        assert_eq!(judge(&Facts::gather(&Fake::with(&[]).host)), None);
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
    }
}
