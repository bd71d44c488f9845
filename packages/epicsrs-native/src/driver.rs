//! Who drives the network: whoever waits, and one thread while nobody does.
//!
//! The runtime is tokio's current_thread kind, whose driver passes between the threads that block on it. A blocking call
//! so waits on the sockets itself: no second thread is woken for a reply, and none has to wake this one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::task::coop::unconstrained;

use crate::pump::{Job, Pump};

/// How long nobody must have called before the background thread takes the driver: between the calls of a hot loop it
/// would only be in the way.
const GRACE: Duration = Duration::from_millis(2);

/// How long a stop waits for the jobs that it ends.
const LAST: Duration = Duration::from_millis(200);

pub struct Driver {
    runtime: Runtime,
    /// Threads in `block_on` now, and how many there ever were.
    active: AtomicUsize,
    calls: AtomicU64,
    /// The background thread holds the driver until `release`.
    background: AtomicBool,
    release: Notify,
    /// The background thread sleeps until somebody leaves.
    resting: AtomicBool,
    rest: (Mutex<()>, Condvar),
    stopped: AtomicBool,
    pump: Arc<Pump>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The background thread, to be called before its time.
    background_thread: OnceLock<Thread>,
}

impl Driver {
    pub fn start() -> io::Result<Arc<Self>> {
        let driver = Arc::new(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            active: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            background: AtomicBool::new(false),
            release: Notify::new(),
            resting: AtomicBool::new(false),
            rest: (Mutex::new(()), Condvar::new()),
            stopped: AtomicBool::new(false),
            pump: Pump::new(),
            thread: Mutex::default(),
            background_thread: OnceLock::new(),
        });
        // tokio lets a task use 128 results at a time; the pump's jobs are as many tasks.
        driver.runtime.spawn(unconstrained(driver.pump.clone().run()));
        driver.runtime.spawn(unconstrained(driver.pump.clone().watch_held()));
        let background = driver.clone();
        let thread = thread::Builder::new()
            .name("epicsrs-network".into())
            .spawn(move || background.drive())?;
        let _ = driver.background_thread.set(thread.thread().clone());
        *driver.thread.lock() = Some(thread);
        Ok(driver)
    }

    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Run a future on the calling thread, which drives the network meanwhile.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.active.fetch_add(1, Ordering::SeqCst);
        self.start_held();
        if self.background.load(Ordering::SeqCst) {
            self.release.notify_one();
        }
        let output = self.runtime.block_on(future);
        if self.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            if self.resting.load(Ordering::SeqCst) {
                drop(self.rest.0.lock());
                self.rest.1.notify_one();
            }
            self.call_background();
        }
        output
    }

    /// Somebody awaits what nobody drives: the background thread takes over without waiting for its time.
    fn call_background(&self) {
        if self.pump.is_busy()
            && self.active.load(Ordering::SeqCst) == 0
            && !self.background.load(Ordering::SeqCst)
            && let Some(thread) = self.background_thread.get()
        {
            thread.unpark();
        }
    }

    /// Do what can be done at once, in the calling thread; None where the rest needs the network.
    pub fn poll_now<F: Future + ?Sized>(&self, call: Pin<&mut F>) -> Option<F::Output> {
        let _entered = self.runtime.enter();
        self.pump.start_held();
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Start a job; the rest of it runs on the driver. True where it is through already.
    ///
    /// What it can do at once it does before this returns, in the calling thread and in its order; or, `together` with
    /// others, at `release`, and before whatever is started or waited for otherwise.
    pub fn start_job(&self, job: Job, together: bool) -> bool {
        let done = if together {
            self.pump.hold(job);
            false
        } else {
            let _entered = self.runtime.enter();
            self.pump.start(job)
        };
        if !done {
            self.call_background();
        }
        done
    }

    /// Start what is held, in the calling thread.
    pub fn start_held(&self) {
        if self.pump.is_holding() {
            let _entered = self.runtime.enter();
            self.pump.start_held();
        }
    }

    /// The turn is over in which jobs were held.
    pub fn release(&self) {
        self.pump.release();
    }

    /// Whether a thread waits for the network, for whom nothing is held up.
    pub fn is_blocked_on(&self) -> bool {
        self.active.load(Ordering::SeqCst) > 0
    }

    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// End: jobs under way are dropped when this returns, or `LAST` is over.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.pump.stop();
        self.block_on(async {
            let _ = tokio::time::timeout(LAST, self.pump.ended()).await;
        });
        self.release.notify_one();
        drop(self.rest.0.lock());
        self.rest.1.notify_one();
        // Its runtime, with all its sockets, goes with the last who holds it: not the thread, some time later.
        if let Some(thread) = self.thread.lock().take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }

    fn drive(&self) {
        while !self.stopped() {
            let calls = self.calls.load(Ordering::SeqCst);
            thread::park_timeout(GRACE);
            let same = self.calls.load(Ordering::SeqCst) == calls;
            let awaited = self.pump.is_busy();
            match self.active.load(Ordering::SeqCst) {
                0 if same || awaited => self.hold(),
                0 => {}
                _ if same => self.rest_until_idle(),
                _ => {}
            }
        }
    }

    /// Drive until somebody blocks.
    fn hold(&self) {
        self.background.store(true, Ordering::SeqCst);
        // Whoever blocks from here on releases; who came just before drives beside us until the next call.
        if self.active.load(Ordering::SeqCst) == 0 {
            self.runtime.block_on(self.release.notified());
        }
        self.background.store(false, Ordering::SeqCst);
    }

    /// The same caller blocks all the time and drives: wake up when the last one leaves.
    fn rest_until_idle(&self) {
        let mut rest = self.rest.0.lock();
        self.resting.store(true, Ordering::SeqCst);
        while self.active.load(Ordering::SeqCst) > 0 && !self.stopped() {
            self.rest.1.wait(&mut rest);
        }
        self.resting.store(false, Ordering::SeqCst);
    }
}
