//! The startup script, and how its commands read their arguments.

use std::fmt::Write;
use std::path::Path;

use epics_base_rs::server::iocsh::registry::ArgValue;

use crate::options::Options;

/// The whole script: what to load, and iocInit. `folder` holds the templates.
pub fn script(options: &Options, folder: &Path) -> String {
    let mut script = String::from("on error break\n");
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(script, "epicsEnvSet(\"{name}\", \"{value}\")");
    };
    let folder = folder.display().to_string();
    set("PREFIX", &options.prefix);
    set("DB", &folder);
    set("EPICS_DB_INCLUDE_PATH", &folder);
    script.push_str(include_str!("../db/beamline.cmd"));
    if options.ophyd_names {
        script.push_str(include_str!("../db/ophyd.cmd"));
    }
    for database in &options.databases {
        let _ = writeln!(
            script,
            "dbLoadRecords(\"{}\", \"P={}\")",
            database.display(),
            options.prefix
        );
    }
    script.push_str("iocInit()\n");
    script
}

/// The text that a command was given.
pub fn text(arguments: &[ArgValue], index: usize) -> Result<String, String> {
    match arguments.get(index) {
        Some(ArgValue::String(text)) => text.to_str().map(str::to_owned).map_err(|error| format!("{error:?}")),
        _ => Err(format!("argument {} is missing", index + 1)),
    }
}

/// The number that a command was given, or 0.
pub fn number(arguments: &[ArgValue], index: usize) -> f64 {
    match arguments.get(index) {
        Some(ArgValue::Double(value)) => *value,
        Some(ArgValue::Int(value)) => *value as f64,
        _ => 0.0,
    }
}
