//! What an acquisition has taken, a column for each waveform record.

use crate::channel::Records;
use crate::mcs::model::{Detector, Exposure, ROIS};

#[derive(Default)]
pub struct Columns {
    encoder: Vec<f64>,
    i0: Vec<f64>,
    clock_ticks: Vec<f64>,
    reset_ticks: Vec<f64>,
    all_events: Vec<f64>,
    true_events: Vec<f64>,
    rois: Vec<Vec<f64>>,
}

impl Columns {
    pub fn len(&self) -> usize {
        self.encoder.len()
    }

    pub fn push(&mut self, encoder: f64, i0: f64, exposure: Exposure, detector: Detector) {
        self.encoder.push(encoder);
        self.i0.push(i0);
        self.clock_ticks.push(exposure.clock_ticks);
        self.reset_ticks.push(exposure.reset_ticks);
        self.all_events.push(exposure.all_events);
        self.true_events.push(exposure.true_events);
        self.rois.resize(ROIS, Vec::new());
        for (roi, counts) in self.rois.iter_mut().enumerate() {
            counts.push(exposure.roi(detector, roi));
        }
    }

    /// Put every column into its record, one after the other.
    pub async fn show(&self, records: &Records) {
        let columns = [
            ("Encoder", &self.encoder),
            ("I0", &self.i0),
            ("ClockTicks", &self.clock_ticks),
            ("ResetTicks", &self.reset_ticks),
            ("AllEvents", &self.all_events),
            ("TrueEvents", &self.true_events),
        ];
        for (name, column) in columns {
            records.put_waveform(&format!("mcs1:{name}"), column).await;
        }
        for roi in 0..ROIS {
            let counts = self.rois.get(roi).map_or(&[][..], Vec::as_slice);
            records.put_waveform(&format!("mcs1:ROI{}", roi + 1), counts).await;
        }
    }
}
