//! Control groups of a lab's own. Containers make theirs below, so they can be taken away with one stroke, and nothing
//! that the machine has of others is touched.
//!
//! [`Group`] is used by the process outside; [`enter`] and [`mount`] by the one inside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};

const ROOT: &str = "/sys/fs/cgroup";
const PROCS: &str = "cgroup.procs";
/// How long the kernel may take to let go of what ended.
const GONE: Duration = Duration::from_secs(10);

/// One hierarchy, as `/proc/self/cgroup` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers, comma-separated, or `name=...`; empty for the unified one.
    controllers: String,
    /// Where in it the process is.
    path: String,
}

impl Hierarchy {
    fn unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Folder of its mount below [`ROOT`], as systemd lays it out.
    fn folder(&self, alone: bool) -> PathBuf {
        match (self.unified(), alone) {
            (true, true) => ROOT.into(),
            (true, false) => Path::new(ROOT).join("unified"),
            (false, _) => Path::new(ROOT).join(self.controllers.trim_start_matches("name=")),
        }
    }

    /// What to mount: type and options.
    fn mount(&self) -> (&'static str, Option<String>) {
        match (self.unified(), self.controllers.starts_with("name=")) {
            (true, _) => ("cgroup2", None),
            (false, true) => ("cgroup", Some(format!("none,{}", self.controllers))),
            (false, false) => ("cgroup", Some(self.controllers.clone())),
        }
    }
}

/// What all groups of labs are called, with the id of the process that made them.
const PREFIX: &str = "selvedge-lab-";
/// The group below a lab's own that all of it but containers is in.
const LAB: &str = "lab";

/// A group in every hierarchy. It is gone when this value is dropped; nothing may run in it then. What is left of
/// processes that were killed is taken away by the next.
#[derive(Debug)]
pub struct Group {
    /// In each hierarchy: where this process was, and the group.
    folders: Vec<(PathBuf, PathBuf)>,
}

impl Group {
    /// Makes it, below where this process is, and moves this process into it; what it starts now is in there too.
    ///
    /// # Errors
    /// When the hierarchies are not mounted where they usually are, or this user may not make groups.
    pub fn create() -> io::Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let hierarchies = own()?;
        let alone = hierarchies.len() == 1;
        let mut group = Self { folders: Vec::new() };
        for hierarchy in &hierarchies {
            let here = hierarchy.folder(alone).join(hierarchy.path.trim_start_matches('/'));
            sweep(&here);
            remove(&here.join(&name))?;
            let folder = make(&here, &name)?;
            group.folders.push((here, folder.clone()));
            go_into(&folder)?;
        }
        Ok(group)
    }

    /// Moves this process back to where it was.
    pub fn leave(&self) -> io::Result<()> {
        self.folders.iter().try_for_each(|(here, _)| fs::write(here.join(PROCS), "0"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.leave();
        for (_, folder) in &self.folders {
            if let Err(error) = remove(folder) {
                tracing::warn!(%error, folder = %folder.display(), "a control group is left behind");
            }
        }
    }
}

/// Makes the group that this process is in the root of all that it and its children see.
pub fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    Ok(())
}

fn make(here: &Path, name: &str) -> io::Result<PathBuf> {
    let folder = here.join(name);
    fs::create_dir(&folder).map_err(|error| naming(&folder, &error))?;
    for setting in ["cpuset.cpus", "cpuset.mems"] {
        // A new group of cpusets has none, and takes no process.
        if let Ok(value) = fs::read(here.join(setting)) {
            let _ = fs::write(folder.join(setting), value);
        }
    }
    Ok(folder)
}

/// With all threads of this process.
fn go_into(group: &Path) -> io::Result<()> {
    fs::write(group.join(PROCS), "0").map_err(|error| naming(group, &error))
}

