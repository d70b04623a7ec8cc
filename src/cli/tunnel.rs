//! `selvedge tunnel`, and the hidden verb that its worker process runs.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context as _;

use super::{Exit, Failure};
use crate::observe::log::{self, LogFormat};
use crate::paths::Paths;
use crate::tunnel::options::Options;
use crate::tunnel::process::{background, child, parent};

const VERB: &str = "tunnel";
/// The program's second name.
const SECOND_NAME: &str = "selvedge-wireguard";
/// The name of the hidden verb.
const WORKER: &str = "tunnel-worker";

/// Options of `selvedge tunnel`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct Args {
    /// Name of the network device; it is made if it does not exist.
    #[arg(value_parser = device_name)]
    name: String,
    /// Stay in the foreground. It does unless `--background` comes before; the option is there for those used to
    /// `wireguard-go -f`.
    #[arg(short, long, overrides_with = "background")]
    foreground: bool,
    /// Return as soon as `wg` can configure the device, and go on in the background. Under the name
    /// `selvedge-wireguard` the program is `selvedge tunnel --background`: for `WG_QUICK_USERSPACE_IMPLEMENTATION`.
    #[arg(long, conflicts_with = "managed")]
    background: bool,
    /// Set by `--background` for the processes that stay.
    #[arg(long, hide = true)]
    detached: bool,
    /// Let an agent configure the device over the control API. `wg set` is refused then, the device is brought
    /// up, and it stays when the tunnel ends.
    #[arg(long)]
    managed: bool,
    /// Leave the device in place when the tunnel ends.
    #[arg(long)]
    persistent: bool,
    /// If another `selvedge tunnel` has the device, have it hand over, without a packet lost, in place of giving
    /// up. The other one then rests until it is stopped, or until the device is free again.
    #[arg(long, requires = "managed")]
    take_over: bool,
    /// MTU of the device, in bytes. Without it a new device gets 1420, and one that exists keeps what it has.
    #[arg(long, value_parser = clap::value_parser!(u16).range(576..))]
    mtu: Option<u16>,
    /// UDP port to start with; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    listen_port: u16,
    /// Mark (SO_MARK) of the encrypted datagrams to start with, for routing rules; 0 for none.
    #[arg(long, default_value_t = 0, value_parser = mark)]
    firewall_mark: u32,
}

impl Args {
    fn options(&self) -> Options {
        Options {
            name: self.name.clone(),
            managed: self.managed,
            persistent: self.persistent || self.managed,
            mtu: self.mtu,
            listen_port: self.listen_port,
            firewall_mark: self.firewall_mark,
            take_over: self.take_over,
            detached: self.detached,
        }
    }

    /// The command line of the process that `verb` names: the worker, or the parent that stays in the background.
    fn line(&self, verb: &str, format: LogFormat) -> Vec<OsString> {
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut line = vec![verb.to_owned(), self.name.clone()];
        line.extend(["--log-format".into(), format.into()]);
        line.extend(self.managed.then(|| "--managed".into()));
        line.extend(self.persistent.then(|| "--persistent".into()));
        line.extend((self.detached || self.background).then(|| "--detached".into()));
        line.extend(self.mtu.into_iter().flat_map(|mtu| ["--mtu".into(), mtu.to_string()]));
        line.extend(["--listen-port".into(), self.listen_port.to_string()]);
        line.extend(["--firewall-mark".into(), self.firewall_mark.to_string()]);
        line.into_iter().map(OsString::from).collect()
    }
}

pub(super) fn run(args: &Args, format: LogFormat) -> Result<Exit, Failure> {
    log::init(format);
    let code = if args.background {
        background::start(args.line(VERB, format)).context("cannot start the tunnel in the background")?
    } else {
        parent::run(&args.options(), &Paths::from_env(), args.line(WORKER, format))
            .map_err(|error| Failure::new(Exit::Failed, error))?
    };
    Ok(if code == 0 { Exit::Ok } else { Exit::Failed })
}

/// The command line that `line` stands for: under its second name the program is `selvedge tunnel --background`.
pub(super) fn meant(line: Vec<OsString>) -> Vec<OsString> {
    let name = line.first().and_then(|program| Path::new(program).file_name());
    if name.is_none_or(|name| name != SECOND_NAME) {
        return line;
    }
    let begin = ["selvedge", VERB, "--background"].into_iter().map(OsString::from);
    begin.chain(line.into_iter().skip(1)).collect()
}

/// The worker process. It says itself what is wrong; the parent only passes the exit code on.
pub(super) fn run_worker(args: &Args, format: LogFormat) -> Result<Exit, Failure> {
    log::init(format);
    Ok(match child::run(args.options(), Paths::from_env())? {
        child::Ending::Done | child::Ending::Left => Exit::Ok,
        child::Ending::Again => Exit::Failed,
    })
}

/// Linux takes 1 to 15 bytes; a slash or a space would break file names and tables, and `%` numbers devices.
fn device_name(text: &str) -> Result<String, String> {
    let fits = (1..16).contains(&text.len()) && text != "." && text != "..";
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || "/:%".contains(letter);
    if fits && !text.contains(odd) {
        Ok(text.to_owned())
    } else {
        Err("a device name has 1 to 15 bytes, without '/', ':', '%' and spaces".into())
    }
}

/// Decimal or, with 0x, hexadecimal, as `wg` takes it.
fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Verb};
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        match Cli::try_parse_from([&["selvedge"], line].concat())?.verb {
            Verb::Tunnel(args) | Verb::TunnelWorker(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_worker_gets_the_options_of_its_parent() {
        let lines: [&[&str]; 3] = [
            &["tunnel", "wg0"],
            &["tunnel", "-f", "selvedge0", "--managed", "--mtu", "1280"],
            &["tunnel", "wg0", "--persistent", "--listen-port", "7", "--firewall-mark", "0xff"],
        ];
        for line in lines {
            let args = parse(line).unwrap();
            let worker = args.line(WORKER, LogFormat::Json);
            let worker: Vec<_> = worker.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(parse(&worker).unwrap().options(), args.options(), "{line:?}");
        }
    }

    #[test]
    fn under_its_second_name_the_program_is_a_tunnel_in_the_background() {
        let meant = |line: &[&str]| -> Vec<String> {
            let line = meant(line.iter().map(OsString::from).collect());
            line.iter().map(|word| word.to_str().unwrap().to_owned()).collect()
        };
        let line = meant(&["/usr/bin/selvedge-wireguard", "wg0"]);
        assert_eq!(line, ["selvedge", "tunnel", "--background", "wg0"]);
        let args =
            |line: &[&str]| parse(&meant(line)[1..].iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert!(args(&["selvedge-wireguard", "wg0"]).background);
        assert!(!args(&["selvedge-wireguard", "-f", "wg0"]).background);
        for line in [&["/usr/bin/selvedge", "tunnel", "wg0"][..], &["selvedge"], &[]] {
            assert_eq!(meant(line), line);
        }
        let parent = args(&["selvedge-wireguard", "wg0"]).line(VERB, LogFormat::Text);
        let parent: Vec<_> = parent.iter().map(|word| word.to_str().unwrap()).collect();
        let options = parse(&parent).unwrap();
        assert!(options.detached && !options.background, "{parent:?}");
    }

    #[test]
    fn names_that_linux_refuses_are_refused() {
        for name in ["", "a/b", "a b", "a:b", "wg%d", "..", "sixteen-bytes-xx"] {
            assert!(parse(&["tunnel", name]).is_err(), "{name}");
        }
        assert!(parse(&["tunnel", "fifteen-bytes-x"]).is_ok());
    }
}
