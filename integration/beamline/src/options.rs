//! The command line.

use std::path::PathBuf;

pub const HELP: &str = "\
A simulated beamline in one process: an EPICS IOC over Channel Access and pvAccess, on loopback only.

    epicsrs-beamline [options]

When it serves, it prints one line of JSON on standard output: ready, ca_port, pva_port, pva_broadcast_port, prefix,
pid, seconds. Everything else goes to standard error, or to the log.

    --ca-port PORT             Channel Access, TCP and UDP
    --pva-port PORT            pvAccess, TCP
    --pva-broadcast-port PORT  pvAccess searches, UDP
                               a port that is not given is a free one
    --prefix PREFIX            in front of every PV (bl:)
    --ophyd-names              also serve the PVs that ophyd's own tests ask for
    --db FILE                  load one more database, with macro P, the prefix; may be repeated
    --log FILE                 write what the IOC says into this file
    --exit-with-stdin          stop when standard input closes, so that the IOC dies with its parent
    --list                     print every PV with its record type and what it is, and exit
    --help                     print this and exit

Exit status: 0 after SIGTERM, SIGINT or a closed standard input; 1 when a record or a server does not start; 2 when the
command line is wrong or a port is taken.

A client finds it by, for instance,
    EPICS_CA_NAME_SERVERS=127.0.0.1:CA_PORT EPICS_CA_ADDR_LIST= EPICS_CA_AUTO_ADDR_LIST=NO
    EPICS_PVA_NAME_SERVERS=127.0.0.1:PVA_PORT EPICS_PVA_ADDR_LIST= EPICS_PVA_AUTO_ADDR_LIST=NO
";

/// What the command line asks for.
pub enum Request {
    Help,
    Run(Options),
}

pub struct Options {
    pub ca_port: Option<u16>,
    pub pva_port: Option<u16>,
    pub pva_broadcast_port: Option<u16>,
    pub prefix: String,
    pub ophyd_names: bool,
    pub databases: Vec<PathBuf>,
    pub log: Option<PathBuf>,
    pub exit_with_stdin: bool,
    pub list: bool,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Request, String> {
        let mut options = Self {
            ca_port: None,
            pva_port: None,
            pva_broadcast_port: None,
            prefix: "bl:".to_owned(),
            ophyd_names: false,
            databases: Vec::new(),
            log: None,
            exit_with_stdin: false,
            list: false,
        };
        // `--name=value` is `--name value`.
        let mut words = arguments.flat_map(|word| match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.to_owned(), value.to_owned()],
            _ => vec![word],
        });
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--help" | "-h" => return Ok(Request::Help),
                "--ca-port" => options.ca_port = Some(port(&word, &value()?)?),
                "--pva-port" => options.pva_port = Some(port(&word, &value()?)?),
                "--pva-broadcast-port" => options.pva_broadcast_port = Some(port(&word, &value()?)?),
                "--prefix" => options.prefix = prefix(value()?)?,
                "--db" => options.databases.push(value()?.into()),
                "--log" => options.log = Some(value()?.into()),
                "--ophyd-names" => options.ophyd_names = true,
                "--exit-with-stdin" => options.exit_with_stdin = true,
                "--list" => options.list = true,
                _ => return Err(format!("{word} is no option; --help lists them")),
            }
        }
        Ok(Request::Run(options))
    }
}

fn port(option: &str, text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{option} takes a port number from 1 to 65535, not {text:?}")),
        Ok(port) => Ok(port),
    }
}

/// A prefix is put into the startup script between quotes, and into record names.
fn prefix(text: String) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-:.[]<>;{}".contains(c);
    if text.len() <= 20 && text.chars().all(allowed) {
        Ok(text)
    } else {
        Err(format!(
            "--prefix takes up to 20 characters that a PV name may have, not {text:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Options, String> {
        match Options::parse(words.iter().map(|&word| word.to_owned()))? {
            Request::Run(options) => Ok(options),
            Request::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn a_value_may_stand_behind_an_equals_sign() {
        let options = parsed(&["--ca-port=6000", "--prefix", "x:"]).unwrap();

        assert_eq!((options.ca_port, options.prefix.as_str()), (Some(6000), "x:"));
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence() {
        let refusal = |words| parsed(words).err().unwrap();

        assert_eq!(
            refusal(&["--frobnicate"]),
            "--frobnicate is no option; --help lists them"
        );
        assert_eq!(refusal(&["--ca-port"]), "--ca-port needs a value");
        assert_eq!(
            refusal(&["--ca-port", "0"]),
            "--ca-port takes a port number from 1 to 65535, not \"0\""
        );
        assert!(refusal(&["--prefix", "a\"b"]).starts_with("--prefix takes up to 20 characters"));
    }
}
