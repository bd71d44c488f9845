//! The camera's parameters, as records read and write them.

use ad_core_rs::driver::{ADDriver, ADDriverBase, ADStatus, ImageMode};
use ad_core_rs::ndarray::NDDataType;
use ad_core_rs::ndarray_pool::DriverPool;
use ad_core_rs::plugin::runtime::ASYN_CANBLOCK;
use ad_core_rs::runtime::CommandSender;
use asyn_rs::error::AsynResult;
use asyn_rs::param::ParamType;
use asyn_rs::port::{InterfaceMask, PortDriver, PortDriverBase};
use asyn_rs::user::AsynUser;

use crate::camera::picture::Frame;

/// What the Acquire record tells the thread that acquires.
#[derive(Clone, Copy)]
pub enum Command {
    Start,
    Stop,
}

pub struct Camera {
    pub ad: ADDriverBase,
    spot: [usize; 2],
    intensity: usize,
    commands: CommandSender<Command>,
}

/// How the next picture shall be taken.
#[derive(Clone, Copy)]
pub struct Exposure {
    pub frame: Frame,
    /// How many pictures, unless they go on until a stop.
    pub pictures: Option<i32>,
    pub seconds: f64,
    pub period: f64,
}

/// Counts of the brightest pixel per second of exposure at a beam current of 1 mA.
const BRIGHTNESS: f64 = 1000.0;

impl Camera {
    pub fn new(port: &str, sensor: [i32; 2], commands: CommandSender<Command>) -> AsynResult<Self> {
        let mut ad = ADDriverBase::new(port, 1, 0, ASYN_CANBLOCK, InterfaceMask::NONE, InterfaceMask::NONE)?;
        let base = &mut ad.port_base;
        let spot = [
            base.create_param("SPOT_X", ParamType::Float64)?,
            base.create_param("SPOT_Y", ParamType::Float64)?,
        ];
        let intensity = base.create_param("BEAM_INTENSITY", ParamType::Float64)?;
        let params = ad.params;
        let [nx, ny] = sensor;
        for (param, text) in [
            (params.base.manufacturer, "epicsrs"),
            (params.base.model, "beam spot camera"),
            (params.base.serial_number, "1"),
            (params.base.firmware_version, "1"),
            (params.base.sdk_version, env!("CARGO_PKG_VERSION")),
            (params.base.driver_version, env!("CARGO_PKG_VERSION")),
        ] {
            base.set_string_param(param, 0, text)?;
        }
        for (param, value) in [
            (params.max_size_x, nx),
            (params.max_size_y, ny),
            (params.size_x, nx),
            (params.size_y, ny),
            (params.bin_x, 1),
            (params.bin_y, 1),
            (params.min_x, 0),
            (params.min_y, 0),
            (params.base.array_size_x, nx),
            (params.base.array_size_y, ny),
            (params.base.array_size, nx * ny * 2),
            (params.base.data_type, NDDataType::UInt16 as i32),
            (params.image_mode, ImageMode::Single as i32),
            (params.num_images, 1),
        ] {
            base.set_int32_param(param, 0, value)?;
        }
        for (param, value) in [
            (params.acquire_time, 0.02),
            (params.acquire_period, 0.05),
            (spot[0], 0.0),
            (spot[1], 0.0),
            (intensity, 500.0),
        ] {
            base.set_float64_param(param, 0, value)?;
        }
        Ok(Self {
            ad,
            spot,
            intensity,
            commands,
        })
    }

    pub fn pool(&self) -> DriverPool {
        self.ad.pool.clone()
    }

    /// The parameters as they are now, within what the sensor can do.
    pub fn exposure(&self) -> Exposure {
        let (base, params) = (&self.ad.port_base, &self.ad.params);
        let whole = |param| base.get_int32_param(param, 0).unwrap_or(0);
        let real = |param| base.get_float64_param(param, 0).unwrap_or(0.0);
        let sensor = [whole(params.max_size_x).max(1), whole(params.max_size_y).max(1)];
        let within = |value: i32, low: i32, high: i32| value.clamp(low, high.max(low)) as usize;
        let start = [
            within(whole(params.min_x), 0, sensor[0] - 1),
            within(whole(params.min_y), 0, sensor[1] - 1),
        ];
        let size = [
            within(whole(params.size_x), 1, sensor[0] - start[0] as i32),
            within(whole(params.size_y), 1, sensor[1] - start[1] as i32),
        ];
        let binning = [
            within(whole(params.bin_x), 1, size[0] as i32),
            within(whole(params.bin_y), 1, size[1] as i32),
        ];
        let seconds = real(params.acquire_time).max(0.0);
        let mode = ImageMode::from_i32(whole(params.image_mode));
        Exposure {
            frame: Frame {
                sensor: sensor.map(|pixels| pixels as usize),
                start,
                size,
                binning,
                data_type: match whole(params.base.data_type) {
                    1 => NDDataType::UInt8,
                    8 => NDDataType::Float32,
                    _ => NDDataType::UInt16,
                },
                spot: self.spot.map(real),
                peak: real(self.intensity) * seconds * BRIGHTNESS,
            },
            pictures: match mode {
                ImageMode::Single => Some(1),
                ImageMode::Multiple => Some(whole(params.num_images)),
                ImageMode::Continuous => None,
            },
            seconds,
            period: real(params.acquire_period).max(0.0),
        }
    }

    pub fn begin(&mut self) {
        let params = self.ad.params;
        let base = &mut self.ad.port_base;
        let _ = base.set_int32_param(params.num_images_counter, 0, 0);
        let _ = base.set_int32_param(params.status, 0, ADStatus::Acquire as i32);
        let _ = base.call_param_callbacks(0);
    }

    pub fn end(&mut self) {
        let params = self.ad.params;
        let _ = self.ad.set_acquire(0);
        let base = &mut self.ad.port_base;
        let _ = base.set_int32_param(params.status, 0, ADStatus::Idle as i32);
        let _ = base.call_param_callbacks(0);
    }
}

impl PortDriver for Camera {
    fn base(&self) -> &PortDriverBase {
        &self.ad.port_base
    }

    fn base_mut(&mut self) -> &mut PortDriverBase {
        &mut self.ad.port_base
    }

    fn write_int32(&mut self, user: &mut AsynUser, value: i32) -> AsynResult<()> {
        if user.reason != self.ad.params.acquire {
            return self.ad_write_int32(user, value);
        }
        let before = self.ad.port_base.get_int32_param(user.reason, 0).unwrap_or(0);
        self.ad.set_acquire(value)?;
        self.ad.port_base.call_param_callbacks(0)?;
        match (before != 0, value != 0) {
            (false, true) => drop(self.commands.try_send(Command::Start)),
            (true, false) => drop(self.commands.try_send(Command::Stop)),
            _ => {}
        }
        Ok(())
    }

    fn write_octet(&mut self, user: &mut AsynUser, data: &[u8]) -> AsynResult<usize> {
        self.ad.write_octet(user, data)
    }
}

impl ADDriver for Camera {
    fn ad_base(&self) -> &ADDriverBase {
        &self.ad
    }

    fn ad_base_mut(&mut self) -> &mut ADDriverBase {
        &mut self.ad
    }
}
