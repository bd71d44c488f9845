//! The IOC's parts: record types, device supports, the commands of its script.

use std::sync::Arc;

use ad_core_rs::ioc::PluginManager;
use epics_base_rs::server::ioc_app::{IocApplication, db_load_group_startup_command};
use epics_base_rs::server::records::transform::TransformRecord;
use scaler_rs::device_support::scaler_asyn::{ASYN_SCALER_DEVICE, ScalerAsynDeviceSupport};

use crate::axes::Axes;
use crate::camera;
use crate::options::Options;
use crate::output::Output;
use crate::ports::ReservedPorts;
use crate::scaler::Scaler;
use crate::script::script;
use crate::server::Server;
use crate::stop::Stop;
use crate::templates::Templates;

/// Load the databases, start the simulation and serve.
pub async fn run(
    options: Options,
    ports: ReservedPorts,
    output: Output,
    started: std::time::Instant,
) -> Result<(), String> {
    epics_base_rs::runtime::log::install_console_subscriber();
    asyn_rs::asyn_record::register_asyn_record_type();
    let deaf = |error| format!("signals cannot be heard: {error}");
    let mut early = Stop::listen(options.exit_with_stdin).map_err(deaf)?;
    let stop = early.again().map_err(deaf)?;
    let templates = Templates::unpack().map_err(|error| format!("the databases cannot be unpacked: {error}"))?;
    let startup = templates.folder().join("st.cmd");
    std::fs::write(&startup, script(&options, templates.folder()))
        .map_err(|error| format!("the startup script cannot be written: {error}"))?;
    let axes = Axes::default();
    let scaler = Scaler::new();
    let app = with_devices(IocApplication::new(), &axes, &scaler).startup_script(&startup.display().to_string());
    // The servers bind from here on.
    let ports = ports.release();
    let app = epics_ca_rs::server::iocsh::register_rsrv_commands(app);
    let app = epics_pva_rs::server::iocsh::pvxs_base_registrar(app);
    let app = app.register_startup_command(db_load_group_startup_command());
    let built = Arc::new(parking_lot::Mutex::new(None));
    let slot = built.clone();
    let app = app.register_after_init_database(move |database, policy| async move {
        *slot.lock() = Some(epics_bridge_rs::qsrv::build_qsrv_mount(&database, policy, &[]).await);
    });
    let serving = app.run_phased(move |config| async move {
        drop(templates);
        let groups = built.lock().take();
        let server = Server {
            options,
            ports,
            output,
            axes,
            scaler,
            stop,
            started,
        };
        server.run(config, groups).await
    });
    tokio::select! {
        // A server that runs hears it first, and ends in order. One that still starts is given up, with its databases.
        biased;
        served = serving => served.map_err(|failure| format!("the IOC does not start: {failure:?}")),
        _ = early.told() => Ok(()),
    }
}

fn with_devices(app: IocApplication, axes: &Axes, scaler: &Scaler) -> IocApplication {
    let plugins = PluginManager::new();
    let app = ad_plugins_rs::ioc::register_all_plugins(app, &plugins);
    let app = ad_core_rs::ioc::register_noop_commands(app);
    let app = asyn_rs::adapter::register_asyn_device_support(app);
    let (motor, new_motor) = motor_rs::motor_record_factory();
    let (counter, new_counter) = scaler_rs::scaler_record_factory();
    let scaler = scaler.clone();
    app.register_record_type("transform", || Box::new(TransformRecord::default()))
        .register_record_type(motor, move || new_motor())
        .register_record_type(counter, move || new_counter())
        .register_dynamic_device_support(
            &motor_rs::devices::devices(),
            motor_rs::devices::device_support_factory(),
        )
        .register_device_support("scaler", &ASYN_SCALER_DEVICE, move || {
            Box::new(ScalerAsynDeviceSupport::new(Box::new(scaler.clone())))
        })
        .register_startup_command(axes.create_command())
        .register_startup_command(camera::create_command(&plugins))
}
