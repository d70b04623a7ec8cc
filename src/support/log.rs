//! What our containers on this node have written, from the files that a kubelet keeps of it.
//!
//! Layout of the folder: `<namespace>_<pod>_<uid>/<container>/<restarts>.log`, and older ones beside it. Lines are those of
//! the container runtime interface: time, stream, `F` or `P` for a line that goes on, text; see "CRI: Log Management" in
//! Kubernetes' design proposals.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::manifest::{AGENT, TUNNEL, cleanup};

/// Where kubelets keep them.
pub(super) const FOLDER: &str = "/var/log/pods";
/// The DaemonSets that our pods are of.
const OURS: [&str; 3] = [AGENT, TUNNEL, cleanup::NAME];
/// Most that is kept of a container: its end.
const MOST: u64 = 1 << 20;
/// Most containers: those that wrote last.
const CONTAINERS: usize = 16;

/// A folder that was opened by itself: no link leads elsewhere, also not one that is planted meanwhile.
struct Folder(File);

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        OpenOptions::new().read(true).custom_flags(flags).open(path).map(Self)
    }

    /// Its path for as long as it is open.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(self.path())?.flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }

    fn folder(&self, name: &str) -> io::Result<Self> {
        Self::open(&self.path().join(name))
    }

    /// A file, not a link and nothing else that has a name. Opening a pipe that nobody writes to must not wait.
    fn file(&self, name: &str) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.path().join(name))?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
        }
    }
}

/// The ends of the logs of our containers, by names for files of the bundle.
///
/// # Errors
/// When the folder cannot be listed. What cannot be read of one container stands in its text.
pub(super) fn read(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut containers = Vec::new();
    let pods = Folder::open(folder)?;
    for pod in pods.names()? {
        let Some(name) = ours(&pod) else { continue };
        let Ok(pod) = pods.folder(&pod) else { continue };
        for container in pod.names()? {
            let Ok(folder) = pod.folder(&container) else { continue };
            let written = newest_first(&folder).first().map(|(time, _)| *time);
            containers.push((written, format!("log-{name}-{container}.txt"), folder));
        }
    }
    containers.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
    let mut logs = BTreeMap::<_, Vec<u8>>::new();
    for (_, name, folder) in containers.into_iter().take(CONTAINERS) {
        // The pod of this name that was there before comes first.
        let text = container(&folder);
        logs.entry(name)
            .and_modify(|later| later.splice(0..0, text.iter().copied()).for_each(drop))
            .or_insert(text);
    }
    Ok(logs)
}

/// The pod's name in that of its folder.
fn ours(folder: &str) -> Option<&str> {
    let pod = folder.split('_').nth(1)?;
    OURS.iter().any(|set| pod.strip_prefix(set).is_some_and(|rest| rest.starts_with('-'))).then_some(pod)
}

/// Files of a container's lines by the time at which they were last written to. Compressed ones are left alone.
fn newest_first(container: &Folder) -> Vec<(SystemTime, String)> {
    let names = container.names().unwrap_or_default();
    let logs = names.into_iter().filter(|name| name.contains(".log") && !name.ends_with(".gz"));
    let written = |name: &String| container.file(name).and_then(|file| file.metadata()?.modified());
    let mut files: Vec<_> = logs.filter_map(|name| Some((written(&name).ok()?, name))).collect();
    files.sort_by(|one, other| other.cmp(one));
    files
}

fn container(folder: &Folder) -> Vec<u8> {
    let mut room = MOST;
    let mut parts = Vec::new();
    for (_, name) in newest_first(folder) {
        if room == 0 {
            break;
        }
        let part = folder.file(&name).and_then(|file| end(file, &mut room));
        parts.push(part.unwrap_or_else(|error| format!("{name} cannot be read: {error}\n").into_bytes()));
    }
    parts.into_iter().rev().flatten().collect()
}

