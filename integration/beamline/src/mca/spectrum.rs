//! What the analyzer has counted.

use std::time::Instant;

pub const CHANNELS: usize = 2048;
const PEAK: f64 = 1024.0;
const WIDTH: f64 = 20.0;
/// The part of all events that is spread over all channels.
const BACKGROUND: f64 = 0.1;

pub struct Spectrum {
    shape: Vec<f64>,
    counts: Vec<f64>,
    pub seconds: f64,
    /// Up to when it has counted, while it counts.
    counted: Option<Instant>,
}

impl Spectrum {
    pub fn new() -> Self {
        let bell = |channel: usize| (-0.5 * ((channel as f64 - PEAK) / WIDTH).powi(2)).exp();
        let whole: f64 = (0..CHANNELS).map(bell).sum();
        let share = |channel| (1.0 - BACKGROUND) * bell(channel) / whole + BACKGROUND / CHANNELS as f64;
        Self {
            shape: (0..CHANNELS).map(share).collect(),
            counts: vec![0.0; CHANNELS],
            seconds: 0.0,
            counted: None,
        }
    }

    pub fn erase(&mut self) {
        self.counts.fill(0.0);
        self.seconds = 0.0;
    }

    pub fn start(&mut self) {
        self.counted.get_or_insert_with(Instant::now);
    }

    pub fn stop(&mut self) {
        self.counted = None;
    }

    pub fn counting(&self) -> bool {
        self.counted.is_some()
    }

    /// Count what came up to now at `rate` events a second, but for no longer than up to `preset` seconds.
    pub fn advance(&mut self, rate: f64, preset: f64) {
        let Some(since) = self.counted.replace(Instant::now()) else {
            self.counted = None;
            return;
        };
        let seconds = since.elapsed().as_secs_f64().min((preset - self.seconds).max(0.0));
        self.seconds += seconds;
        for (count, share) in self.counts.iter_mut().zip(&self.shape) {
            *count += rate.max(0.0) * seconds * share;
        }
    }

    pub fn counts(&self) -> Vec<i32> {
        self.counts.iter().map(|count| count.round() as i32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_all_that_comes_up_to_the_preset_and_no_more() {
        let mut spectrum = Spectrum::new();
        spectrum.start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        spectrum.advance(1e6, 0.001);

        assert_eq!(spectrum.seconds, 0.001);
        assert!((spectrum.counts.iter().sum::<f64>() - 1000.0).abs() < 1e-6);
        assert!(spectrum.counts[1024] > 10.0 * spectrum.counts[100]);
    }

    #[test]
    fn one_that_does_not_count_stays_as_it_is() {
        let mut spectrum = Spectrum::new();
        spectrum.advance(1e6, 1.0);

        assert!(!spectrum.counting());
        assert_eq!(spectrum.counts().iter().sum::<i32>(), 0);
    }
}
