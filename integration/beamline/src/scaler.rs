//! A scaler that counts by time: channel 1 is its clock, the others count at rates that the beamline sets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epics_base_rs::error::CaResult;
use parking_lot::{Condvar, Mutex};
use scaler_rs::device_support::scaler_asyn::{DoneInterrupt, ScalerDriver};

use crate::channel::Records;

/// Counts a second of channel 1.
pub const CLOCK: f64 = 1e7;
pub const CHANNELS: usize = 16;
const SLOTS: usize = 64;
/// A preset of a channel other than the clock is looked for this often.
const LOOK: Duration = Duration::from_millis(1);

struct Counts {
    rates: [f64; SLOTS],
    counts: [f64; SLOTS],
    presets: [f64; SLOTS],
    /// Up to when the counts go, while it counts.
    counted: Option<Instant>,
    users: Vec<DoneInterrupt>,
}

impl Counts {
    /// Count up to `now`, but no further than to the clock's preset; true when a preset is reached.
    fn advance(&mut self, now: Instant) -> bool {
        let Some(since) = self.counted else { return false };
        let mut seconds = now.saturating_duration_since(since).as_secs_f64();
        let (clock, preset) = (self.counts[0], self.presets[0]);
        if preset > 0.0 {
            seconds = seconds.min((preset - clock) / CLOCK);
        }
        for (count, rate) in self.counts.iter_mut().zip(self.rates) {
            *count += rate * seconds;
        }
        self.counted = Some(now);
        // A count that is a whole number but for rounding is that number.
        self.counts
            .iter()
            .zip(self.presets)
            .any(|(count, preset)| preset > 0.0 && *count + 1e-3 >= preset)
    }

    /// How long until the clock's preset, or until the next look at the other presets.
    fn wait(&self) -> Duration {
        let others = self.presets.iter().skip(1).any(|&preset| preset > 0.0);
        let clock = Duration::from_secs_f64(((self.presets[0] - self.counts[0]) / CLOCK).max(0.0));
        if others || self.presets[0] == 0.0 { LOOK } else { clock }
    }
}

#[derive(Clone)]
pub struct Scaler(Arc<(Mutex<Counts>, Condvar)>);

impl Scaler {
    pub fn new() -> Self {
        let mut rates = [0.0; SLOTS];
        rates[0] = CLOCK;
        let counts = Counts {
            rates,
            counts: [0.0; SLOTS],
            presets: [0.0; SLOTS],
            counted: None,
            users: Vec::new(),
        };
        let scaler = Self(Arc::new((Mutex::new(counts), Condvar::new())));
        let counting = scaler.clone();
        std::thread::spawn(move || counting.finish_counts());
        scaler
    }

    /// Take the rates of the channels from 2 on from the records of that name.
    pub async fn take_rates(&self, records: &Records, names: &[&str]) -> Result<(), String> {
        for (channel, name) in (1..).zip(names) {
            let scaler = self.clone();
            records
                .follow(name, move |rate| {
                    let mut counts = scaler.0.0.lock();
                    counts.advance(Instant::now());
                    if let Some(slot) = counts.rates.get_mut(channel) {
                        *slot = rate.max(0.0);
                    }
                })
                .await?;
        }
        Ok(())
    }

    fn finish_counts(&self) {
        let (counts, changed) = &*self.0;
        let mut counts = counts.lock();
        loop {
            if counts.counted.is_none() {
                changed.wait(&mut counts);
            } else if counts.advance(Instant::now()) {
                counts.counted = None;
                let users = counts.users.clone();
                // The record reads the counts while it is told.
                parking_lot::MutexGuard::unlocked(&mut counts, || users.iter().for_each(|user| user.callback(1)));
            } else {
                let wait = counts.wait();
                changed.wait_for(&mut counts, wait);
            }
        }
    }
}

impl ScalerDriver for Scaler {
    fn reset(&mut self) -> CaResult<()> {
        let mut counts = self.0.0.lock();
        counts.counted = None;
        counts.counts = [0.0; SLOTS];
        counts.presets = [0.0; SLOTS];
        Ok(())
    }

    fn read(&mut self, shown: &mut [u32; SLOTS]) -> CaResult<()> {
        let mut counts = self.0.0.lock();
        counts.advance(Instant::now());
        for (shown, count) in shown.iter_mut().zip(counts.counts) {
            *shown = (count + 1e-3) as u32;
        }
        Ok(())
    }

    fn write_preset(&mut self, channel: usize, preset: u32) -> CaResult<u32> {
        if let Some(slot) = self.0.0.lock().presets.get_mut(channel) {
            *slot = f64::from(preset);
        }
        Ok(preset)
    }

    fn arm(&mut self, start: bool) -> CaResult<()> {
        let (counts, changed) = &*self.0;
        let mut counts = counts.lock();
        counts.advance(Instant::now());
        counts.counted = start.then(Instant::now);
        changed.notify_all();
        Ok(())
    }

    fn actual_frequency(&self) -> Option<f64> {
        Some(CLOCK)
    }

    fn register_done_interrupt(&mut self, user: DoneInterrupt) {
        self.0.0.lock().users.push(user);
    }

    fn num_channels(&self) -> usize {
        CHANNELS
    }
}
