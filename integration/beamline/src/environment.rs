//! The EPICS environment, which the crates read when they start: loopback only, on the ports that were chosen.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::ports::Ports;

/// Tells the program that it runs in the environment that it has made.
const MADE: &str = "EPICSRS_BEAMLINE_ENVIRONMENT";

const LOOPBACK: [&str; 6] = [
    "EPICS_CAS_INTF_ADDR_LIST",
    "EPICS_CAS_BEACON_ADDR_LIST",
    "EPICS_PVAS_INTF_ADDR_LIST",
    "EPICS_PVAS_BEACON_ADDR_LIST",
    "EPICS_CA_ADDR_LIST",
    "EPICS_PVA_ADDR_LIST",
];
const NO_OTHERS: [&str; 4] = [
    "EPICS_CAS_AUTO_BEACON_ADDR_LIST",
    "EPICS_PVAS_AUTO_BEACON_ADDR_LIST",
    "EPICS_CA_AUTO_ADDR_LIST",
    "EPICS_PVA_AUTO_ADDR_LIST",
];

pub fn is_made() -> bool {
    std::env::var_os(MADE).is_some()
}

/// Become this program again, as the same process, in the environment of a server on these ports. Returns only when
/// that fails.
pub fn make(ports: Ports) -> std::io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(MADE, "1");
    for name in std::env::vars_os().map(|(name, _)| name) {
        if name.to_string_lossy().starts_with("EPICS_") {
            command.env_remove(name);
        }
    }
    command
        .envs(LOOPBACK.map(|name| (name, "127.0.0.1")))
        .envs(NO_OTHERS.map(|name| (name, "NO")));
    for (option, names, port) in [
        ("--ca-port", ["EPICS_CAS_SERVER_PORT", "EPICS_CA_SERVER_PORT"], ports.ca),
        (
            "--pva-port",
            ["EPICS_PVAS_SERVER_PORT", "EPICS_PVA_SERVER_PORT"],
            ports.pva,
        ),
        (
            "--pva-broadcast-port",
            ["EPICS_PVAS_BROADCAST_PORT", "EPICS_PVA_BROADCAST_PORT"],
            ports.pva_broadcast,
        ),
    ] {
        command
            .args([option, &port.to_string()])
            .envs(names.map(|name| (name, port.to_string())));
    }
    command.exec()
}
