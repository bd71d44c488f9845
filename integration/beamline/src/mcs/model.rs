//! What a fluorescence channel with a known dead time counts in one exposure.

/// Seconds of one clock tick.
const TICK: f64 = 12.5e-9;
pub const ROIS: usize = 48;

/// What the detector is like.
#[derive(Clone, Copy)]
pub struct Detector {
    /// Events a second that truly come.
    pub rate: f64,
    /// Ticks for which an event blocks the channel.
    pub event_width: f64,
    /// Ticks of reset that an event costs.
    pub reset_width: f64,
}

/// One exposure: what came, and what was counted of it.
#[derive(Clone, Copy)]
pub struct Exposure {
    pub clock_ticks: f64,
    pub reset_ticks: f64,
    pub all_events: f64,
    pub true_events: f64,
}

impl Exposure {
    pub fn of(detector: Detector, seconds: f64) -> Self {
        let clock_ticks = (seconds / TICK).round();
        let true_events = detector.rate * clock_ticks * TICK;
        // A of N events are counted in T - R - A w ticks of T: A = N (T - R - A w) / T, with R = A r.
        let lost = detector.event_width + detector.reset_width;
        let all_events = (true_events * clock_ticks / (clock_ticks + true_events * lost)).round();
        let reset_ticks = (all_events * detector.reset_width).round();
        Self {
            clock_ticks,
            reset_ticks,
            all_events,
            true_events,
        }
    }

    /// The part of the exposure for which the channel was open.
    pub fn live(&self, detector: Detector) -> f64 {
        1.0 - (self.reset_ticks + self.all_events * detector.event_width) / self.clock_ticks
    }

    /// The counts of a region of interest, from 0.
    pub fn roi(&self, detector: Detector, roi: usize) -> f64 {
        (self.true_events * share(roi) * self.live(detector)).round()
    }
}

/// The part of all events that falls into a region of interest: 1, 1/2, 1/3 ... of the first, together 1.
pub fn share(roi: usize) -> f64 {
    let whole: f64 = (1..=ROIS).map(|n| 1.0 / n as f64).sum();
    1.0 / ((roi + 1) as f64 * whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_correction_gives_back_what_came() {
        let detector = Detector {
            rate: 5e6,
            event_width: 5.5,
            reset_width: 1.2,
        };
        let exposure = Exposure::of(detector, 0.1);

        let lost = exposure.reset_ticks + exposure.all_events * detector.event_width;
        let factor = exposure.clock_ticks / (exposure.clock_ticks - lost);

        assert!(factor > 1.2, "{factor}");
        for roi in 0..ROIS {
            let wanted = exposure.true_events * share(roi);
            assert!((exposure.roi(detector, roi) * factor - wanted).abs() <= factor, "{roi}");
        }
    }

    #[test]
    fn no_events_lose_no_time() {
        let detector = Detector {
            rate: 0.0,
            event_width: 5.5,
            reset_width: 1.2,
        };

        assert_eq!(Exposure::of(detector, 0.1).live(detector), 1.0);
    }
}
