//! The motor axes by port, the command that makes one, and the records that tell one to fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epics_base_rs::server::iocsh::registry::{ArgDesc, ArgType, ArgValue, CommandContext, CommandDef, CommandOutcome};
use motor_rs::builder::{AxisSetup, MotorBuilder};
use motor_rs::devices::{register_axis, register_controller_port};
use motor_rs::trace::TraceUser;

use crate::axis::{Axis, Fault};
use crate::channel::Records;
use crate::script::{number, text};

/// How often the record hears of a moving axis, and of one at rest.
const MOVING_POLL: Duration = Duration::from_millis(10);
const IDLE_POLL: Duration = Duration::from_millis(200);

#[derive(Clone, Default)]
pub struct Axes(Arc<Mutex<HashMap<String, Arc<Mutex<Axis>>>>>);

impl Axes {
    /// `axisCreate(port, steps)`: an axis that stands at `steps`, as axis 0 of an asyn port of its own.
    pub fn create_command(&self) -> CommandDef {
        let axes = self.clone();
        CommandDef::new(
            "axisCreate",
            vec![
                ArgDesc {
                    name: "port",
                    arg_type: ArgType::String,
                },
                ArgDesc {
                    name: "steps",
                    arg_type: ArgType::Double,
                },
            ],
            "axisCreate(port, steps) - a simulated motor axis that stands at a position",
            move |arguments: &[ArgValue], context: &CommandContext| {
                axes.create(&text(arguments, 0)?, number(arguments, 1), context)?;
                Ok(CommandOutcome::Continue)
            },
        )
    }

    fn create(&self, port: &str, steps: f64, context: &CommandContext) -> Result<(), String> {
        let axis = Arc::new(Mutex::new(Axis::at(steps)));
        let AxisSetup {
            axis: device,
            poll_loop,
            ..
        } = MotorBuilder::new(axis.clone())
            .trace_user(TraceUser::Asyn {
                port: port.to_owned(),
                addr: 0,
            })
            .moving_poll_interval(MOVING_POLL)
            .idle_poll_interval(IDLE_POLL)
            .build_axis();
        register_controller_port(context.db().scan_control().interrupt_gate(), port, 1, ())?;
        register_axis(device)?;
        poll_loop.start();
        self.by_port().insert(port.to_owned(), axis);
        Ok(())
    }

    /// Let the record `<port>:fault` command what the axis of that port does wrong.
    pub async fn obey_fault(&self, records: &Records, port: &str) -> Result<(), String> {
        let axis = self
            .by_port()
            .get(port)
            .cloned()
            .ok_or_else(|| format!("no axis has port {port}"))?;
        records
            .follow(&format!("{port}:fault"), move |state| {
                axis.lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .set_fault(Fault::from_state(state));
            })
            .await
    }

    fn by_port(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Mutex<Axis>>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
