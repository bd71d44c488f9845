//! Calls that run beside others: one task runs them all.
//!
//! What an event loop starts in one of its turns is held until the turn is over, and then started in one go on the network's
//! side: each circuit's writer finds all of it, and sends it at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// A call that runs beside others; it reports its own result.
pub type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// So many are not held any longer: the server has enough to do with them while the loop goes on.
const TOGETHER: usize = 512;

/// A turn in which no other call has come for so long is not waited for: the loop may be blocked, or dead.
const PATIENCE: Duration = Duration::from_millis(1);

pub struct Pump {
    /// Started, to be picked up. None when it has ended: a job that comes later is dropped, which tells who awaits it.
    jobs: Mutex<Option<Vec<Job>>>,
    /// How many have come and are not through.
    under_way: AtomicUsize,
    submitted: Notify,
    /// Not started yet, in the order of the calls.
    held: Mutex<Vec<Job>>,
    holding: AtomicBool,
    /// How many were ever held.
    came: AtomicUsize,
    first: Notify,
    release: Notify,
    /// Whoever starts what is held; another starts nothing meanwhile.
    starting: Mutex<()>,
    stop: Notify,
    stopped: Notify,
}

impl Pump {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            jobs: Mutex::new(Some(Vec::new())),
            under_way: AtomicUsize::new(0),
            submitted: Notify::new(),
            held: Mutex::default(),
            holding: AtomicBool::new(false),
            came: AtomicUsize::new(0),
            first: Notify::new(),
            release: Notify::new(),
            starting: Mutex::default(),
            stop: Notify::new(),
            stopped: Notify::new(),
        })
    }

    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) > 0
    }

    /// Start a job in the runtime that this thread has entered; what is left of it runs on the pump. True where it is
    /// through already.
    pub fn start(&self, job: Job) -> bool {
        self.start_held();
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.begin(job)
    }

    fn begin(&self, mut job: Job) -> bool {
        let done = job.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if done {
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.submit(job);
        }
        done
    }

    fn submit(&self, job: Job) {
        let mut waiting = self.jobs.lock();
        let Some(jobs) = &mut *waiting else {
            drop(waiting);
            drop(job);
            return;
        };
        let idle = jobs.is_empty();
        jobs.push(job);
        drop(waiting);
        if idle {
            self.submitted.notify_one();
        }
    }

    /// Keep a job until `release`, or until no other has come for a while.
    pub fn hold(&self, job: Job) {
        let mut held = self.held.lock();
        if self.jobs.lock().is_none() {
            drop(held);
            drop(job);
            return;
        }
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.came.fetch_add(1, Ordering::SeqCst);
        held.push(job);
        let many = held.len() == TOGETHER;
        let first = !self.holding.swap(true, Ordering::SeqCst);
        drop(held);
        if first {
            self.first.notify_one();
        }
        if many {
            self.release.notify_one();
        }
    }

    pub fn is_holding(&self) -> bool {
        self.holding.load(Ordering::SeqCst)
    }

    /// The loop's turn is over.
    pub fn release(&self) {
        if self.is_holding() {
            self.release.notify_one();
        }
    }

    /// Start all that was held before this call, in the calling thread: what comes now goes behind it.
    pub fn start_held(&self) {
        while self.is_holding() {
            self.start_batch();
        }
    }

    fn start_batch(&self) {
        let _starting = self.starting.lock();
        let batch = std::mem::take(&mut *self.held.lock());
        for job in batch {
            self.begin(job);
        }
        let held = self.held.lock();
        self.holding.store(!held.is_empty(), Ordering::SeqCst);
    }

    /// On the network's side: start what is held in its time.
    pub async fn watch_held(self: Arc<Self>) {
        loop {
            self.first.notified().await;
            while self.is_holding() {
                let came = self.came.load(Ordering::SeqCst);
                let released = timeout(PATIENCE, self.release.notified()).await.is_ok();
                if released || self.came.load(Ordering::SeqCst) == came {
                    self.start_batch();
                }
            }
        }
    }

    pub async fn run(self: Arc<Self>) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = self.submitted.notified() => running.extend(self.waiting()),
                () = self.stop.notified() => break,
                Some(()) = running.next(), if !running.is_empty() => {
                    self.under_way.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        drop(running);
        let late = self.jobs.lock().take();
        drop(late);
        // Whoever holds a job has seen before that the pump runs, or drops it.
        let held = std::mem::take(&mut *self.held.lock());
        drop(held);
        self.stopped.notify_one();
    }

    fn waiting(&self) -> Vec<Job> {
        self.jobs.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Have it end: its jobs are dropped when `ended` resolves.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    pub async fn ended(&self) {
        self.stopped.notified().await;
    }
}
