//! Puts the plugin and its configuration where the container runtime looks.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::conflist;
use super::file::{self, Durability};
use crate::paths::Paths;

pub use super::conflist::PLUGIN;

/// Name of the configuration file: early in the alphabet, because runtimes take the first.
pub const CONFLIST: &str = "10-selvedge.conflist";

/// What could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Copies this very program to `bin_dir` and writes the configuration to `conf_dir`, in this order, each so that
/// the runtime sees the old file or the new one. What is right already is left alone, and so is what others chained behind
/// our entry. Tells what was written, and what went of the list.
///
/// Call it once the node's `node.json` is there: the configuration is what makes the runtime start pods.
pub fn install(paths: &Paths, bin_dir: &Path, conf_dir: &Path, network: &str) -> Result<Vec<String>, Error> {
    let mut written = vec![];
    let program = bin_dir.join(PLUGIN);
    let failed = |what, path: &Path, source| Error { what, path: path.to_owned(), source };
    if !same_program(&program).map_err(|source| failed("compare with this program", &program, source))? {
        copy_program(&program).map_err(|source| failed("install the plugin", &program, source))?;
        written.push(program.display().to_string());
    }
    let conflist = conf_dir.join(CONFLIST);
    let found = read(&conflist).map_err(|source| failed("read the configuration", &conflist, source))?;
    let wanted = conflist::wanted(&found, paths, network);
    if let Some(text) = wanted.text {
        file::replace(&conflist, 0o644, Durability::Disk, text.as_bytes())
            .map_err(|source| failed("write the configuration", &conflist, source))?;
        written.push(conflist.display().to_string());
        let dropped = wanted.dropped.join(", ");
        written.extend(
            (!dropped.is_empty())
                .then(|| format!("plugins that were not behind ours in the list: {dropped}")),
        );
    }
    Ok(written)
}

/// A file that is not there is an empty one.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        result => result,
    }
}

/// The types of the plugins that others have chained to ours in the list at `path`.
#[must_use]
pub fn chained(path: &Path) -> Vec<String> {
    std::fs::read(path).map(|text| conflist::chained(&text)).unwrap_or_default()
}

fn copy_program(to: &Path) -> io::Result<()> {
    let mut program = File::open("/proc/self/exe")?;
    file::replace_from(to, 0o755, Durability::Disk, &mut program)
}

/// Whether the file there has the bytes of this program.
fn same_program(there: &Path) -> io::Result<bool> {
    let mut there = match File::open(there) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let mut here = File::open("/proc/self/exe")?;
    if here.metadata()?.len() != there.metadata()?.len() {
        return Ok(false);
    }
    same_bytes(&mut here, &mut there)
}

fn same_bytes(one: &mut impl Read, other: &mut impl Read) -> io::Result<bool> {
    const CHUNK: u64 = 1 << 20;
    let (mut a, mut b) = (vec![], vec![]);
    loop {
        a.clear();
        b.clear();
        one.take(CHUNK).read_to_end(&mut a)?;
        other.take(CHUNK).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn installs_once_and_puts_back() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, conf) = (folder.path().join("bin"), folder.path().join("net.d"));
        let run = || install(&Paths::default(), &bin, &conf, "selvedge").unwrap();
        let both = [bin.join(PLUGIN), conf.join(CONFLIST)].map(|path| path.display().to_string());
        assert_eq!(run(), both);
        assert_eq!(run(), Vec::<String>::new());
        let mode = std::fs::metadata(bin.join(PLUGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        std::fs::write(conf.join(CONFLIST), b"{}").unwrap();
        let size = std::fs::metadata(bin.join(PLUGIN)).unwrap().len();
        std::fs::remove_file(bin.join(PLUGIN)).unwrap();
        std::fs::write(bin.join(PLUGIN), vec![0; usize::try_from(size).unwrap()]).unwrap();
        assert_eq!(run().len(), 2);
    }

    #[test]
    fn what_others_chain_survives_every_run_and_an_upgrade() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, conf) = (folder.path().join("bin"), folder.path().join("net.d"));
        let run = |paths: &Paths| install(paths, &bin, &conf, "selvedge").unwrap();
        run(&Paths::default());
        let conflist = conf.join(CONFLIST);
        let text = std::fs::read_to_string(&conflist).unwrap();
        let end = text.rfind("\n  ]").unwrap();
        let chained = format!("{}, {{\"type\": \"bandwidth\"}}{}", &text[..end], &text[end..]);
        std::fs::write(&conflist, &chained).unwrap();
        assert_eq!(run(&Paths::default()), Vec::<String>::new());
        assert_eq!(std::fs::read_to_string(&conflist).unwrap(), chained);
        // As a version does it that wants something else of our entry.
        let other = Paths { run: "/run/other".into(), ..Paths::default() };
        assert_eq!(run(&other), [conflist.display().to_string()]);
        let text = std::fs::read_to_string(&conflist).unwrap();
        assert!(text.contains("/run/other") && text.contains("{\"type\": \"bandwidth\"}"), "{text}");
        std::fs::write(&conflist, r#"{"plugins": [{"type": "calico"}, {"type": "portmap"}]}"#).unwrap();
        let dropped = "plugins that were not behind ours in the list: calico, portmap".to_owned();
        assert_eq!(run(&other), [conflist.display().to_string(), dropped]);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("net.d");
        std::fs::create_dir_all(conf.join(CONFLIST)).unwrap();
        let error = install(&Paths::default(), &folder.path().join("bin"), &conf, "selvedge").unwrap_err();
        assert!(error.to_string().starts_with("read the configuration "), "{error}");
    }
}
