//! A simulated beamline in one process: an EPICS IOC that serves Channel Access and pvAccess on loopback.

mod application;
mod axes;
mod axis;
mod camera;
mod channel;
mod counters;
mod dcm;
mod environment;
mod listing;
mod mca;
mod mcs;
mod options;
mod output;
mod ports;
mod scaler;
mod script;
mod server;
mod shutter;
mod stop;
mod templates;

use std::process::ExitCode;
use std::time::Instant;

use epics_base_rs::runtime::task;

use crate::options::{Options, Request};
use crate::output::Output;
use crate::ports::ReservedPorts;

/// The command line was wrong, or the log cannot be written.
const REFUSED: u8 = 2;
/// A port is taken.
const TAKEN: u8 = 3;

fn main() -> ExitCode {
    let started = Instant::now();
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Request::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => options,
        Err(sentence) => return refuse(REFUSED, &sentence),
    };
    let ports = match ReservedPorts::reserve(&options) {
        Ok(ports) => ports,
        Err(sentence) => return refuse(TAKEN, &sentence),
    };
    if !environment::is_made() {
        let error = environment::make(ports.ports());
        return refuse(
            REFUSED,
            &format!("the program cannot be started again in its environment: {error}"),
        );
    }
    let output = match Output::redirect(options.log.as_deref()) {
        Ok(output) => output,
        Err(error) => return refuse(REFUSED, &format!("the log cannot be written: {error}")),
    };
    match run(options, ports, output, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => refuse(1, &sentence),
    }
}

fn refuse(code: u8, sentence: &str) -> ExitCode {
    eprintln!("epicsrs-beamline: {sentence}");
    ExitCode::from(code)
}

/// Serve until a signal comes, or standard input closes where that is asked for.
fn run(options: Options, ports: ReservedPorts, output: Output, started: Instant) -> Result<(), String> {
    // A second worker makes the servers slower: every round trip then wakes another core.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async move {
        task::adopt_current_runtime();
        application::run(options, ports, output, started).await
    })
}
