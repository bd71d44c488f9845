//! Records that count up at a steady rate, on a thread of their own.

use std::time::{Duration, Instant};

use epics_base_rs::types::EpicsValue;
use tokio::runtime::Handle;

use crate::channel::Records;

struct Counter {
    name: &'static str,
    period: Duration,
    due: Instant,
    count: i32,
}

/// Count `counter:10Hz`, `counter:1kHz` and `counter:10kHz`, the fast two while `counter:run` is 1.
pub async fn serve(records: &Records) -> Result<(), String> {
    let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = running.clone();
    records
        .follow("counter:run", move |state| {
            switch.store(state != 0.0, std::sync::atomic::Ordering::Relaxed)
        })
        .await?;
    let handle = Handle::current();
    let slow = [("counter:10Hz", 10.0)];
    let fast = [("counter:1kHz", 1e3), ("counter:10kHz", 1e4)];
    for (counters, gated) in [(&slow[..], false), (&fast[..], true)] {
        let (records, handle, running) = (records.clone(), handle.clone(), running.clone());
        let mut counters: Vec<Counter> = counters.iter().map(|&(name, rate)| Counter::new(name, rate)).collect();
        std::thread::Builder::new()
            .name("counters".to_owned())
            .spawn(move || {
                loop {
                    if gated && !running.load(std::sync::atomic::Ordering::Relaxed) {
                        std::thread::sleep(IDLE);
                        counters.iter_mut().for_each(Counter::restart);
                        continue;
                    }
                    let now = Instant::now();
                    for counter in counters.iter_mut().filter(|counter| counter.due <= now) {
                        handle.block_on(counter.count_up(&records));
                    }
                    if let Some(next) = counters.iter().map(|counter| counter.due).min() {
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                }
            })
            .map_err(|error| format!("no thread for the counters: {error}"))?;
    }
    Ok(())
}

/// How soon the fast counters notice that they shall run.
const IDLE: Duration = Duration::from_millis(50);

impl Counter {
    fn new(name: &'static str, rate: f64) -> Self {
        Self {
            name,
            period: Duration::from_secs_f64(1.0 / rate),
            due: Instant::now(),
            count: 0,
        }
    }

    fn restart(&mut self) {
        self.due = Instant::now();
    }

    async fn count_up(&mut self, records: &Records) {
        self.count = self.count.wrapping_add(1);
        self.due += self.period;
        records.put(self.name, EpicsValue::Long(self.count)).await;
    }
}