/// The end of a file, as far as there is room, which shrinks by that.
fn end(mut file: File, room: &mut u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(*room);
    file.seek(SeekFrom::Start(skipped))?;
    let mut raw = Vec::new();
    // Its owner may be writing on.
    file.take(*room).read_to_end(&mut raw)?;
    *room -= raw.len() as u64;
    Ok(text(&raw, skipped > 0))
}

/// What was written, without what the runtime has put before each line. Parts of a line are one again: a secret must not
/// get past the filter in two pieces. `cut`: it begins somewhere within a line, all of which is left out.
fn text(raw: &[u8], cut: bool) -> Vec<u8> {
    let mut whole = Vec::with_capacity(raw.len());
    // What goes on, of each stream.
    let mut open: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    let mut lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    if cut {
        whole.extend_from_slice(b"... what came before is left out\n");
        lines.next();
        lines.find(|line| !matches!(record(line), Some((_, true, _))));
    }
    for line in lines {
        match record(line) {
            Some((stream, goes_on, text)) => {
                let line = open.entry(stream).or_default();
                line.extend_from_slice(text);
                if !goes_on {
                    line.push(b'\n');
                    whole.append(line);
                }
            }
            None => whole.extend(line.iter().copied().chain([b'\n'])),
        }
    }
    for line in open.into_values().filter(|line| !line.is_empty()) {
        whole.extend(line.into_iter().chain([b'\n']));
    }
    whole
}

/// Stream, whether the line goes on, and text.
fn record(line: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (_time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let known = matches!(stream, b"stdout" | b"stderr") && matches!(tag.first(), Some(b'P' | b'F'));
    known.then(|| (stream, tag[0] == b'P', fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, content: &[u8]) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn lines_are_whole_and_bare() {
        let raw = b"T stderr P be\nT stdout F between\nT stderr P ca\nT stderr F use\nodd line\nT stderr F \nT stdout P open\n";
        assert_eq!(text(raw, false), b"between\nbecause\nodd line\n\nopen\n");
    }

    #[test]
    fn a_line_that_is_cut_is_left_out_with_all_that_belongs_to_it() {
        let raw = b"half a piece\nT stderr P of a secret\nT stderr F is here\nT stderr F next\n";
        assert_eq!(text(raw, true), b"... what came before is left out\nnext\n");
    }

    #[test]
    fn the_end_of_what_our_containers_wrote_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("pods");
        let old = format!("T stderr F {}\n", "x".repeat(99)).repeat(20_000);
        write(&root, "ns_selvedge-agent-abc_1/agent/0.log.20261126-000000", old.as_bytes());
        write(&root, "ns_selvedge-agent-abc_1/agent/0.log.20261125-000000.gz", b"compressed");
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(&root, "ns_selvedge-agent-abc_1/agent/1.log", b"T stderr F last\n");
        write(&root, "ns_other_2/main/0.log", b"T stderr F of others\n");
        // What somebody who can write there would have us read.
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "T stderr F secret\n").unwrap();
        write(&root, "ns_selvedge-tunnel-abc_3/tunnel/0.log", b"T stderr F tunnel\n");
        let link = |name: &str, to: &Path| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link("ns_selvedge-tunnel-abc_3/tunnel/1.log", &secret);
        link("ns_selvedge-tunnel-abc_3/linked", folder.path());
        link("ns_selvedge-tunnel-def_4", &root.join("ns_other_2"));
        nix::unistd::mkfifo(
            &root.join("ns_selvedge-tunnel-abc_3/tunnel/2.log"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        let logs = read(&root).unwrap();
        let names: Vec<&str> = logs.keys().map(String::as_str).collect();
        assert_eq!(names, ["log-selvedge-agent-abc-agent.txt", "log-selvedge-tunnel-abc-tunnel.txt"]);
        assert_eq!(logs[names[1]], b"tunnel\n");
        let agent = std::str::from_utf8(&logs[names[0]]).unwrap();
        assert!(agent.starts_with("... what came before is left out\nxxx") && agent.ends_with("x\nlast\n"));
        assert!(agent.len() < 1 << 20 && agent.len() > 900_000, "{}", agent.len());
        assert!(read(&folder.path().join("none")).is_err());
    }
}
