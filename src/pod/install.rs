//! Puts the plugin and its configuration where the container runtime looks.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::file::{self, Durability};
use super::request::{VERSIONS, Version};
use crate::paths::Paths;

/// Name of the plugin's program, and `type` in the configuration.
pub const PLUGIN: &str = "selvedge";
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
/// the runtime sees the old file or the new one. What is right already is left alone. Tells what was written.
///
/// Call it once the node's `node.json` is there: the configuration is what makes the runtime start pods.
pub fn install(paths: &Paths, bin_dir: &Path, conf_dir: &Path, network: &str) -> Result<Vec<PathBuf>, Error> {
    let mut written = vec![];
    let program = bin_dir.join(PLUGIN);
    let failed = |what, path: &Path, source| Error { what, path: path.to_owned(), source };
    if !same_program(&program).map_err(|source| failed("compare with this program", &program, source))? {
        copy_program(&program).map_err(|source| failed("install the plugin", &program, source))?;
        written.push(program);
    }
    let conflist = conf_dir.join(CONFLIST);
    let text = conflist_text(paths, network);
    if std::fs::read(&conflist).ok().as_deref() != Some(text.as_bytes()) {
        file::replace(&conflist, 0o644, Durability::Disk, text.as_bytes())
            .map_err(|source| failed("write the configuration", &conflist, source))?;
        written.push(conflist);
    }
    Ok(written)
}

/// The configuration. Folders other than the usual ones are written into it, because the runtime's environment is
/// not the agent's.
#[must_use]
pub fn conflist_text(paths: &Paths, network: &str) -> String {
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
    // Runtimes that know the list take the newest of it that they speak (STATUS and GC came with 1.1.0); to all
    // others 1.1.0 would be an error.
    let conflist = json!({
        "cniVersion": Version::V1_0_0,
        "cniVersions": VERSIONS,
        "name": network,
        "plugins": [Value::Object(plugin)],
    });
    format!("{conflist:#}\n")
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
    use crate::pod::request::{Environment, Verb, parse};

    #[test]
    fn installs_once_and_puts_back() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, conf) = (folder.path().join("bin"), folder.path().join("net.d"));
        let run = || install(&Paths::default(), &bin, &conf, "selvedge").unwrap();
        assert_eq!(run(), [bin.join(PLUGIN), conf.join(CONFLIST)]);
        assert_eq!(run(), Vec::<PathBuf>::new());
        let mode = std::fs::metadata(bin.join(PLUGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        std::fs::write(conf.join(CONFLIST), b"{}").unwrap();
        let size = std::fs::metadata(bin.join(PLUGIN)).unwrap().len();
        std::fs::remove_file(bin.join(PLUGIN)).unwrap();
        std::fs::write(bin.join(PLUGIN), vec![0; usize::try_from(size).unwrap()]).unwrap();
        assert_eq!(run().len(), 2);
    }

    #[test]
    fn what_it_writes_the_plugin_takes() {
        let paths = Paths { run: "/run/other".into(), ..Paths::default() };
        let conflist: Value = serde_json::from_str(&conflist_text(&paths, "selvedge")).unwrap();
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
}
