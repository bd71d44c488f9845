//! The thread that takes pictures and hands them to the plugins.

use std::time::{Duration, Instant};

use ad_core_rs::ndarray::{NDDataType, NDDimension};
use ad_core_rs::ndarray_pool::{DriverArray, DriverPool};
use ad_core_rs::plugin::channel::ArrayPublisher;
use ad_core_rs::runtime::{CommandReceiver, timeout};
use ad_core_rs::timestamp::EpicsTimestamp;
use asyn_rs::port_handle::PortHandle;

use crate::camera::driver::{Camera, Command, Exposure};
use crate::camera::picture::Noise;

pub async fn run(camera: PortHandle, mut commands: CommandReceiver<Command>, pool: DriverPool, output: ArrayPublisher) {
    let mut noise = Noise::new();
    while let Some(command) = commands.recv().await {
        if matches!(command, Command::Stop) {
            continue;
        }
        let _ = camera.with_driver::<Camera, _>(Camera::begin).await;
        let mut taken = 0;
        loop {
            let started = Instant::now();
            let Ok(exposure) = camera.with_driver::<Camera, _>(|camera| camera.exposure()).await else {
                return;
            };
            let Some(picture) = draw(&exposure, &pool, &mut noise) else {
                break;
            };
            if stopped_within(&mut commands, exposure.seconds, started).await {
                break;
            }
            taken += 1;
            publish(&camera, &output, picture, taken).await;
            if exposure.pictures.is_some_and(|wanted| taken >= wanted)
                || stopped_within(&mut commands, exposure.period, started).await
            {
                break;
            }
        }
        let _ = camera.with_driver::<Camera, _>(Camera::end).await;
    }
}

/// None when the pool has no memory.
fn draw(exposure: &Exposure, pool: &DriverPool, noise: &mut Noise) -> Option<DriverArray> {
    let frame = &exposure.frame;
    let [x, y] = frame.shape();
    let mut picture = pool
        .alloc(vec![NDDimension::new(x), NDDimension::new(y)], frame.data_type)
        .ok()?;
    {
        let mut filled = picture.fill();
        let data = filled.data_mut();
        match frame.data_type {
            NDDataType::UInt8 => frame.draw(data.as_mut_slice::<u8>()?, noise, |value| value as u8),
            NDDataType::Float32 => frame.draw(data.as_mut_slice::<f32>()?, noise, |value| value),
            _ => frame.draw(data.as_mut_slice::<u16>()?, noise, |value| value as u16),
        }
    }
    Some(picture)
}

async fn publish(camera: &PortHandle, output: &ArrayPublisher, mut picture: DriverArray, number: i32) {
    picture.fill().set_unique_id(number);
    picture.fill().update_time_stamps(EpicsTimestamp::now());
    let prepared = camera
        .with_driver::<Camera, _>(move |camera| {
            let counter = camera.ad.params.num_images_counter;
            let _ = camera.ad.port_base.set_int32_param(counter, 0, number);
            camera.ad.prepare_array(picture)
        })
        .await;
    if let Ok(Ok(Some(array))) = prepared {
        output.publish(array).await;
    }
}

/// Wait until so many seconds after `started`; true when a stop comes before.
async fn stopped_within(commands: &mut CommandReceiver<Command>, seconds: f64, started: Instant) -> bool {
    let wait = Duration::from_secs_f64(seconds).saturating_sub(started.elapsed());
    if wait.is_zero() {
        return matches!(commands.try_recv(), Ok(Command::Stop));
    }
    matches!(timeout(wait, commands.recv()).await, Ok(Some(Command::Stop) | None))
}
