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

use crate::manifest::{AGENT, NAMESPACE, TUNNEL, cleanup};

/// Where kubelets keep them.
pub(super) const FOLDER: &str = "/var/log/pods";
/// The DaemonSets that our pods are of.
const OURS: [&str; 3] = [AGENT, TUNNEL, cleanup::NAME];
/// Most that is kept of a container: its end.
const MOST: u64 = 1 << 20;
/// Most containers: those that wrote last.
const CONTAINERS: usize = 16;

/// An open folder. What is below it is reached without following a link, also not one that is planted meanwhile.
struct Folder(File);

impl Folder {
    fn open(path: &Path, more: libc::c_int) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC | more;
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
        Self::open(&self.path().join(name), libc::O_NOFOLLOW)
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

    /// Files of a container's lines, and when each was last written to, as far as that is known; the oldest first. What is
    /// compressed is left alone.
    fn logs(&self) -> io::Result<Vec<(Option<SystemTime>, String)>> {
        let is_log =
            |name: &String| name.contains(".log") && ![".gz", ".tmp"].iter().any(|end| name.ends_with(end));
        let written = |name: &String| self.file(name).and_then(|file| file.metadata()?.modified()).ok();
        let mut logs: Vec<_> =
            self.names()?.into_iter().filter(is_log).map(|name| (written(&name), name)).collect();
        logs.sort();
        Ok(logs)
    }
}

/// The ends of the logs of our containers, by names for files of the bundle.
///
/// # Errors
/// When the folder cannot be listed. What cannot be read of one container stands in its text.
pub(super) fn read(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let pods = Folder::open(folder, 0)?;
    let mut containers = Vec::new();
    for (pod, name) in pods.names()?.iter().filter_map(|pod| Some((pod, ours(pod)?))) {
        let opened = pods.folder(pod).and_then(|pod| Ok((pod.names()?, pod)));
        match opened {
            Ok((names, pod)) => containers.extend(names.into_iter().map(|container| {
                let file = format!("log-{name}_{container}.txt");
                (file, pod.folder(&container).and_then(|folder| Ok((folder.logs()?, folder))))
            })),
            Err(error) => containers.push((format!("log-{name}.txt"), Err(error))),
        }
    }
    // Those that wrote last are kept.
    let written = |container: &io::Result<(Vec<_>, _)>| {
        container.as_ref().ok().and_then(|(logs, _)| logs.last().cloned())
    };
    containers.sort_by_cached_key(|(_, container)| std::cmp::Reverse(written(container)));
    let text = |container: io::Result<(Vec<_>, Folder)>| match container {
        Ok((logs, folder)) => ends(&folder, &logs),
        Err(error) => format!("it cannot be opened: {error}\n").into_bytes(),
    };
    Ok(containers.into_iter().take(CONTAINERS).map(|(name, container)| (name, text(container))).collect())
}

/// The pod's name in that of its folder.
fn ours(folder: &str) -> Option<&str> {
    let pod = folder.strip_prefix(NAMESPACE)?.strip_prefix('_')?.split('_').next()?;
    OURS.iter().any(|set| pod.strip_prefix(set).is_some_and(|rest| rest.starts_with('-'))).then_some(pod)
}

/// What a container wrote last.
fn ends(folder: &Folder, logs: &[(Option<SystemTime>, String)]) -> Vec<u8> {
    let (mut parts, mut wrong) = (Vec::new(), String::new());
    let (mut room, mut cut) = (MOST, false);
    for (_, name) in logs.iter().rev() {
        if room == 0 {
            // What is left out may end within a line, too.
            cut = true;
            break;
        }
        match folder.file(name).and_then(|file| end(file, room)) {
            Ok((part, part_cut)) => {
                room -= part.len() as u64;
                cut = part_cut;
                parts.push(part);
            }
            Err(error) => wrong += &format!("{name} cannot be read: {error}\n"),
        }
    }
    // A line may go on in the next file.
    let raw: Vec<u8> = parts.into_iter().rev().flatten().collect();
    [wrong.into_bytes(), text(&raw, cut)].concat()
}

/// The end of a file, at most `room` bytes, and whether there is more before it.
fn end(mut file: File, room: u64) -> io::Result<(Vec<u8>, bool)> {
    let skipped = file.metadata()?.len().saturating_sub(room);
    file.seek(SeekFrom::Start(skipped))?;
    let mut raw = Vec::new();
    // Its owner may be writing on.
    file.take(room).read_to_end(&mut raw)?;
    Ok((raw, skipped > 0))
}

