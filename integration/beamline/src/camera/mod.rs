//! An areaDetector driver whose picture follows the beam.

mod acquisition;
mod driver;
mod picture;

use std::sync::Arc;

use ad_core_rs::ioc::{GenericDriverContext, PluginManager};
use ad_core_rs::plugin::channel::{ArrayPublisher, NDArrayOutput};
use ad_core_rs::runtime::{command_channel, run_thread_named};
use asyn_rs::manager::claim_port_driver;
use asyn_rs::runtime::RuntimeConfig;
use asyn_rs::runtime::port::create_port_runtime;
use epics_base_rs::server::iocsh::registry::{ArgDesc, ArgType, ArgValue, CommandContext, CommandDef, CommandOutcome};

use crate::camera::driver::Camera;
use crate::script::{number, text};

/// `cameraCreate(port, nx, ny)`: a camera of that many pixels on an asyn port.
pub fn create_command(plugins: &Arc<PluginManager>) -> CommandDef {
    let plugins = plugins.clone();
    CommandDef::new(
        "cameraCreate",
        vec![
            ArgDesc {
                name: "port",
                arg_type: ArgType::String,
            },
            ArgDesc {
                name: "nx",
                arg_type: ArgType::Int,
            },
            ArgDesc {
                name: "ny",
                arg_type: ArgType::Int,
            },
        ],
        "cameraCreate(port, nx, ny) - a camera that images the beam spot",
        move |arguments: &[ArgValue], context: &CommandContext| {
            let sensor = [number(arguments, 1) as i32, number(arguments, 2) as i32];
            create(&text(arguments, 0)?, sensor, &plugins, context)?;
            Ok(CommandOutcome::Continue)
        },
    )
}

fn create(port: &str, sensor: [i32; 2], plugins: &PluginManager, context: &CommandContext) -> Result<(), String> {
    let claim = claim_port_driver(port).map_err(|error| error.to_string())?;
    let (commands, received) = command_channel(16);
    let camera = Camera::new(port, sensor, commands).map_err(|error| error.to_string())?;
    let pool = camera.pool();
    let (runtime, _) =
        create_port_runtime(&claim, camera, RuntimeConfig::default()).map_err(|error| error.to_string())?;
    let handle = runtime.port_handle().clone();
    claim
        .publish(handle.clone(), context.db().scan_control().interrupt_gate())
        .map_err(|error| error.to_string())?;
    let output = Arc::new(parking_lot::Mutex::new(NDArrayOutput::new()));
    plugins.set_driver(Arc::new(GenericDriverContext::new(
        pool.clone(),
        output.clone(),
        port,
        plugins.wiring(),
    )));
    run_thread_named("camera", move || {
        acquisition::run(handle, received, pool, ArrayPublisher::new(output))
    });
    Ok(())
}
