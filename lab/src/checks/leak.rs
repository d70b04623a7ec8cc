//! The leak check: nothing of the cluster was on any link of the underlay, and the detector would have seen it.

use super::{Cluster, Failed, Outcome, outcome};
use crate::capture::{Leak, Seen};

/// Plants frames on every link, and then judges everything that each capture has seen since the cluster was started.
#[must_use]
pub fn leaks(cluster: &dyn Cluster) -> Vec<Outcome> {
    match cluster.plant() {
        Ok(links) => {
            links.iter().map(|seen| outcome(&format!("no leak on {}", seen.link), || judge(seen))).collect()
        }
        Err(failed) => vec![outcome("no leak", || Err(failed))],
    }
}

fn judge(seen: &Seen) -> Result<String, Failed> {
    if seen.drops > 0 {
        return Err(Failed(format!("{} frames were not captured", seen.drops)));
    }
    if seen.planted == 0 || seen.found < seen.planted {
        return Err(Failed(format!("only {} of {} planted frames were found", seen.found, seen.planted)));
    }
    if seen.leaks > 0 {
        let examples: Vec<String> = seen.examples.iter().map(describe).collect();
        return Err(Failed(format!("{} leaks: {}", seen.leaks, examples.join("; "))));
    }
    let (frames, mib) = (seen.frames, seen.bytes >> 20);
    let lookalikes = match seen.lookalikes {
        0 => String::new(),
        count => format!(", {count} by chance like the header of a packet of nobody's"),
    };
    Ok(format!("{frames} frames, {mib} MiB, 0 dropped, {} planted and found{lookalikes}", seen.found))
}

fn describe(leak: &Leak) -> String {
    let head: String = leak.head.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} [{head}]", leak.finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{Finding, What};

    fn seen() -> Seen {
        Seen { link: "node1".into(), frames: 9, bytes: 900, planted: 6, found: 6, ..Seen::default() }
    }

    #[test]
    fn a_capture_passes_only_if_it_saw_all_and_found_all_and_nothing_else() {
        assert!(judge(&seen()).is_ok());
        assert!(judge(&Seen { drops: 1, ..seen() }).is_err());
        assert!(judge(&Seen { found: 5, ..seen() }).is_err());
        assert!(judge(&Seen { planted: 0, found: 0, ..seen() }).is_err());
        let finding =
            Finding { what: What::Pod, address: Some([10, 244, 1, 2].into()), place: "IPv4 source".into() };
        let leak = Leak { finding, head: vec![0xab, 0xcd] };
        let leaky = Seen { leaks: 3, examples: vec![leak], ..seen() };
        let why = judge(&leaky).unwrap_err().0;
        assert_eq!(why, "3 leaks: pod address 10.244.1.2 in IPv4 source [abcd]");
    }
}
