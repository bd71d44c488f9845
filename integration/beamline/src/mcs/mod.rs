//! The fly-scan counter: arm it, trigger it, and read one waveform per channel.

mod columns;
mod model;

use std::time::{Duration, Instant};

use epics_base_rs::server::database::db_access::DbSubscription;
use epics_base_rs::types::EpicsValue;

use crate::channel::Records;
use crate::mcs::columns::Columns;
use crate::mcs::model::{Detector, Exposure};

/// How often a running acquisition looks at its clock, and shows what it has in growing mode.
const LOOK: Duration = Duration::from_millis(5);
const SHOW: Duration = Duration::from_millis(50);
const POINTS: usize = 10_000;

/// The states of `mcs1:Mode`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The waveforms come when the acquisition ends.
    AtEnd,
    /// They grow while it runs, one after the other.
    Growing,
    /// They hold the acquisition before.
    Late,
}

/// Serve the records below `mcs1:`.
pub async fn serve(records: &Records) -> Result<(), String> {
    let mut mcs = Mcs {
        records: records.clone(),
        acquire: records.subscribe("mcs1:Acquire").await?,
        arm: records.subscribe("mcs1:Arm").await?,
        trigger: records.subscribe("mcs1:Trigger").await?,
        armed: false,
        taken: Columns::default(),
        before: Columns::default(),
    };
    let shares: Vec<f64> = (0..model::ROIS).map(model::share).collect();
    records.put_waveform("mcs1:Share", &shares).await;
    tokio::spawn(async move { mcs.run().await });
    Ok(())
}

struct Mcs {
    records: Records,
    acquire: DbSubscription,
    arm: DbSubscription,
    trigger: DbSubscription,
    armed: bool,
    taken: Columns,
    /// What the acquisition before took.
    before: Columns,
}

impl Mcs {
    async fn run(&mut self) {
        loop {
            tokio::select! {
                Some(value) = self.acquire.recv_f64() => {
                    if value != 0.0 {
                        self.clear().await;
                        self.acquire().await;
                    } else if self.armed {
                        self.disarm().await;
                    }
                }
                Some(value) = self.arm.recv_f64() => {
                    if value != 0.0 {
                        self.clear().await;
                        self.records.put_state("mcs1:Arm", 0).await;
                    }
                }
                Some(value) = self.trigger.recv_f64() => {
                    if value != 0.0 {
                        self.records.put_state("mcs1:Trigger", 0).await;
                        if self.armed {
                            self.records.put_state("mcs1:Acquire", 1).await;
                            self.acquire_triggered().await;
                        }
                    }
                }
                else => return,
            }
        }
    }

    /// Forget what was taken, show nothing, and wait for a trigger.
    async fn clear(&mut self) {
        self.before = std::mem::take(&mut self.taken);
        if self.mode().await == Mode::Growing {
            self.taken.show(&self.records).await;
        }
        self.records.put("mcs1:CurrentPoint", EpicsValue::Long(0)).await;
        self.armed = true;
        self.state("Armed").await;
    }

    async fn disarm(&mut self) {
        self.armed = false;
        self.state("Idle").await;
    }

    async fn external(&self) -> bool {
        self.records.get("mcs1:TriggerMode").await != 0.0
    }

    async fn mode(&self) -> Mode {
        match self.records.get("mcs1:Mode").await as i64 {
            1 => Mode::Growing,
            2 => Mode::Late,
            _ => Mode::AtEnd,
        }
    }

    async fn state(&self, state: &str) {
        let state = ["Idle", "Armed", "Acquiring"]
            .iter()
            .position(|known| *known == state)
            .unwrap_or(0);
        self.records.put_state("mcs1:State", state as u16).await;
    }

    /// Acquire after `Acquire`: by its own clock at once, by triggers when they come.
    async fn acquire(&mut self) {
        if self.external().await {
            self.take_triggered(0).await;
        } else {
            self.take_timed().await;
        }
        self.finish().await;
    }

