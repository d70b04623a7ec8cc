//! systemd-networkd, which takes away routes and rules that it did not make, unless told not to (networkd.conf(5)).

use super::finding::Finding;
use super::host::Host;
use super::ini;

const CHECK: &str = "networkd";
const FOLDERS: [&str; 4] = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];
const SETTINGS: [&str; 2] = ["ManageForeignRoutes", "ManageForeignRoutingPolicyRules"];

/// What it does with what others made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    running: bool,
    /// Which of the settings are on, as they are by default.
    manages: Vec<&'static str>,
}

impl Facts {
    pub(super) fn gather(host: &Host) -> Self {
        let main = FOLDERS.iter().find_map(|folder| host.read(format!("{folder}/networkd.conf")));
        let mut entries = ini::entries(&main.unwrap_or_default());
        let folders = FOLDERS.map(|folder| format!("{folder}/networkd.conf.d"));
        entries.extend(ini::drop_ins(host, &folders.each_ref().map(String::as_str)));
        let is_on = |setting: &&str| {
            let last = entries.iter().rev().find(|(section, key, _)| section == "Network" && key == setting);
            last.is_none_or(|(_, _, value)| !is_no(value))
        };
        // It keeps its state there while it runs; systemd makes the folder in any case.
        let running = host.exists("/run/systemd/netif/state");
        Self { running, manages: SETTINGS.into_iter().filter(is_on).collect() }
    }
}

/// As systemd reads booleans (systemd.syntax(7)).
fn is_no(value: &str) -> bool {
    ["0", "no", "n", "false", "f", "off"].contains(&value.to_ascii_lowercase().as_str())
}

pub(super) fn judge(facts: &Facts) -> Option<Finding> {
    if !facts.running {
        return None;
    }
    if facts.manages.is_empty() {
        return Some(Finding::ok(CHECK, "systemd-networkd leaves others' routes and rules alone"));
    }
    let lines: Vec<_> = facts.manages.iter().map(|setting| format!("{setting}=no")).collect();
    Some(Finding::warning(
        CHECK,
        format!(
            "systemd-networkd removes others' routes or rules when it restarts ({})",
            facts.manages.join(", ")
        ),
        format!(
            "write [Network] and {} to /etc/systemd/networkd.conf.d/selvedge.conf, restart systemd-networkd",
            lines.join(" and ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::*;

    fn severity(files: &[(&str, &str)]) -> Option<Severity> {
        judge(&Facts::gather(&Fake::with(files).host)).map(|finding| finding.severity)
    }

    const RUNNING: (&str, &str) = ("/run/systemd/netif/state", "OPER_STATE=routable");
    const BOTH: &str = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=off\n";

    #[test]
    fn the_default_is_to_remove() {
        assert_eq!(severity(&[]), None);
        assert_eq!(severity(&[RUNNING]), Some(Severity::Warning));
        let commented = ("/etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n");
        assert_eq!(severity(&[RUNNING, commented]), Some(Severity::Warning));
    }

    #[test]
    fn both_have_to_be_off_wherever_it_says_so() {
        assert_eq!(severity(&[RUNNING, ("/etc/systemd/networkd.conf", BOTH)]), Some(Severity::Ok));
        let one = ("/etc/systemd/networkd.conf.d/x.conf", "[Network]\nManageForeignRoutes=no\n");
        let fake = Fake::with(&[RUNNING, one]);
        assert_eq!(Facts::gather(&fake.host).manages, ["ManageForeignRoutingPolicyRules"]);
        let other = ("/usr/lib/systemd/networkd.conf.d/90-y.conf", BOTH);
        assert_eq!(severity(&[RUNNING, one, other]), Some(Severity::Ok));
        let last = ("/run/systemd/networkd.conf.d/99-z.conf", "[Network]\nManageForeignRoutes=yes\n");
        assert_eq!(severity(&[RUNNING, other, last]), Some(Severity::Warning));
        let elsewhere = ("/etc/systemd/networkd.conf", "[DHCP]\nManageForeignRoutes=no\n");
        assert_eq!(severity(&[RUNNING, elsewhere]), Some(Severity::Warning));
    }
}