/// Mounts every hierarchy in the mount namespace of the calling thread, whose `/sys` has to be one of its own.
pub fn mount() -> io::Result<()> {
    let hierarchies = own()?;
    let alone = hierarchies.len() == 1;
    let none = None::<&str>;
    if !alone {
        nix::mount::mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    }
    for hierarchy in hierarchies {
        let (folder, (kind, options)) = (hierarchy.folder(alone), hierarchy.mount());
        if !alone {
            fs::create_dir(&folder)?;
        }
        nix::mount::mount(Some(kind), &folder, Some(kind), MsFlags::empty(), options.as_deref())
            .map_err(|errno| naming(&folder, &errno.into()))?;
        make_room(&folder, alone)?;
    }
    if alone {
        nix::mount::mount(none, ROOT, none, MsFlags::MS_PRIVATE, none)?;
    }
    Ok(())
}

/// Moves the lab's processes into a group below its own, beside those of containers, as systemd has its services beside
/// pods: above them, each thread would have as large a share of a processor as a whole container. And a unified hierarchy
/// gives controllers to no group that is below one with processes.
fn make_room(root: &Path, unified: bool) -> io::Result<()> {
    if root.join(LAB).exists() {
        return Ok(());
    }
    let lab = make(root, LAB)?;
    for process in fs::read_to_string(root.join(PROCS))?.lines() {
        // One that has ended meanwhile needs no room.
        let _ = fs::write(lab.join(PROCS), process);
    }
    let controllers =
        if unified { fs::read_to_string(root.join("cgroup.controllers"))? } else { String::new() };
    for controller in controllers.split_whitespace() {
        fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

fn own() -> io::Result<Vec<Hierarchy>> {
    let found = parse(&fs::read_to_string("/proc/self/cgroup")?);
    if found.is_empty() {
        return Err(io::Error::other("the kernel has no control groups"));
    }
    Ok(found)
}

fn parse(text: &str) -> Vec<Hierarchy> {
    let fields = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Hierarchy { controllers: fields.next()?.to_owned(), path: fields.next()?.to_owned() })
    });
    fields.collect()
}

/// Removes what processes that are gone have left.
fn sweep(here: &Path) {
    for entry in fs::read_dir(here).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let gone = maker.is_some_and(|maker| !Path::new("/proc").join(maker.to_string()).exists());
        // A lab that stays up outlives who started it.
        if gone && !is_used(&entry.path()) {
            let _ = remove_once(&entry.path());
        }
    }
}

/// Whether a lab's first process is in the group, or in the one below it.
fn is_used(group: &Path) -> bool {
    let places = [group.to_owned(), group.join(LAB)];
    places.iter().any(|place| fs::read_to_string(place.join(PROCS)).is_ok_and(|pids| !pids.trim().is_empty()))
}

/// Removes the group that the process `maker` made and left to a lab, which has ended just now.
pub fn remove_left(maker: u32) -> io::Result<()> {
    let hierarchies = own()?;
    for hierarchy in &hierarchies {
        let here = hierarchy.folder(hierarchies.len() == 1).join(hierarchy.path.trim_start_matches('/'));
        remove(&here.join(format!("{PREFIX}{maker}")))?;
    }
    Ok(())
}

/// Removes a group and those below, as soon as the kernel lets go of them. None there is fine.
fn remove(folder: &Path) -> io::Result<()> {
    let end = Instant::now() + GONE;
    loop {
        match remove_once(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

fn remove_once(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

fn naming(folder: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("control group {}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_and_mounted_where_programs_look() {
        let hybrid = parse("3:cpu,cpuacct:/a\n2:name=systemd:/a/b:c\n0::/\n");
        let folders: Vec<_> = hybrid.iter().map(|hierarchy| hierarchy.folder(false)).collect();
        assert_eq!(
            folders,
            ["cpu,cpuacct", "systemd", "unified"].map(|folder| Path::new(ROOT).join(folder)).to_vec()
        );
        assert_eq!(hybrid[1].path, "/a/b:c");
        assert_eq!(hybrid[0].mount(), ("cgroup", Some("cpu,cpuacct".into())));
        assert_eq!(hybrid[1].mount(), ("cgroup", Some("none,name=systemd".into())));
        assert_eq!(hybrid[2].mount(), ("cgroup2", None));
        let unified = parse("0::/user.slice\n");
        assert_eq!(unified[0].folder(true), Path::new(ROOT));
    }
}
