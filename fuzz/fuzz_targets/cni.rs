//! A container runtime's request: five lines for CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_ARGS,
//! then standard input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge::pod::attachment::is_port;
use selvedge::pod::reply::Failed;
use selvedge::pod::request::{Environment, Verb, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(6, |byte| *byte == b'\n');
    let mut line = || parts.next().map(|line| String::from_utf8_lossy(line).into_owned());
    let command = line().unwrap_or_default();
    let environment =
        Environment { command, container: line(), netns: line(), interface: line(), args: line() };
    let (version, request) = parse(&environment, parts.next().unwrap_or_default());
    match request.map(|request| request.verb) {
        Ok(Verb::Add { attachment, .. } | Verb::Del { attachment } | Verb::Check { attachment, .. }) => {
            assert!(is_port(&attachment.port().name));
            assert!(!attachment.container.contains('/') && !attachment.interface.contains('/'));
        }
        Ok(_) => {}
        Err(error) => {
            let failed = Failed { cni_version: version, error: &error };
            let text = serde_json::to_string(&failed).expect("an error can be written");
            assert!(text.contains("\"cniVersion\"") && text.contains("\"code\""));
        }
    }
});