/// What was written, without what the runtime has put before each line. Parts of a line are one again: a secret must not
/// get past the filter in two pieces. `cut`: it begins somewhere within a line, which is left out, of each stream.
fn text(raw: &[u8], cut: bool) -> Vec<u8> {
    let mut whole = Vec::with_capacity(raw.len());
    let mut lines = raw.split(|byte| *byte == b'\n');
    // Streams of which no end of a line has come yet.
    let mut within: Vec<&[u8]> = Vec::new();
    if cut {
        whole.extend_from_slice(b"... what came before is left out\n");
        lines.next();
        within = vec![b"stdout", b"stderr"];
    }
    // What goes on, of each stream.
    let mut open: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match record(line) {
            Some((stream, goes_on, _)) if within.contains(&stream) => {
                within.retain(|within| goes_on || *within != stream);
            }
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
        let raw = b"half a piece\nT stderr P of a secret\nT stdout F of another\nT stderr F is here\nT stderr F next\n\
            T stdout F more\n";
        assert_eq!(text(raw, true), b"... what came before is left out\nnext\nmore\n");
    }

    #[test]
    fn the_end_of_what_our_containers_wrote_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("pods");
        let agent = "selvedge-system_selvedge-agent-abc_1/agent";
        let old = format!("T stderr F {}\n", "x".repeat(99)).repeat(20_000) + "T stderr P goes \n";
        write(&root, &format!("{agent}/0.log.20261126-000000"), old.as_bytes());
        write(&root, &format!("{agent}/0.log.20261125-000000.gz"), b"compressed");
        write(&root, &format!("{agent}/0.log.20261125-000000.tmp"), b"being compressed");
        write(&root, &format!("{agent}/1.log"), b"T stderr F on\nT stderr F last\n");
        let rotated = File::open(root.join(format!("{agent}/0.log.20261126-000000"))).unwrap();
        rotated.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        write(&root, "selvedge-system_other_2/main/0.log", b"T stderr F of others\n");
        write(&root, "other_selvedge-agent-abc_2/main/0.log", b"T stderr F of others\n");
        // What somebody who can write there would have us read.
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "T stderr F secret\n").unwrap();
        let tunnel = root.join("selvedge-system_selvedge-tunnel-abc_3");
        write(&tunnel, "tunnel/0.log", b"T stderr F tunnel\n");
        let link = |path: &Path, to: &Path| std::os::unix::fs::symlink(to, path).unwrap();
        link(&tunnel.join("tunnel/1.log"), &secret);
        link(&tunnel.join("linked"), folder.path());
        link(&root.join("selvedge-system_selvedge-tunnel-def_4"), &root.join("selvedge-system_other_2"));
        nix::unistd::mkfifo(&tunnel.join("tunnel/2.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let logs = read(&root).unwrap();
        let text = |name: &str| {
            let text = logs.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", logs.keys()));
            std::str::from_utf8(text).unwrap()
        };
        assert_eq!(logs.len(), 4, "{:?}", logs.keys());
        let tunnel = text("log-selvedge-tunnel-abc_tunnel.txt");
        assert!(tunnel.ends_with("\ntunnel\n") && !tunnel.contains("secret"), "{tunnel}");
        assert!(
            tunnel.contains("1.log cannot be read")
                && tunnel.contains("2.log cannot be read: it is not a file")
        );
        for name in ["log-selvedge-tunnel-abc_linked.txt", "log-selvedge-tunnel-def.txt"] {
            assert!(text(name).starts_with("it cannot be opened: "), "{name}");
        }
        let agent = text("log-selvedge-agent-abc_agent.txt");
        assert!(agent.starts_with("... what came before is left out\nxxx"), "{}", &agent[..99]);
        assert!(agent.ends_with("x\ngoes on\nlast\n"), "{}", &agent[agent.len() - 99..]);
        assert!(agent.len() < 1 << 20 && agent.len() > 900_000, "{}", agent.len());
        // As much as there is room for, to the byte, and more before it.
        let full = "T stderr F is here\nT stderr F end\n".repeat(40_000);
        write(&root, "selvedge-system_selvedge-agent-abc_1/agent/1.log", &full.as_bytes()[..1 << 20]);
        let logs = read(&root).unwrap();
        let agent = std::str::from_utf8(&logs["log-selvedge-agent-abc_agent.txt"]).unwrap();
        assert!(agent.starts_with("... what came before is left out\n"), "{}", &agent[..99]);
        assert!(read(&folder.path().join("none")).is_err());
    }
}
