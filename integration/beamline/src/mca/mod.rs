//! A multichannel analyzer with the PVs of synApps' mca record and its database, as ophyd's EpicsMCA drives them.
//!
//! No crate has an mca record. What would be its fields are PVs by themselves, with a dot in their names, and are served
//! over Channel Access only. It counts what the fluorescence channel of the scaler counts.

mod pvs;
mod spectrum;

use std::sync::Arc;
use std::time::Duration;

use epics_base_rs::error::{CaError, DbStatus};
use epics_base_rs::server::pv::{ProcessVariable, PvWrite, WriteDone, WriteForward, WriteHook};
use epics_base_rs::types::{EpicsValue, SharedArray};
use tokio::sync::mpsc;

use crate::channel::Records;
pub use pvs::listing;
use pvs::{MODES, NAME, REGIONS};
use spectrum::Spectrum;

const RATE: &str = "scaler1:rate:If";
/// How often the spectrum is posted while it grows.
const STEP: Duration = Duration::from_millis(100);

enum Order {
    Start { erase: bool, done: Option<WriteDone> },
    Stop(Option<WriteDone>),
    Erase(Option<WriteDone>),
    Look,
}

struct Analyzer {
    records: Records,
    spectrum: Spectrum,
    /// Puts that are answered when it has counted.
    waiting: Vec<WriteDone>,
}

/// Serve the analyzer's PVs, and count when they say so.
pub async fn serve(records: &Records) -> Result<(), String> {
    for pv in pvs::pvs() {
        pv.add(records).await?;
    }
    let (orders, ordered) = mpsc::unbounded_channel();
    for suffix in ["Start", "EraseStart", "Stop", ".STOP", "Erase"] {
        let orders = orders.clone();
        find(records, suffix)?.set_write_hook(Arc::new(move |write, _| {
            let orders = orders.clone();
            let forward: WriteForward = Box::new(move |done| {
                if is_zero(&write) {
                    done.into_iter().for_each(WriteDone::succeed);
                    return Ok(());
                }
                orders.send(order(suffix, done)).map_err(|_| CaError::Shutdown)
            });
            Box::pin(async move { Ok(forward) })
        }));
    }
    let mode = find(records, ".MODE")?;
    mode.set_write_hook(takes_modes(mode.clone()));
    let analyzer = Analyzer {
        records: records.clone(),
        spectrum: Spectrum::new(),
        waiting: Vec::new(),
    };
    tokio::spawn(analyzer.obey(ordered));
    Ok(())
}

fn order(suffix: &str, done: Option<WriteDone>) -> Order {
    match suffix {
        "Start" => Order::Start { erase: false, done },
        "EraseStart" => Order::Start { erase: true, done },
        "Erase" => Order::Erase(done),
        _ => Order::Stop(done),
    }
}

fn is_zero(write: &PvWrite) -> bool {
    matches!(write, PvWrite::Value(value) if value.to_f64() == Some(0.0))
}

/// A mode is put by its label or by its number.
fn takes_modes(pv: Arc<ProcessVariable>) -> WriteHook {
    Arc::new(move |write, _| {
        let mode = match write {
            PvWrite::Value(EpicsValue::String(label)) => {
                MODES.iter().position(|mode| label.as_bytes() == mode.as_bytes())
            }
            PvWrite::Value(number) => number.to_f64().map(|index| index as usize).filter(|&i| i < MODES.len()),
            PvWrite::AlarmAck(..) => None,
        };
        let pv = pv.clone();
        let taken = mode.map(|mode| -> WriteForward {
            Box::new(move |done| {
                pv.set(EpicsValue::Enum(mode as u16));
                done.into_iter().for_each(WriteDone::succeed);
                Ok(())
            })
        });
        Box::pin(async move { taken.ok_or(DbStatus::FAILED) })
    })
}

fn find(records: &Records, suffix: &str) -> Result<Arc<ProcessVariable>, String> {
    let name = records.name(&format!("{NAME}{suffix}"));
    records
        .database
        .find_pv(&name)
        .ok_or_else(|| format!("{name} is not there"))
}

impl Analyzer {
    async fn obey(mut self, mut ordered: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = self.next(&mut ordered).await {
            if self.spectrum.counting() {
                let rate = self.records.get(RATE).await;
                self.spectrum.advance(rate, self.preset());
            }
            match order {
                Order::Start { erase, done } => {
                    if erase {
                        self.spectrum.erase();
                    }
                    self.spectrum.start();
                    self.waiting.extend(done);
                }
                Order::Stop(done) => {
                    self.spectrum.stop();
                    self.waiting.extend(done);
                }
                Order::Erase(done) => {
                    self.spectrum.erase();
                    self.post();
                    done.into_iter().for_each(WriteDone::succeed);
                }
                Order::Look => {}
            }
            if self.spectrum.seconds >= self.preset() {
                self.spectrum.stop();
            }
            self.post();
            if !self.spectrum.counting() {
                self.waiting.drain(..).for_each(WriteDone::succeed);
            }
        }
    }

    /// The next order; a look at what it has counted while it counts.
    async fn next(&self, ordered: &mut mpsc::UnboundedReceiver<Order>) -> Option<Order> {
        if !self.spectrum.counting() {
            return ordered.recv().await;
        }
        let left = Duration::try_from_secs_f64(self.preset() - self.spectrum.seconds).unwrap_or(STEP);
        tokio::time::timeout(left.min(STEP), ordered.recv())
            .await
            .unwrap_or(Some(Order::Look))
    }

    /// Seconds after which it stops; it has no dead time.
    fn preset(&self) -> f64 {
        [".PRTM", ".PLTM"]
            .into_iter()
            .map(|suffix| self.number(suffix))
            .filter(|&seconds| seconds > 0.0)
            .fold(f64::INFINITY, f64::min)
    }

    fn number(&self, suffix: &str) -> f64 {
        find(&self.records, suffix)
            .ok()
            .and_then(|pv| pv.get().to_f64())
            .unwrap_or(0.0)
    }

    fn set(&self, suffix: &str, value: EpicsValue) {
        if let Ok(pv) = find(&self.records, suffix) {
            pv.set(value);
        }
    }

    fn post(&self) {
        let counts = self.spectrum.counts();
        for region in 0..REGIONS {
            let limit = |end: &str| self.number(&format!(".R{region}{end}"));
            let (low, high) = (limit("LO"), limit("HI"));
            let sum: i64 = match low >= 0.0 && high >= low {
                true => counts
                    .iter()
                    .take(high as usize + 1)
                    .skip(low as usize)
                    .map(|&n| i64::from(n))
                    .sum(),
                false => 0,
            };
            for field in ["", "N"] {
                self.set(&format!(".R{region}{field}"), EpicsValue::Double(sum as f64));
            }
        }
        self.set(".ERTM", EpicsValue::Double(self.spectrum.seconds));
        self.set(".ELTM", EpicsValue::Double(self.spectrum.seconds));
        self.set(".VAL", EpicsValue::LongArray(SharedArray::from(counts)));
        self.set("Status", EpicsValue::Long(i32::from(self.spectrum.counting())));
    }
}