    /// Acquire after a trigger of an armed counter, which is the first point's when each point has one.
    async fn acquire_triggered(&mut self) {
        if self.external().await {
            self.take_triggered(1).await;
        } else {
            self.take_timed().await;
        }
        self.finish().await;
    }

    async fn wanted(&self) -> usize {
        (self.records.get("mcs1:NumPoints").await as usize).clamp(1, POINTS)
    }

    async fn dwell(&self) -> f64 {
        self.records.get("mcs1:Dwell").await.max(1e-4)
    }

    async fn take_timed(&mut self) {
        let (wanted, dwell) = (self.wanted().await, self.dwell().await);
        self.state("Acquiring").await;
        let (started, mut shown) = (Instant::now(), Instant::now());
        while self.taken.len() < wanted {
            let due = ((started.elapsed().as_secs_f64() / dwell) as usize).min(wanted);
            while self.taken.len() < due {
                self.take_point(dwell).await;
            }
            if shown.elapsed() >= SHOW {
                shown = Instant::now();
                self.show_growth().await;
            }
            let next = Duration::from_secs_f64((self.taken.len() + 1) as f64 * dwell);
            let wait = next
                .saturating_sub(started.elapsed())
                .clamp(Duration::from_millis(1), LOOK);
            if self.stopped_within(wait).await {
                return;
            }
        }
    }

    async fn take_triggered(&mut self, already: usize) {
        let (wanted, dwell) = (self.wanted().await, self.dwell().await);
        let mut triggers = already;
        while self.taken.len() < wanted {
            if triggers > 0 {
                triggers -= 1;
                self.state("Acquiring").await;
                if self.stopped_within(Duration::from_secs_f64(dwell)).await {
                    return;
                }
                self.take_point(dwell).await;
                self.show_growth().await;
                self.records
                    .put("mcs1:CurrentPoint", EpicsValue::Long(self.taken.len() as i32))
                    .await;
                continue;
            }
            tokio::select! {
                Some(value) = self.trigger.recv_f64() => {
                    if value != 0.0 {
                        self.records.put_state("mcs1:Trigger", 0).await;
                        triggers += 1;
                    }
                }
                Some(value) = self.acquire.recv_f64() => {
                    if value == 0.0 {
                        return;
                    }
                }
                else => return,
            }
        }
    }

    /// True when `Acquire` is put to 0 within the time.
    async fn stopped_within(&mut self, wait: Duration) -> bool {
        let end = tokio::time::Instant::now() + wait;
        loop {
            match tokio::time::timeout_at(end, self.acquire.recv_f64()).await {
                Ok(Some(value)) if value != 0.0 => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    async fn take_point(&mut self, dwell: f64) {
        let current = self.records.get("current").await;
        let detector = Detector {
            rate: self.records.get("mcs1:TrueRate").await * current / 500.0,
            event_width: self.records.get("mcs1:EventWidth").await,
            reset_width: self.records.get("mcs1:ResetWidth").await,
        };
        let encoder = self.records.get("m1.RBV").await;
        let i0 = (current * 1e4 * dwell).round();
        self.taken.push(encoder, i0, Exposure::of(detector, dwell), detector);
    }

    async fn show_growth(&self) {
        if self.mode().await == Mode::Growing {
            self.taken.show(&self.records).await;
            self.records
                .put("mcs1:CurrentPoint", EpicsValue::Long(self.taken.len() as i32))
                .await;
        }
    }

    async fn finish(&mut self) {
        let shown = if self.mode().await == Mode::Late {
            &self.before
        } else {
            &self.taken
        };
        shown.show(&self.records).await;
        self.records
            .put("mcs1:CurrentPoint", EpicsValue::Long(self.taken.len() as i32))
            .await;
        let count = self.records.get("mcs1:AcquisitionCount").await + 1.0;
        self.records.put_number("mcs1:AcquisitionCount", count).await;
        self.disarm().await;
        // What came for this acquisition. Once Acquire is 0, the next may be asked for.
        while self.acquire.try_recv_event().is_ok() {}
        while self.trigger.try_recv_event().is_ok() {}
        self.records.put_state("mcs1:Acquire", 0).await;
    }
}
