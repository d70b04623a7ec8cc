//! The files of systemd and NetworkManager: sections, keys, drop-ins.

use std::collections::BTreeMap;
use std::path::Path;

use super::host::Host;

/// One assignment: section, key, value.
pub(super) type Entry = (String, String, String);

/// The assignments of a file in order.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let (mut section, mut entries) = (String::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            entries.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    entries
}

/// The assignments of all `*.conf` in `folders`, by the files' names; of one name only that of the first folder.
pub(super) fn drop_ins(host: &Host, folders: &[&str]) -> Vec<Entry> {
    let mut files = BTreeMap::new();
    for folder in folders.iter().rev() {
        files
            .extend(names(host, folder).into_iter().map(|name| (name.clone(), Path::new(folder).join(name))));
    }
    files.into_values().filter_map(|file| host.read(file)).flat_map(|text| entries(&text)).collect()
}

/// The assignments of all `*.conf` in `folder` but those whose names one of the `nearer` folders has too.
pub(super) fn folder(host: &Host, folder: &str, nearer: &[&str]) -> Vec<Entry> {
    let hidden: Vec<_> = nearer.iter().flat_map(|nearer| names(host, nearer)).collect();
    let files = names(host, folder).into_iter().filter(|name| !hidden.contains(name));
    files.filter_map(|name| host.read(Path::new(folder).join(name))).flat_map(|text| entries(&text)).collect()
}

fn names(host: &Host, folder: &str) -> Vec<String> {
    host.list(folder).into_iter().filter(|name| name.ends_with(".conf")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::host::Fake;
    use super::*;

    #[test]
    fn comments_do_not_count_and_nearer_folders_hide_files() {
        let text = "# x = 1\n[A]\nKey = value = more\n;k=1\nnonsense\n[B]\nk=\n";
        let entry = |section: &str, key: &str, value: &str| (section.into(), key.into(), value.into());
        assert_eq!(entries(text), [entry("A", "Key", "value = more"), entry("B", "k", "")]);
        let fake = Fake::with(&[
            ("/usr/lib/x/10-a.conf", "[S]\nk=hidden"),
            ("/etc/x/10-a.conf", "[S]\nk=near"),
            ("/usr/lib/x/20-b.conf", "[S]\nk=later"),
            ("/etc/x/30-c.ini", "[S]\nk=other"),
        ]);
        let found = drop_ins(&fake.host, &["/etc/x", "/run/x", "/usr/lib/x"]);
        assert_eq!(found, [entry("S", "k", "near"), entry("S", "k", "later")]);
        assert_eq!(folder(&fake.host, "/usr/lib/x", &["/etc/x"]), [entry("S", "k", "later")]);
    }
}
