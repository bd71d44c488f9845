// RTEMS-EXEC-MODEL-ALLOW(2): the two multi-thread-flavored tests prove a
// dedicated thread carries the ambient tokio runtime / requested stack; the
// tokio flavor is the property under test. Both run and pass in the
// exec-backend suite.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::RuntimeFlavor;

pub use tokio::runtime::Handle as RuntimeHandle;

pub use crate::runtime::background::{CallbackPriority, OnBand};

/// A synchronous caller asked to block on an async operation from a thread
/// where blocking cannot be made sound.
///
/// Both variants are the same defect seen through two executors: the calling
/// thread is one the awaited future needs in order to make progress, so parking
/// it parks the thing that would wake it. No blocking mechanism can fix that;
/// the caller has to `await` the async operation instead of blocking on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBlockable {
    /// A **current-thread** tokio runtime is entered on this thread. Parking it
    /// stops every task on that runtime, including whichever one holds the
    /// state the awaited future is waiting for.
    CurrentThreadRuntime,
    /// This thread is a background-facility worker — a callback band, the
    /// delayed-callback timer, or the scanOnce worker
    /// ([`crate::runtime::background`]). Each facility has a bounded worker set
    /// and every unit of work it carries is enqueued for those workers, so a
    /// parked worker is waiting for work only it could have run. On RTEMS
    /// [`Reactor::spawn`] routes here, which makes the callback bands the one
    /// other place where parking is unsound.
    BackgroundWorker,
}

impl std::fmt::Display for NotBlockable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotBlockable::CurrentThreadRuntime => {
                f.write_str("cannot block a current-thread runtime")
            }
            NotBlockable::BackgroundWorker => {
                f.write_str("cannot block a background-facility worker thread")
            }
        }
    }
}

impl std::error::Error for NotBlockable {}

/// A [`Waker`] that unparks the thread that built it — the wake half of every
/// "poll-then-park" driver ([`park_on`], asyn-rs's port reply wait). Get it
/// through [`ThreadDrive`].
///
/// `woken` is what the driver waits on, not the thread's unpark token: a
/// `thread::park`-based wait inside the driven future (a std `mpsc` receive,
/// an [`Event`](crate::runtime::sync::Event)) consumes that token, and a driver
/// that trusted it would park through the wake it was owed.
struct ThreadWaker {
    thread: std::thread::Thread,
    woken: std::sync::atomic::AtomicBool,
}

impl ThreadWaker {
    fn current() -> Self {
        Self {
            thread: std::thread::current(),
            woken: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Park until this waker fires, `deadline` passes, or `should_cancel`
    /// holds after an unpark. Consumes the wake.
    fn wait(&self, deadline: Option<std::time::Instant>, mut should_cancel: impl FnMut() -> bool) {
        use std::sync::atomic::Ordering;
        while !self.woken.swap(false, Ordering::Acquire) {
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(std::time::Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    std::thread::park_timeout(left);
                }
            }
            if should_cancel() {
                return;
            }
        }
    }
}

thread_local! {
    /// Built once per thread, so a park costs a refcount, not an allocation:
    /// C's `periodicTask` waits on an `epicsEvent` it created once.
    static DRIVE: Arc<ThreadWaker> = Arc::new(ThreadWaker::current());
}

/// The waker over the *current* thread. Drivers get it through
/// [`ThreadDrive`], which owns the re-arm a nested drive needs.
fn current_thread_waker() -> Waker {
    // Only a park from another thread-local's destructor finds it gone.
    DRIVE
        .try_with(|drive| Waker::from(Arc::clone(drive)))
        .unwrap_or_else(|_| Waker::from(Arc::new(ThreadWaker::current())))
}

/// One poll-then-park drive on this thread: the waker to poll with and the
/// wait between polls.
///
/// Every drive on a thread shares that thread's one `woken` flag, so a drive
/// run inside another's poll can consume the wake owed to the outer one. A
/// completed inner drive never leaves the outer drive's wake consumed: drop
/// re-arms the flag, which costs the outer drive at most one spurious re-poll.
pub struct ThreadDrive {
    waker: Waker,
}

impl ThreadDrive {
    /// Start a drive on the calling thread.
    pub fn enter() -> Self {
        Self {
            waker: current_thread_waker(),
        }
    }

    /// The waker to poll the driven future with.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Park until this thread's waker has been woken since the last return,
    /// or `deadline` passes. A spurious return only costs a re-poll.
    pub fn park(&self, deadline: Option<std::time::Instant>) {
        wait_for_wake(deadline, || false);
    }
}

impl Drop for ThreadDrive {
    fn drop(&mut self) {
        let _ = DRIVE.try_with(|drive| {
            drive
                .woken
                .store(true, std::sync::atomic::Ordering::Release)
        });
    }
}

fn wait_for_wake(deadline: Option<std::time::Instant>, should_cancel: impl FnMut() -> bool) {
    if DRIVE
        .try_with(|drive| drive.wait(deadline, should_cancel))
        .is_err()
    {
        // The fallback waker's flag is not reachable from here: one park.
        match deadline {
            None => std::thread::park(),
            Some(deadline) => std::thread::park_timeout(
                deadline.saturating_duration_since(std::time::Instant::now()),
            ),
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, std::sync::atomic::Ordering::Release);
        self.thread.unpark();
    }
}

/// Drive `fut` to completion on this thread, parking between polls, and stop
/// early when `should_cancel` returns `true`.
///
/// Returns `Some(output)` when the future completed, or `None` when it was
/// cancelled before completing (the future is dropped in place on cancel,
/// running its destructors — the same "drop at the next suspension point"
/// semantics a cancelled tokio task has).
///
/// The future must only await runtime-agnostic primitives (`tokio::sync`
/// locks/channels/notifies): nothing here drives a reactor or a timer wheel, so
/// whoever wakes us must be running on some other thread. A cancel is observed
/// on the next wake — the caller that flips `should_cancel` must also
/// [`unpark`](std::thread::Thread::unpark) this thread so a *parked* driver
/// re-checks promptly rather than sleeping until the future's own waker fires.
pub(crate) fn park_on_interruptible<F: Future>(
    fut: F,
    mut should_cancel: impl FnMut() -> bool,
) -> Option<F::Output> {
    let mut fut = std::pin::pin!(fut);
    let drive = ThreadDrive::enter();
    let mut cx = Context::from_waker(drive.waker());
    loop {
        if should_cancel() {
            return None;
        }
        if let Poll::Ready(value) = fut.as_mut().poll(&mut cx) {
            return Some(value);
        }
        wait_for_wake(None, &mut should_cancel);
    }
}

/// Drive `fut` to completion on this thread, parking between polls. Thin
/// uncancellable wrapper over [`park_on_interruptible`].
///
/// The future must only await runtime-agnostic primitives (`tokio::sync`
/// locks/channels/notifies): nothing here drives a reactor or a timer wheel, so
/// whoever wakes us must be running on some other thread.
fn park_on<F: Future>(fut: F) -> F::Output {
    // Never cancels, so `park_on_interruptible` always returns `Some`.
    park_on_interruptible(fut, || false).expect("uncancellable driver returned None")
}

/// Block the calling thread on `fut`, picking the mechanism that is sound for
/// the thread we are actually on.
///
/// This is the single owner of "sync call over async state" in this crate; the
/// four caller contexts are not interchangeable and picking one mechanism for
/// all of them is what makes such bridges panic:
///
/// - **A background-facility worker** —
///   [`Err(BackgroundWorker)`](NotBlockable::BackgroundWorker), checked first,
///   because it is a property of the *thread* and holds whatever runtime is or
///   is not entered on it. See
///   [`background::facility::on_facility_thread`](crate::runtime::background)
///   for why parking one is unsound.
/// - **No runtime entered** (a plain `std::thread`, an iocsh thread) — park the
///   thread. Nothing else runs here, so there is nothing to starve; the tasks
///   that will wake us live on some other runtime's threads.
/// - **Multi-thread runtime worker** — [`tokio::task::block_in_place`], which
///   hands this worker's remaining tasks to a sibling before it is parked.
/// - **Current-thread runtime** —
///   [`Err(CurrentThreadRuntime)`](NotBlockable::CurrentThreadRuntime). Parking
///   the only thread of that runtime halts every task on it, including the one
///   that would wake us.
///
/// The two refusals are reported to the caller rather than panicked on (today)
/// or deadlocked on (the worse alternative) — an illegal blocking bridge is a
/// value the caller must handle, not a review item.
pub fn block_on_sync<F: Future>(fut: F) -> Result<F::Output, NotBlockable> {
    if crate::runtime::background::facility::on_facility_thread() {
        return Err(NotBlockable::BackgroundWorker);
    }
    match RuntimeHandle::try_current() {
        Ok(handle) => match handle.runtime_flavor() {
            RuntimeFlavor::CurrentThread => Err(NotBlockable::CurrentThreadRuntime),
            _ => Ok(tokio::task::block_in_place(|| handle.block_on(fut))),
        },
        Err(_) => Ok(park_on(fut)),
    }
}

/// Drive a dedicated thread's loop on the current-thread runtime the thread
/// owns: a port actor's, a driver's or a plugin's, each looping on its queue
/// for life as C's thread does.
///
/// A `block_on` grows the deferred-waker list it keeps on its first deferred
/// yield, which a loop meets when its coop budget runs out mid-burst; taken
/// here before `fut`, that yield no longer allocates mid-burst.
pub fn block_on_thread_loop<F: Future>(rt: &tokio::runtime::Runtime, fut: F) -> F::Output {
    rt.block_on(async {
        tokio::task::yield_now().await;
        fut.await
    })
}

/// A capability, captured where the backend's executor is reachable, to run
/// async work from a plain blocking thread (iocsh, a REPL, a script thread).
///
/// [`block_on_sync`] answers "may I block *here*, now?" per call and can only
/// use whatever runtime is visible on the calling thread. This type answers
/// the reachability question once, at [`capture`](Self::capture) time, and
/// carries the answer to a thread the runtime is otherwise invisible from: a
/// tokio handle is thread-local state, so a blocking thread spawned *before*
/// it exists has no way to find it. The exec backend's executor is
/// process-global, so there is nothing to carry and the bridge is a ZST —
/// which is what makes an API taking a `BlockingBridge` compile and work on
/// both backends, where one taking `tokio::runtime::Handle` pinned every
/// caller to tokio.
#[cfg(tokio_backend)]
#[derive(Clone)]
pub struct BlockingBridge {
    handle: tokio::runtime::Handle,
}

/// See the `tokio_backend` definition. The executor here is the
/// process-global background executor, reachable from any thread, so there is
/// no state to capture.
#[cfg(exec_backend)]
#[derive(Clone)]
pub struct BlockingBridge;

#[cfg(tokio_backend)]
impl BlockingBridge {
    /// Capture the current tokio runtime.
    ///
    /// # Panics
    /// Panics when no runtime is entered on this thread — call it on the
    /// async setup path (where the runtime is known), not on the blocking
    /// thread the bridge is being made for.
    pub fn capture() -> Self {
        Self {
            handle: tokio::runtime::Handle::current(),
        }
    }

    /// [`capture`](Self::capture) for a caller that has somewhere else to be
    /// if no runtime is entered — `None` instead of a panic.
    pub fn try_capture() -> Option<Self> {
        RuntimeHandle::try_current()
            .ok()
            .map(|handle| Self { handle })
    }

    /// Drive `fut` to completion on this thread, with the captured runtime
    /// entered so the future may spawn and use the reactor.
    ///
    /// # Panics
    /// Panics on a runtime worker thread: blocking one parks tasks that may
    /// include the future's own wakers (the same refusal `block_on_sync`
    /// reports as a value).
    pub fn block_on<F: Future>(&self, fut: F) -> F::Output {
        assert!(
            RuntimeHandle::try_current().is_err(),
            "BlockingBridge::block_on must not be called from a runtime thread"
        );
        self.handle.block_on(fut)
    }

    /// Spawn `future` onto the captured runtime — [`Reactor::spawn`] for a
    /// thread the runtime is not entered on.
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(future)
    }

    /// The captured runtime as a [`Reactor`], for handing to a reactor-bound
    /// task the bridge starts.
    ///
    /// The bridge already answered "is the executor reachable from here?" at
    /// capture time; this is the same answer in the shape a spawn site takes.
    pub fn reactor(&self) -> Reactor {
        Reactor {
            handle: self.handle.clone(),
        }
    }
}

#[cfg(exec_backend)]
impl BlockingBridge {
    /// The exec backend's executor is process-global; capturing is a no-op
    /// and never panics.
    pub fn capture() -> Self {
        Self
    }

    /// See the `tokio_backend` definition; capturing never fails here.
    pub fn try_capture() -> Option<Self> {
        Some(Self)
    }

    /// Drive `fut` on this thread via `park_on`; whatever it spawns or
    /// sleeps on lands on the background executor.
    pub fn block_on<F: Future>(&self, fut: F) -> F::Output {
        park_on(fut)
    }

    /// [`Reactor::spawn`] — the global executor needs no captured state.
    ///
    /// The reactor seam mirrors `tokio::spawn`, whose callers are servers,
    /// clients and iocsh, never record support: there is no record here and so
    /// no `PRIO` to read. It takes the middle band, C's `callbackRequest`
    /// default for general deferred work (`callback.h:42`).
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn_background(CallbackPriority::Medium, future)
    }

    /// See the `tokio_backend` definition; this carries no runtime, only the
    /// default (callback-pool) spawn target.
    pub fn reactor(&self) -> Reactor {
        Reactor::default()
    }
}

/// Drive an async test body to completion — the driver behind
/// `#[epics_test]` (`epics-macros-rs`).
///
/// The point of the indirection is that the *backend* picks the driver, not
/// the test. On `tokio_backend` this builds exactly what `#[tokio::test]`
/// builds: a fresh current-thread runtime with IO and time enabled. On
/// `exec_backend` (the RTEMS target, or a host run with
/// `EPICS_RS_BUILD_EXEC_BACKEND=thread`) no tokio runtime exists to build, so
/// the
/// test thread itself drives the future via `park_on`, and everything the
/// body spawns or sleeps on lands on the process-global background executor
/// (lazily initialised on first use) — the same seam the RTEMS boot path
/// exercises. A test written with `#[epics_test]` therefore needs no
/// per-backend gating and no `RTEMS-EXEC-MODEL-ALLOW` census entry.
#[cfg(tokio_backend)]
pub fn test_block_on<F: Future>(fut: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("failed to build tokio test runtime")
        .block_on(async {
            adopt_current_runtime();
            fut.await
        })
}

/// `exec_backend` twin of [`test_block_on`]: see the `tokio_backend` copy for
/// the contract. The body's awaits must reach only runtime-agnostic
/// primitives (`park_on`'s rule) — a body that touches `tokio::net` or
/// `tokio::time` directly belongs under `#[tokio::test]` with a backend gate
/// instead.
#[cfg(exec_backend)]
pub fn test_block_on<F: Future>(fut: F) -> F::Output {
    park_on(fut)
}

thread_local! {
    static TEST_IOC_THREAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Run `f` on a fresh IOC thread, the kind a record processes on, and hand
/// back its result or its panic. A test that counts allocations counts here:
/// [`enter_ioc_thread`] built this thread's park and drive state, which a
/// libtest thread builds inside the count — on its first contended park
/// `parking_lot_core` also grows its table at live-thread thresholds
/// (6, 11, 22, 43, 86, …), so the count depends on how many tests run beside
/// it.
pub fn test_ioc_thread<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (tx, rx) = std::sync::mpsc::channel();
    let joined = MandatoryThread::new("scan-test", ThreadPriority::ScanLow, StackSizeClass::Big)
        .spawn(move || {
            TEST_IOC_THREAD.with(|t| t.set(true));
            let _ = tx.send(f());
        })
        .join();
    match joined {
        Ok(()) => rx.recv().expect("the IOC thread returned"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// `true` inside [`test_ioc_thread`]. A counting test asserts it where it
/// reads its count, so a count taken on any other thread fails rather than
/// flakes.
pub fn in_test_ioc_thread() -> bool {
    TEST_IOC_THREAD.with(std::cell::Cell::get)
}

// ---------------------------------------------------------------------------
// Platform-selected task handle types (decision A2 / B)
//
// The seam hands back one of these aliases from every spawn; call sites in this
// crate name only the alias, never a tokio handle. Hosted = the tokio handle
// types. RTEMS = the always-compiled, host-tested mirrors in
// `background::future_exec` (`JoinFuture`/`AbortHandle`/`JoinError`), which
// reproduce exactly the subset of the tokio surface the call sites use.
// ---------------------------------------------------------------------------

/// `true` when [`Reactor::spawn`] lands the future on the tokio runtime,
/// `false` when it lands on the reactor-free background executor
/// (`exec_backend` — the RTEMS target, or a host build with
/// `EPICS_RS_BUILD_EXEC_BACKEND=thread`).
///
/// # What this is for
///
/// It is the *exported* form of `build.rs`'s backend decision, and the reason
/// it is exported is that a spawned future's access to a tokio **reactor** is
/// decided here and consumed in other crates. A future handed to
/// [`Reactor::spawn`] on `exec_backend` runs on a callback-pool worker with no
/// reactor entered, so
/// every `tokio::net` socket it opens panics — *even in a process that has a
/// tokio runtime somewhere else*, because the runtime is not entered on that
/// worker.
///
/// `epics-ca-rs` and `epics-pva-rs` therefore have to make the same decision
/// this crate makes, for their own compilation, and they make it in their own
/// `build.rs` from the same two inputs (target OS, `EPICS_RS_BUILD_EXEC_BACKEND`).
/// That is three copies of one rule, so each of them pins the copy against this
/// constant with a `const` assertion — a build where the two disagree, which
/// now means one of the scripts did not see the variable, fails to compile
/// instead of panicking at boot.
pub const HAS_TOKIO_REACTOR: bool = cfg!(tokio_backend);

/// Handle to a spawned task — `await` for its result, `abort()` to cancel.
#[cfg(tokio_backend)]
pub type TaskHandle<T> = tokio::task::JoinHandle<T>;
/// Detached cancellation handle for a spawned task.
#[cfg(tokio_backend)]
pub type TaskAbortHandle = tokio::task::AbortHandle;
/// Error from awaiting a [`TaskHandle`] (cancelled or panicked).
#[cfg(tokio_backend)]
pub type TaskJoinError = tokio::task::JoinError;

#[cfg(exec_backend)]
pub type TaskHandle<T> = crate::runtime::background::future_exec::JoinFuture<T>;
#[cfg(exec_backend)]
pub type TaskAbortHandle = crate::runtime::background::future_exec::AbortHandle;
#[cfg(exec_backend)]
pub type TaskJoinError = crate::runtime::background::future_exec::JoinError;

// ---------------------------------------------------------------------------
// Process-global background executor (C `callbackInit` facilities)
//
// One process-global `BackgroundExecutor` — callback pool + delayed timer +
// scanOnce worker — on *every* backend, because it is the only executor whose
// existence does not depend on an ambient runtime. Two init paths, both
// landing on the same `OnceLock`:
//
//   * Explicit — `background_init()` from `IocApplication::run`, mirroring C's
//     `callbackInit` running early in `iocInit` (callback.c:286) so the
//     facilities exist before any record processing can defer a tail.
//   * Lazy fallback — the first `spawn_background`/`sleep_background` on a path
//     that never went through `run` (a unit test, an embedded harness)
//     initialises it on demand via the same `get_or_init`.
//
// `exec_backend` additionally routes the *ambient* seam (`spawn`, `sleep`,
// `interval`) here, because on that backend there is nothing else to route to.
// ---------------------------------------------------------------------------

static BACKGROUND: std::sync::OnceLock<crate::runtime::background::BackgroundExecutor> =
    std::sync::OnceLock::new();

/// The process-global background executor, initialised on first use.
fn background() -> &'static crate::runtime::background::BackgroundExecutor {
    BACKGROUND.get_or_init(crate::runtime::background::BackgroundExecutor::new)
}

/// C `callbackInit` (callback.c:286-337): start the process-global
/// background executor if nothing has yet, and arm its callback bands. A
/// second call before [`background_callback_cleanup`] prints C's warning and
/// changes nothing (callback.c:292-295). The executor a lazy first use
/// builds leaves the bands unarmed, refusing requests as C's do before
/// `callbackInit`.
pub fn background_init() {
    background().callbacks().init();
}

/// Arm the callback bands if they are in `cbInit`, silently otherwise —
/// [`background_init`] without C's second-call warning, for a build that has
/// no `iocBuild` to call `callbackInit`.
pub fn background_arm() {
    background().callbacks().arm();
}

/// C `callbackStop` (callback.c:237-260), from `iocShutdown`: the queued
/// callback work runs, then the bands take requests without running them.
/// A process that never built the executor has nothing to stop.
pub fn background_callback_stop() {
    if let Some(exec) = BACKGROUND.get() {
        exec.callbacks().stop();
    }
}

/// C `callbackCleanup` (callback.c:262-284), from an isolated build's
/// `iocShutdown`: stopped bands go back to unarmed, so the next
/// [`background_init`] arms them.
pub fn background_callback_cleanup() {
    if let Some(exec) = BACKGROUND.get() {
        exec.callbacks().cleanup();
    }
}

/// Has the process-global background executor been built yet?
///
/// C's twin is `epicsAtomicGetIntT(&cbState) != cbInit` — the guard
/// `callbackSetQueueSize` and `callbackParallelThreads` refuse on
/// (`callback.c:107`, `:162`). Sizing knobs are read once, when the pool
/// is constructed, so a write after this returns `true` changes nothing
/// and has to be reported rather than silently accepted.
pub fn background_started() -> bool {
    BACKGROUND.get().is_some()
}

/// Queue statistics for all three callback bands, or `None` when the
/// background executor has not been built yet — C `callbackQueueStatus`
/// (`callback.c:115-141`), whose `-1` return is exactly this `None` and
/// is what `callbackQueueShow` turns into its "not initialized, yet"
/// diagnostic. `reset` puts every band's high-water mark back to the
/// entries it still holds — as C's does, for the whole array regardless of
/// which band is being read.
///
/// Reads `BACKGROUND` rather than calling `background()`, because a
/// report must not be the thing that starts the facility it reports on.
pub fn background_callback_stats(
    reset: bool,
) -> Option<
    [crate::runtime::background::CallbackQueueStats;
        crate::runtime::background::NUM_CALLBACK_PRIORITIES],
> {
    let exec = BACKGROUND.get()?;
    Some(
        crate::runtime::background::CallbackPriority::ALL.map(|p| exec.callbacks().stats(p, reset)),
    )
}

/// How many entries the background timer has ever queued, 0 before it starts
/// — see [`TimerHandle::scheduled_total`](crate::runtime::background::TimerHandle::scheduled_total).
/// Reads `BACKGROUND` for the same reason [`background_callback_stats`] does.
pub fn background_timer_scheduled_total() -> u64 {
    BACKGROUND
        .get()
        .map_or(0, |exec| exec.timer().handle().scheduled_total())
}

/// Create the process-global `scanOnce` worker thread now — C `initOnce`
/// (`dbScan.c:768-780`), called from the port's `scanInit` equivalent so the
/// thread exists from IOC init rather than from the first one-shot. Idempotent.
pub fn background_scan_once_start() {
    background().scan_once().start();
}

/// Stop and join the `scanOnce` worker — the end of C `scanStop`
/// (`dbScan.c:178-180`). A process that never built the executor has none.
pub fn background_scan_once_stop() {
    if let Some(exec) = BACKGROUND.get() {
        exec.scan_once().stop();
    }
}

/// Queue a one-shot process of record `name` on the process-global `scanOnce`
/// ring — C `scanOnce` (`dbScan.c:660-694`). `Err` when the ring is full; the
/// request is dropped and the overflow line printed, as in C.
pub fn background_scan_once(
    name: &str,
    cb: crate::runtime::background::OnceCallback,
) -> Result<(), crate::runtime::background::ScanOnceOverflow> {
    background().scan_once().scan_once(name, cb)
}

/// Ring statistics for the `scanOnce` facility, or `None` before the
/// background executor exists — C `scanOnceQueueStatus` (`dbScan.c:734-757`)
/// and its `if (!onceQ) return -1` guard.
pub fn background_scan_once_stats(
    reset: bool,
) -> Option<crate::runtime::background::ScanOnceQueueStats> {
    Some(BACKGROUND.get()?.scan_once().stats(reset))
}

/// Handle to a task spawned on the process-global background executor —
/// `await` for its result, `abort()` to cancel. Distinct from [`TaskHandle`]
/// because that one is the *ambient* executor's handle and is
/// `tokio::task::JoinHandle` on a hosted build.
pub type BackgroundTaskHandle<T> = crate::runtime::background::JoinFuture<T>;

/// Spawn a deferred tail on the process-global background executor.
///
/// The counterpart to [`Reactor::spawn`], and the difference is the whole
/// point of having both: that one needs a [`Reactor`], which on a hosted build
/// is the tokio runtime with its I/O and time drivers, while this one always
/// lands on the same executor no matter who calls it and needs no capability
/// at all. Record processing is reached from a plain `std::thread` — every
/// blocking CA/PVA connection thread drives it through [`block_on_sync`] →
/// `park_on` — so a tail it defers must not depend on the caller's thread
/// having a runtime, and must not be handed a `Reactor` either.
///
/// Anything awaited inside `future` is subject to the same rule: use
/// [`sleep_background`], [`interval_background`] and [`spawn_blocking_background`]
/// rather than their ambient counterparts, and no `tokio::net` socket, whose
/// reactor this executor deliberately does not have.
///
/// # The band is the caller's to name
///
/// `priority` picks which of the three callback queues runs the tail — C
/// `callbackRequest` dispatches on `CALLBACK.priority` (`callback.c:355-365`)
/// and record support sets that from the record it is deferring:
/// `callbackSetPriority(prec->prio, &pcb->callback)` at the top of
/// `seqRecord.c:146` `process()`, re-read every cycle. There is deliberately
/// no defaulted spelling of this function: a record tail that silently took
/// one fixed band would make every record's `PRIO` field select nothing, so
/// the band is a parameter and a site with no record to name must say which
/// band it means and why. Use
/// [`CallbackPriority::from_record_prio`] wherever a `PRIO` is in hand.
pub fn spawn_background<F>(priority: CallbackPriority, future: F) -> BackgroundTaskHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    use crate::runtime::background::spawn_future;
    spawn_future(&background().callbacks().handle(), priority, future)
}

/// [`spawn_background`] `delay` from now — C `callbackRequestDelayed`
/// (`callback.c:410-419`). The timer starts at this call and `future` joins
/// the tail of `priority`'s band when it fires, so a band busy past the delay
/// runs it next rather than only then starting the wait. A zero delay is
/// [`spawn_background`] itself: C's timer queue fires it at once into
/// `callbackRequest`, as for the SDLY of 0 an output passes
/// (`aoRecord.c:585`).
pub fn spawn_background_after<F>(
    priority: CallbackPriority,
    delay: Duration,
    future: F,
) -> BackgroundTaskHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    use crate::runtime::background::spawn_future_after;
    if delay.is_zero() {
        return spawn_background(priority, future);
    }
    let exec = background();
    spawn_future_after(
        &exec.callbacks().handle(),
        &exec.timer().handle(),
        priority,
        delay,
        future,
    )
}

/// [`spawn_background`] for a blocking closure — runs it on a callback-pool
/// worker of the named band, holding that worker for the whole run. For work
/// that belongs on the band (C `callbackRequest`); `f` gets the [`OnBand`]
/// such work takes. Blocking work that merely must not block a task is
/// [`spawn_blocking`]'s.
pub fn spawn_blocking_background<F, R>(priority: CallbackPriority, f: F) -> BackgroundTaskHandle<R>
where
    F: FnOnce(OnBand) -> R + Send + 'static,
    R: Send + 'static,
{
    use crate::runtime::background::spawn_blocking_on;
    spawn_blocking_on(&background().callbacks().handle(), priority, f)
}

/// Queue a requester-owned [`CallbackCell`] on the process-global pool's
/// `priority` band — C `callbackRequest` (`callback.c:341`). Unlike
/// [`spawn_background`] this allocates nothing per request; a cell already
/// queued is taken by its pending run.
///
/// [`CallbackCell`]: crate::runtime::background::CallbackCell
pub fn request_cell<B: crate::runtime::background::CallbackBody>(
    priority: CallbackPriority,
    cell: &Arc<crate::runtime::background::CallbackCell<B>>,
) -> Result<(), crate::runtime::background::CallbackError> {
    background().callbacks().request_cell(priority, cell)
}

/// Wait `duration` on the process-global delayed-callback timer, measured on
/// `std::time` — C `callbackRequestDelayed` (`callback.c:410-419`) of the
/// running callback from its own body. Like C's timer queue, the wait never
/// completes on its first poll (see
/// [`timer_sleep`](crate::runtime::background::timer_sleep)): a delay lapsed by
/// then puts a [`spawn_background`] task back at the tail of its band, so a
/// loop of lapsed re-arms never holds the band.
///
/// The delay counterpart to [`spawn_background`]: a tail deferred there must
/// wait on a timer that exists without a runtime, which `tokio::time` does not.
pub async fn sleep_background(duration: Duration) {
    crate::runtime::background::timer_sleep::sleep(&background().timer().handle(), duration).await;
}

/// Resume the running [`spawn_background`] task from the tail of its band — C
/// `callbackRequest` of the running callback from its own body
/// (`seqRecord.c:215`). It runs again only after every request queued before
/// it, as from [`sleep_background`] of a zero delay, without building a timer
/// wait.
///
/// Not [`yield_now`]: on the tokio backend that defers to tokio's scheduler,
/// whereas this is the band's FIFO on either backend.
#[inline]
pub fn requeue_background() -> impl Future<Output = ()> {
    YieldNow(false)
}

/// Periodic ticker on the process-global delayed-callback timer — the
/// [`interval`] counterpart for work spawned by [`spawn_background`].
pub fn interval_background(period: Period) -> crate::runtime::background::TimerInterval {
    crate::runtime::background::timer_sleep::interval(&background().timer().handle(), period)
}

// ---------------------------------------------------------------------------
// The reactor capability
//
// Spawning used to go through an *ambient* free function. On a hosted build
// `spawn` was `tokio::spawn`, which reads a thread-local and panics with
// "there is no reactor running" on any thread that is not inside a runtime; on
// `exec_backend` it was `spawn_background`, which lands on the process-global
// background executor and has no reactor at all. One name, two executors with
// opposite capabilities, and which one you got was decided by a thread-local
// the call site could not see. Nothing but a comment and a textual census kept
// a reactor-bound future off the reactor-free executor, or the reverse.
//
// [`Reactor`] replaces that thread-local with a value. A site that needs the
// I/O and time drivers takes one, so the requirement is in the signature of
// whatever owns the site instead of in a comment beside it, and a record
// callback — which is handed no `Reactor` — cannot reach the reactor-bound
// spawn at all without [`Reactor::current`], which is one named call a census
// can ban outright in the scopes where it must never appear.
// ---------------------------------------------------------------------------

/// The executor that owns the reactor — the capability a reactor-bound task is
/// spawned through.
///
/// Hold one and you may spawn a future that opens a `tokio::net` socket, waits
/// on `tokio::time`, or installs a signal handler. The counterpart is
/// [`spawn_background`], which needs no capability because the executor it
/// lands on is process-global — and, for the same reason, has no reactor.
///
/// # Where one comes from
///
/// [`Reactor::current`] mints one from the runtime entered on the calling
/// thread, and returns `None` rather than panicking when there is none.
/// Everything else receives one: the IOC and the CA/PVA servers and clients
/// capture it once on their own setup path and hand `&Reactor` down to the
/// tasks they start. [`BlockingBridge::reactor`] is the third source, for a
/// blocking thread the runtime is not entered on.
#[cfg(tokio_backend)]
#[derive(Clone, Debug)]
pub struct Reactor {
    handle: tokio::runtime::Handle,
}

/// See the `tokio_backend` definition.
///
/// **There is no tokio reactor on this backend.** A `Reactor` here is the
/// process-global background executor, so it is a ZST and
/// [`Reactor::current`] always succeeds — which is what lets one signature
/// compile on both backends. What it does *not* do is make `tokio::net` work
/// on RTEMS: that build reaches the network through the blocking drivers, and
/// [`HAS_TOKIO_REACTOR`] is the constant that says which world a call site is
/// compiled into.
///
/// Deliberately **not** `Copy`, though a ZST could be: a capability that moves
/// on one backend and copies on the other makes every call site's `clone()`
/// correct under `tokio_backend` and a `clippy::clone_on_copy` error here. One
/// shape on both backends is what lets the same source compile clean under
/// either.
#[cfg(exec_backend)]
#[derive(Clone, Debug, Default)]
pub struct Reactor {
    /// Where [`Reactor::spawn`] puts the future. `None` is the process-global
    /// callback pool's middle band — see [`Reactor::with_executor`].
    exec: Option<Arc<crate::runtime::background::DedicatedExecutor>>,
}

#[cfg(tokio_backend)]
impl Reactor {
    /// The runtime entered on this thread, or `None` when there is none.
    ///
    /// Deliberately not a panicking constructor: the ambient `spawn` this
    /// replaces panicked from inside itself, which is exactly the failure the
    /// capability exists to move into the type. A caller that genuinely cannot
    /// continue without one writes its own `expect`, which names the reason and
    /// can be found by a census.
    pub fn current() -> Option<Self> {
        RuntimeHandle::try_current()
            .ok()
            .map(|handle| Self { handle })
    }

    /// Spawn a reactor-bound future.
    ///
    /// Works from any thread, including one the runtime is not entered on —
    /// the handle carries the runtime, where `tokio::spawn` read a
    /// thread-local.
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(future)
    }

    /// Run a blocking closure on the runtime's blocking pool.
    pub fn spawn_blocking<F, R>(&self, f: F) -> TaskHandle<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.handle.spawn_blocking(f)
    }

    /// The `exec_backend` twin's no-op: here the runtime *is* the executor and
    /// its band is the runtime's to set, so `exec` is ignored. It exists so a
    /// server that chooses its own band compiles unchanged on both backends —
    /// see the `exec_backend` copy for what it does there.
    pub fn with_executor(
        &self,
        _exec: &Arc<crate::runtime::background::DedicatedExecutor>,
    ) -> Self {
        self.clone()
    }
}

#[cfg(exec_backend)]
impl Reactor {
    /// The background executor is process-global, so this never fails — see
    /// the type's own docs for what that does and does not promise.
    pub fn current() -> Option<Self> {
        Some(Self::default())
    }

    /// This reactor, with spawned futures routed to `exec` instead of the
    /// callback pool.
    ///
    /// The band a server's connection work runs in is the server's to choose,
    /// and the reactor is the capability it is already handed — so binding the
    /// executor here is what moves every downstream `spawn`, including the ones
    /// in futures this reactor is cloned into, without a second handle to
    /// thread beside it.
    ///
    /// The `tokio_backend` twin ignores `exec`: there the runtime *is* the
    /// executor, and its band is the runtime's to set.
    pub fn with_executor(&self, exec: &Arc<crate::runtime::background::DedicatedExecutor>) -> Self {
        Self {
            exec: Some(Arc::clone(exec)),
        }
    }

    /// Spawn on this reactor's executor, or — with none bound —
    /// [`spawn_background`] verbatim on the middle band, for the same reason
    /// as the `tokio_backend` copy: the reactor seam carries no record.
    pub fn spawn<F>(&self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.exec {
            Some(exec) => crate::runtime::background::spawn_future(
                &exec.handle(),
                CallbackPriority::Medium,
                future,
            ),
            None => spawn_background(CallbackPriority::Medium, future),
        }
    }

    /// [`Reactor::spawn`] for a blocking closure: [`spawn_blocking`], bound
    /// executor or not, because a closure that blocks on an executor's worker
    /// or a band's stalls every future queued behind it.
    pub fn spawn_blocking<F, R>(&self, f: F) -> TaskHandle<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        spawn_blocking(f)
    }
}

/// Yield the current task once — the seam replacement for
/// `tokio::task::yield_now`, so no call site names `tokio::task` directly.
#[cfg(tokio_backend)]
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

/// Exec-backend yield: return `Pending` once with the waker already woken.
/// On the cooperative background executor that re-enqueues the task behind
/// whatever else is runnable; under a `park_on` driver the wake sets the
/// park token, so the driver re-polls immediately — both give one fair
/// scheduling point, which is all `yield_now` promises.
#[cfg(exec_backend)]
pub async fn yield_now() {
    YieldNow(false).await;
}

/// `Pending` once with the waker already woken.
struct YieldNow(bool);

impl Future for YieldNow {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            Poll::Ready(())
        } else {
            self.0 = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

/// Run a blocking closure on a worker thread.
///
/// **Not the reactor capability.** What this needs is a pool of threads that
/// may block, not the I/O and time drivers. On a hosted build that is the
/// blocking pool of the runtime entered on this thread, or, from a thread with
/// none (a callback band, a plain thread), of the runtime
/// [`adopt_current_runtime`] last named; on `exec_backend` it is
/// [`offload::BLOCKING`]. Neither needs the caller to be on a runtime. A site
/// that already holds a [`Reactor`] uses [`Reactor::spawn_blocking`] and says
/// so in its signature.
///
/// [`offload::BLOCKING`]: crate::runtime::offload::BLOCKING
#[cfg(tokio_backend)]
pub fn spawn_blocking<F, R>(f: F) -> TaskHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    blocking_runtime().spawn_blocking(f)
}

/// The runtime [`spawn_blocking`] uses from a thread with none entered.
#[cfg(tokio_backend)]
static BLOCKING_RUNTIME: std::sync::Mutex<Option<RuntimeHandle>> = std::sync::Mutex::new(None);

/// Name the runtime entered on this thread as the one whose blocking pool
/// [`spawn_blocking`] uses from threads with none: called where a runtime
/// starts (`#[epics_main]`, [`test_block_on`], the IOC's `run`). The latest
/// call wins. A no-op with no runtime entered, and on `exec_backend`, whose
/// blocking pool needs no runtime.
pub fn adopt_current_runtime() {
    #[cfg(tokio_backend)]
    if let Ok(handle) = RuntimeHandle::try_current() {
        *BLOCKING_RUNTIME.lock().unwrap_or_else(|e| e.into_inner()) = Some(handle);
    }
}

/// The current runtime; else the adopted one; else, when nothing has adopted
/// one, the first runtime a call was made on; else a runtime of this crate's
/// own, kept for blocking work only, so the seam never panics.
#[cfg(tokio_backend)]
fn blocking_runtime() -> RuntimeHandle {
    let current = RuntimeHandle::try_current().ok();
    let mut adopted = BLOCKING_RUNTIME.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(current) = current {
        adopted.get_or_insert_with(|| current.clone());
        return current;
    }
    adopted
        .get_or_insert_with(|| {
            static OWN: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
            OWN.get_or_init(|| {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("blockingRt")
                    .enable_all()
                    .build()
                    .expect("the blocking-work runtime starts")
            })
            .handle()
            .clone()
        })
        .clone()
}

/// RTEMS: the process-global [`offload::BLOCKING`] pool, which needs no
/// runtime and holds no callback band — see the `tokio_backend` copy for why
/// this one is not the reactor capability. Work that belongs on a band (C
/// `callbackRequest`) is [`spawn_blocking_background`]'s.
///
/// [`offload::BLOCKING`]: crate::runtime::offload::BLOCKING
#[cfg(exec_backend)]
pub fn spawn_blocking<F, R>(f: F) -> TaskHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    crate::runtime::background::spawn_blocking_offloaded(&crate::runtime::offload::BLOCKING, f)
}

/// A set of spawned tasks, joined as they complete — the seam replacement for
/// `tokio::task::JoinSet`.
///
/// `JoinSet` is a **fourth spelling of `tokio::spawn`**, and the one no seam
/// guard caught: `JoinSet::spawn` calls `tokio::spawn` internally, so it panics
/// with *"there is no reactor running"* on any thread that is not inside a
/// tokio runtime — which on RTEMS is every callback-band worker. Measured on
/// target: the CA client's transport manager died on `cbMedium` at its first
/// connect. Naming it here means a call site can express "spawn a set of tasks
/// and reap them as they finish" without reaching past the seam.
///
/// The three properties call sites depend on, all preserved:
///
/// * **Concurrency** — every member runs independently; joining one does not
///   block the others.
/// * **Pair-by-value** — [`Self::join_next`] yields whichever member finished
///   first, so a task that returns its own key can be matched to its state.
/// * **Abort on drop** — dropping the set cancels every member that has not
///   finished, which is the property that distinguishes a `JoinSet` from a bag
///   of detached `JoinHandle`s.
pub struct TaskSet<T> {
    tasks: Vec<TaskHandle<T>>,
}

impl<T> Default for TaskSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> TaskSet<T> {
    /// An empty set.
    pub fn new() -> Self {
        Self { tasks: Vec::new() }
    }

    /// Number of members that have not yet been joined.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// `true` when no member is outstanding.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl<T: Send + 'static> TaskSet<T> {
    /// Spawn `future` into the set — through [`Reactor::spawn`], so the set is
    /// as reactor-bound as its members and says so in this signature.
    pub fn spawn<F>(&mut self, reactor: &Reactor, future: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.tasks.push(reactor.spawn(future));
    }

    /// Wait for the next member to finish and return its result, removing it
    /// from the set. `None` when the set is empty — matching
    /// `JoinSet::join_next`, so a `select!` arm on it goes quiet rather than
    /// spinning once every task has been reaped.
    ///
    /// Cancel-safe: the returned future holds no state of its own, so a
    /// `select!` that drops it loses nothing.
    pub async fn join_next(&mut self) -> Option<Result<T, TaskJoinError>> {
        if self.tasks.is_empty() {
            return None;
        }
        std::future::poll_fn(|cx| {
            for i in 0..self.tasks.len() {
                // Both backends' handles are `Unpin` (tokio's `JoinHandle`,
                // and `JoinFuture`, whose only field is an `Arc`), so this
                // needs no pin projection. Polling every pending member
                // re-registers this waker with each — the shape both handles
                // document.
                if let std::task::Poll::Ready(result) =
                    std::pin::Pin::new(&mut self.tasks[i]).poll(cx)
                {
                    self.tasks.swap_remove(i);
                    return std::task::Poll::Ready(Some(result));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

impl<T> Drop for TaskSet<T> {
    /// Cancel every outstanding member — `JoinSet`'s drop behaviour, and the
    /// reason a call site reaches for a set rather than a `Vec` of handles.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The timer the *calling thread* can actually reach.
///
/// `tokio::time` reads a thread-local time driver and panics when there is
/// none, but this process always has a second timer that needs no runtime at
/// all: the delayed-callback timer [`sleep_background`] waits on (C
/// `callbackRequestDelayed`). Which of the two to use is a property of the
/// calling thread, not of the build, so it cannot be a `cfg`.
///
/// It is deliberately not "always the background timer". Under
/// `#[tokio::test(start_paused = true)]` tokio's clock is virtual and only
/// tokio's own timer advances with it, so a wall-clock sleep on a runtime
/// thread would wait out a deadline the test means to skip. A thread with no
/// runtime has no virtual clock to honour, so there the wall-clock timer is
/// both the correct one and the only one — which is why this arms a timer
/// where the seam used to panic instead.
#[cfg(tokio_backend)]
async fn sleep_on_reachable_timer(duration: Duration) {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep(duration).await;
    } else {
        sleep_background(duration).await;
    }
}

#[cfg(tokio_backend)]
pub async fn sleep(duration: Duration) {
    sleep_on_reachable_timer(duration).await;
}

/// RTEMS: see [`Reactor::spawn`] — this backend's only executor is the
/// background one.
#[cfg(exec_backend)]
pub async fn sleep(duration: Duration) {
    sleep_background(duration).await;
}

/// The instant [`sleep_until`] measures deadlines against — **the backend's own
/// clock**, which is the whole point of naming it here.
///
/// A deadline is only meaningful in the clock the timer that waits on it runs
/// on. The hosted timer is tokio's, and under `#[tokio::test(start_paused =
/// true)]` tokio's clock is virtual and advances on `sleep`, not with the wall
/// — so a `std::time::Instant` deadline handed to a tokio timer is a deadline
/// in a *different* timeline, and the wait is wrong by however far the two have
/// diverged. The RTEMS timer runs on `std::time::Instant` (1-second-quantized
/// on target).
///
/// Taking the alias rather than a concrete instant type is what keeps a caller
/// from mixing them: `Instant::now() + timeout` is the deadline `sleep_until`
/// will actually honour, on both backends.
#[cfg(tokio_backend)]
pub type Instant = tokio::time::Instant;
/// See the hosted definition.
#[cfg(exec_backend)]
pub type Instant = std::time::Instant;

/// `base + d` on the runtime's own [`Instant`], saturating where the bare
/// `+` would panic — [`crate::runtime::time::deadline_after`]'s rule for
/// the alias above.
///
/// The alias exists so a deadline cannot be built in the wrong timeline;
/// this exists so it cannot be built by a panicking add. Any `Duration`
/// that came from a `double` — a record field, an `EPICS_*` env var, a
/// caller-supplied timeout — can be [`Duration::MAX`] by the rule in
/// [`crate::runtime::time::duration_from_secs`], and `Instant + MAX`
/// aborts the task rather than never firing. Both concrete `Instant`
/// types offer `checked_add`, so one body covers both backends.
pub fn deadline_after(base: Instant, d: Duration) -> Instant {
    base.checked_add(d)
        .unwrap_or_else(|| Instant::now() + crate::runtime::time::FAR_FUTURE)
}

/// `base` = now. See [`deadline_after`].
pub fn deadline_from_now(d: Duration) -> Instant {
    deadline_after(Instant::now(), d)
}

#[cfg(tokio_backend)]
pub async fn sleep_until(deadline: Instant) {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::time::sleep_until(deadline).await;
    } else {
        // No runtime means no virtual clock, so `Instant::now()` here reads the
        // same wall clock the background timer runs on and the subtraction
        // loses nothing. See [`sleep_on_reachable_timer`].
        sleep_on_reachable_timer(deadline.saturating_duration_since(Instant::now())).await;
    }
}

/// RTEMS: sleep-until on the delayed-callback timer via the host-tested `Sleep`.
#[cfg(exec_backend)]
pub async fn sleep_until(deadline: Instant) {
    crate::runtime::background::timer_sleep::sleep_until(&background().timer().handle(), deadline)
        .await;
}

/// Periodic ticker — the seam replacement for `tokio::time::interval`, so no
/// production site names `tokio::time` directly (decision A2), with tokio's
/// defaults: an immediate first tick and `MissedTickBehavior::Burst` catch-up.
///
/// One body for both backends, on the timer the polling thread can reach (see
/// `sleep_on_reachable_timer`): the hosted half wrapped
/// `tokio::time::Interval`, which panics on a thread with no runtime.
pub struct Interval {
    period: Duration,
    /// Next tick deadline, anchored at construction so catch-up bursts.
    next: Instant,
    first: bool,
    /// Armed on the first wait and re-armed in place after each tick, as
    /// tokio's `Interval` does, so a `tick()` dropped by a losing `select!` arm
    /// leaves it armed and the next `tick()` arms no timer.
    delay: Option<TickTimer>,
}

/// One re-armable sleep on the timer the arming thread can reach.
enum TickTimer {
    #[cfg(tokio_backend)]
    Runtime(std::pin::Pin<Box<tokio::time::Sleep>>),
    Background(crate::runtime::background::Sleep),
}

impl TickTimer {
    fn until(deadline: Instant) -> Self {
        #[cfg(tokio_backend)]
        if tokio::runtime::Handle::try_current().is_ok() {
            return Self::Runtime(Box::pin(tokio::time::sleep_until(deadline)));
        }
        Self::Background(crate::runtime::background::timer_sleep::sleep_until(
            &background().timer().handle(),
            std_instant(deadline),
        ))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            #[cfg(tokio_backend)]
            Self::Runtime(s) => s.as_mut().poll(cx),
            Self::Background(s) => std::pin::Pin::new(s).poll(cx),
        }
    }

    fn reset(&mut self, deadline: Instant) {
        match self {
            #[cfg(tokio_backend)]
            Self::Runtime(s) => s.as_mut().reset(deadline),
            Self::Background(s) => s.reset(std_instant(deadline)),
        }
    }
}

/// A deadline on the background timer's clock. Only a thread with no runtime
/// arms that timer, and there tokio's clock is the wall clock.
#[cfg(tokio_backend)]
fn std_instant(deadline: Instant) -> std::time::Instant {
    deadline.into_std()
}
#[cfg(exec_backend)]
fn std_instant(deadline: Instant) -> std::time::Instant {
    deadline
}

/// A re-armable sleep, `tokio::time::Sleep`'s shape on both backends. Held
/// across a `select!` loop and polled through `&mut`, a losing arm drops no
/// timer, and a pass that does not [`reset`](Self::reset) it arms none.
pub struct Sleep {
    deadline: Instant,
    timer: TickTimer,
}

impl Sleep {
    /// Complete at `deadline`, on the timer the calling thread can reach.
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            timer: TickTimer::until(deadline),
        }
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Re-arm for `deadline` in place.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.timer.reset(deadline);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().timer.poll(cx)
    }
}

impl Interval {
    /// Complete at the next tick. The first tick is immediate (tokio parity);
    /// callers that want to skip it await `tick()` once up front.
    pub async fn tick(&mut self) {
        std::future::poll_fn(|cx| self.poll_tick(cx)).await
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.first {
            self.first = false;
            return Poll::Ready(());
        }
        let next = self.next;
        let delay = self.delay.get_or_insert_with(|| TickTimer::until(next));
        std::task::ready!(delay.poll(cx));
        // From the previous deadline, not from now, so an overdue deadline
        // stays in the past and the next tick bursts.
        self.next = deadline_after(self.next, self.period);
        delay.reset(self.next);
        Poll::Ready(())
    }
}

/// Build a periodic ticker firing every `period`. `Period` has no zero, the
/// spin loop that `tokio::time::interval` refuses with a panic.
pub fn interval(period: Period) -> Interval {
    let period = period.get();
    Interval {
        period,
        next: deadline_from_now(period),
        first: true,
        delay: None,
    }
}

/// A period [`interval`] accepts: a `Duration` that is not zero. A config
/// field of this type cannot carry the zero that panics the ticker inside the
/// task it is handed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

impl Period {
    /// `None` for a zero `period`.
    pub const fn new(period: Duration) -> Option<Self> {
        if period.is_zero() {
            None
        } else {
            Some(Self(period))
        }
    }

    pub const fn from_secs(secs: std::num::NonZeroU64) -> Self {
        Self(Duration::from_secs(secs.get()))
    }

    pub const fn from_millis(millis: std::num::NonZeroU64) -> Self {
        Self(Duration::from_millis(millis.get()))
    }

    /// The shortest period, one nanosecond.
    pub const MIN: Self = Self(Duration::from_nanos(1));

    /// `period`, raised to `floor` when shorter: the total conversion for a
    /// computed `Duration` whose own lower bound is a `Period`.
    pub fn at_least(period: Duration, floor: Period) -> Self {
        Self(period.max(floor.0))
    }

    pub const fn get(self) -> Duration {
        self.0
    }
}

/// The timeout's error — "the deadline elapsed before the future completed".
///
/// The seam's own type on **both** backends, where the hosted half used to
/// re-export `tokio::time::error::Elapsed`. It has to be: [`timeout`] returns
/// this error without arming a timer when the budget is already spent, and
/// tokio's `Elapsed` has no public constructor (`pub(crate) fn new`), so an
/// alias makes the expired branch unwritable. No call site in this workspace
/// names the type — every one of the 81 discards or maps it — so the change is
/// invisible above the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed(());

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// C's floor for "the remaining budget is worth blocking on":
/// `CAC_SIGNIFICANT_DELAY`, 1 µs
/// (`epics-base/modules/ca/src/client/iocinf.h:37`; the `1.0/CLOCKS_PER_SEC`
/// spelling at `:35` is the other platform's arm of the same `#if`).
pub const SIGNIFICANT_DELAY: Duration = Duration::from_micros(1);

/// Poll `fut` once and give up — the shape C's `pendIO` has when the budget is
/// already spent.
///
/// `ca_client_context::pendIO` (`ca_client_context.cpp:490-499`) tests the
/// outstanding-work counter first and *then* compares `remaining <
/// CAC_SIGNIFICANT_DELAY`, returning `ECA_TIMEOUT` before it ever blocks. So an
/// expired budget in C decides on state alone; nothing races it. One poll of
/// `fut` is that same "is the work already done" test, and the `Pending` arm is
/// C's immediate `ECA_TIMEOUT`.
async fn poll_once_then_expire<F: Future>(fut: F) -> Result<F::Output, Elapsed> {
    let mut fut = std::pin::pin!(fut);
    std::future::poll_fn(move |cx| {
        Poll::Ready(match fut.as_mut().poll(cx) {
            Poll::Ready(v) => Ok(v),
            Poll::Pending => Err(Elapsed(())),
        })
    })
    .await
}

/// Await `fut`, giving up after `duration` — the seam's only bounded wait.
///
/// It belongs here rather than at the call sites for the same reason [`sleep`]
/// does: a deadline needs a timer, and which timer that is depends on the
/// backend and on the calling thread. Call sites that reach for
/// `tokio::time::timeout` directly pin themselves to the tokio timer wheel,
/// which exists on one backend and only inside a runtime.
///
/// A budget under [`SIGNIFICANT_DELAY`] never reaches a timer at all. It cannot:
/// a timeout polls the inner future first and only then arms its sleep, and a
/// zero-length sleep is not reported elapsed until the time driver next runs — so on a loaded machine the inner future wins a race that
/// C does not have, and an already-expired `-w` returns success. Measured as
/// `caget -w -1` exiting 0 where C exits 1
/// (`tool_lib.c:628-638` via `ca_client_context.cpp:490-499`).
///
/// One body for both backends, raced against [`sleep`], because the backend was
/// never the question a bounded wait had to ask. The hosted half called
/// `tokio::time::timeout`, which panics on a thread with no runtime, so the
/// seam had a deadline the exec backend honoured for every caller and the
/// hosted one honoured only inside a runtime. Callers had no way to express
/// that difference and did not try to: `asyn-rs`'s `PortHandle::await_reply`
/// simply lost its `queue_timeout` on every plain-thread `submit_blocking`.
/// [`sleep`] now picks a timer the calling thread can reach, so the race below
/// fires wherever it is polled.
pub async fn timeout<F: Future>(duration: Duration, fut: F) -> Result<F::Output, Elapsed> {
    if duration < SIGNIFICANT_DELAY {
        return poll_once_then_expire(fut).await;
    }
    let mut sleep = std::pin::pin!(sleep(duration));
    let mut fut = std::pin::pin!(fut);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(v) = fut.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Elapsed(())));
        }
        Poll::Pending
    })
    .await
}

/// [`timeout`] against an absolute [`Instant`] instead of a duration — the
/// seam's `tokio::time::timeout_at`.
///
/// It exists because one deadline shared across several sequential awaits is a
/// different bound from a fresh duration per await: `caget_many` gives its
/// whole batch one deadline, so a slow first PV eats the budget the rest would
/// otherwise each get in full. Expressing that with `timeout` would need the
/// caller to do the subtraction, which is the arithmetic that drifts.
///
/// Raced against [`sleep_until`], the absolute-deadline twin of what
/// [`timeout`] races against, and one body for the same reason.
pub async fn timeout_at<F: Future>(deadline: Instant, fut: F) -> Result<F::Output, Elapsed> {
    if deadline.saturating_duration_since(Instant::now()) < SIGNIFICANT_DELAY {
        return poll_once_then_expire(fut).await;
    }
    let mut sleep = std::pin::pin!(sleep_until(deadline));
    let mut fut = std::pin::pin!(fut);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(v) = fut.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Elapsed(())));
        }
        Poll::Pending
    })
    .await
}

pub fn runtime_handle() -> tokio::runtime::Handle {
    tokio::runtime::Handle::current()
}

// ---------------------------------------------------------------------------
// EPICS thread priority abstraction
//
// C parity: `modules/libcom/src/osi/epicsThread.h:73-92` defines an
// integer priority space `0..=99` (`epicsThreadPriorityMin/Max`) with a
// set of named levels, plus three stack-size classes.
// `osi/os/posix/osdThread.c` maps an EPICS priority `p` onto the OS
// SCHED_FIFO range with `oss = p * (max-min)/100 + min` and falls back
// to a non-RT (default-policy) thread when the process lacks permission
// to use SCHED_FIFO.
//
// The Rust port runs work as tokio tasks on a shared pool, so there is
// no per-task OS thread to re-prioritise for `spawn`. What is portably
// achievable is: (a) the priority enum + named levels as a first-class
// type, (b) a stack-size class with the C size table, and (c) a
// best-effort OS-scheduler priority applied to the *current* OS thread
// (used by dedicated `spawn_blocking` threads and the runtime's worker
// threads). `apply_to_current_thread` reports whether the OS actually
// honoured the request.
//
// (c) is on by default, as C's `EPICS_ALLOW_POSIX_THREAD_PRIORITY_SCHEDULING`
// is — see `C_RT_PRIORITY_ENV`.
// ---------------------------------------------------------------------------

/// Minimum EPICS thread priority (`epicsThreadPriorityMin`).
pub const PRIORITY_MIN: u32 = 0;
/// Maximum EPICS thread priority (`epicsThreadPriorityMax`).
pub const PRIORITY_MAX: u32 = 99;

/// EPICS thread priority — an integer `0..=99` with the named levels
/// from `epicsThreadPriority*` (`epicsThread.h:73-83`). Lower values
/// are lower priority; the CA server bands sit below the scan bands so
/// scan threads preempt CA-server threads on a loaded IOC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThreadPriority {
    /// `epicsThreadPriorityLow` = 10.
    Low,
    /// `epicsThreadPriorityCAServerLow` = 20.
    CaServerLow,
    /// `epicsThreadPriorityCAServerHigh` = 40.
    CaServerHigh,
    /// `epicsThreadPriorityMedium` = 50.
    Medium,
    /// `epicsThreadPriorityScanLow` = 60.
    ScanLow,
    /// `epicsThreadPriorityScanHigh` = 70.
    ScanHigh,
    /// `epicsThreadPriorityHigh` = 90.
    High,
    /// `epicsThreadPriorityIocsh` = 91.
    Iocsh,
    /// An explicit priority value, kept as given: C stores any `unsigned
    /// int` as `osiPriority` (`osdThread.c:219`) and scales it unclamped.
    Custom(u32),
}

impl ThreadPriority {
    /// The raw EPICS priority value, matching the `epicsThreadPriority*`
    /// constants in `epicsThread.h`; a [`Custom`](Self::Custom) one as given.
    ///
    /// `const` so a server can *derive* its band from the named one C derives
    /// it from — `CaServerLow - 2` rather than a bare `18` with a comment
    /// asserting the two are the same number. C builds exactly that ladder at
    /// `caservertask.c:563-575`; restating its output as a literal is how the
    /// ladder and its constants come to disagree.
    pub const fn value(self) -> u32 {
        match self {
            ThreadPriority::Low => 10,
            ThreadPriority::CaServerLow => 20,
            ThreadPriority::CaServerHigh => 40,
            ThreadPriority::Medium => 50,
            ThreadPriority::ScanLow => 60,
            ThreadPriority::ScanHigh => 70,
            ThreadPriority::High => 90,
            ThreadPriority::Iocsh => 91,
            ThreadPriority::Custom(v) => v,
        }
    }
}

/// Stack-size class — `epicsThreadStackSizeClass` (`epicsThread.h:91`).
///
/// The byte size is implementation-dependent in C. These mirror the POSIX
/// table `STACK_SIZE(f) = f * 0x10000 * sizeof(void*)`
/// (`libcom/src/osi/os/posix/osdThread.c:506-509`), pointer-width
/// parameterised exactly as the C macro is: Small = 1, Medium = 2, Big = 4
/// units of `0x10000 * sizeof(void*)`. On a 64-bit host that is
/// 512 KiB / 1 MiB / 2 MiB; on `armv7-rtems-eabihf` it is
/// **256 KiB / 512 KiB / 1 MiB**.
///
/// # This is the table a C IOC on RTEMS 6 uses too
///
/// Base has a second, much smaller table — 5000 / 8000 / 11000 bytes, floored
/// at `RTEMS_MINIMUM_STACK_SIZE` — in `os/RTEMS-score/osdThread.c:136-150`.
/// It does not apply here. `configure/toolchain.c:29-35` selects
/// `OS_API = posix` for `__RTEMS_MAJOR__ >= 5`, so an RTEMS 6 build searches
/// `os/RTEMS-posix` then `os/RTEMS`, neither of which contains an
/// `osdThread.c`, and lands on `os/posix/osdThread.c` — the file above. The
/// score table is what RTEMS **4/5** used.
///
/// Do not "align" these constants with 5000/8000/11000. That would be a
/// regression against the C IOC we are matching, not a correction: on RTEMS 6
/// the C IOC asks `pthread_attr_setstacksize` for the POSIX number
/// (`os/posix/osdThread.c:212-215`), which is the same call `std` makes for
/// us, with the same argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackSizeClass {
    Small,
    Medium,
    Big,
}

impl StackSizeClass {
    /// Stack size in bytes for this class, matching the POSIX
    /// `stackSizeTable` in `osdThread.c` on **every** target.
    ///
    /// C's `STACK_SIZE(f) = f * 0x10000 * sizeof(void*)` is parameterised by
    /// pointer width and so is this, so the two agree by construction rather
    /// than on one word size: 512 KiB / 1 MiB / 2 MiB on a 64-bit host, and
    /// 256 KiB / 512 KiB / 1 MiB on `armv7-rtems-eabihf` — which is exactly
    /// what a C IOC asks `pthread_attr_setstacksize` for on that target.
    pub fn bytes(self) -> usize {
        // STACK_SIZE(f) = f * 0x10000 * sizeof(void*)
        let unit = 0x10000usize * std::mem::size_of::<usize>();
        match self {
            StackSizeClass::Small => unit,
            StackSizeClass::Medium => 2 * unit,
            StackSizeClass::Big => 4 * unit,
        }
    }
}

/// A thread's stack: a class, or the byte count a C driver passes to
/// `epicsThreadCreate` (asyn's port threads, FTDI's 500000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackSpec {
    Class(StackSizeClass),
    Bytes(usize),
}

impl StackSpec {
    /// C `epicsThreadCreateOpt`'s reading of its `stackSize`
    /// (`osdThread.c:602-603`): 0, 1, 2 are `epicsThreadStackSmall`, `Medium`,
    /// `Big` (`epicsThread.h:92`), anything else is bytes.
    pub fn from_c(raw: usize) -> Self {
        match raw {
            0 => Self::Class(StackSizeClass::Small),
            1 => Self::Class(StackSizeClass::Medium),
            2 => Self::Class(StackSizeClass::Big),
            n => Self::Bytes(n),
        }
    }

    /// The bytes the builder gets: a class as [`StackSizeClass::bytes`], a
    /// byte count as given. A count `pthread_attr_setstacksize` refuses
    /// (below `PTHREAD_STACK_MIN`) gets the attr's default, as C's thread does
    /// when it prints the `EINVAL` and goes on (`osdThread.c:213-214`).
    pub fn bytes(self) -> usize {
        match self {
            Self::Class(class) => class.bytes(),
            Self::Bytes(n) => pthread_refused_stack(n).unwrap_or(n),
        }
    }

    fn refused(self) -> bool {
        matches!(self, Self::Bytes(n) if pthread_refused_stack(n).is_some())
    }
}

/// C's `checkStatusOnce(status, message)` line (`osdThread.c:116-118`), which
/// C writes to stderr: `"%s error %s\n"` with `strerror(status)`. Every status
/// the port reports is EINVAL, so the errno stays behind this one cfg boundary.
fn einval_status_line(message: &str) -> String {
    #[cfg(unix)]
    // SAFETY: `strerror` returns a NUL-terminated string that stays valid
    // until the next `strerror` call; it is copied out at once.
    let text = unsafe { std::ffi::CStr::from_ptr(libc::strerror(libc::EINVAL)) }
        .to_string_lossy()
        .into_owned();
    // The MSVC and MinGW CRTs' `strerror(EINVAL)`.
    #[cfg(not(unix))]
    let text = "Invalid argument";
    format!("{message} error {text}")
}

/// The stack a fresh `pthread_attr_t` carries, which is what a C thread keeps
/// when its `stackSize` is refused.
#[cfg(unix)]
fn pthread_default_stack_bytes() -> usize {
    // SAFETY: `attr` is initialised by `pthread_attr_init` before it is read
    // and destroyed once; `bytes` is a valid out-pointer.
    unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attr);
        let mut bytes = 0;
        libc::pthread_attr_getstacksize(&attr, &mut bytes);
        libc::pthread_attr_destroy(&mut attr);
        bytes
    }
}

/// The stack a thread asking for `n` bytes gets instead, when
/// `pthread_attr_setstacksize` refuses `n` (below `PTHREAD_STACK_MIN`).
#[cfg(unix)]
fn pthread_refused_stack(n: usize) -> Option<usize> {
    // libc gives rtems a minimum of 0: nothing is refused there.
    match libc::PTHREAD_STACK_MIN {
        0 => None,
        min => (n < min).then(pthread_default_stack_bytes),
    }
}

/// No pthread attr off unix, so no size is refused.
#[cfg(not(unix))]
fn pthread_refused_stack(_n: usize) -> Option<usize> {
    None
}

impl From<StackSizeClass> for StackSpec {
    fn from(class: StackSizeClass) -> Self {
        Self::Class(class)
    }
}

/// The calling thread's stack size as `pthread_getattr_np` reports it — the
/// readback a test needs to see what [`StackSpec`] a thread was given.
/// `None` where glibc's call is unavailable.
pub fn current_thread_stack_bytes() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        pthread_stack().map(|(_, size)| size)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// The lowest address of the calling thread's stack, which a frame below it
/// overflows. `None` on a target this reads no call on, none of which this
/// workspace builds for: illumos, Haiku, Hurd, Fuchsia, AIX, QNX and the
/// rest.
pub fn current_thread_stack_low() -> Option<usize> {
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "rtems"
    ))]
    {
        pthread_stack().map(|(low, _)| low)
    }
    #[cfg(target_vendor = "apple")]
    {
        // SAFETY: both read the calling thread's own record.
        let (top, size) = unsafe {
            let me = libc::pthread_self();
            (
                libc::pthread_get_stackaddr_np(me).addr(),
                libc::pthread_get_stacksize_np(me),
            )
        };
        // Apple reports the stack's top, the address it grows down from.
        top.checked_sub(size)
    }
    #[cfg(target_os = "openbsd")]
    {
        // SAFETY: `seg` is a valid local the call fills for this thread.
        let (rc, seg) = unsafe {
            let mut seg: libc::stack_t = std::mem::zeroed();
            (
                libc::pthread_stackseg_np(libc::pthread_self(), &mut seg),
                seg,
            )
        };
        // `ss_sp` is the stack's top.
        if rc == 0 {
            seg.ss_sp.addr().checked_sub(seg.ss_size)
        } else {
            None
        }
    }
    #[cfg(windows)]
    {
        let (mut low, mut high) = (0, 0);
        // SAFETY: both out-pointers are valid locals.
        unsafe {
            windows_sys::Win32::System::Threading::GetCurrentThreadStackLimits(&mut low, &mut high)
        };
        Some(low)
    }
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "rtems",
        target_vendor = "apple",
        target_os = "openbsd",
        windows
    )))]
    None
}

/// The calling thread's stack as its pthread attributes report it: its lowest
/// address and its size.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "rtems"
))]
fn pthread_stack() -> Option<(usize, usize)> {
    use pthread_attr::{Attr, destroy, get, getstack, init};
    // SAFETY: `attr` is initialised before `get` fills it and destroyed once;
    // the out-pointers are valid locals.
    unsafe {
        let mut attr: Attr = std::mem::zeroed();
        if init(&mut attr) != 0 {
            return None;
        }
        let mut addr: *mut libc::c_void = std::ptr::null_mut();
        let mut size: libc::size_t = 0;
        let rc = match get(libc::pthread_self(), &mut attr) {
            0 => getstack(&attr, &mut addr, &mut size),
            refused => refused,
        };
        destroy(&mut attr);
        (rc == 0).then_some((addr.addr(), size))
    }
}

/// The calls [`pthread_stack`] makes. FreeBSD's `pthread_attr_get_np` fills
/// an initialised set, which is why every platform initialises first.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "rtems"
))]
mod pthread_attr {
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    pub(super) use libc::pthread_attr_get_np as get;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "netbsd"))]
    pub(super) use libc::pthread_getattr_np as get;
    #[cfg(not(target_os = "rtems"))]
    pub(super) use libc::{
        pthread_attr_destroy as destroy, pthread_attr_getstack as getstack,
        pthread_attr_init as init, pthread_attr_t as Attr,
    };

    /// RTEMS's `pthread_attr_t`: 96 bytes aligned to 8, as `arm-rtems6-gcc`
    /// and `arm-rtems7-gcc` measure it against `<pthread.h>`. `libc`'s is
    /// byte-aligned and it declares neither `pthread_getattr_np` nor
    /// `pthread_attr_getstack` for the target; both are in `librtemscpu.a`.
    #[cfg(target_os = "rtems")]
    #[repr(C, align(8))]
    pub(super) struct Attr([u8; 96]);

    #[cfg(target_os = "rtems")]
    unsafe extern "C" {
        #[link_name = "pthread_attr_init"]
        pub(super) fn init(attr: *mut Attr) -> libc::c_int;
        #[link_name = "pthread_getattr_np"]
        pub(super) fn get(thread: libc::pthread_t, attr: *mut Attr) -> libc::c_int;
        #[link_name = "pthread_attr_getstack"]
        pub(super) fn getstack(
            attr: *const Attr,
            addr: *mut *mut libc::c_void,
            size: *mut libc::size_t,
        ) -> libc::c_int;
        #[link_name = "pthread_attr_destroy"]
        pub(super) fn destroy(attr: *mut Attr) -> libc::c_int;
    }
}

/// Outcome of a best-effort OS-scheduler priority change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorityApplied {
    /// The OS scheduler honoured the requested priority (real-time
    /// SCHED_FIFO band applied).
    Realtime,
    /// Real-time scheduling was never requested: the switch
    /// ([`C_RT_PRIORITY_ENV`]) is off, so **no scheduler call was made at
    /// all** and the thread keeps the process default policy.
    Disabled,
    /// The platform does not expose a portable scheduler priority API
    /// (e.g. Windows here, or a non-Unix target) — no change applied.
    Unsupported,
    /// The platform exposes the API but rejected the request (typically
    /// the process lacks `CAP_SYS_NICE`/root for SCHED_FIFO). C's
    /// `osdThread.c` makes the same best-effort fall back to a non-RT
    /// thread in this case (`osdThread.c:647` "Try again without
    /// SCHED_FIFO").
    BestEffortFailed,
}

impl PriorityApplied {
    /// `true` only when the OS actually applied a real-time priority.
    pub fn is_realtime(self) -> bool {
        matches!(self, PriorityApplied::Realtime)
    }
}

/// C's switch for real-time (SCHED_FIFO) scheduling of the IOC threads that
/// carry an EPICS priority (`envDefs.h:80`, read once at `osdThread.c:389`).
/// Unset it is `YES` (`configure/CONFIG_ENV:57`); set, only a case-insensitive
/// `yes` turns it on (`envSubr.c:331`), and an empty value leaves it off
/// (`envSubr.c:92-95` hands `envGetBoolConfigParam` no value, so
/// `wantPrioScheduling` keeps its initial 0, `osdThread.c:97`).
pub const C_RT_PRIORITY_ENV: &str = "EPICS_ALLOW_POSIX_THREAD_PRIORITY_SCHEDULING";

/// This port's earlier name for [`C_RT_PRIORITY_ENV`], honoured only when C's
/// is unset. Accepted "on" values, case-insensitive and trimmed: `YES`,
/// `TRUE`, `ON`, `1`; any other value is off.
pub const RT_PRIORITY_ENV: &str = "EPICS_RS_ALLOW_RT_PRIORITY";

/// Whether this process may ask the OS for real-time scheduling.
///
/// Resolved from [`C_RT_PRIORITY_ENV`] and [`RT_PRIORITY_ENV`] exactly once per
/// process by [`RtPolicy::current`]. It is a *parameter* of
/// [`apply_to_current_thread_under`] rather than a check buried inside the
/// syscall wrapper, so "switch off ⟹ no scheduler call" is a property of
/// the call graph and not of a runtime branch some future caller can skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtPolicy {
    /// Never touch the OS scheduler.
    Disabled,
    /// Best-effort SCHED_FIFO, falling back to default scheduling.
    AllowRealtime,
}

/// What an unset switch means: on, on every target, as C's
/// `configure/CONFIG_ENV:57` default is. Where the process may not use
/// SCHED_FIFO the request falls back to the default policy silently, as C's
/// does (`osdThread.c:276-288`, `:646-647`).
pub const DEFAULT_POLICY: RtPolicy = RtPolicy::AllowRealtime;

impl RtPolicy {
    /// Resolve the two switches: C's name wins whenever it is set, the alias
    /// only when C's is unset, and [`DEFAULT_POLICY`] when neither is.
    ///
    /// The values are raw bytes, as C's `getenv` hands them over: a value that
    /// is not UTF-8 is set, and not `yes`.
    pub fn from_env(
        c_switch: Option<&std::ffi::OsStr>,
        alias: Option<&std::ffi::OsStr>,
    ) -> RtPolicy {
        match (c_switch.map(|c| c.as_encoded_bytes()), alias) {
            (Some(c), _) if c.eq_ignore_ascii_case(b"yes") => RtPolicy::AllowRealtime,
            (Some(_), _) => RtPolicy::Disabled,
            (None, Some(alias)) => {
                let v = alias.as_encoded_bytes().trim_ascii();
                let on = v.eq_ignore_ascii_case(b"yes")
                    || v.eq_ignore_ascii_case(b"true")
                    || v.eq_ignore_ascii_case(b"on")
                    || v == b"1";
                if on {
                    RtPolicy::AllowRealtime
                } else {
                    RtPolicy::Disabled
                }
            }
            (None, None) => DEFAULT_POLICY,
        }
    }

    /// The process-wide policy, read from the environment on first use and
    /// cached. Caching matches C, which resolves its switch once in
    /// `epicsThreadInit` (`osdThread.c:389`), and keeps later `set_var`
    /// calls from changing the scheduling of threads already running.
    pub fn current() -> RtPolicy {
        static POLICY: std::sync::OnceLock<RtPolicy> = std::sync::OnceLock::new();
        *POLICY.get_or_init(|| {
            RtPolicy::from_env(
                super::env::get(C_RT_PRIORITY_ENV).as_deref(),
                super::env::get(RT_PRIORITY_ENV).as_deref(),
            )
        })
    }
}

/// Apply an EPICS [`ThreadPriority`] to the **current OS thread**, best
/// effort.
///
/// C parity: mirrors `osdThread.c`'s SCHED_FIFO mapping
/// `oss = p * (max-min)/100 + min` over the kernel's
/// `sched_get_priority_min/max(SCHED_FIFO)` range, and the
/// EPERM-fallback to a non-RT thread.
///
/// Returns [`PriorityApplied`] describing what the platform allowed —
/// callers running in environments without RT permission still get a
/// running thread, just at the default policy, exactly as a C IOC does.
///
/// Note: tokio tasks spawned via [`Reactor::spawn`] share worker threads, so
/// this is meaningful for [`Reactor::spawn_blocking`] closures and for tuning
/// the runtime's worker threads at startup — not for individual async
/// tasks.
///
/// Platform support: the OS-scheduler change is wired on Linux, via the
/// range-probed linear map of `os/posix/osdThread.c`, and on RTEMS, via the
/// fixed map of `os/RTEMS-score/osdThread.c` inverted into POSIX space (see
/// `map_epics_priority_rtems` — the two maps differ in shape, deliberately).
/// On other targets the priority enum + API surface still exist but `apply`
/// reports [`PriorityApplied::Unsupported`] — no band has been measured there.
///
/// Real-time scheduling is requested only while the switch is on (see
/// [`RtPolicy`]); it is on unless turned off. With the switch off this
/// returns [`PriorityApplied::Disabled`] without calling the OS at all.
pub fn apply_to_current_thread(priority: ThreadPriority) -> PriorityApplied {
    apply_to_current_thread_under(RtPolicy::current(), priority)
}

/// [`apply_to_current_thread`] with the real-time policy supplied by the
/// caller instead of read from the environment.
///
/// The single gate: [`RtPolicy::Disabled`] returns before any scheduler
/// call is reachable. Exposed so a caller that already owns its RT policy
/// (and the tests that must exercise both states in one process, since
/// [`RtPolicy::current`] is cached) does not have to mutate the environment.
pub fn apply_to_current_thread_under(
    policy: RtPolicy,
    priority: ThreadPriority,
) -> PriorityApplied {
    match policy {
        RtPolicy::Disabled => PriorityApplied::Disabled,
        RtPolicy::AllowRealtime => apply_priority_impl(priority.value()),
    }
}

thread_local! {
    /// C `epicsThreadOSD::isOkToBlock` (`osdThread.c`).
    ///
    /// `false` for every thread, as C leaves it for every `epicsThreadCreate`
    /// thread and for `_main_`, which is `calloc`ed (`osdThread.c:406`); only
    /// an iocsh scope and `iocInit` raise it, as in C. C's `createImplicit`
    /// default of 1 (`osdThread.c:710`) is deliberately not taken: it is for
    /// foreign OS threads, which do not exist here, and the only threads this
    /// port did not create are async executor workers, where an `errlog_flush`
    /// wait would block the executor.
    static OK_TO_BLOCK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The refusal of a binary that cannot run on the backend this build selects:
/// `message` on stderr, then exit status 1, because a binary that refuses to
/// start has failed to start. Every such refusal goes through here, which is
/// how `target-cfg-gate` finds them: a test that runs the binary must be
/// declared under a cfg where the call is compiled out.
pub fn refuse_backend(message: &str) -> ! {
    crate::stderr_println!("{message}");
    std::process::exit(1)
}

/// C `epicsThreadIsOkToBlock` (`osdThread.c:1145-1150`).
///
/// "May this thread wait on something that is not bounded by its own work?" —
/// asked by facilities that would otherwise stall a scan or a serving loop to
/// keep themselves in step. `runtime::log`'s errlog is the caller C has
/// (`errlog.c:186`); the answer is what stops a real-time thread from waiting
/// on the log drain and what stops the log's own worker from waiting on itself.
pub fn thread_is_ok_to_block() -> bool {
    OK_TO_BLOCK.with(std::cell::Cell::get)
}

/// C `epicsThreadSetOkToBlock` (`osdThread.c:1152-1157`).
///
/// C's callers are `iocsh` around a script (`iocsh.cpp:1122`, restored at
/// `:1327`) and `iocInit` (`iocInit.c:126`): both raise their thread to
/// blocking for the duration of a boot, because a boot is not real-time work.
pub fn set_thread_ok_to_block(ok: bool) {
    OK_TO_BLOCK.with(|c| c.set(ok));
}

/// The prologue an IOC thread runs as its first statement, when it takes on
/// its role: publish its name to the OS, then request its scheduling band.
///
/// Two things a thread owes the operator, and they have different gates.
/// The band follows the switch ([`C_RT_PRIORITY_ENV`]) and is best effort. The **name** is
/// unconditional: a thread that cannot be identified in a task listing
/// cannot be diagnosed, and on RTEMS that listing is often the only
/// instrument there is — bring-up had to measure libbsd's priority band by
/// other means precisely because none of our threads carried a name the
/// kernel could show.
///
/// Use this rather than [`apply_to_current_thread`] at a thread's entry, so
/// naming cannot be forgotten by the next thread somebody adds. Call
/// [`apply_to_current_thread`] directly only when re-banding a thread that
/// is already named and running. A thread that deliberately takes no EPICS
/// band — the iocsh script runners — calls [`name_current_thread`] alone
/// rather than inventing a priority just to be visible.
///
/// The band this asks the OS for is also what orders the blocking locks in
/// `server::database::record_lock` and its siblings: they are
/// priority-inheritance mutexes, so the wait queue is the *kernel's* and it
/// is ranked by the scheduling priority requested here. With
/// [`RtPolicy::Disabled`] no scheduler call happens and there is no ordering
/// to have — the hosted default, where the locks still exclude but do not
/// prioritise ([`crate::runtime::sync::is_pi_mutex_active`]).
pub fn enter_ioc_thread(priority: ThreadPriority) -> PriorityApplied {
    prepare_current_thread();
    band_and_register(priority)
}

/// [`enter_ioc_thread`] for C's process thread (`osdThread.c:406-412`), which
/// `once()` lists at EPICS priority 0 and never reschedules: no scheduler call.
fn enter_process_thread() {
    prepare_current_thread();
    thread_registry::register_current(ThreadPriority::Custom(0), PriorityApplied::Disabled);
}

/// What every listed thread does first, banded or not.
fn prepare_current_thread() {
    name_current_thread();
    build_park_state();
    build_drive_state();
    build_tokio_park_state();
}

/// `parking_lot_core` builds a thread's park state on its first park, and
/// that thread grows the process-wide table whenever live threads outgrow it:
/// two allocations, inside whichever lock acquire first met contention — a
/// record hold's errlog post, say. Building it at entry keeps them there.
fn build_park_state() {
    let key = 0u8;
    // SAFETY: the key is this frame's address, which no other thread parks
    // on, and `validate` refuses, so the call returns without sleeping and
    // without running the other callbacks.
    unsafe {
        parking_lot_core::park(
            std::ptr::from_ref(&key) as usize,
            || false,
            || {},
            |_, _| {},
            parking_lot_core::DEFAULT_PARK_TOKEN,
            None,
        );
    }
}

/// A thread's first [`block_on_sync`] builds the thread-locals it reads: the
/// [`current_thread_waker`] (an `Arc`) and tokio's runtime context, each with
/// the node glibc callocs to drop it at thread exit — inside a scan thread's
/// first pass. Building them at entry keeps all three here.
fn build_drive_state() {
    drop(current_thread_waker());
    let _ = RuntimeHandle::try_current();
}

/// tokio builds a thread's parker (an `Arc`) on its first wait outside a
/// runtime's own park, which an unbounded channel's `try_recv` makes when it
/// meets a send half done: a port actor's first such race, mid-cycle. A ready
/// `blocking_recv` builds it here. A thread already in a tokio context may be
/// driving one, where blocking panics; it is no fresh thread, so it is left.
fn build_tokio_park_state() {
    if RuntimeHandle::try_current().is_ok() {
        return;
    }
    let (tx, rx) = tokio::sync::oneshot::channel();
    let _ = tx.send(());
    let _ = rx.blocking_recv();
}

/// C `epicsThreadSetPriority(epicsThreadGetIdSelf(), prio)` on a thread that
/// is already running — the band changing while the thread keeps the name and
/// the role it took at its entry.
///
/// [`enter_ioc_thread`] is for a thread taking on its role; this is for one
/// whose role changes band under it. The port's caller is the periodic scan
/// helper, which carries the band of whichever rate it is serving
/// (`dbScan.c:1269-1272`) — the whole point of the pool being shared, since a
/// fast rate's records must not be processed at a slow rate's priority.
///
/// Deliberately not [`apply_to_current_thread`]: that one changes the OS and
/// nothing else, so a thread that used it would keep the band its row claims
/// it is at, and `epicsThreadShowAll` would be wrong for exactly the threads
/// that move.
pub fn reband_current_thread(priority: ThreadPriority) -> PriorityApplied {
    band_and_register(priority)
}

/// Take the band and write the row that reports it — the one caller of
/// [`apply_to_current_thread`] in this crate.
///
/// The two halves are one function because they are one fact: a row that
/// disagrees with the thread's scheduling is worse than no row, and splitting
/// them left two entry points that each had to remember the second half.
fn band_and_register(priority: ThreadPriority) -> PriorityApplied {
    let applied = apply_to_current_thread(priority);
    thread_registry::register_current(priority, applied);
    applied
}

/// C's name for the thread that runs `main` (`osdThread.c:406-412`): the
/// startup script, the `afterIocRunning` queue and the `iocsh(NULL)` prompt.
pub const MAIN_THREAD_NAME: &str = "_main_";

/// C `epicsThreadGetNameSelf` (`osdThread.c:972-981`): the calling thread's
/// row name, so the [`run_on_main_thread`] thread answers `_main_`. A thread
/// with no row keeps its `std` name (a runtime worker); one with neither gets
/// C's `createImplicit` row.
pub fn thread_name_self() -> String {
    if let Some(name) = thread_registry::current_name() {
        return name;
    }
    if let Some(name) = std::thread::current().name() {
        return name.to_string();
    }
    thread_registry::register_current_implicit();
    thread_registry::current_name().expect("register_current_implicit installed a row")
}

/// Run `job` on C's `_main_` thread (`osdThread.c:406-412`), the one thread a
/// C IOC runs its `main` on: the startup script, `iocInit` with the
/// `afterIocRunning` queue it drains, and `iocsh(NULL)`.
///
/// Jobs run one at a time, in the order handed over — the statement order of
/// one `main` — so a prompt queued while the script still runs opens after
/// it, and the thread list holds one `_main_` row for the process's life.
/// Started by the first call. A job that panics drops its result, as a thread
/// of its own would have, and the next job still runs.
pub fn run_on_main_thread<R, F>(
    job: F,
) -> std::io::Result<crate::runtime::sync::oneshot::Receiver<R>>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let (tx, rx) = crate::runtime::sync::oneshot::channel();
    main_thread::submit(Box::new(move || {
        let _ = tx.send(job());
    }))?;
    Ok(rx)
}

mod main_thread {
    use super::{MAIN_THREAD_NAME, MandatoryThread, StackSizeClass};
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    type Job = Box<dyn FnOnce() + Send>;

    static QUEUE: Mutex<Option<Sender<Job>>> = Mutex::new(None);

    thread_local! {
        /// Set on the thread [`start`] spawned, for as long as it serves.
        static SERVING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// On the serving `_main_`, hand the queue on: the next [`submit`]
    /// starts another.
    pub(super) fn retire_if_current() {
        if SERVING.replace(false) {
            *QUEUE.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
    }

    pub(super) fn submit(job: Job) -> std::io::Result<()> {
        let mut queue = QUEUE.lock().unwrap_or_else(|e| e.into_inner());
        if queue.is_none() {
            *queue = Some(start()?);
        }
        queue
            .as_ref()
            .expect("started above")
            .send(job)
            .map_err(|_| std::io::Error::other("the _main_ thread has ended"))
    }

    /// `Iocsh` on RTEMS because base raises `_main_` to it
    /// (`posix/rtems_init.c:1002`): a thread that inherits `POSIX_Init`'s
    /// band runs one level above idle, behind every scan thread. Elsewhere C's
    /// `_main_` is the process thread, never rescheduled. `Big` because a
    /// shell's commands reach record processing and device support, the depth
    /// the callback bands get.
    fn start() -> std::io::Result<Sender<Job>> {
        let (tx, rx) = std::sync::mpsc::channel::<Job>();
        #[cfg(target_os = "rtems")]
        let thread = MandatoryThread::new(
            MAIN_THREAD_NAME,
            super::ThreadPriority::Iocsh,
            StackSizeClass::Big,
        );
        #[cfg(not(target_os = "rtems"))]
        let thread = MandatoryThread::process_thread(MAIN_THREAD_NAME, StackSizeClass::Big);
        thread.try_spawn(move || {
            SERVING.set(true);
            for job in rx {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            }
        })?;
        Ok(tx)
    }
}

/// Push `std::thread::current().name()` down to the OS thread object.
///
/// No-op off RTEMS: `std` already calls the platform's `pthread_setname_np`
/// from `Builder::spawn` on every hosted target it supports. RTEMS is not in
/// that list, so a name set with `Builder::name` lives only in Rust's own
/// `Thread` struct and never reaches the kernel — which is what makes our
/// threads invisible to an RTEMS task listing.
#[cfg(not(target_os = "rtems"))]
pub fn name_current_thread() {}

/// RTEMS: `pthread_setname_np` (`cpukit/posix/src/pthreadsetnamenp.c`) into
/// `_Thread_Set_name`, which `strlcpy`s into `_Thread_Maximum_name_size`.
///
/// That size is `CONFIGURE_MAXIMUM_THREAD_NAME_SIZE`, default **16**
/// including the NUL (`rtems/score/thread.h:1079` (`rtems_6`),
/// `rtems/confdefs/threads.h:92-93` (`rtems_6`)), and the boot shim does not override
/// it — so 15 usable bytes, the same budget `std` truncates to on Linux
/// (`TASK_COMM_LEN`). Truncating here rather than letting the kernel do it
/// keeps that existing rule and keeps the call's success unambiguous:
/// `_Thread_Set_name` still *sets* an over-long name, it just also returns
/// `STATUS_RESULT_TOO_LARGE` → `ERANGE`, so an untruncated call would report
/// failure for a name it had in fact applied.
#[cfg(target_os = "rtems")]
pub fn name_current_thread() {
    let current = std::thread::current();
    let Some(name) = current.name() else {
        return;
    };
    let Ok(c_name) = std::ffi::CString::new(truncate_thread_name(name)) else {
        // An interior NUL cannot come from `Builder::name`, which takes a
        // `String`; nothing to publish if one ever did.
        return;
    };
    // SAFETY: `pthread_setname_np` acts on the calling thread and reads a
    // NUL-terminated string that outlives the call.
    let rc =
        unsafe { rtems_sched::pthread_setname_np(rtems_sched::pthread_self(), c_name.as_ptr()) };
    if rc != 0 {
        tracing::debug!(
            target: "epics_base_rs::runtime",
            thread = name,
            errno = rc,
            "pthread_setname_np failed; thread stays unnamed in the task listing"
        );
    }
}

/// `CONFIGURE_MAXIMUM_THREAD_NAME_SIZE` (default 16) minus the NUL.
#[cfg(any(target_os = "rtems", test))]
const RTEMS_MAX_THREAD_NAME_BYTES: usize = 15;

/// Cut a thread name to what an RTEMS thread object can hold, on a UTF-8
/// boundary.
///
/// Byte budget, not character count — `_Thread_Set_name` `strlcpy`s bytes —
/// but never mid-codepoint, or the task listing shows invalid UTF-8. Kept as
/// a pure function so the rule is testable on the host, where the caller
/// that applies it does not exist.
#[cfg(any(target_os = "rtems", test))]
fn truncate_thread_name(name: &str) -> &str {
    let mut end = name.len().min(RTEMS_MAX_THREAD_NAME_BYTES);
    while end > 0 && !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The process's list of live EPICS threads — C's `pthreadList`
/// (`os/posix/osdThread.c:94`).
///
/// C keeps a list because no OS gives a process a portable thread
/// enumerator, and `epicsThreadShowAll` has to print one. Entries go on in
/// `start_routine` (`:436-440`), executed by the new thread itself, and come
/// off in `free_threadInfo` (`:232`), which is the thread-specific-data
/// destructor `epicsThreadInit` registered — so a dead thread leaves the list
/// at the moment it dies, not when somebody next reads it.
///
/// Both moments are the same here. [`enter_ioc_thread`] inserts, and the
/// `Registration` it parks in thread-local storage removes on the way out.
/// That makes the prologue the single owner of membership: a thread cannot be
/// listed without having been named and banded, and cannot stay listed once
/// its stack is gone. It also makes a second [`enter_ioc_thread`] on one
/// thread — a re-band — replace that thread's row rather than add a second
/// one, because storing the new `Registration` drops the old.
///
/// One row C has that this cannot: C's `_main_` (`osdThread.c:406-412`),
/// added by `epicsThreadInit`'s `pthread_once` for whichever thread first
/// called into `epicsThread`. This port has no process-init hook that runs on
/// the main thread, so the main thread is listed only if it runs the prologue
/// itself.
/// C `epicsThreadOSD`'s `isSuspended` flag and its `suspendEvent`
/// (`osdThread.c:179`, `:793-801`), as one cell instead of two.
///
/// A thread is suspended *exactly while* it is blocked in
/// [`suspend_self`]. The bit the `STATE` column prints, the bit
/// `epicsThreadResume` tests, and the condition the parked thread waits on
/// are one `bool` under one mutex, so a `SUSPEND` row and a resume that
/// refuses cannot disagree: there is no second flag to fall out of step.
///
/// One `Suspension` exists per thread, owned by that thread's
/// thread-local; its registry row holds a clone of the same `Arc`, which
/// is why reading a [`ThreadInfo`] out of a snapshot still sees the live
/// state — as C's listing walk reads `pthreadInfo->isSuspended` live.
#[derive(Debug, Default)]
struct Suspension {
    suspended: std::sync::Mutex<bool>,
    cv: std::sync::Condvar,
}

impl Suspension {
    /// A poisoned cell is still readable: a panic elsewhere must not make a
    /// thread permanently unresumable, nor wedge the listing.
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.suspended.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// C `epicsThreadSuspendSelf` (`osdThread.c:785-795`): raise the flag,
    /// then wait. C does the two under no lock and relies on its event
    /// latching if a resume lands between them; holding the mutex across
    /// both closes that window instead of depending on the latch.
    fn suspend(&self) {
        let mut suspended = self.lock();
        *suspended = true;
        while *suspended {
            suspended = self.cv.wait(suspended).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// C `epicsThreadResume` (`osdThread.c:797-802`) with C's iocsh
    /// `if (!epicsThreadIsSuspended(tid))` arm (`libComRegister.c:445-449`)
    /// folded into it, so the test and the act cannot race apart.
    ///
    /// `false` means the thread was not suspended and nothing was done —
    /// C's event would have latched a token there, and deliberately does
    /// not here: a `dbc` issued while a lock set is running must not bank a
    /// resume that skips the next breakpoint.
    fn resume(&self) -> bool {
        let mut suspended = self.lock();
        if !*suspended {
            return false;
        }
        *suspended = false;
        self.cv.notify_all();
        true
    }

    fn is_suspended(&self) -> bool {
        *self.lock()
    }
}

thread_local! {
    /// The calling thread's cell, made on first use so a thread that never
    /// registered can still park itself and be seen once it does.
    static SUSPENSION: Arc<Suspension> = Arc::new(Suspension::default());
}

fn current_suspension() -> Arc<Suspension> {
    SUSPENSION.with(Arc::clone)
}

/// C `epicsThreadSuspendSelf` (`osdThread.c:785-795`) — park the calling
/// thread until something resumes it.
///
/// Only the calling thread can put itself here, which is C's rule and the
/// reason the state has a single writer: `epicsThreadShowAll` reports what
/// this call is doing, it does not learn it from a flag someone else set.
pub fn suspend_self() {
    // C `epicsThreadSuspendSelf` reaches `createImplicit` for a thread with no
    // row (`osdThread.c:790-793`), so parking always leaves something for
    // `epicsThreadShowAll` to mark `SUSPEND` and for `epicsThreadResume` to
    // name. Without it a thread could be suspended and unreachable.
    thread_registry::register_current_implicit();
    current_suspension().suspend();
}

/// A thread that cannot proceed (C `cantProceed`, `cantProceed.c:54-72`), from
/// the moment it knows to its park. A `_main_` hands its job queue on in
/// [`Self::begin`], before it releases anything waiting on it, so a job
/// submitted after that is new work and starts a `_main_` of its own; the jobs
/// already queued behind it stay there, as the thread's own next statements do
/// in C.
#[must_use = "a thread that cannot proceed parks"]
pub struct ForeverPark(());

impl ForeverPark {
    pub fn begin() -> Self {
        main_thread::retire_if_current();
        Self(())
    }

    /// Suspend, and suspend again whenever `epicsThreadResume` wakes the
    /// thread (`cantProceed.c:70-71`): one that cannot proceed must not run on.
    pub fn park(self) -> ! {
        loop {
            suspend_self();
        }
    }
}

/// C `epicsThreadResume(id)` (`osdThread.c:797-802`) on a handle a
/// subsystem stored for itself — `dbBkpt.c`'s `pnode->taskid`, resumed by
/// `dbc`/`dbs` (`dbBkpt.c:518`, `:547`).
///
/// Matches the `EPICS ID` only, never the OS id that [`thread_by_id`] also
/// accepts: this is a handle the port issued to itself, not a token a
/// shell user typed, and the two number spaces can collide.
///
/// `false` means no such thread, or it was not suspended.
pub fn resume_thread(id: u64) -> bool {
    thread_report()
        .into_iter()
        .find(|t| t.id == id)
        .is_some_and(|t| t.resume())
}

/// The calling thread's OS id, read without `std` thread-local state — the
/// identity that still works in a process `atexit` handler, after macOS has
/// destroyed the main thread's locals.
pub(crate) use thread_registry::os_thread_id;

mod thread_registry {
    use super::{PriorityApplied, Suspension, ThreadPriority};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    /// Creation order, as C's `ellAdd` appends.
    static THREADS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

    /// One listed thread: the [`super::ThreadInfo`] columns, less the `OSSPRI`
    /// a snapshot reads, plus what that read needs.
    struct Row {
        id: u64,
        name: String,
        os_id: u64,
        priority: ThreadPriority,
        sched: Sched,
        suspension: Arc<Suspension>,
    }

    /// Where `OSSPRI` comes from. Hosted POSIX reads it from the thread, as C
    /// does (`posix/osdThreadExtra.c:36-40`): the default policy's
    /// `sched_priority` is 0 on Linux but 31 on Darwin, so no constant can
    /// stand in for it. The `pthread_t` is kept as an integer because Darwin's
    /// is a pointer, which would make the list `!Send`.
    #[cfg(all(unix, not(epics_embedded_target)))]
    struct Sched(usize);

    /// The embedded targets and Windows recompute it from the band the
    /// prologue applied — the only scheduling change this workspace makes.
    #[cfg(not(all(unix, not(epics_embedded_target))))]
    struct Sched(PriorityApplied);

    impl Sched {
        #[cfg(all(unix, not(epics_embedded_target)))]
        fn current(_applied: PriorityApplied) -> Self {
            // SAFETY: `pthread_self` takes no arguments and cannot fail.
            Sched(unsafe { libc::pthread_self() } as usize)
        }

        #[cfg(not(all(unix, not(epics_embedded_target))))]
        fn current(applied: PriorityApplied) -> Self {
            Sched(applied)
        }
    }

    impl Row {
        fn info(&self) -> super::ThreadInfo {
            super::ThreadInfo {
                id: self.id,
                name: self.name.clone(),
                os_id: self.os_id,
                priority: self.priority,
                os_priority: self.os_priority(),
                suspension: Arc::clone(&self.suspension),
            }
        }

        /// Called only under the list lock. A row leaves the list from its
        /// thread's own TLS destructor, so the thread is alive here — C's
        /// `listLock` gives `epicsThreadShowInfo` the same guarantee.
        #[cfg(all(unix, not(epics_embedded_target)))]
        fn os_priority(&self) -> i32 {
            let mut policy = 0;
            // SAFETY: plain-integer struct, valid zeroed.
            let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
            // SAFETY: a live thread (above), with stack-local out-params.
            let status = unsafe {
                libc::pthread_getschedparam(
                    self.sched.0 as libc::pthread_t,
                    &mut policy,
                    &mut param,
                )
            };
            if status == 0 { param.sched_priority } else { 0 }
        }

        /// Any outcome but [`PriorityApplied::Realtime`] left the thread on
        /// the default policy, whose `sched_priority` C's live read returns as
        /// 0 on these targets.
        #[cfg(not(all(unix, not(epics_embedded_target))))]
        fn os_priority(&self) -> i32 {
            if self.sched.0 != PriorityApplied::Realtime {
                return 0;
            }
            self.mapped_os_priority()
        }

        #[cfg(target_os = "rtems")]
        fn mapped_os_priority(&self) -> i32 {
            super::map_epics_priority_rtems(self.priority.value())
        }

        #[cfg(not(any(unix, epics_embedded_target)))]
        fn mapped_os_priority(&self) -> i32 {
            // No band is applied on these targets, so `Realtime` never occurs.
            0
        }
    }

    /// C hands out the address of the thread's `epicsThreadOSD` as the
    /// `EPICS ID`; a counter serves the same purpose — an opaque handle
    /// `epicsThreadShow` can be given back — without publishing an address.
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);

    /// Removes this thread's row when the thread ends. Held in thread-local
    /// storage because that is the only destructor Rust runs at exactly the
    /// point C's TSD destructor runs, and because [`super::enter_ioc_thread`]
    /// returns [`PriorityApplied`] to callers that discard it — a guard
    /// handed back there would be dropped immediately.
    struct Registration(u64);

    impl Drop for Registration {
        fn drop(&mut self) {
            let id = self.0;
            lock().retain(|t| t.id != id);
        }
    }

    thread_local! {
        static REGISTRATION: std::cell::RefCell<Option<Registration>> =
            const { std::cell::RefCell::new(None) };
    }

    /// A poisoned list is still a readable list: a panic while formatting one
    /// row must not make the IOC's thread listing permanently unavailable.
    fn lock() -> std::sync::MutexGuard<'static, Vec<Row>> {
        THREADS.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Add the calling thread. Called only from [`super::enter_ioc_thread`].
    pub(super) fn register_current(priority: ThreadPriority, applied: PriorityApplied) {
        push(
            std::thread::current()
                .name()
                .unwrap_or("noname")
                .to_string(),
            priority,
            applied,
        );
    }

    /// The one place a row is built, so which entry point made a row cannot
    /// change the row's shape or how it is reaped.
    fn push(name: String, priority: ThreadPriority, applied: PriorityApplied) {
        let info = Row {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            os_id: os_thread_id(),
            priority,
            sched: Sched::current(applied),
            // The same cell the thread's own `suspend_self` blocks on, so
            // the row cannot report a state the thread is not in.
            suspension: super::current_suspension(),
        };
        let id = info.id;
        lock().push(info);
        // Drop the previous guard outside the `RefCell` borrow: its `Drop`
        // takes the list lock, and a re-band would otherwise re-enter the
        // borrow through a path that is easy to add later and hard to see.
        let previous = REGISTRATION.with(|r| r.borrow_mut().replace(Registration(id)));
        drop(previous);
    }

    /// The calling thread's row id, from the guard the prologue parked in
    /// thread-local storage — no list walk, and no dependence on the row
    /// still being there.
    pub(super) fn current_id() -> Option<u64> {
        REGISTRATION.with(|r| r.borrow().as_ref().map(|reg| reg.0))
    }

    /// The calling thread's row name, if it has a row.
    pub(super) fn current_name() -> Option<String> {
        let id = current_id()?;
        lock()
            .iter()
            .find(|row| row.id == id)
            .map(|row| row.name.clone())
    }

    /// C `createImplicit` (`osdThread.c:697-735`): the row a thread that never
    /// went through `epicsThreadCreate` gets the first time libCom needs one
    /// for it. C makes one rather than answering NULL in both
    /// `epicsThreadGetIdSelf` (`:942`) and `epicsThreadSuspendSelf` (`:792`),
    /// which is why a thread can park itself and still be listed and resumed.
    ///
    /// C names it `non-EPICS_%ld` of the `pthread_t` and gives it EPICS
    /// priority 0 without touching its scheduling. The number here is the
    /// row's own OS id — the one its `LWP ID`/`PTHREAD ID` column prints — so
    /// the name and the column agree, which on Linux C's do not.
    pub(super) fn register_current_implicit() {
        if REGISTRATION.with(|r| r.borrow().is_some()) {
            return;
        }
        push(
            format!("non-EPICS_{}", os_thread_id()),
            ThreadPriority::Custom(0),
            PriorityApplied::Disabled,
        );
    }

    /// A snapshot of the list, in creation order.
    ///
    /// A copy rather than a borrow because C walks the live list under
    /// `listLock` while calling `epicsThreadShowInfo`, which does I/O; taking
    /// the rows out first keeps the lock off the write path of whatever
    /// stream the shell is printing to. `OSSPRI` is read here, under the
    /// lock, which is what keeps every listed thread alive for the read.
    pub(super) fn snapshot() -> Vec<super::ThreadInfo> {
        lock().iter().map(Row::info).collect()
    }

    /// Linux prints `LWP ID` because that is the number `top`, `ps -L` and
    /// `/proc` show; every other target prints the `pthread_t`, which is all
    /// POSIX defines. C makes the same split, in two `osdThreadExtra.c`
    /// files.
    #[cfg(target_os = "linux")]
    pub(crate) fn os_thread_id() -> u64 {
        // SAFETY: `gettid` takes no arguments and cannot fail.
        unsafe { libc::syscall(libc::SYS_gettid) as u64 }
    }

    #[cfg(target_os = "rtems")]
    pub(crate) fn os_thread_id() -> u64 {
        // SAFETY: `pthread_self` takes no arguments and cannot fail.
        unsafe { super::rtems_sched::pthread_self() as u64 }
    }

    #[cfg(all(unix, not(any(target_os = "linux", target_os = "rtems"))))]
    pub(crate) fn os_thread_id() -> u64 {
        // SAFETY: `pthread_self` takes no arguments and cannot fail.
        unsafe { libc::pthread_self() as u64 }
    }

    /// Windows prints a `WIN32-ID` column, which C fills from
    /// `GetCurrentThreadId()` (`os/WIN32/osdThread.c:564`, printed at
    /// `:1043`). The zero this used to return is not a thread id there and
    /// was the same one for every row, so `thread_by_id` matched the token
    /// `0` against whichever thread the snapshot listed first — enough for
    /// `epicsThreadShow 0` to print a stranger's row and for
    /// `epicsThreadResume 0` to report on it instead of rejecting the id.
    #[cfg(windows)]
    pub(crate) fn os_thread_id() -> u64 {
        // SAFETY: `GetCurrentThreadId` takes no arguments and cannot fail.
        unsafe { GetCurrentThreadId() }.into()
    }

    #[cfg(windows)]
    unsafe extern "system" {
        fn GetCurrentThreadId() -> u32;
    }
}

/// One row of [`thread_report`] — what C's `epicsThreadShowInfo` prints about
/// one thread (`os/Linux/osdThreadExtra.c:31-55`).
#[derive(Clone, Debug)]
pub struct ThreadInfo {
    id: u64,
    name: String,
    os_id: u64,
    priority: ThreadPriority,
    os_priority: i32,
    suspension: Arc<Suspension>,
}

impl ThreadInfo {
    /// The `EPICS ID` column, and the handle `epicsThreadShow <id>` accepts.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The `NAME` column: `std::thread::current().name()`, or `noname` for a
    /// thread spawned without one — C's own placeholder for the same case
    /// (`osdThread.c:601`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The `LWP ID` column on Linux, `PTHREAD ID` elsewhere.
    pub fn os_id(&self) -> u64 {
        self.os_id
    }

    /// The `OSIPRI` column: the EPICS priority as given (C `osiPriority`).
    pub fn epics_priority(&self) -> u32 {
        self.priority.value()
    }

    /// The `OSSPRI` column: the thread's `sched_priority`, read when the
    /// snapshot was taken, as C reads it per row (`osdThreadExtra.c:36-40`).
    pub fn os_priority(&self) -> i32 {
        self.os_priority
    }

    /// C `epicsThreadIsSuspended` (`osdThread.c:910-914`) — the `STATE`
    /// column's source, and what C's iocsh `epicsThreadResume` tests before
    /// it acts (`libComRegister.c:445`).
    pub fn is_suspended(&self) -> bool {
        self.suspension.is_suspended()
    }

    /// C `epicsThreadResume` (`osdThread.c:797-802`) on this thread.
    ///
    /// `false` means it was not suspended, which is the arm C's iocsh
    /// wrapper reports as `Thread %s is not suspended`
    /// (`libComRegister.c:445-449`).
    pub fn resume(&self) -> bool {
        self.suspension.resume()
    }

    /// The row `epicsThreadShowInfo` prints, without its newline.
    ///
    /// `%16.16s %14p %8lu    %3d%8d %8.8s%s` on Linux, `%12lu` for the OS id
    /// elsewhere. The trailing `%s` is C's ` ZOMBIE` marker, for a thread
    /// whose function has returned but whose `epicsThreadOSD` is still
    /// referenced; it is always empty here because the row and the thread end
    /// together.
    ///
    /// The `%8.8s` state column is C's `isSuspended ? "SUSPEND" : "OK"`
    /// (`os/Linux/osdThreadExtra.c:48-52`), read live from the cell the
    /// thread's own [`suspend_self`] blocks on.
    pub fn show_line(&self) -> String {
        format!(
            "{:>16.16} {:>14} {:>os_id_width$}    {:3}{:8} {:>8.8}",
            self.name,
            format!("{:#x}", self.id),
            self.os_id,
            self.epics_priority(),
            self.os_priority(),
            if self.is_suspended() { "SUSPEND" } else { "OK" },
            os_id_width = OS_ID_WIDTH,
        )
    }
}

/// The header `epicsThreadShowInfo(0, level)` prints
/// (`os/Linux/osdThreadExtra.c:34-35`).
#[cfg(target_os = "linux")]
pub const THREAD_SHOW_HEADER: &str =
    "            NAME       EPICS ID   LWP ID   OSIPRI  OSSPRI  STATE";

/// `os/posix/osdThreadExtra.c:27-28` — the generic POSIX header, which names
/// and widens the OS id column differently.
#[cfg(not(target_os = "linux"))]
pub const THREAD_SHOW_HEADER: &str =
    "            NAME       EPICS ID   PTHREAD ID   OSIPRI  OSSPRI  STATE";

/// Field width of the OS id column, matching the header above.
#[cfg(target_os = "linux")]
const OS_ID_WIDTH: usize = 8;

#[cfg(not(target_os = "linux"))]
const OS_ID_WIDTH: usize = 12;

/// Every live EPICS thread, in creation order — C's `epicsThreadMap` /
/// `ellFirst(&pthreadList)` walk (`osdThread.c:1000-1004`).
pub fn thread_report() -> Vec<ThreadInfo> {
    thread_registry::snapshot()
}

/// The calling thread's `EPICS ID` — C `epicsThreadGetIdSelf`
/// (`osdThread.c:936-945`).
///
/// A thread that never ran the prologue is given a row here, as C's own
/// `createImplicit` does at `:942`, so this cannot answer "no id": a thread
/// that can be asked for its handle is a thread the listing can show and
/// `epicsThreadResume` can name.
///
/// This is the id a subsystem stores when C stores an `epicsThreadId` of its
/// own — `dbBkpt.c`'s `pnode->taskid`, printed by `dbstat` as `T:` — so the
/// handle in that column and the `EPICS ID` column of `epicsThreadShowAll` are
/// one value rather than two namings of one thread.
pub fn current_thread_id() -> u64 {
    thread_registry::register_current_implicit();
    thread_registry::current_id().expect("register_current_implicit installed a row")
}

/// The thread whose `EPICS ID` or OS id is `id` — C's match in
/// `epicsThreadShow` (`osdThread.c:1051-1053`).
///
/// C compares against the `epicsThreadOSD *` and the `pthread_t`. The second
/// is deliberately the *printed* OS id here instead: on Linux C prints
/// `lwpId` and matches `tid`, so the number on screen is not one C accepts —
/// a shell user can only ever act on what the listing showed them.
pub fn thread_by_id(id: u64) -> Option<ThreadInfo> {
    thread_report()
        .into_iter()
        .find(|t| t.id == id || t.os_id == id)
}

/// The first live thread named `name` — C's `epicsThreadGetId`
/// (`osdThread.c:1039-1060`), which `epicsThreadShow`'s iocsh wrapper falls
/// back to when the argument does not parse as a number.
pub fn thread_by_name(name: &str) -> Option<ThreadInfo> {
    thread_report().into_iter().find(|t| t.name == name)
}

/// C's `epicsThreadShowAll` trailer, printed to stderr
/// (`osdThread.c:1027-1031`).
///
/// The range is the one this process may actually enter, not the policy's
/// nominal range — the distinction `find_pri_range` exists for. With the
/// real-time switch off there is no range to report and no probe may be run
/// to find one (that probe is itself a scheduler call, and the switch's
/// guarantee is that none happens); `0 0` is then the literal truth, the
/// SCHED_OTHER priority every thread in the process holds.
///
/// Memory is never locked: nothing in this workspace calls `mlockall`, so
/// C's `epicsThreadRealtimeLock` has no counterpart to report.
pub fn osd_priority_range_line() -> String {
    let (min, max) = osd_priority_range();
    format!("OSD priority range min: {min} max {max}, memory not locked")
}

#[cfg(target_os = "linux")]
fn osd_priority_range() -> (i32, i32) {
    match RtPolicy::current() {
        RtPolicy::Disabled => (0, 0),
        RtPolicy::AllowRealtime => match permitted_fifo_range() {
            RtRange::Available { min, max } => (min, max),
            // C's `find_pri_range` reports the failed probe the same way:
            // `min_pri = max_pri = min` when the policy is refused, `-1` when
            // the kernel has no range at all (`osdThread.c:275-289`).
            RtRange::Denied => {
                // SAFETY: `sched_get_priority_min` takes only a policy
                // constant and has no preconditions.
                let min = unsafe { libc::sched_get_priority_min(libc::SCHED_FIFO) };
                (min, min)
            }
            RtRange::Unsupported => (-1, -1),
        },
    }
}

#[cfg(target_os = "rtems")]
fn osd_priority_range() -> (i32, i32) {
    match RtPolicy::current() {
        RtPolicy::Disabled => (0, 0),
        // No probe on this target, by construction: the map's image is fixed
        // and inside the settable range. Report that image.
        RtPolicy::AllowRealtime => (map_epics_priority_rtems(0), map_epics_priority_rtems(99)),
    }
}

#[cfg(not(any(target_os = "linux", epics_embedded_target)))]
fn osd_priority_range() -> (i32, i32) {
    // No OS-scheduler priority API is wired here, so there is no band and no
    // range — the same `Unsupported` this target reports from `apply`.
    (0, 0)
}

/// The SCHED_FIFO priority range this process may actually enter.
///
/// C parity: `find_pri_range` (`osdThread.c:259-314`). The kernel's
/// `sched_get_priority_max` reports the *policy's* range and ignores
/// `RLIMIT_RTPRIO`, so on an RT box with a restricted limit the nominal
/// range is wider than the usable one; C binary-searches for the real
/// ceiling and so do we.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RtRange {
    /// The kernel does not report a SCHED_FIFO range at all.
    Unsupported,
    /// The range exists but this process may not enter it — no
    /// `CAP_SYS_NICE` and `RLIMIT_RTPRIO` is 0. C's equivalent is
    /// `usePolicy == 0` (`osdThread.c:279-285`, `:334`), which makes it
    /// stop asking for SCHED_FIFO for the life of the process.
    Denied,
    /// Priorities `min..=max` are settable.
    Available { min: i32, max: i32 },
}

/// Probe once per process and cache. Only reachable on the
/// [`RtPolicy::AllowRealtime`] path, so a default (switch-off) process
/// never runs the probe and never makes a scheduler call.
#[cfg(target_os = "linux")]
fn permitted_fifo_range() -> RtRange {
    static RANGE: std::sync::OnceLock<RtRange> = std::sync::OnceLock::new();
    *RANGE.get_or_init(probe_fifo_range)
}

#[cfg(target_os = "linux")]
fn probe_fifo_range() -> RtRange {
    // SAFETY: sched_get_priority_min/max take only an int policy and have
    // no preconditions.
    let (min, max) = unsafe {
        (
            libc::sched_get_priority_min(libc::SCHED_FIFO),
            libc::sched_get_priority_max(libc::SCHED_FIFO),
        )
    };
    if min < 0 || max < 0 || max < min {
        return RtRange::Unsupported;
    }

    // The probe *changes the scheduling of the thread that runs it*, so it
    // runs on a throwaway thread — exactly why C hands `find_pri_range` to
    // its own `pthread_create`/`pthread_join` pair (`osdThread.c:316-334`).
    // On a stack we own: glibc caches the stack of an exited thread it
    // allocated and hands it to the next request up to 4x smaller, so a
    // probe stack of its making would become some later thread's stack. A
    // caller-supplied stack is never cached.
    let bytes = StackSizeClass::Small.bytes();
    let charge = crate::runtime::worker_pool::ThreadCharge::fixed(StackSizeClass::Small);
    // SAFETY: an anonymous private mapping with no fixed address.
    let stack = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
            -1,
            0,
        )
    };
    // Cannot spawn, or the probe never ran: treat as no RT rather than
    // guessing a range we have not shown to be settable.
    if stack == libc::MAP_FAILED {
        return RtRange::Denied;
    }
    let mut probe = (min, max, RtRange::Denied);
    let mut attr = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut tid: libc::pthread_t = 0;
    // SAFETY: `attr` is initialised before use and destroyed after; `stack`
    // is a page-aligned mapping of `bytes`, unmapped only once the thread is
    // joined; `probe` outlives the joined thread.
    unsafe {
        if libc::pthread_attr_init(attr.as_mut_ptr()) == 0 {
            if libc::pthread_attr_setstack(attr.as_mut_ptr(), stack, bytes) == 0
                && libc::pthread_create(
                    &mut tid,
                    attr.as_ptr(),
                    probe_thread,
                    (&raw mut probe).cast(),
                ) == 0
            {
                libc::pthread_join(tid, std::ptr::null_mut());
            }
            libc::pthread_attr_destroy(attr.as_mut_ptr());
        }
        libc::munmap(stack, bytes);
    }
    drop(charge);
    probe.2
}

/// C `find_pri_range` (`osdThread.c:270-312`): the thread body of
/// `probe_fifo_range`, which passes `(min, max, out)`.
#[cfg(target_os = "linux")]
extern "C" fn probe_thread(arg: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `probe_fifo_range` joins this thread before touching the tuple.
    let (min, max, out) = unsafe { &mut *arg.cast::<(i32, i32, RtRange)>() };
    let (min, max) = (*min, *max);
    // `osdThread.c:277-287`: failing at the minimum means no permission for
    // SCHED_FIFO at all.
    if set_fifo_priority(min) != 0 {
        return std::ptr::null_mut();
    }
    // `osdThread.c:296-307`: binary-search the real ceiling.
    let (mut low, mut high) = (min, max);
    while low < high {
        let mid = (high + low) / 2;
        if set_fifo_priority(mid) != 0 {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    // `osdThread.c:310`: `max_pri = try_pri(max) ? max-1 : max`.
    let top = if set_fifo_priority(high) != 0 {
        high - 1
    } else {
        high
    };
    *out = RtRange::Available { min, max: top };
    std::ptr::null_mut()
}

/// Map an EPICS priority onto the permitted SCHED_FIFO range. Above 99 it lands
/// past `max`, unclamped as C's is, and the scheduler refuses it.
///
/// C parity: `epicsThreadGetPosixPriority` (`osdThread.c:129-144`) — the
/// POSIX counterpart of the `epicsThreadGetOssPriorityValue` used on RTEMS
/// (`RTEMS-score/osdThread.c:94`).
///
/// **Hosted only.** RTEMS deliberately does not use this map — see
/// `map_epics_priority_rtems` for the shape and the reason. The `test`
/// arm of the cfg exists so the two maps can be compared in one process
/// on the host; without it the divergence test would silently vanish.
#[cfg(any(target_os = "linux", test))]
fn map_epics_priority(epics_priority: u32, min: i32, max: i32) -> i32 {
    // `osdThread.c:133-134`: a degenerate range collapses to one level.
    if max == min {
        return max;
    }
    let slope = (max - min) as f64 / 100.0;
    let oss = epics_priority as f64 * slope + min as f64;
    oss as i32
}

/// The highest RTEMS *core* priority number, i.e. the least urgent level.
///
/// Measured on the bring-up guest (RTEMS 6 + libbsd, QEMU
/// `xilinx_zynq_a9`): `RTEMS_MAXIMUM_PRIORITY == 255`, the idle thread runs
/// at core 255, and `sched_get_priority_min/max(SCHED_FIFO)` report `1`/`254`.
/// The POSIX-to-core inversion `core = 255 - posix` was verified in both
/// directions on that guest.
#[cfg(any(target_os = "rtems", test))]
const RTEMS_MAXIMUM_PRIORITY: i32 = 255;

/// The RTEMS *core* priority an EPICS priority must land on.
///
/// Verbatim `epicsThreadGetOssPriorityValue` from EPICS's own RTEMS port,
/// `libcom/src/osi/os/RTEMS-score/osdThread.c:94-102`:
///
/// ```c
/// int epicsThreadGetOssPriorityValue(unsigned int osiPriority)
/// {
///     if (osiPriority > 99) { return 100; }
///     else { return (199 - (signed int)osiPriority); }
/// }
/// ```
///
/// Fixed offsets, not a range-scaled slope. The whole EPICS space therefore
/// occupies core `100..=199` and nothing else can be reached — which is the
/// property [`map_epics_priority_rtems`] is chosen for.
#[cfg(any(target_os = "rtems", test))]
const fn rtems_core_priority(epics_priority: u32) -> i32 {
    if epics_priority > 99 {
        100
    } else {
        199 - epics_priority as i32
    }
}

/// Map an EPICS priority onto an RTEMS **POSIX** SCHED_FIFO priority.
///
/// A distinct function from `map_epics_priority` on purpose: the two have
/// different *shapes*, not different endpoints. Expressing this one as the
/// hosted linear map with `min`/`max` retuned would re-introduce the linear
/// map the moment somebody adjusted a constant, and the linear map is the
/// thing this arm exists to avoid.
///
/// **Deliberate deviation from base-on-RTEMS-6.** EPICS base compiles
/// `os/posix/osdThread.c` on RTEMS 6 — `configure/toolchain.c:31-36` sets
/// `OS_API = posix` for `__RTEMS_MAJOR__ >= 5`, and `os/RTEMS-posix/` ships
/// no `osdThread.c` — so upstream applies the *linear* map
/// `oss = epics*(max-min)/100 + min` over `find_pri_range`'s result, which
/// on this guest is `min=1`/`max=254`, with
/// `EPICS_ALLOW_POSIX_THREAD_PRIORITY_SCHEDULING` defaulting to `YES`
/// (`configure/CONFIG_ENV:57`). That places EPICS 91 (the CA server band) at
/// posix 231, i.e. **core 24** — far above libbsd's network threads. The
/// crossover is EPICS **63** (posix 160, core 95): every EPICS priority at or
/// above it outranks the interrupt server. Reproducing that would reproduce
/// the hazard, so this port takes EPICS's *own* RTEMS answer instead —
/// [`rtems_core_priority`] — and inverts it into the POSIX space we actually
/// set:
///
/// ```text
/// core = RTEMS_MAXIMUM_PRIORITY - posix   (measured)
/// core = 199 - epics                      (RTEMS-score/osdThread.c:94-102)
/// ⟹ posix = 255 - (199 - epics) = 56 + epics
/// ```
///
/// So EPICS 0 → posix 56 → core 199, EPICS 99 → posix 155 → core 100, and
/// anything above 99 clamps to posix 155. Every value is inside the guest's
/// settable `[1, 254]`. **Measured on target**, core 100 is also where
/// libbsd's own twelve default-band worker threads sit, so the map's most
/// urgent reachable value *ties* libbsd's default band there rather than
/// staying strictly below it — a boundary tie by construction, not a
/// collision-free image. It is still strictly below `IRQS`(96)/`TIME`(98);
/// see `rtems_priority_map_stays_below_the_libbsd_network_band`, which
/// asserts the non-strict `core >= 100` this tie actually produces.
#[cfg(any(target_os = "rtems", test))]
pub(crate) fn map_epics_priority_rtems(epics_priority: u32) -> i32 {
    RTEMS_MAXIMUM_PRIORITY - rtems_core_priority(epics_priority)
}

/// C's refusal to create a thread whose priority maps past the SCHED_FIFO
/// range: `setSchedulingPolicy`'s `pthread_attr_setschedparam` fails EINVAL,
/// the attr keeps FIFO with `sched_priority` 0, and `pthread_create` refuses
/// it too, so `epicsThreadCreate` returns NULL after printing both statuses
/// (`osdThread.c:160-162`, `:672-680`). Every thread constructor that can
/// report failure asks here before it creates anything.
#[cfg(target_os = "linux")]
fn fifo_attr_refusal(priority: ThreadPriority) -> Option<std::io::Error> {
    if RtPolicy::current() != RtPolicy::AllowRealtime {
        return None;
    }
    let RtRange::Available { min, max } = permitted_fifo_range() else {
        return None;
    };
    let oss = map_epics_priority(priority.value(), min, max);
    // glibc's `pthread_attr_setschedparam` checks the policy's nominal range,
    // not the RLIMIT_RTPRIO ceiling the probe found.
    // SAFETY: both take only an int policy and have no preconditions.
    let nominal = unsafe {
        libc::sched_get_priority_min(libc::SCHED_FIFO)
            ..=libc::sched_get_priority_max(libc::SCHED_FIFO)
    };
    if nominal.contains(&oss) {
        return None;
    }
    crate::stderr_println!("{}", einval_status_line("pthread_attr_setschedparam"));
    crate::stderr_println!("{}", einval_status_line("pthread_create"));
    Some(std::io::Error::from_raw_os_error(libc::EINVAL))
}

/// No target but Linux maps a priority outside its settable range.
#[cfg(not(target_os = "linux"))]
fn fifo_attr_refusal(_priority: ThreadPriority) -> Option<std::io::Error> {
    None
}

/// Ask the OS for SCHED_FIFO at `oss` on the **calling** thread. The single
/// place this crate touches the scheduler; returns the raw `pthread_*`
/// status (0 on success). Counting lives here so the "switch off ⟹ no
/// scheduler call" guarantee is observable on every target that has one.
#[cfg(any(target_os = "linux", epics_embedded_target))]
fn set_fifo_priority(oss: i32) -> i32 {
    SCHED_CALLS_MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    #[cfg(test)]
    SCHED_CALLS.with(|c| c.set(c.get() + 1));
    set_fifo_priority_raw(oss)
}

#[cfg(target_os = "linux")]
fn set_fifo_priority_raw(oss: i32) -> i32 {
    let param = libc::sched_param {
        sched_priority: oss,
    };
    // SAFETY: pthread_setschedparam operates on the calling thread with a
    // stack-local sched_param and a valid policy constant.
    unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_FIFO, &param) }
}

/// The RTEMS scheduler surface, declared here rather than taken from `libc`.
///
/// `libc`'s `newlib/rtems` module (0.2.188) declares neither `sched_param`,
/// `SCHED_FIFO`, `pthread_setschedparam` nor `pthread_self` — its sibling
/// newlib targets `vita` and `horizon` declare all of them, RTEMS does not.
/// The functions exist in the RTEMS 6 kernel
/// (`cpukit/posix/src/pthreadsetschedparam.c`) and in the toolchain headers;
/// only the Rust binding is missing.
///
/// `libc::timespec` is deliberately NOT used to describe the sporadic-server
/// tail: `libc` types `time_t` as `i32` for every newlib target except
/// `horizon`/`espidf` (`src/unix/newlib/mod.rs:55-64`), while the arm-rtems6
/// toolchain has `sizeof(time_t) == 8`. Its `timespec` is therefore half the
/// real width on this target, so the tail is carried as opaque bytes sized
/// from the target compiler instead.
#[cfg(target_os = "rtems")]
mod rtems_sched {
    use std::ffi::c_int;

    /// `sys/sched.h`: `#define SCHED_FIFO 1`.
    pub const SCHED_FIFO: c_int = 1;

    /// `struct sched_param` as arm-rtems6 lays it out.
    ///
    /// `sys/features.h:404-405` defines both `_POSIX_SPORADIC_SERVER` and
    /// `_POSIX_THREAD_SPORADIC_SERVER`, so `sys/sched.h` compiles the
    /// sporadic-server tail in. Measured with the target compiler
    /// (`arm-rtems6-gcc`, `sizeof`/`offsetof` via array-length symbols):
    ///
    /// | field | offset | size |
    /// |-------|--------|------|
    /// | `sched_priority`        |  0 |  4 |
    /// | `sched_ss_low_priority` |  4 |  4 |
    /// | `sched_ss_repl_period`  |  8 | 16 |
    /// | `sched_ss_init_budget`  | 24 | 16 |
    /// | `sched_ss_max_repl`     | 40 |  4 |
    ///
    /// total 48, align 8. `SCHED_FIFO` makes the kernel read only
    /// `sched_priority` (`_POSIX_Thread_Translate_sched_param` takes the
    /// sporadic branch for `SCHED_SPORADIC` alone), but the struct is
    /// declared at full width anyway so the kernel is never handed a pointer
    /// to less memory than its own header describes.
    #[repr(C, align(8))]
    pub struct SchedParam {
        pub sched_priority: c_int,
        /// Offsets 4..48 — the sporadic-server fields, unused under
        /// `SCHED_FIFO` and always zeroed.
        pub sporadic_tail: [u8; 44],
    }

    // The whole point of the opaque tail is that the width is right. If a
    // future edit reaches for `libc::timespec` here, this stops the build
    // instead of silently handing the kernel a short buffer.
    const _: () = {
        assert!(core::mem::size_of::<SchedParam>() == 48);
        assert!(core::mem::align_of::<SchedParam>() == 8);
    };

    unsafe extern "C" {
        pub fn pthread_self() -> libc::pthread_t;
        pub fn pthread_setschedparam(
            thread: libc::pthread_t,
            policy: c_int,
            param: *const SchedParam,
        ) -> c_int;
        /// `cpukit/posix/src/pthreadsetnamenp.c`. Also absent from `libc`'s
        /// `newlib/rtems` module.
        pub fn pthread_setname_np(thread: libc::pthread_t, name: *const std::ffi::c_char) -> c_int;
    }
}

#[cfg(target_os = "rtems")]
fn set_fifo_priority_raw(oss: i32) -> i32 {
    let param = rtems_sched::SchedParam {
        sched_priority: oss,
        sporadic_tail: [0u8; 44],
    };
    // SAFETY: `pthread_setschedparam` acts on the calling thread, is handed a
    // stack-local `sched_param` of the target's own width (asserted above),
    // and a policy constant taken from `sys/sched.h`.
    unsafe {
        rtems_sched::pthread_setschedparam(
            rtems_sched::pthread_self(),
            rtems_sched::SCHED_FIFO,
            &param,
        )
    }
}

#[cfg(target_os = "linux")]
fn apply_priority_impl(epics_priority: u32) -> PriorityApplied {
    let (min, max) = match permitted_fifo_range() {
        RtRange::Unsupported => return PriorityApplied::Unsupported,
        // C's `usePolicy == 0`: no FIFO attr, no message (`osdThread.c:151`).
        RtRange::Denied => return PriorityApplied::BestEffortFailed,
        RtRange::Available { min, max } => (min, max),
    };
    let oss = map_epics_priority(epics_priority, min, max);
    let rc = set_fifo_priority(oss);
    if rc == 0 {
        PriorityApplied::Realtime
    } else {
        // C's EPERM retry without SCHED_FIFO prints nothing
        // (`osdThread.c:646-670`); the thread stays at the default policy.
        tracing::debug!(
            target: "epics_base_rs::runtime",
            epics_priority,
            oss,
            errno = rc,
            "SCHED_FIFO priority not applied; thread stays at default policy"
        );
        PriorityApplied::BestEffortFailed
    }
}

#[cfg(target_os = "rtems")]
fn apply_priority_impl(epics_priority: u32) -> PriorityApplied {
    // Without this, every IOC thread runs at one level just above idle:
    // `cpukit/posix/src/pthreadattrdefault.c:49-58` (both `rtems` pins) sets
    // `inheritsched = PTHREAD_INHERIT_SCHED` in the default attribute set and
    // `std` never calls `pthread_attr_setinheritsched`, so a thread inherits
    // its creator's parameters — and every IOC thread descends from
    // `POSIX_Init`, which the boot shim deliberately lowers to
    // `RTEMS_MAXIMUM_PRIORITY - 1`. The CA receiver/sender ordering that stops
    // a stalled client starving command dispatch does not hold at one level.
    //
    // No range probe, unlike Linux. The probe exists there because
    // `sched_get_priority_max` reports the *policy's* range while
    // `RLIMIT_RTPRIO`/`CAP_SYS_NICE` decide the usable one, so the settable
    // ceiling has to be searched for. RTEMS has no such permission gate —
    // `pthread_setschedparam` (`cpukit/posix/src/pthreadsetschedparam.c`)
    // performs no privilege check — and this map's image is a fixed
    // `[56, 155]`, inside the measured settable `[1, 254]` by construction.
    // There is nothing to discover, and a probe thread would itself need a
    // band to run in.
    let oss = map_epics_priority_rtems(epics_priority);
    let rc = set_fifo_priority(oss);
    if rc == 0 {
        PriorityApplied::Realtime
    } else {
        tracing::debug!(
            target: "epics_base_rs::runtime",
            epics_priority,
            oss,
            errno = rc,
            "SCHED_FIFO priority not applied; thread stays at default policy"
        );
        PriorityApplied::BestEffortFailed
    }
}

#[cfg(not(any(target_os = "linux", epics_embedded_target)))]
fn apply_priority_impl(_epics_priority: u32) -> PriorityApplied {
    // No OS-scheduler priority API is wired on other targets. The two that
    // are wired each needed a *measured* target band before they could be:
    // Linux probes for its settable ceiling at runtime, and RTEMS's map is
    // pinned against libbsd's network-thread band measured on the bring-up
    // guest. No number here is guessable, so a
    // new target gets `Unsupported` until somebody measures it rather than a
    // plausible-looking range.
    PriorityApplied::Unsupported
}

/// How many times this process has asked the OS scheduler for SCHED_FIFO,
/// across every thread — including the one-off range probe.
///
/// The observable form of the switch-off guarantee: with the switch off, a
/// process can run its whole life and this stays `0`. Also answers
/// "did this IOC ever actually try to go real-time?" from a log line.
///
/// Always `0` off Linux, where no scheduler call is wired at all.
pub fn sched_calls_made() -> usize {
    SCHED_CALLS_MADE.load(std::sync::atomic::Ordering::Relaxed)
}

static SCHED_CALLS_MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

#[cfg(all(test, any(target_os = "linux", epics_embedded_target)))]
thread_local! {
    /// Every scheduler call this crate makes passes through
    /// [`set_fifo_priority`], which bumps this. Tests assert the delta is
    /// zero with the switch off — the property "switch off ⟹ no sched
    /// calls" observed directly rather than inferred from a return value.
    ///
    /// Per-thread, not global: `pthread_setschedparam` acts on the calling
    /// thread, so a per-thread count is the exact quantity, and a test
    /// cannot be perturbed by a concurrent one (the unit tests share a
    /// process under plain `cargo test`).
    static SCHED_CALLS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Spawn a blocking closure on a dedicated thread and apply the given
/// EPICS [`ThreadPriority`] to that thread before running `f`.
///
/// The priority application is best effort (see
/// [`apply_to_current_thread`]); `f` runs regardless of whether the OS
/// honoured the request. This is the priority-aware counterpart of
/// [`Reactor::spawn_blocking`] for IOC threads (CA server, scan) that a C IOC
/// would run in a distinct SCHED band.
#[cfg(tokio_backend)]
pub fn spawn_blocking_with_priority<F, R>(priority: ThreadPriority, f: F) -> TaskHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    spawn_blocking(move || {
        let _ = enter_ioc_thread(priority);
        f()
    })
}

/// RTEMS: [`spawn_blocking`], at that pool's priority.
///
/// The requested EPICS [`ThreadPriority`] is **not** applied: the pool workers
/// are long-lived and shared, so re-prioritising the running worker per job
/// would leak that priority into the next job it takes.
#[cfg(exec_backend)]
pub fn spawn_blocking_with_priority<F, R>(_priority: ThreadPriority, f: F) -> TaskHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    spawn_blocking(f)
}

/// Spawn a **dedicated OS thread** that runs `f` at `priority` with a `stack`
/// of [`StackSizeClass`], plus whatever ambient async context
/// [`block_on_sync`] needs on this target.
///
/// # Why the stack class is a parameter and not a default
///
/// C creates an IOC thread with `epicsThreadCreate(name, priority, stackSize,
/// fn, arg)` — three attributes. This seam carried the first two and let the
/// third fall through to whatever `std` picks, which is **2 MiB on RTEMS**:
/// `std/src/sys/thread/unix.rs` carves a smaller `DEFAULT_MIN_STACK_SIZE` out
/// for a few targets, and RTEMS is not one of them.
///
/// That is invisible on the host, where a thread stack is lazily-committed
/// virtual address space, and decisive on the target, where it is carved
/// eagerly out of a fixed pool. Making it a parameter is what stops a new
/// per-connection thread from silently costing 2 MiB: there is no default to
/// inherit, so every caller states what the thread is for.
///
/// Not [`spawn_blocking_with_priority`], and the difference is the point.
/// That one hands the closure to a *pool*: tokio's blocking pool on the host,
/// and on RTEMS [`offload::BLOCKING`](crate::runtime::offload::BLOCKING),
/// whose shared workers ignore the requested priority (see its
/// `exec_backend` arm). Both are right for work that finishes. A
/// server thread that lives as long as its connection would occupy a pool
/// worker for that whole time, so the pool is the wrong home for it — an IOC
/// thread that a C IOC would create with `epicsThreadCreate` wants a thread of
/// its own, and the priority a C IOC gives it.
///
/// # Why the ambient context is part of this, and not the caller's problem
///
/// `block_on_sync` picks its mechanism from the thread it is called on, but it
/// cannot *create* the context a future needs. On the host a fresh
/// `std::thread` has no runtime, so a future that spawns tasks or arms timers
/// panics with "there is no reactor running" the moment it is polled — even
/// though `block_on_sync` itself was perfectly happy to park. On RTEMS the
/// exec backend is process-global (`background_init`), so a bare thread is
/// already complete. That asymmetry is a property of the two backends, so it
/// is resolved here, at the seam, rather than by a `cfg` in every server that
/// wants a thread.
///
/// The captured context is whatever the *calling* thread is running under, so
/// call this from the runtime the work should belong to. When there is none
/// (RTEMS always; on the host a caller that is itself outside a runtime) the
/// thread simply runs without one, which is exactly right for a future whose
/// awaits are all runtime-agnostic.
///
/// # A current-thread ambient is not inherited, and that is the rule
///
/// [`RuntimeHandle::try_current`] answers two different questions with one
/// value: *"am I running on this runtime's thread"* and *"has this thread
/// merely entered this handle"*. [`block_on_sync`] cannot distinguish them, so
/// it must assume the first and refuse to park under a `CurrentThread` flavor —
/// correct on that runtime's own thread, where parking halts the task that
/// would wake you, and wrong on a dedicated thread, where it halts nothing.
///
/// So the dual meaning is removed here, at the one place a dedicated thread's
/// context is decided, rather than left for `block_on_sync` to guess: a
/// `CurrentThread` ambient is **not** inherited, and the thread runs with no
/// runtime — the `park_on` arm, which is sound for it and is the only arm RTEMS
/// ever takes.
///
/// Nothing is lost by declining it. What inheriting buys is stated above —
/// `spawn` and the timer inside `block_on_sync` — and under a `CurrentThread`
/// ambient `block_on_sync` returns
/// [`Err(CurrentThreadRuntime)`](NotBlockable::CurrentThreadRuntime), so every one of those
/// powers is unreachable anyway. Inheriting it can only convert a thread that
/// would have worked into one that cannot block at all. Measured as exactly
/// that: the PVA client's blocking byte pumps
/// (`runtime::blocking_io::spawn_pump`) are dedicated threads whose bodies are
/// pure `tokio::sync` channel traffic, and every `#[tokio::test]` that drives
/// one is `CurrentThread` by default — inheritance made the reader pump exit on
/// its first chunk and the connection read as "server closed during handshake".
#[cfg(tokio_backend)]
pub fn spawn_dedicated_thread<F>(
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    spawn_entered(InheritedRuntime::capture(), name, priority, stack, f)
}

/// [`spawn_dedicated_thread`] for a permanent worker that runs jobs from many
/// callers: the thread enters no runtime of its own, because each job brings
/// the one it was submitted from (see [`InheritedRuntime`]).
#[cfg(tokio_backend)]
pub(crate) fn spawn_pool_worker<F>(
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    spawn_entered(InheritedRuntime(None), name, priority, stack, f)
}

#[cfg(tokio_backend)]
fn spawn_entered<F>(
    ambient: InheritedRuntime,
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    if let Some(refused) = fifo_attr_refusal(priority) {
        return Err(refused);
    }
    let charge = crate::runtime::worker_pool::ThreadCharge::fixed(stack);
    std::thread::Builder::new()
        .name(name)
        .stack_size(stack.bytes())
        .spawn(move || {
            // Dies with the thread, so the account tracks threads that exist.
            let _charge = charge;
            // Held for the whole body: it is what makes `tokio::spawn` and the
            // timer reachable from this thread, and therefore what lets a future
            // written for the hosted driver run unchanged under `block_on_sync`.
            ambient.run(move || {
                let _ = enter_ioc_thread(priority);
                f()
            })
        })
}

/// The ambient async context a worker body should run under — captured on the
/// thread that *submitted* the work, applied on the thread that runs it.
///
/// **One owner for the question `spawn_dedicated_thread`'s docs above answer at
/// length.** Two callers need it and they differ in *when* they capture:
/// `spawn_dedicated_thread` captures once, at spawn, because the thread it
/// creates serves exactly one body; `runtime::worker_pool` and
/// `runtime::offload` capture per **job**, because a pooled worker outlives the runtime that first used it. A pooled
/// worker that inherited its ambient at creation would hold a `Handle` to a
/// runtime that has since been dropped — every `#[tokio::test]` builds and drops
/// its own — and enter it for every later connection.
///
/// The `CurrentThread` filter is the rule stated above and must not be
/// re-derived: a current-thread ambient is *not* inherited, because
/// `block_on_sync` cannot distinguish "I am that runtime's thread" from "I have
/// merely entered its handle" and must refuse to park under it.
#[cfg(tokio_backend)]
pub(crate) struct InheritedRuntime(Option<tokio::runtime::Handle>);

#[cfg(tokio_backend)]
impl InheritedRuntime {
    /// Capture the calling thread's runtime, if it is one a dedicated thread
    /// may enter.
    pub(crate) fn capture() -> Self {
        Self(
            tokio::runtime::Handle::try_current()
                .ok()
                .filter(|h| h.runtime_flavor() != RuntimeFlavor::CurrentThread),
        )
    }

    /// Run `f` with the captured context entered for its whole duration.
    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = self.0.as_ref().map(|h| h.enter());
        f()
    }
}

/// RTEMS: the exec backend's spawn pool and timer are process-global, so there
/// is no per-thread context to capture or enter. Same shape so the callers need
/// no `cfg` of their own.
#[cfg(exec_backend)]
pub(crate) struct InheritedRuntime;

#[cfg(exec_backend)]
impl InheritedRuntime {
    pub(crate) fn capture() -> Self {
        Self
    }

    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// RTEMS: a plain thread is already complete — the exec backend's spawn pool
/// and timer are process-global, so there is no per-thread context to enter.
#[cfg(exec_backend)]
pub fn spawn_dedicated_thread<F>(
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    if let Some(refused) = fifo_attr_refusal(priority) {
        return Err(refused);
    }
    let charge = crate::runtime::worker_pool::ThreadCharge::fixed(stack);
    std::thread::Builder::new()
        .name(name)
        .stack_size(stack.bytes())
        .spawn(move || {
            let _charge = charge;
            let _ = enter_ioc_thread(priority);
            f()
        })
}

/// [`spawn_dedicated_thread`] on a [`std::thread::Scope`], for a body that
/// borrows from the thread that spawns it.
pub fn spawn_dedicated_thread_scoped<'scope, F>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::ScopedJoinHandle<'scope, ()>>
where
    F: FnOnce() + Send + 'scope,
{
    if let Some(refused) = fifo_attr_refusal(priority) {
        return Err(refused);
    }
    let charge = crate::runtime::worker_pool::ThreadCharge::fixed(stack);
    let ambient = InheritedRuntime::capture();
    std::thread::Builder::new()
        .name(name)
        .stack_size(stack.bytes())
        .spawn_scoped(scope, move || {
            let _charge = charge;
            ambient.run(move || {
                let _ = enter_ioc_thread(priority);
                f()
            })
        })
}

/// RTEMS: no thread enters a runtime, so a pool worker is a dedicated thread.
#[cfg(exec_backend)]
pub(crate) fn spawn_pool_worker<F>(
    name: String,
    priority: ThreadPriority,
    stack: StackSizeClass,
    f: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    spawn_dedicated_thread(name, priority, stack, f)
}

/// A thread the IOC **cannot correctly run without** — the scan rates, the
/// callback bands, the delayed-callback timer, the boot script.
///
/// # Invariant
///
/// **An IOC that fails to start a mandatory thread MUST NOT continue serving.**
/// A thread-local panic is not that: on a `panic = "unwind"` target — and RTEMS
/// defaults to unwind — `Builder::spawn(..).expect(..)` kills only the thread
/// that called it. An `EAGAIN` from the periodic-scan spawn panics the
/// `scan-owner` thread, the stop guard it holds unwinds and stops the rates
/// that *had* started, and the process goes on answering CA with zero periodic
/// scanning — a half-IOC whose records simply never process.
///
/// C has no such state. `spawnPeriodic` (`dbScan.c:939-955`) calls
/// `epicsThreadCreateOpt` and then `epicsEventWait(startStopEvent)`; the event
/// is posted by `periodicTask` itself, so when the thread was never created
/// nobody posts it and `iocInit` wedges. C never reaches "serving".
///
/// # Why there is no `Result` on [`spawn`](Self::spawn)
///
/// Because there is nothing a caller could do with one that satisfies the
/// invariant. Every caller that is *not* inside a fallible boot step would have
/// to re-derive "this must be fatal" locally, and that is precisely the `.expect`
/// the type exists to remove. The one shape that *can* satisfy it without
/// aborting — a caller still inside a boot step that returns its error to the
/// owner that decides whether to serve — is [`try_spawn`](Self::try_spawn), and
/// that obligation is stated on it.
///
/// Name, band and stack class are constructor parameters for the same reason
/// they are on [`spawn_dedicated_thread`]: a caller cannot omit what it must
/// pass, so the RTEMS thread census (2 MiB default stacks, OS-anonymous
/// threads) is closed by signature rather than by a source sweep.
pub struct MandatoryThread {
    name: String,
    /// `None` for `Self::process_thread`, which RTEMS does not build.
    priority: Option<ThreadPriority>,
    stack: StackSizeClass,
}

impl MandatoryThread {
    /// Declare a mandatory thread: its C thread name, the EPICS band it holds,
    /// and the stack class the C IOC gives it.
    pub fn new(name: impl Into<String>, priority: ThreadPriority, stack: StackSizeClass) -> Self {
        Self {
            name: name.into(),
            priority: Some(priority),
            stack,
        }
    }

    /// C's process thread (`osdThread.c:406-412`): no band, so it keeps the
    /// scheduling of the thread that creates it, and a priority-0 row.
    #[cfg(not(target_os = "rtems"))]
    fn process_thread(name: impl Into<String>, stack: StackSizeClass) -> Self {
        Self {
            name: name.into(),
            priority: None,
            stack,
        }
    }

    /// Start it, or take the process down.
    ///
    /// For every caller with no error path back to whoever decides that this
    /// IOC serves — a constructor returning `Self`, a `OnceLock` initialiser, a
    /// future that parks forever. See the type docs for why this returns no
    /// `Result`.
    pub fn spawn<F>(self, f: F) -> std::thread::JoinHandle<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let stack = StackSpec::Class(self.stack);
        self.spawn_sized(stack, f)
    }

    /// [`spawn`](Self::spawn) on `stack` in place of the declared class.
    pub fn spawn_sized<F>(self, stack: StackSpec, f: F) -> std::thread::JoinHandle<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let name = self.name.clone();
        match self.try_spawn_sized(stack, f) {
            Ok(handle) => handle,
            Err(e) => mandatory_thread_unavailable(&name, &e),
        }
    }

    /// Start it, handing the failure to a caller that is **still inside a
    /// fallible boot step**.
    ///
    /// The obligation this carries: the returned error MUST reach the owner
    /// that decides whether the IOC serves, and that owner MUST refuse. It must
    /// not be unwrapped, logged-and-ignored, or turned into a warning — any of
    /// those re-opens exactly the half-IOC the type docs describe. Use
    /// [`spawn`](Self::spawn) when no such path exists.
    pub fn try_spawn<F>(self, f: F) -> std::io::Result<std::thread::JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        let stack = StackSpec::Class(self.stack);
        self.try_spawn_sized(stack, f)
    }

    /// [`try_spawn`](Self::try_spawn) on `stack` in place of the declared
    /// class, under the same obligation.
    pub fn try_spawn_sized<F>(
        self,
        stack: StackSpec,
        f: F,
    ) -> std::io::Result<std::thread::JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        let priority = self.priority;
        if stack.refused() {
            crate::stderr_println!("{}", einval_status_line("pthread_attr_setstacksize"));
        }
        if let Some(refused) = priority.and_then(fifo_attr_refusal) {
            return Err(refused);
        }
        let charge = crate::runtime::worker_pool::ThreadCharge::fixed(stack);
        // Returns once the thread is through its prologue, so what std and
        // `enter_ioc_thread` allocate there happens before the spawner goes
        // on, not in whatever its caller does next.
        let (started, wait) = crate::runtime::sync::start_latch();
        let handle = std::thread::Builder::new()
            .name(self.name)
            .stack_size(stack.bytes())
            .spawn(move || {
                let _charge = charge;
                match priority {
                    Some(priority) => {
                        let _ = enter_ioc_thread(priority);
                    }
                    None => enter_process_thread(),
                }
                drop(started);
                f()
            })?;
        wait.wait();
        Ok(handle)
    }
}

/// What the operator reads on the console when a mandatory thread could not be
/// created. Split out from [`mandatory_thread_unavailable`] so the wording is
/// testable without a process that aborts.
fn mandatory_thread_failure_message(name: &str, err: &std::io::Error) -> String {
    format!(
        "FATAL: the IOC could not create its mandatory `{name}` thread: {err}. \
         Continuing would leave this IOC answering clients while the work that \
         thread owns never runs, so the process is aborting instead \
         (C dbScan.c:939-955 wedges iocInit for the same reason)."
    )
}

/// The single fatal exit for a mandatory thread that could not be created.
///
/// `eprintln!` and not `errlog`: `errlog_printf` hands the line to the errlog
/// **worker thread**, which `errlog_pvt` spawns lazily through the fallible
/// `spawn_dedicated_thread` — and thread creation is exactly what just failed.
/// The one message that must survive cannot depend on winning the race it was
/// printed to report. `eprintln!` needs no thread.
///
/// (Not, as this once said, because `tracing` has no subscriber on RTEMS:
/// `errlog`'s own `console_fallback` writes synchronously to stderr
/// when nothing is listening, so that reason does not hold on its own.)
///
/// `abort` and not `exit`: unwinding would run every other thread's destructors
/// against a half-built IOC, and the boot state that made the spawn fail is not
/// one to tear down tidily.
///
/// Deliberately **not** routed through
/// [`cant_proceed`](crate::runtime::cant_proceed::cant_proceed), whose
/// `EPICS_ABORT_ON_ASSERT` default is to park the calling thread.
///
/// C can afford that default because its equivalent failures happen where
/// something is waiting: `dbScan.c:939-955` wedges `iocInit`, so a parked thread
/// means the boot never completes and the server never starts. Parking holds the
/// invariant there by stalling the owner.
///
/// [`MandatoryThread::spawn`] has no such owner — that is what distinguishes it
/// from [`MandatoryThread::try_spawn`], and its own docs enumerate the callers:
/// a constructor returning `Self`, a `OnceLock` initialiser, a future that parks
/// forever. Parking one of those does not stall a boot; it deadlocks every
/// thread that later touches the same `OnceLock`, or silently never yields the
/// object while whoever called the constructor carries on. So for this family
/// the knob's default is not a weaker exit, it is an unsound one, and the
/// deviation is in the exit rather than in the invariant.
fn mandatory_thread_unavailable(name: &str, err: &std::io::Error) -> ! {
    crate::stderr_println!("{}", mandatory_thread_failure_message(name, err));
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A future that is pending until `ready` is set, keeping the last waker
    /// it was polled with in `waker` and reporting every poll on `polled`.
    struct Gate {
        ready: Arc<std::sync::atomic::AtomicBool>,
        waker: Arc<std::sync::Mutex<Option<Waker>>>,
        polled: std::sync::mpsc::Sender<()>,
    }

    impl Future for Gate {
        type Output = ();
        fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            // Reported after `ready` is read, so a poll that saw it clear
            // returns Pending and the wake that follows is the drive's to take.
            let ready = self.ready.load(std::sync::atomic::Ordering::Acquire);
            let _ = self.polled.send(());
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    /// An inner drive run inside the outer drive's poll, with the outer's wake
    /// firing while the inner waits: the outer still completes.
    #[test]
    fn an_inner_drive_keeps_the_outer_drives_wake() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (done_tx, done_rx) = std::sync::mpsc::channel();
        let (inner_polled_tx, inner_polled_rx) = std::sync::mpsc::channel();
        let outer_waker = Arc::new(std::sync::Mutex::new(None::<Waker>));
        let inner_waker = Arc::new(std::sync::Mutex::new(None::<Waker>));
        let inner_ready = Arc::new(AtomicBool::new(false));

        let (ow, iw, ir) = (
            outer_waker.clone(),
            inner_waker.clone(),
            inner_ready.clone(),
        );
        std::thread::spawn(move || {
            let mut polls = 0;
            let mut inner_polled = Some(inner_polled_tx);

            let outer = std::future::poll_fn(move |cx| {
                *ow.lock().unwrap() = Some(cx.waker().clone());
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(());
                }
                park_on(Gate {
                    ready: ir.clone(),
                    waker: iw.clone(),
                    polled: inner_polled.take().unwrap(),
                });
                Poll::Pending
            });
            park_on(outer);
            let _ = done_tx.send(());
        });

        inner_polled_rx.recv().unwrap();
        outer_waker.lock().unwrap().take().unwrap().wake();
        // The inner drive has taken the outer's wake and re-polled; only then
        // can the inner complete, so no later wake rescues the outer.
        inner_polled_rx.recv().unwrap();
        inner_ready.store(true, Ordering::Release);
        inner_waker.lock().unwrap().take().unwrap().wake();
        assert!(
            done_rx
                .recv_timeout(std::time::Duration::from_secs(5))
                .is_ok(),
            "the outer drive parked through the wake it was owed"
        );
    }

    /// A canceller that unparks the thread without waking the future ends the
    /// wait, though the `woken` flag is clear (future_exec.rs and
    /// timer_sleep.rs cancel this way).
    #[test]
    fn a_raw_unpark_with_cancel_ends_the_wait() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let cancel = Arc::new(AtomicBool::new(false));
        let (polled_tx, polled_rx) = std::sync::mpsc::channel();
        let (done_tx, done_rx) = std::sync::mpsc::channel();
        let c = cancel.clone();
        let driver = std::thread::spawn(move || {
            let gate = Gate {
                ready: Arc::new(AtomicBool::new(false)),
                waker: Arc::new(std::sync::Mutex::new(None)),
                polled: polled_tx,
            };
            let out = park_on_interruptible(gate, || c.load(Ordering::Acquire));
            let _ = done_tx.send(out.is_none());
        });
        polled_rx.recv().unwrap();
        cancel.store(true, Ordering::Release);
        driver.thread().unpark();
        assert_eq!(
            done_rx.recv_timeout(std::time::Duration::from_secs(5)),
            Ok(true),
            "a cancelled, unparked drive must return None"
        );
    }

    /// A future whose poll blocks in a `thread::park`-based wait (an `mpsc`
    /// receive here) while its own wake fires has had the unpark token eaten;
    /// the drive still re-polls, because it waits on the waker's flag.
    #[test]
    fn a_wake_eaten_by_a_park_inside_the_poll_still_reaches_the_drive() {
        let (done, result) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut polls = 0;
            park_on(std::future::poll_fn(|cx| {
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                let (tx, rx) = std::sync::mpsc::channel::<()>();
                std::thread::spawn(move || {
                    waker.wake();
                    std::thread::sleep(Duration::from_millis(50));
                    let _ = tx.send(());
                });
                let _ = rx.recv();
                Poll::Pending
            }));
            let _ = done.send(());
        });
        assert!(
            result.recv_timeout(Duration::from_secs(5)).is_ok(),
            "the drive parked through a wake an inner park consumed"
        );
    }

    /// What a thread allocates starting up — std's name copy, the registry
    /// row, the first park's `ThreadData` — is done before `try_spawn` hands
    /// back, so it cannot land in whatever the spawner does next.
    #[test]
    fn a_mandatory_thread_is_through_its_prologue_when_spawn_returns() {
        for i in 0..50 {
            let name = format!("prologue-pin-{i}");
            let (release, gate) = std::sync::mpsc::channel::<()>();
            let handle = MandatoryThread::new(&name, ThreadPriority::Low, StackSizeClass::Small)
                .try_spawn(move || {
                    let _ = gate.recv();
                })
                .unwrap();
            assert!(
                thread_by_name(&name).is_some(),
                "{name} was not registered when try_spawn returned"
            );
            release.send(()).unwrap();
            handle.join().unwrap();
        }
    }

    /// The band binding, end to end: a reactor with an executor bound puts its
    /// spawned future on that executor's worker, and one without still uses the
    /// process-global callback pool.
    ///
    /// This is the property every PVA connection future depends on — the seam
    /// is one `with_executor` at the top of `serve`, and everything downstream
    /// inherits it through its clone of the reactor.
    #[cfg(exec_backend)]
    #[test]
    fn a_bound_executor_takes_the_spawned_future_off_the_callback_pool() {
        use crate::runtime::background::DedicatedExecutor;
        use std::sync::mpsc;
        use std::time::Duration;

        fn worker_name_of(reactor: &Reactor) -> String {
            let (tx, rx) = mpsc::channel();
            reactor.spawn(async move {
                let name = std::thread::current()
                    .name()
                    .unwrap_or_default()
                    .to_string();
                tx.send(name).expect("send");
            });
            rx.recv_timeout(Duration::from_secs(5))
                .expect("the future ran")
        }

        let plain = Reactor::default();
        assert!(
            worker_name_of(&plain).starts_with("cbMedium"),
            "an unbound reactor still lands on C's middle callback band"
        );

        let exec = Arc::new(
            DedicatedExecutor::new("BOUNDEXEC", ThreadPriority::Custom(18), 1)
                .expect("executor starts"),
        );
        let bound = plain.with_executor(&exec);
        assert_eq!(worker_name_of(&bound), "BOUNDEXEC");
        // The binding is per-reactor, not global: the one it was derived from
        // is unchanged.
        assert!(worker_name_of(&plain).starts_with("cbMedium"));
    }

    /// The workspace's one production-slice rule, under this file's old name.
    ///
    /// `Keep` because the guards below strip comments themselves. What they
    /// gain from the shared rule is the two properties the truncating one did
    /// not hold: the seven `#[cfg(any(target_os = "rtems", test))]` items here
    /// ship on RTEMS and stay in the slice, and the line numbers two of these
    /// guards report still name lines of the file a reader will open.
    fn production_scope(src: &'static str) -> &'static str {
        source_guard::production(src, source_guard::Comments::Keep)
    }

    /// Every source in this crate, labelled the way the messages below name
    /// files.
    ///
    /// Read from the crate directory rather than listed. The list was written
    /// out three times here and two copies had drifted: both
    /// `every_thread_in_this_crate_publishes_its_name` and
    /// `only_the_prologue_reaches_the_banding_call` named four files and
    /// omitted `runtime/worker_pool.rs`, which spawns a named, banded,
    /// stack-classed thread — so neither guard had ever looked at it, while
    /// the stack-size guard had. A duplicated covered set is not a covered
    /// set; it is three answers to one question.
    ///
    /// Rooted at `src`, not at `src/runtime`, because the claim these guards
    /// make is about this crate. `epics-base-rs`'s two thread-creating files
    /// (`server/ioc_app.rs`, `server/scan.rs`) are swept by the same
    /// assertions in that crate's own `tests/thread_census.rs`:
    /// `include_str!` must not cross a crate boundary — a path outside the
    /// package directory does not survive `cargo publish` — so the guard is
    /// split by subject, not weakened.
    fn crate_sources() -> Vec<(String, &'static str)> {
        let files = source_guard::sweep(source_guard::module_dir!("src"), &[]);
        assert!(
            files.iter().any(|(label, _)| *label == "runtime/task.rs"),
            "the crate sweep did not find runtime/task.rs, so it is reading \
             the wrong directory and every guard below would pass vacuously"
        );
        files.into_iter().map(|(l, s)| (l.to_string(), s)).collect()
    }

    /// The subset that creates an OS thread.
    ///
    /// Derived from the source rather than declared, so a file joins the
    /// census the day it spawns — which is the one property a hand-written
    /// list cannot have. `Strip` so that prose naming a thread API does not
    /// enrol a file that creates no thread.
    fn censused_files() -> Vec<(String, &'static str)> {
        let bare = concat!("thread", "::spawn(");
        let files: Vec<(String, &'static str)> = crate_sources()
            .into_iter()
            .filter(|(_, src)| {
                let code = source_guard::production(src, source_guard::Comments::Strip);
                code.contains("thread::Builder::new()") || code.contains(bare)
            })
            .collect();
        assert!(
            files.len() >= 2,
            "expected at least `runtime/task.rs` and `runtime/worker_pool.rs` \
             to create threads, found {files:?} — the derivation broke, and \
             every guard over it would pass vacuously"
        );
        files
    }

    /// Every thread this crate creates states a stack size.
    ///
    /// `std` gives RTEMS the generic 2 MiB `DEFAULT_MIN_STACK_SIZE`
    /// (`std/src/sys/thread/unix.rs`: RTEMS is not on its carve-out list). On
    /// the host that is lazily-committed address space and costs nothing
    /// measurable; on the target it is carved eagerly out of a fixed pool,
    /// which is why an unset stack size is the first ceiling the IOC hits
    /// rather than a rounding error.
    ///
    /// `spawn_dedicated_thread` and [`MandatoryThread`] are enforced by their
    /// signatures — the class is a parameter, so a caller cannot omit it. This
    /// covers the threads that still build a `std::thread::Builder` directly.
    ///
    /// It also bans the API that has no class to state:
    /// `std::thread::spawn` cannot express a stack size at all, so a site
    /// using it does not fail the `Builder` check above — it is invisible to
    /// it. Same defect, different anchor. (The bare `thread::spawn` sites
    /// elsewhere in the workspace — `ca::repeater`, `ca::calink`,
    /// `ca::server::ca_server`, `pva::server::pva_server`, `bridge::pvalink` —
    /// are distinct twice over: none is a mandatory IOC thread, and all but the
    /// per-command link helpers sit behind `#[cfg(not(target_os = "rtems"))]`
    /// module gates, so they are not in the RTEMS closure at all. Every file
    /// listed here is.)
    ///
    /// Fails today, on Linux, with no cross toolchain.
    #[test]
    fn every_thread_in_this_crate_states_a_stack_size() {
        let mut unclassified = Vec::new();
        let mut checked = 0usize;
        for (label, src) in censused_files() {
            let prod = production_scope(src);
            for (n, after) in prod.split("thread::Builder::new()").skip(1).enumerate() {
                checked += 1;
                // The class must be set before the closure is handed over;
                // `.spawn(` ends the builder chain.
                let chain = after.split(".spawn(").next().unwrap_or("");
                if !chain.contains(".stack_size(") {
                    unclassified.push(format!("{label} (Builder #{})", n + 1));
                }
            }
            // The classless API. Split so this guard does not match its own
            // needle in the file it is written in.
            let bare = concat!("thread", "::spawn(");
            for (n, line) in prod.lines().enumerate() {
                let t = line.trim_start();
                if t.starts_with("//") {
                    continue;
                }
                if t.contains(bare) && !t.contains("Builder") {
                    unclassified.push(format!("{label}:{} (bare spawn)", n + 1));
                }
            }
        }

        // Four: `spawn_dedicated_thread`'s two `cfg` arms, `MandatoryThread`,
        // and `worker_pool`'s pooled worker (the RT-policy probe is a raw
        // `pthread_create` on its own stack). The floor was seven until the three background facilities moved onto
        // `MandatoryThread`, which states the class in its constructor —
        // `every_background_facility_thread_is_mandatory` is what keeps that
        // move from being a hole rather than a hand-off.
        assert!(
            checked >= 4,
            "expected to find the crate's Builder sites, found {checked} — \
             did a file move? update this guard's file list"
        );
        assert!(
            unclassified.is_empty(),
            "these threads inherit std's 2 MiB default on RTEMS: {unclassified:?}"
        );
    }

    /// The three background facilities create their threads through
    /// [`MandatoryThread`], and nothing else.
    ///
    /// Each of them — the callback bands, `cbTimer`, `scanOnce` — is a thread
    /// the IOC cannot correctly run without, and each is created from a
    /// constructor reached through a `OnceLock` initialiser, so there is no
    /// error path back to whoever decided this IOC serves. They used to resolve
    /// the spawn `Result` with `.expect`, which on a `panic = "unwind"` target
    /// (RTEMS defaults to unwind) killed only the thread that
    /// happened to touch the facility first and left the IOC serving without
    /// the band, the timer or the `scanOnce` worker.
    ///
    /// The ban is the structural half: with no raw `Builder` and no bare
    /// `thread::spawn` in these files, "mandatory" is not a property a new
    /// thread here can forget to declare.
    #[test]
    fn every_background_facility_thread_is_mandatory() {
        let bare = concat!("thread", "::spawn(");
        let mut strays = Vec::new();
        let mut owned = 0usize;
        // The background module, swept whole. Not `censused_files()`: these
        // files hold no `Builder` of their own precisely because they went
        // through `MandatoryThread`, so deriving their set from thread
        // creation would empty it and pass.
        let files = source_guard::sweep(source_guard::module_dir!("src/runtime/background"), &[]);
        for (label, src) in files {
            for (n, line) in production_scope(src).lines().enumerate() {
                let t = line.trim_start();
                if t.starts_with("//") {
                    continue;
                }
                if t.contains("MandatoryThread::new(") {
                    owned += 1;
                }
                if t.contains("thread::Builder::new()") {
                    strays.push(format!("{label}:{} (raw Builder)", n + 1));
                }
                if t.contains(bare) && !t.contains("Builder") {
                    strays.push(format!("{label}:{} (bare spawn)", n + 1));
                }
            }
        }
        assert!(
            strays.is_empty(),
            "a facility thread created outside `MandatoryThread` resolves its \
             own spawn failure, and the only resolution that keeps this IOC \
             honest is not serving: {strays:?}"
        );
        assert!(
            owned >= 3,
            "expected the callback pool, `cbTimer` and `scanOnce`, found {owned} \
             `MandatoryThread` sites — a facility moved out of this module"
        );
    }

    #[epics_macros_rs::epics_test]
    async fn test_spawn() {
        let reactor = Reactor::current().expect("the test driver enters an executor");
        let handle = reactor.spawn(async { 42 });
        assert_eq!(handle.await.unwrap(), 42);
    }

    #[epics_macros_rs::epics_test]
    async fn test_spawn_blocking() {
        let handle = spawn_blocking(|| 123);
        assert_eq!(handle.await.unwrap(), 123);
    }

    /// A job that blocks until released, and the receiver that says it has
    /// started, so a probe queued after it cannot run first by luck.
    fn held_job() -> (
        impl FnOnce() + Send + 'static,
        std::sync::mpsc::Receiver<()>,
        std::sync::mpsc::Sender<()>,
    ) {
        let (started_tx, started) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let job = move || {
            let _ = started_tx.send(());
            let _ = held.recv_timeout(Duration::from_secs(10));
        };
        (job, started, release)
    }

    /// Every band, and `reactor`'s executor when given, runs a future while a
    /// job blocks through a blocking seam. Releases the job either way, so a
    /// failure does not wedge the pool.
    async fn bands_run_beside(
        started: std::sync::mpsc::Receiver<()>,
        release: std::sync::mpsc::Sender<()>,
        reactor: Option<&Reactor>,
    ) {
        // Awaited, not blocked on: on a current-thread test runtime the job's
        // spawner runs only when this task yields.
        timeout(Duration::from_secs(3), async {
            while started.try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the held job started");
        let mut parked = Vec::new();
        for prio in [
            CallbackPriority::Low,
            CallbackPriority::Medium,
            CallbackPriority::High,
        ] {
            let beside = spawn_background(prio, async { 7 });
            if timeout(Duration::from_secs(3), beside).await.is_err() {
                parked.push(format!("{prio:?}"));
            }
        }
        if let Some(r) = reactor {
            let beside = r.spawn(async { 7 });
            if timeout(Duration::from_secs(3), beside).await.is_err() {
                parked.push("the reactor's executor".into());
            }
        }
        let _ = release.send(());
        assert!(parked.is_empty(), "a blocked job parked {parked:?}");
    }

    /// reviewer3's probe: a cbMedium future awaiting the blocking seam. On a
    /// hosted build that thread has no runtime entered, where
    /// `tokio::task::spawn_blocking` panics; the job lands on the runtime the
    /// test driver adopted, not one of the seam's own.
    #[epics_macros_rs::epics_test]
    async fn spawn_blocking_awaited_from_a_band_future() {
        let ran = spawn_background(CallbackPriority::Medium, async {
            spawn_blocking(|| {
                #[cfg(tokio_backend)]
                assert_eq!(
                    RuntimeHandle::current().runtime_flavor(),
                    RuntimeFlavor::CurrentThread,
                    "the job ran on a runtime other than the adopted one"
                );
                5
            })
            .await
            .unwrap()
        });
        assert_eq!(
            timeout(Duration::from_secs(3), ran).await.unwrap().unwrap(),
            5
        );
    }

    /// A band task resumes behind what was queued meanwhile, from
    /// [`requeue_background`] and from [`sleep_background`] of a zero delay
    /// and of a positive one, lapsed by its first poll or not.
    #[epics_macros_rs::epics_test]
    async fn band_waits_resume_behind_the_band() {
        for delay in [
            None,
            Some(Duration::ZERO),
            Some(Duration::from_nanos(1)),
            Some(Duration::from_millis(5)),
        ] {
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let log = Arc::clone(&order);
            let walk = spawn_background(CallbackPriority::Low, async move {
                log.lock().unwrap().push("first");
                let other = Arc::clone(&log);
                drop(spawn_background(CallbackPriority::Low, async move {
                    other.lock().unwrap().push("queued");
                }));
                match delay {
                    None => requeue_background().await,
                    Some(delay) => sleep_background(delay).await,
                }
                log.lock().unwrap().push("second");
            });
            timeout(Duration::from_secs(3), walk)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                *order.lock().unwrap(),
                ["first", "queued", "second"],
                "{delay:?}"
            );
        }
    }

    /// The delay of [`spawn_background_after`] runs from the call, as C
    /// `callbackRequestDelayed`'s timer does: on a band held past the delay
    /// the task waits only for the band, and runs ahead of work queued after
    /// its timer fired.
    #[epics_macros_rs::epics_test]
    async fn spawn_background_after_times_the_delay_from_the_request() {
        const DELAY: Duration = Duration::from_millis(200);
        let (started_tx, started) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        drop(spawn_background(CallbackPriority::Low, async move {
            started_tx.send(()).unwrap();
            let _ = held.recv();
        }));
        timeout(Duration::from_secs(3), async {
            while started.try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the band is held");

        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&order);
        let delayed = spawn_background_after(CallbackPriority::Low, DELAY, async move {
            log.lock().unwrap().push("delayed");
            std::time::Instant::now()
        });
        sleep(DELAY * 2).await;
        let log = Arc::clone(&order);
        let queued = spawn_background(CallbackPriority::Low, async move {
            log.lock().unwrap().push("queued");
        });
        let freed = std::time::Instant::now();
        release.send(()).unwrap();
        let ran = timeout(Duration::from_secs(3), delayed)
            .await
            .unwrap()
            .unwrap();
        timeout(Duration::from_secs(3), queued)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(*order.lock().unwrap(), ["delayed", "queued"]);
        let waited = ran.saturating_duration_since(freed);
        assert!(
            waited < DELAY / 2,
            "ran {waited:?} after the band freed, a delay timed from the pick-up"
        );
    }

    /// A process that never started a runtime still gets a blocking pool.
    #[test]
    fn spawn_blocking_from_a_thread_with_no_runtime() {
        let job = std::thread::spawn(|| spawn_blocking(|| 9)).join().unwrap();
        assert_eq!(park_on_interruptible(job, || false).unwrap().unwrap(), 9);
    }

    #[epics_macros_rs::epics_test]
    async fn spawn_blocking_leaves_the_bands_free() {
        let (job, started, release) = held_job();
        let held = spawn_blocking(job);
        bands_run_beside(started, release, None).await;
        held.await.unwrap();
    }

    #[epics_macros_rs::epics_test]
    async fn spawn_blocking_with_priority_leaves_the_bands_free() {
        let (job, started, release) = held_job();
        let held = spawn_blocking_with_priority(ThreadPriority::Low, job);
        bands_run_beside(started, release, None).await;
        held.await.unwrap();
    }

    /// Bound or not, a reactor's blocking job holds neither a band nor the
    /// executor's own worker.
    #[epics_macros_rs::epics_test]
    async fn reactor_spawn_blocking_leaves_the_bands_and_executor_free() {
        let exec = Arc::new(
            crate::runtime::background::DedicatedExecutor::new(
                "BLKEXEC",
                ThreadPriority::Custom(18),
                1,
            )
            .expect("executor starts"),
        );
        let reactor = Reactor::current().expect("the test driver enters an executor");
        for r in [reactor.clone(), reactor.with_executor(&exec)] {
            let (job, started, release) = held_job();
            let held = r.spawn_blocking(job);
            bands_run_beside(started, release, Some(&r)).await;
            held.await.unwrap();
        }
    }

    #[epics_macros_rs::epics_test]
    async fn fs_blocking_leaves_the_bands_free() {
        let (job, started, release) = held_job();
        let held = Reactor::current()
            .expect("the test driver enters an executor")
            .spawn(crate::runtime::fs::blocking(move || {
                job();
                Ok(())
            }));
        bands_run_beside(started, release, None).await;
        held.await.unwrap().unwrap();
    }

    /// The property `spawn_dedicated_thread` exists for. A future written for
    /// the hosted driver — one that spawns a task and arms a timer — must run
    /// unchanged on the thread this hands back. On a plain `std::thread` it
    /// does not: it panics with "there is no reactor running" as soon as it is
    /// polled, however willing `block_on_sync` was to park.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dedicated_thread_carries_the_ambient_runtime() {
        let (tx, rx) = std::sync::mpsc::channel();
        let joined = spawn_dedicated_thread(
            "dedicated-with-runtime".into(),
            ThreadPriority::CaServerLow,
            StackSizeClass::Small,
            move || {
                let outcome = block_on_sync(async {
                    let reactor = Reactor::current()
                        .expect("the dedicated thread carries the ambient runtime");
                    let inner = reactor.spawn(async { 7u32 }).await.expect("inner task");
                    sleep(Duration::from_millis(1)).await;
                    inner
                });
                let _ = tx.send((
                    std::thread::current().name().map(str::to_string),
                    outcome.ok(),
                ));
            },
        )
        .expect("dedicated thread spawned");

        let (name, value) = rx
            .recv_timeout(Duration::from_secs(5))
            .expect("the dedicated thread must complete, not panic");
        assert_eq!(name.as_deref(), Some("dedicated-with-runtime"));
        assert_eq!(
            value,
            Some(7),
            "a spawn and a timer must both work on the dedicated thread"
        );
        joined.join().expect("dedicated thread joined");
    }

    /// The third boundary, and the one that was missing: a **current-thread**
    /// ambient runtime.
    ///
    /// The two neighbours below and above cover "multi-thread ambient" and "no
    /// ambient". This is the case between them, and inheriting the handle there
    /// is what made `block_on_sync` return `NotBlockable` on a thread that was
    /// perfectly able to park — silently, since every caller reads the refusal
    /// as "the connection ended". `#[tokio::test]` is `CurrentThread` by
    /// default, so this is also the flavor most of the workspace's tests hand a
    /// dedicated thread.
    ///
    /// The assertion is on `block_on_sync` succeeding, not on the absence of a
    /// handle, because being able to block is the property the thread is spawned
    /// for; how that is arranged is this function's business.
    #[epics_macros_rs::epics_test]
    async fn a_dedicated_thread_can_block_under_a_current_thread_ambient() {
        let (tx, rx) = std::sync::mpsc::channel();
        let joined = spawn_dedicated_thread(
            "dedicated-current-thread-ambient".into(),
            ThreadPriority::Low,
            StackSizeClass::Small,
            move || {
                // A runtime-agnostic await, the only kind a parking thread may
                // use — and the exact shape both blocking-io pumps run.
                let (ctx, crx) = tokio::sync::mpsc::channel::<u32>(1);
                let outcome = block_on_sync(async move {
                    ctx.send(9u32).await.expect("send into a depth-1 channel");
                    let mut crx = crx;
                    crx.recv().await
                });
                let _ = tx.send(outcome.ok().flatten());
            },
        )
        .expect("dedicated thread spawned");

        assert_eq!(
            rx.recv_timeout(Duration::from_secs(5))
                .expect("the dedicated thread must complete, not panic"),
            Some(9),
            "a dedicated thread must be able to park under a current-thread \
             ambient runtime; inheriting that handle makes block_on_sync \
             refuse and every pump built on it exit at once"
        );
        joined.join().expect("dedicated thread joined");
    }

    /// The other boundary: no runtime to capture. The thread still runs, and a
    /// runtime-agnostic await still completes — that is `park_on`, and it is
    /// the only arm RTEMS ever takes.
    #[test]
    fn a_dedicated_thread_runs_without_an_ambient_runtime() {
        let (tx, rx) = std::sync::mpsc::channel();
        let joined = spawn_dedicated_thread(
            "dedicated-no-runtime".into(),
            ThreadPriority::Low,
            StackSizeClass::Small,
            move || {
                let _ = tx.send((
                    std::thread::current().name().map(str::to_string),
                    block_on_sync(async { 5u32 }).ok(),
                ));
            },
        )
        .expect("dedicated thread spawned");

        let (name, value) = rx
            .recv_timeout(Duration::from_secs(5))
            .expect("the dedicated thread must run with no runtime to capture");
        assert_eq!(name.as_deref(), Some("dedicated-no-runtime"));
        assert_eq!(value, Some(5));
        joined.join().expect("dedicated thread joined");
    }

    // --- The band-blocking invariant -----------------------------------------
    //
    // MUST NOT: work running on a background-facility worker thread — a
    // callback band, the delayed timer, the scanOnce worker — block that
    // thread on async progress. The gate is `block_on_sync`; the mark is set
    // by `background::facility::run_facility_loop`, the one function every
    // worker loop goes through.
    //
    // Each of the three cases below is written so that a *broken* gate fails
    // the test instead of hanging it: the awaited future is completable from
    // the test thread, so a worker that parked can always be released before
    // the assertion runs and the pool's `Drop` can still join it.

    /// The case the invariant exists for: a future spawned onto a callback
    /// band. On RTEMS this is exactly what [`Reactor::spawn`] produces, and the
    /// band has
    /// one worker — parking it stops every deferred callback, every FLNK tail
    /// and every other monitor on that band.
    #[test]
    fn a_future_on_a_callback_band_is_refused_a_blocking_bridge() {
        use crate::runtime::background::callback_executor::CallbackPool;
        use crate::runtime::background::future_exec::{DEFAULT_SPAWN_PRIORITY, spawn_future};

        let pool = CallbackPool::new();
        // Held by the test: `recv()` never completes until we send, so a gate
        // that does not refuse leaves the worker parked here.
        let (release, mut park_here) = tokio::sync::mpsc::channel::<()>(1);
        let (report, outcome) = std::sync::mpsc::channel();

        let _handle = spawn_future(&pool.handle(), DEFAULT_SPAWN_PRIORITY, async move {
            let _ = report.send(block_on_sync(async move { park_here.recv().await }));
        });

        let got = outcome.recv_timeout(Duration::from_secs(5));
        // Release a worker the gate failed to protect, so the assertions below
        // report a failure instead of hanging `CallbackPool::drop`'s join.
        let _ = release.try_send(());

        match got {
            Ok(result) => assert_eq!(
                result.map(|v| v.is_some()),
                Err(NotBlockable::BackgroundWorker),
                "a band worker must be refused the blocking bridge, not given one"
            ),
            Err(_) => panic!(
                "the band worker parked inside block_on_sync instead of being \
                 refused — the band has one worker, so this is the deadlock the \
                 invariant exists to prevent"
            ),
        }
    }

    /// The same thread, reached the other way: `spawn_blocking` also lands on a
    /// band worker under the exec backend, and a blocking closure holds that
    /// worker for its whole run. The rule is a property of the thread, so it
    /// must not depend on which spawn put the work there.
    #[test]
    fn a_blocking_closure_on_a_callback_band_is_refused_too() {
        use crate::runtime::background::callback_executor::CallbackPool;
        use crate::runtime::background::future_exec::{DEFAULT_SPAWN_PRIORITY, spawn_blocking_on};

        let pool = CallbackPool::new();
        let (release, mut park_here) = tokio::sync::mpsc::channel::<()>(1);
        let (report, outcome) = std::sync::mpsc::channel();

        let _handle = spawn_blocking_on(&pool.handle(), DEFAULT_SPAWN_PRIORITY, move |_| {
            let _ = report.send(block_on_sync(async move { park_here.recv().await }));
        });

        let got = outcome.recv_timeout(Duration::from_secs(5));
        let _ = release.try_send(());

        match got {
            Ok(result) => assert_eq!(
                result.map(|v| v.is_some()),
                Err(NotBlockable::BackgroundWorker),
                "the refusal keys on the thread, not on how work reached it"
            ),
            Err(_) => panic!("the band worker parked instead of being refused"),
        }
    }

    /// The other side of the boundary, so the gate cannot be satisfied by
    /// refusing everything: an ordinary thread that merely *submits* to the
    /// pool still blocks. The mark covers the worker loop's own thread and
    /// nothing else.
    #[test]
    fn a_thread_that_only_submits_to_a_band_still_blocks() {
        use crate::runtime::background::callback_executor::{CallbackPool, CallbackPriority};

        let pool = CallbackPool::new();
        let (tx, rx) = std::sync::mpsc::channel();
        pool.request(
            CallbackPriority::Medium,
            Box::new(move || tx.send(1u32).unwrap()),
        )
        .expect("the band accepts the callback");
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)).unwrap(), 1);
        assert_eq!(
            block_on_sync(async { 5u32 }),
            Ok(5),
            "the submitting thread runs no facility loop, so it may still park"
        );
    }

    #[epics_macros_rs::epics_test]
    async fn test_sleep() {
        let start = std::time::Instant::now();
        sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    // The two halves of `timeout`'s contract. They read as trivial against a
    // tokio delegation, and that is the point: they are what a later backend
    // swap has to keep true, on a seam whose whole purpose is to be
    // reimplemented.
    #[epics_macros_rs::epics_test]
    async fn timeout_yields_the_value_when_the_future_finishes_first() {
        let r = timeout(Duration::from_secs(30), async { 42 }).await;
        assert_eq!(r.unwrap(), 42);
    }

    #[epics_macros_rs::epics_test]
    async fn timeout_elapses_on_a_future_that_never_finishes() {
        let r = timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
        assert!(r.is_err());
    }

    // The boundary the two tests above cannot reach, because
    // `#[epics_test]` always gives them a driver: a thread with no runtime
    // at all. `tokio::time` panics there, so the hosted half of this seam
    // used to as well, and every caller that could not prove a runtime
    // simply stopped passing a deadline — see `asyn-rs`'s
    // `PortHandle::await_reply`. `park_on` is the driver a blocking bridge
    // really uses, and the background timer thread is what wakes it.
    #[test]
    fn a_bounded_wait_fires_on_a_thread_with_no_runtime() {
        assert!(
            tokio::runtime::Handle::try_current().is_err(),
            "the premise of this test"
        );
        let started = std::time::Instant::now();
        let r = park_on(timeout(
            Duration::from_millis(30),
            std::future::pending::<()>(),
        ));
        assert!(r.is_err(), "the deadline is the only thing that can end it");
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_millis(30) && waited < Duration::from_secs(2),
            "woke at its own deadline (waited {waited:?})"
        );
    }

    #[test]
    fn a_deadline_wait_fires_on_a_thread_with_no_runtime() {
        let started = std::time::Instant::now();
        let r = park_on(timeout_at(
            deadline_from_now(Duration::from_millis(30)),
            std::future::pending::<()>(),
        ));
        assert!(r.is_err());
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_millis(30) && waited < Duration::from_secs(2),
            "woke at its own deadline (waited {waited:?})"
        );
    }

    #[test]
    fn a_sleep_on_a_thread_with_no_runtime_returns() {
        let started = std::time::Instant::now();
        park_on(sleep(Duration::from_millis(10)));
        assert!(started.elapsed() >= Duration::from_millis(10));
    }

    #[test]
    fn an_interval_on_a_thread_with_no_runtime_ticks() {
        let started = std::time::Instant::now();
        park_on(async {
            let mut every = interval(Period::new(Duration::from_millis(10)).unwrap());
            every.tick().await;
            every.tick().await;
            every.tick().await;
        });
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_millis(20) && waited < Duration::from_secs(2),
            "the re-armed third tick came two periods in (waited {waited:?})"
        );
    }

    /// A `tick()` that loses a `select!` race is dropped mid-wait. The ticker
    /// keeps its timer armed through that drop, so the next `tick()` arms
    /// nothing and the deadline stays put: the per-iteration cost of a loop
    /// that selects on it.
    #[test]
    fn a_dropped_tick_leaves_its_timer_armed_for_the_next() {
        let timer = background().timer().handle();
        let mut cx = Context::from_waker(Waker::noop());
        let mut every = interval(Period::new(Duration::from_secs(180)).unwrap());
        assert!(Box::pin(every.tick()).as_mut().poll(&mut cx).is_ready());
        let (before, armed, due) = (
            timer.scheduled_count(),
            background_timer_scheduled_total(),
            every.next,
        );
        for _ in 0..8 {
            let mut t = Box::pin(every.tick());
            assert!(t.as_mut().poll(&mut cx).is_pending());
            drop(t);
            assert_eq!(
                timer.scheduled_count(),
                before + 1,
                "one entry, held by the ticker across dropped ticks"
            );
        }
        assert_eq!(
            background_timer_scheduled_total(),
            armed + 1,
            "armed once, not once per poll"
        );
        assert_eq!(every.next, due, "a pending poll moved the tick");
    }

    /// `MissedTickBehavior::Burst`: deadlines stay anchored at construction,
    /// so after a stall every overdue tick is due at once, not re-spaced a
    /// period from now. Due, not ready: a lapsed background `Sleep` yields its
    /// first poll with a wake of its own, so no tick waits on the timer.
    #[test]
    fn an_interval_bursts_to_catch_up_after_a_stall() {
        struct Wakes(std::sync::atomic::AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let wakes = Arc::new(Wakes(std::sync::atomic::AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let period = Duration::from_millis(50);
        let mut every = interval(Period::new(period).unwrap());
        assert!(Box::pin(every.tick()).as_mut().poll(&mut cx).is_ready());
        std::thread::sleep(8 * period);
        for n in 1..=4 {
            let mut tick = Box::pin(every.tick());
            if tick.as_mut().poll(&mut cx).is_pending() {
                assert_eq!(
                    wakes.0.swap(0, std::sync::atomic::Ordering::SeqCst),
                    1,
                    "overdue tick {n} waits on the timer"
                );
                assert!(
                    tick.as_mut().poll(&mut cx).is_ready(),
                    "overdue tick {n} waited"
                );
            }
        }
    }

    /// A `Period` is what `interval` accepts, and no public constructor builds
    /// a zero one: `new` refuses it, the `NonZeroU64` constructors cannot be
    /// handed it, and `at_least` lifts it to its floor.
    #[test]
    fn a_period_is_a_non_zero_duration() {
        assert_eq!(Period::new(Duration::ZERO), None);
        let ns = Duration::from_nanos(1);
        assert_eq!(Period::new(ns).map(Period::get), Some(ns));
        assert_eq!(Period::MIN.get(), ns);
        assert_eq!(
            Period::from_secs(std::num::NonZeroU64::MIN).get(),
            Duration::from_secs(1)
        );
        assert_eq!(
            Period::from_millis(std::num::NonZeroU64::MIN).get(),
            Duration::from_millis(1)
        );
        assert_eq!(Period::at_least(Duration::ZERO, Period::MIN), Period::MIN);
        let floor = Period::from_millis(std::num::NonZeroU64::new(100).unwrap());
        assert_eq!(Period::at_least(Duration::from_millis(99), floor), floor);
        assert_eq!(
            Period::at_least(Duration::from_millis(101), floor).get(),
            Duration::from_millis(101)
        );
    }

    /// The other half of the same boundary: a runtime thread must still take
    /// tokio's timer, because that is the only one that moves with tokio's
    /// clock — which `#[tokio::test(start_paused = true)]` makes virtual. The
    /// discriminator is the background executor's `OnceLock`: it is untouched
    /// unless something reached for the wall-clock timer. Relies on nextest's
    /// process-per-test isolation for the "untouched" half.
    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn a_bounded_wait_on_a_runtime_thread_keeps_the_runtime_s_timer() {
        assert!(
            BACKGROUND.get().is_none(),
            "the premise: nothing has started the background facility yet"
        );
        let r = timeout(Duration::from_millis(10), std::future::pending::<()>()).await;
        assert!(r.is_err());
        assert!(
            BACKGROUND.get().is_none(),
            "a runtime thread armed tokio's timer, not the background one"
        );
    }

    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn an_interval_on_a_runtime_thread_keeps_the_runtime_s_timer() {
        assert!(
            BACKGROUND.get().is_none(),
            "the premise: nothing has started the background facility yet"
        );
        let started = Instant::now();
        let mut every = interval(Period::new(Duration::from_millis(10)).unwrap());
        every.tick().await;
        every.tick().await;
        every.tick().await;
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert!(
            BACKGROUND.get().is_none(),
            "a runtime thread armed tokio's timer, not the background one"
        );
    }

    #[test]
    fn priority_named_levels_match_epics_thread_h() {
        // epicsThread.h:73-83 named-level constants.
        assert_eq!(ThreadPriority::Low.value(), 10);
        assert_eq!(ThreadPriority::CaServerLow.value(), 20);
        assert_eq!(ThreadPriority::CaServerHigh.value(), 40);
        assert_eq!(ThreadPriority::Medium.value(), 50);
        assert_eq!(ThreadPriority::ScanLow.value(), 60);
        assert_eq!(ThreadPriority::ScanHigh.value(), 70);
        assert_eq!(ThreadPriority::High.value(), 90);
        assert_eq!(ThreadPriority::Iocsh.value(), 91);
    }

    #[test]
    fn priority_ordering_ca_server_below_scan() {
        // Real-time invariant: scan threads must outrank CA-server
        // threads so scans preempt the CA server on a loaded IOC.
        assert!(ThreadPriority::CaServerHigh.value() < ThreadPriority::ScanLow.value());
        assert!(ThreadPriority::CaServerLow.value() < ThreadPriority::ScanLow.value());
    }

    /// C keeps any `unsigned int` priority as given (`osdThread.c:219`).
    #[test]
    fn a_custom_priority_is_kept_as_given() {
        assert_eq!(ThreadPriority::Custom(200).value(), 200);
        assert_eq!(ThreadPriority::Custom(u32::MAX).value(), u32::MAX);
        assert_eq!(ThreadPriority::Custom(0).value(), PRIORITY_MIN);
        // Scaled unclamped (`osdThread.c:139`): past the FIFO maximum.
        assert_eq!(map_epics_priority(200, 1, 99), (200.0 * 0.98 + 1.0) as i32);
    }

    /// C's two lines for a priority the FIFO scheduler refuses
    /// (`osdThread.c:160-162`, `:672-680`).
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    const ABOVE_99_LINES: [&str; 2] = [
        "pthread_attr_setschedparam error Invalid argument",
        "pthread_create error Invalid argument",
    ];

    /// In the child, spawn at 200, 200 and 101 and print what each got, then
    /// `None`; in the parent, re-run `test` as that child with
    /// [`RT_PRIORITY_ENV`] `rt`, and return its stdout and C's lines from its
    /// stderr.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn above_99_run(test: &str, rt: &str) -> Option<(String, Vec<String>)> {
        const CHILD: &str = "EPICS_RS_PRIORITY_200_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let fifo = matches!(permitted_fifo_range(), RtRange::Available { .. });
            println!("FIFO={fifo}");
            for priority in [200, 200, 101] {
                let name = format!("prio-{priority}");
                let (tx, rx) = std::sync::mpsc::channel();
                let spawned = MandatoryThread::new(
                    name.clone(),
                    ThreadPriority::Custom(priority),
                    StackSizeClass::Small,
                )
                .try_spawn(move || {
                    let mut policy = 0;
                    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
                    // SAFETY: the calling thread, with stack-local out-params.
                    unsafe {
                        libc::pthread_getschedparam(libc::pthread_self(), &mut policy, &mut param)
                    };
                    let osipri = thread_report()
                        .into_iter()
                        .find(|t| t.name() == name)
                        .map(|t| t.epics_priority());
                    tx.send((policy, param.sched_priority, osipri)).unwrap();
                });
                match spawned {
                    Ok(thread) => {
                        let (policy, sched, osipri) = rx.recv().unwrap();
                        thread.join().unwrap();
                        let fifo = policy == libc::SCHED_FIFO;
                        println!("{priority}: THREAD fifo={fifo} sched={sched} osipri={osipri:?}");
                    }
                    Err(e) => println!("{priority}: NONE {:?}", e.raw_os_error()),
                }
            }
            return None;
        }
        let out =
            std::process::Command::new(std::env::current_exe().expect("the test binary path"))
                .args(["--exact", test, "--nocapture"])
                .env(CHILD, "1")
                .env_remove(C_RT_PRIORITY_ENV)
                .env(RT_PRIORITY_ENV, rt)
                .output()
                .expect("re-exec the test binary");
        let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{RT_PRIORITY_ENV}={rt}: {stdout}{stderr}"
        );
        let printed = stderr
            .lines()
            .filter(|l| ABOVE_99_LINES.contains(l))
            .map(str::to_owned)
            .collect();
        Some((stdout, printed))
    }

    /// A priority above 99 is kept as given without RT.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn an_above_99_priority_is_kept_without_rt() {
        assert_eq!(
            einval_status_line("pthread_attr_setschedparam"),
            ABOVE_99_LINES[0]
        );
        assert_eq!(einval_status_line("pthread_create"), ABOVE_99_LINES[1]);
        let Some((stdout, printed)) = above_99_run(
            "runtime::task::tests::an_above_99_priority_is_kept_without_rt",
            "NO",
        ) else {
            return;
        };
        let said = |l: &str| stdout.lines().filter(|o| *o == l).count();
        assert_eq!(
            said("200: THREAD fifo=false sched=0 osipri=Some(200)"),
            2,
            "{stdout}"
        );
        assert_eq!(
            said("101: THREAD fifo=false sched=0 osipri=Some(101)"),
            1,
            "{stdout}"
        );
        assert!(printed.is_empty(), "{printed:?}");
    }

    /// With RT allowed, a priority that maps past the FIFO range creates no
    /// thread and prints C's two lines on every attempt; 101 maps to 99 and
    /// runs FIFO there. Excluded from `profile.ci` by name: it fails, not
    /// skips, where the process may not have SCHED_FIFO.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn an_above_99_priority_is_refused_by_the_fifo_scheduler() {
        let Some((stdout, printed)) = above_99_run(
            "runtime::task::tests::an_above_99_priority_is_refused_by_the_fifo_scheduler",
            "YES",
        ) else {
            return;
        };
        let said = |l: &str| stdout.lines().filter(|o| *o == l).count();
        assert!(
            stdout.contains("FIFO=true"),
            "this box cannot obtain SCHED_FIFO, so the RT branch is unverified: {stdout}"
        );
        assert_eq!(
            said(&format!("200: NONE Some({})", libc::EINVAL)),
            2,
            "{stdout}"
        );
        assert_eq!(
            said("101: THREAD fifo=true sched=99 osipri=Some(101)"),
            1,
            "{stdout}"
        );
        assert_eq!(
            printed,
            [
                ABOVE_99_LINES[0],
                ABOVE_99_LINES[1],
                ABOVE_99_LINES[0],
                ABOVE_99_LINES[1]
            ],
            "{printed:?}"
        );
    }

    #[test]
    fn stack_size_classes_ordered() {
        // STACK_SIZE table is strictly increasing Small < Medium < Big.
        assert!(StackSizeClass::Small.bytes() < StackSizeClass::Medium.bytes());
        assert!(StackSizeClass::Medium.bytes() < StackSizeClass::Big.bytes());
        // Small = 0x10000 * sizeof(usize).
        assert_eq!(
            StackSizeClass::Small.bytes(),
            0x10000 * std::mem::size_of::<usize>()
        );
    }

    /// The three classes against the C table, factor by factor.
    ///
    /// `STACK_SIZE(f) = f * 0x10000 * sizeof(void*)` with factors 1, 2, 4
    /// (`libcom/src/osi/os/posix/osdThread.c:506-509`) — the file a C IOC on
    /// RTEMS 6 compiles, because `configure/toolchain.c:29-35` picks
    /// `OS_API = posix` for `__RTEMS_MAJOR__ >= 5`. Pinning the factors
    /// separately from the unit is what makes a silent edit of one of them
    /// fail: `stack_size_classes_ordered` above is satisfied by any
    /// increasing triple.
    #[test]
    fn the_classes_are_the_c_posix_table_factor_for_factor() {
        let unit = 0x10000 * std::mem::size_of::<usize>();
        assert_eq!(StackSizeClass::Small.bytes(), unit);
        assert_eq!(StackSizeClass::Medium.bytes(), 2 * unit);
        assert_eq!(StackSizeClass::Big.bytes(), 4 * unit);
        // And what the same table yields on the target the RTEMS port builds
        // for (`sizeof(void*) == 4`), spelled out so a reader on a 64-bit
        // host does not have to re-derive it.
        const TARGET_UNIT: usize = 0x10000 * 4;
        assert_eq!(
            [TARGET_UNIT, 2 * TARGET_UNIT, 4 * TARGET_UNIT],
            [256 * 1024, 512 * 1024, 1024 * 1024],
            "armv7-rtems-eabihf: Small / Medium / Big in bytes"
        );
    }

    #[test]
    fn from_c_reads_0_1_2_as_classes_and_the_rest_as_bytes() {
        assert_eq!(
            StackSpec::from_c(0),
            StackSpec::Class(StackSizeClass::Small)
        );
        assert_eq!(
            StackSpec::from_c(1),
            StackSpec::Class(StackSizeClass::Medium)
        );
        assert_eq!(StackSpec::from_c(2), StackSpec::Class(StackSizeClass::Big));
        assert_eq!(StackSpec::from_c(3), StackSpec::Bytes(3));
        assert_eq!(StackSpec::from_c(500_000), StackSpec::Bytes(500_000));
    }

    /// A sized thread gets its bytes, the attr's default below
    /// `PTHREAD_STACK_MIN`, and a class gets exactly what `try_spawn` gives it.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_sized_thread_reports_the_stack_its_spec_asks_for() {
        for (stack, asked) in [
            (StackSpec::Bytes(1), pthread_default_stack_bytes()),
            (
                StackSpec::Bytes(libc::PTHREAD_STACK_MIN),
                libc::PTHREAD_STACK_MIN,
            ),
            (StackSpec::Bytes(500_000), 500_000),
            (
                StackSpec::Class(StackSizeClass::Medium),
                StackSizeClass::Medium.bytes(),
            ),
        ] {
            assert_eq!(stack.bytes(), asked, "{stack:?}");
            let (tx, rx) = std::sync::mpsc::channel();
            MandatoryThread::new("stack-sized", ThreadPriority::Low, StackSizeClass::Small)
                .try_spawn_sized(stack, move || {
                    let _ = tx.send(current_thread_stack_bytes().unwrap());
                })
                .expect("sized thread spawned")
                .join()
                .expect("thread joined");
            let got = rx.recv().expect("the thread reported its stack");
            // glibc aligns a byte count down to its stack alignment, as it
            // does C's same `pthread_attr_setstacksize` (500000 reads 499968).
            assert!(
                got + 64 > asked && got < asked + 64 * 1024,
                "{stack:?}: asked for {asked} bytes, thread reports {got}"
            );
        }
    }

    /// A refused byte count prints C's line once per thread, an accepted one
    /// prints nothing (`osdThread.c:213-214`).
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_refused_stack_size_prints_c_s_line() {
        const CHILD: &str = "EPICS_RS_STACK_REFUSED_CHILD";
        const TEST: &str = "runtime::task::tests::a_refused_stack_size_prints_c_s_line";

        // glibc's `strerror(EINVAL)`.
        let line = "pthread_attr_setstacksize error Invalid argument";
        assert_eq!(einval_status_line("pthread_attr_setstacksize"), line);

        if let Some(bytes) = std::env::var_os(CHILD) {
            let bytes: usize = bytes.to_str().unwrap().parse().unwrap();
            MandatoryThread::new("stack-refused", ThreadPriority::Low, StackSizeClass::Small)
                .try_spawn_sized(StackSpec::Bytes(bytes), || {})
                .expect("sized thread spawned")
                .join()
                .expect("thread joined");
            return;
        }

        for (bytes, printed) in [
            (1, 1),
            (libc::PTHREAD_STACK_MIN - 1, 1),
            (libc::PTHREAD_STACK_MIN, 0),
        ] {
            let out =
                std::process::Command::new(std::env::current_exe().expect("the test binary path"))
                    .args(["--exact", TEST, "--nocapture"])
                    .env(CHILD, bytes.to_string())
                    .output()
                    .expect("re-exec the test binary");
            assert!(out.status.success(), "child for {bytes} failed");
            let stderr = String::from_utf8_lossy(&out.stderr);
            assert_eq!(
                stderr.lines().filter(|l| *l == line).count(),
                printed,
                "{bytes} bytes; stderr: {stderr}"
            );
        }
    }

    /// The stack a caller *states* is the stack the thread *reports*.
    ///
    /// The source guard above only proves a number reached the builder. This
    /// asks the running thread what it actually got, through
    /// `pthread_getattr_np`, and that is the property the RTEMS ceiling
    /// depends on: `std` gates its 2 MiB `DEFAULT_MIN_STACK_SIZE` on a
    /// carve-out list that omits rtems, so a size that fails to arrive is
    /// silently 2 MiB rather than an error.
    ///
    /// The mechanism this exercises is not host-specific: `std`'s
    /// `Thread::new` calls `pthread_attr_setstacksize(attr, max(stack,
    /// PTHREAD_STACK_MIN))` on every non-espidf/nuttx unix
    /// (`std/src/sys/thread/unix.rs`), and `libc` gives rtems
    /// `PTHREAD_STACK_MIN = 0`, so the `max` cannot raise our request there
    /// either. Glibc-only because `pthread_getattr_np` is the readback API.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dedicated_thread_reports_the_stack_it_was_asked_for() {
        for class in [
            StackSizeClass::Small,
            StackSizeClass::Medium,
            StackSizeClass::Big,
        ] {
            let (tx, rx) = std::sync::mpsc::channel();
            let joined = spawn_dedicated_thread(
                format!("stack-readback-{class:?}"),
                ThreadPriority::CaServerLow,
                class,
                move || {
                    let _ = tx.send(current_thread_stack_bytes().unwrap());
                },
            )
            .expect("dedicated thread spawned");
            let got = rx.recv().expect("the thread reported its stack");
            joined.join().expect("thread joined");

            let asked = class.bytes();
            // The kernel rounds up to a page; it must never round *down*, and
            // it must not silently substitute something of a different order.
            assert!(
                got >= asked && got < asked + 64 * 1024,
                "{class:?}: asked for {asked} bytes, thread reports {got}"
            );
        }
    }

    /// A frame on a thread lies above the low end its stack reports, and
    /// within the stack the thread asked for.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn a_frame_lies_within_its_threads_stack() {
        let asked = StackSizeClass::Big.bytes();
        std::thread::Builder::new()
            .stack_size(asked)
            .spawn(move || {
                let here = 0u8;
                let at = std::ptr::addr_of!(here).addr();
                let low = current_thread_stack_low().unwrap();
                assert!(low < at && at - low < asked, "low {low:#x}, frame {at:#x}");
            })
            .unwrap()
            .join()
            .unwrap();
    }

    /// The distinguishing half of the readback: a class below `std`'s default
    /// must land below it. Without this the test above would pass on a
    /// platform that ignored every request and handed out 2 MiB, for the two
    /// classes that happen to be smaller than that on a 64-bit host.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_small_classes_are_below_the_default_that_would_mask_a_failure() {
        const STD_DEFAULT_MIN_STACK_SIZE: usize = 2 * 1024 * 1024;
        assert!(StackSizeClass::Small.bytes() < STD_DEFAULT_MIN_STACK_SIZE);
        assert!(StackSizeClass::Medium.bytes() < STD_DEFAULT_MIN_STACK_SIZE);
    }

    #[test]
    fn apply_priority_returns_a_defined_outcome() {
        // The result depends on the platform + permissions of the test
        // host; we only assert it is one of the defined outcomes and
        // does not panic. On a CI box without CAP_SYS_NICE this is
        // typically BestEffortFailed — which is C-parity behaviour.
        let outcome = apply_to_current_thread(ThreadPriority::ScanHigh);
        assert!(matches!(
            outcome,
            PriorityApplied::Realtime
                | PriorityApplied::Disabled
                | PriorityApplied::Unsupported
                | PriorityApplied::BestEffortFailed
        ));
    }

    /// C's name wins whenever it is set, with C's parse; the alias counts
    /// only when C's is unset; neither set is on.
    #[test]
    fn the_c_switch_wins_and_the_default_is_on() {
        use RtPolicy::{AllowRealtime as On, Disabled as Off};
        assert_eq!(DEFAULT_POLICY, On);
        assert_eq!(RtPolicy::from_env(None, None), On);
        let os = |v: Option<&'static str>| v.map(std::ffi::OsStr::new);
        for (c, alias, want) in [
            (Some("YES"), None, On),
            (Some("yes"), Some("NO"), On),
            (Some("NO"), Some("YES"), Off),
            (Some(""), Some("YES"), Off),
            (Some("true"), None, Off),
            (Some(" yes"), None, Off),
            (None, Some("NO"), Off),
            (None, Some("1"), On),
            (None, Some(" on "), On),
            (None, Some(""), Off),
        ] {
            assert_eq!(
                RtPolicy::from_env(os(c), os(alias)),
                want,
                "C {c:?}, alias {alias:?}"
            );
        }
        // Not UTF-8 is a set value that is not `yes`, as C's byte compare
        // (`envSubr.c:331`) sees it — never "unset, so on".
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let raw = std::ffi::OsStr::from_bytes(b"y\xffes");
            assert_eq!(RtPolicy::from_env(Some(raw), None), Off);
            assert_eq!(RtPolicy::from_env(Some(raw), os(Some("YES"))), Off);
            assert_eq!(RtPolicy::from_env(None, Some(raw)), Off);
        }
    }

    /// Switch off ⟹ the OS scheduler is never called.
    ///
    /// Mutation check: deleting the `RtPolicy::Disabled` arm in
    /// `apply_to_current_thread_under` (so it always calls
    /// `apply_priority_impl`) makes the `SCHED_CALLS` assertion fail.
    #[cfg(target_os = "linux")]
    #[test]
    fn switch_off_makes_no_scheduler_calls() {
        let before = SCHED_CALLS.with(std::cell::Cell::get);
        for p in [
            ThreadPriority::Low,
            ThreadPriority::CaServerLow,
            ThreadPriority::ScanHigh,
            ThreadPriority::Iocsh,
            ThreadPriority::Custom(0),
            ThreadPriority::Custom(99),
        ] {
            assert_eq!(
                apply_to_current_thread_under(RtPolicy::Disabled, p),
                PriorityApplied::Disabled
            );
        }
        assert_eq!(
            SCHED_CALLS.with(std::cell::Cell::get),
            before,
            "the switch is off, so nothing may reach pthread_setschedparam"
        );
    }

    /// Switch on: either the host grants SCHED_FIFO — and then the policy
    /// must actually be in force on the thread, at the mapped priority — or
    /// it does not, and the thread keeps running under the default policy.
    ///
    /// Runs on its own thread: on a host that *does* grant RT, leaving the
    /// test-harness thread in a real-time band would outlive the test.
    #[cfg(target_os = "linux")]
    #[test]
    fn switch_on_either_sticks_or_falls_back_without_killing_the_thread() {
        let outcome = std::thread::spawn(|| {
            // Resolve (and cache) the probe first, so what the call below is
            // expected to do is known rather than order-dependent.
            let range = permitted_fifo_range();
            let before = SCHED_CALLS.with(std::cell::Cell::get);
            let outcome =
                apply_to_current_thread_under(RtPolicy::AllowRealtime, ThreadPriority::ScanHigh);
            let calls = SCHED_CALLS.with(std::cell::Cell::get) - before;

            // Whatever the host allowed, this thread is still running.
            assert_eq!(2 + 2, 4);

            let mut policy = 0i32;
            let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
            // SAFETY: reads the calling thread's own scheduling into
            // stack-local outputs.
            let rc = unsafe {
                libc::pthread_getschedparam(libc::pthread_self(), &mut policy, &mut param)
            };
            assert_eq!(rc, 0, "pthread_getschedparam failed");

            match (range, outcome) {
                (RtRange::Available { min, max }, PriorityApplied::Realtime) => {
                    // The host permits FIFO — assert the policy stuck, at
                    // the C-mapped priority, off exactly one scheduler call.
                    assert_eq!(calls, 1, "one apply must be one scheduler call");
                    assert_eq!(policy, libc::SCHED_FIFO, "SCHED_FIFO did not stick");
                    assert_eq!(
                        param.sched_priority,
                        map_epics_priority(ThreadPriority::ScanHigh.value(), min, max),
                        "wrong OS priority for epicsThreadPriorityScanHigh"
                    );
                }
                (RtRange::Denied, PriorityApplied::BestEffortFailed) => {
                    // Unprivileged: the fallback leaves the thread at the
                    // default policy rather than failing the caller, and —
                    // the anti-spam property — asks the OS nothing further
                    // now that the probe has settled the question once.
                    assert_eq!(calls, 0, "a settled denial must not re-ask the OS");
                    assert_ne!(
                        policy,
                        libc::SCHED_FIFO,
                        "fallback reported but the thread is real-time scheduled"
                    );
                }
                (RtRange::Unsupported, PriorityApplied::Unsupported) => {
                    assert_eq!(calls, 0, "no SCHED_FIFO range means no scheduler call");
                }
                (range, outcome) => {
                    panic!("range {range:?} and outcome {outcome:?} disagree")
                }
            }
            outcome
        })
        .join()
        .expect("probe thread panicked");
        eprintln!("host RT outcome: {outcome:?}");
    }

    /// The mapping itself, against `epicsThreadGetPosixPriority`
    /// (`osdThread.c:129-144`).
    #[cfg(target_os = "linux")]
    #[test]
    fn epics_priority_maps_onto_the_permitted_fifo_range() {
        // Linux's nominal SCHED_FIFO range.
        let (min, max) = (1, 99);
        // oss = p * (max-min)/100 + min
        assert_eq!(map_epics_priority(0, min, max), 1);
        assert_eq!(map_epics_priority(20, min, max), 1 + (20.0 * 0.98) as i32);
        assert_eq!(map_epics_priority(99, min, max), 1 + (99.0 * 0.98) as i32);
        // Ordering is preserved: the CA server sits below the scan bands.
        assert!(
            map_epics_priority(ThreadPriority::CaServerHigh.value(), min, max)
                < map_epics_priority(ThreadPriority::ScanLow.value(), min, max)
        );
        // A range restricted by RLIMIT_RTPRIO still spans the whole EPICS
        // space rather than saturating at the top.
        assert_eq!(map_epics_priority(0, 1, 10), 1);
        assert_eq!(map_epics_priority(99, 1, 10), 1 + (99.0 * 0.09) as i32);
        // Degenerate range collapses (osdThread.c:133).
        assert_eq!(map_epics_priority(50, 7, 7), 7);
    }

    /// The RTEMS map's *image* is the whole point of choosing it, so assert
    /// the image, not sampled points: for **every** `u8` input the resulting
    /// RTEMS core priority lands in `100..=199`, and therefore below libbsd's
    /// network threads.
    ///
    /// Provenance of the band, measured on the bring-up guest (RTEMS 6 +
    /// libbsd, QEMU `xilinx_zynq_a9`) — lower core number is *more* urgent:
    ///
    /// | core | thread |
    /// |------|--------|
    /// | 96   | libbsd `IRQS` (interrupt server) |
    /// | 98   | libbsd `TIME` |
    /// | 100  | libbsd default — twelve further network threads |
    /// | 254  | DHCP, outside the band |
    /// | 255  | idle, `RTEMS_MAXIMUM_PRIORITY` |
    ///
    /// So `core >= 100` means: never more urgent than any libbsd network
    /// thread, and strictly less urgent than `IRQS`/`TIME`. That is a
    /// property of the map's construction (fixed offsets over a 100-wide
    /// EPICS space), not of the endpoints, which is why no input — including
    /// the above-99 ones a `ThreadPriority::Custom` carries — can escape it.
    #[test]
    fn rtems_priority_map_stays_below_the_libbsd_network_band() {
        /// libbsd's most urgent network thread on the measured guest.
        const LIBBSD_IRQS_CORE: i32 = 96;
        /// libbsd's default band; twelve of its threads sit here.
        const LIBBSD_DEFAULT_CORE: i32 = 100;
        // The guest's settable SCHED_FIFO range.
        const POSIX_MIN: i32 = 1;
        const POSIX_MAX: i32 = 254;

        for epics in 0..=255u32 {
            let posix = map_epics_priority_rtems(epics);
            let core = RTEMS_MAXIMUM_PRIORITY - posix;
            assert!(
                (POSIX_MIN..=POSIX_MAX).contains(&posix),
                "EPICS {epics} maps to posix {posix}, outside the settable \
                 [{POSIX_MIN}, {POSIX_MAX}]"
            );
            assert!(
                core >= LIBBSD_DEFAULT_CORE,
                "EPICS {epics} maps to core {core}, more urgent than libbsd's \
                 default band ({LIBBSD_DEFAULT_CORE}) and its IRQS \
                 ({LIBBSD_IRQS_CORE})"
            );
            assert!(
                core <= RTEMS_MAXIMUM_PRIORITY - 56,
                "EPICS {epics} maps to core {core}, less urgent than the \
                 EPICS band's own floor of 199"
            );
        }
        // The two ends of the EPICS space, as `RTEMS-score/osdThread.c:94-102`
        // defines them, and the clamp above it.
        assert_eq!(map_epics_priority_rtems(0), 56);
        assert_eq!(map_epics_priority_rtems(99), 155);
        assert_eq!(map_epics_priority_rtems(100), 155);
        assert_eq!(map_epics_priority_rtems(255), 155);
        // Ordering still holds: a higher EPICS priority is a more urgent core.
        assert!(
            RTEMS_MAXIMUM_PRIORITY - map_epics_priority_rtems(ThreadPriority::ScanLow.value())
                < RTEMS_MAXIMUM_PRIORITY
                    - map_epics_priority_rtems(ThreadPriority::CaServerHigh.value())
        );
    }

    /// The RTEMS map is not the hosted map with retuned endpoints, and the
    /// difference is exactly the reason the RTEMS arm exists.
    ///
    /// Stated as the hazard rather than as `assert_ne!` on a sample: over the
    /// EPICS space, feeding the *hosted linear* map the guest's own probed
    /// range (`min=1`, `max=254`) puts some priorities above libbsd's `IRQS`
    /// at core 96, and the fixed RTEMS map puts none there. The crossover is
    /// pinned at EPICS 63 because that number is the justification recorded in
    /// the commit message; if base's map or the measured band ever moves, this
    /// fails rather than the deviation quietly losing its reason.
    #[test]
    fn rtems_priority_map_is_not_the_hosted_linear_map() {
        const LIBBSD_IRQS_CORE: i32 = 96;
        // What `find_pri_range` yields on the guest (osdThread.c:295-311).
        let (min, max) = (1, 254);

        let hosted_core = |epics: u32| RTEMS_MAXIMUM_PRIORITY - map_epics_priority(epics, min, max);
        let rtems_core = |epics: u32| RTEMS_MAXIMUM_PRIORITY - map_epics_priority_rtems(epics);

        let hosted_above_irqs: Vec<u32> = (0..=99)
            .filter(|&e| hosted_core(e) < LIBBSD_IRQS_CORE)
            .collect();
        let rtems_above_irqs: Vec<u32> = (0..=99)
            .filter(|&e| rtems_core(e) < LIBBSD_IRQS_CORE)
            .collect();

        assert_eq!(
            rtems_above_irqs,
            Vec::<u32>::new(),
            "the RTEMS map must place no EPICS priority above libbsd's IRQS"
        );
        assert_eq!(
            hosted_above_irqs.first().copied(),
            Some(63),
            "base-on-RTEMS-6's posix map crosses IRQS at EPICS 63; that number \
             is the recorded reason for this deviation"
        );
        // And concretely at the CA server band the audit cares about.
        assert_eq!(
            hosted_core(91),
            24,
            "upstream posix map: EPICS 91 -> core 24"
        );
        assert_eq!(rtems_core(91), 108, "this port: EPICS 91 -> core 108");
        // Shapes, not endpoints: the hosted map spans the whole probed range,
        // this one spans exactly 100 levels wherever it is placed.
        assert_eq!(
            map_epics_priority_rtems(99) - map_epics_priority_rtems(0),
            99
        );
        assert_eq!(
            map_epics_priority(99, min, max) - map_epics_priority(0, min, max),
            250
        );
    }

    /// The name budget an RTEMS thread object actually has:
    /// `CONFIGURE_MAXIMUM_THREAD_NAME_SIZE` defaults to 16 *including* the
    /// NUL (`rtems/score/thread.h:1079` (`rtems_6`), `rtems/confdefs/threads.h:92-93` (`rtems_6`))
    /// and the boot shim does not override it, so 15 bytes — the same budget
    /// `std` truncates to on Linux.
    ///
    /// Truncating here rather than letting `_Thread_Set_name` do it is what
    /// keeps the call's result meaningful: that function `strlcpy`s and
    /// *still applies* the truncated name, but returns
    /// `STATUS_RESULT_TOO_LARGE` → `ERANGE`, so an untruncated call would log
    /// a failure for a name it had in fact set.
    #[test]
    fn thread_names_are_cut_to_the_rtems_budget_on_a_char_boundary() {
        assert_eq!(RTEMS_MAX_THREAD_NAME_BYTES, 15);
        // Short names pass through untouched.
        assert_eq!(truncate_thread_name("CAS-event"), "CAS-event");
        // Exactly at the budget.
        assert_eq!(truncate_thread_name("123456789012345"), "123456789012345");
        // Over it — a real per-client CA thread name.
        assert_eq!(
            truncate_thread_name("CAS-client-blocking 10.0.0.1:5064"),
            "CAS-client-blo"[..14].to_owned() + "c"
        );
        assert!(truncate_thread_name("CAS-client-blocking 10.0.0.1:5064").len() <= 15);
        // Never mid-codepoint: 'é' is two bytes, so a cut landing inside it
        // must step back rather than produce invalid UTF-8. 14 ASCII bytes
        // plus 'é' is 16 bytes; the budget cuts at 15, inside the 'é'.
        let mixed = "aaaaaaaaaaaaaaé";
        assert_eq!(mixed.len(), 16);
        assert_eq!(truncate_thread_name(mixed), "aaaaaaaaaaaaaa");
        // Empty stays empty rather than underflowing the boundary walk.
        assert_eq!(truncate_thread_name(""), "");
    }

    /// Every thread this crate starts publishes its name to the OS.
    ///
    /// `std` calls the platform `pthread_setname_np` from `Builder::spawn`
    /// on the hosted targets it supports, and RTEMS is not one of them — so
    /// there, a name set with `Builder::name` lives only in Rust's `Thread`
    /// struct and the kernel shows nothing. Bring-up had to measure libbsd's
    /// priority band by other means for exactly that reason.
    ///
    /// The defect is a call that is *absent*, so this is source inspection
    /// over every production `Builder` site in the crate — the same sweep
    /// shape as `every_thread_in_this_crate_states_a_stack_size`, and it
    /// fails the same way when a new thread forgets. Either prologue counts:
    /// `enter_ioc_thread` for a thread with an EPICS band, bare
    /// `name_current_thread` for one that deliberately has none.
    #[test]
    fn every_thread_in_this_crate_publishes_its_name() {
        let mut anonymous = Vec::new();
        let mut checked = 0usize;
        for (label, src) in censused_files() {
            for (n, after) in production_scope(src)
                .split("thread::Builder::new()")
                .skip(1)
                .enumerate()
            {
                // `.spawn(` and `.spawn_scoped(` both.
                let (_, body) = after.split_once(".spawn").unwrap_or((after, ""));
                checked += 1;
                // The prologue is the closure's first work, so look at the
                // closure, not the builder chain.
                if !body.contains("enter_ioc_thread(") && !body.contains("name_current_thread()") {
                    anonymous.push(format!("{label} (Builder #{})", n + 1));
                }
            }
        }

        // Four: `spawn_dedicated_thread`'s two `cfg` arms,
        // `spawn_dedicated_thread_scoped` and `MandatoryThread::try_spawn`, all
        // of which run the prologue for the caller. The floor was five until the three background facilities
        // moved onto `MandatoryThread`, whose constructor takes the band —
        // `every_background_facility_thread_is_mandatory` covers those files.
        assert!(
            checked >= 4,
            "expected to find the crate's Builder sites, found {checked} — \
             did a file move? update this guard's file list"
        );
        assert!(
            anonymous.is_empty(),
            "these threads are invisible in an RTEMS task listing: {anonymous:?}"
        );
    }

    /// The banding half of the prologue is not reachable without the naming
    /// half: nothing in this crate's production scope calls
    /// [`apply_to_current_thread`] except [`band_and_register`], which is what
    /// [`enter_ioc_thread`] and [`reband_current_thread`] both go through.
    ///
    /// Separate from the sweep above because it catches the other direction —
    /// a thread that is named by `Builder` but takes its band directly, which
    /// the closure-body sweep would pass if the naming call happened to be
    /// somewhere else in the file.
    #[test]
    fn only_the_prologue_reaches_the_banding_call() {
        // Only the definition and the single delegation, both in task.rs.
        // Anywhere else is a thread banded without being named — or banded
        // without the row that says so.
        let allowed = [
            "pub fn apply_to_current_thread(priority: ThreadPriority) -> PriorityApplied {",
            "let applied = apply_to_current_thread(priority);",
        ];
        let mut seen_definition = false;
        // Every file in the crate, not the thread-creating ones: a call that
        // bands a thread is a defect wherever it is written, and this guard's
        // subject is the absence of such a call.
        for (label, src) in crate_sources() {
            let callers: Vec<&str> = production_scope(src)
                .lines()
                .map(str::trim)
                .filter(|l| l.contains("apply_to_current_thread("))
                .filter(|l| !l.starts_with("//"))
                .collect();
            seen_definition |= callers.contains(&allowed[0]);
            let strays: Vec<&&str> = callers.iter().filter(|l| !allowed.contains(l)).collect();
            assert!(
                strays.is_empty(),
                "{label}: only `enter_ioc_thread` may band a thread; \
                 everything else would band an OS-anonymous one — {strays:?}"
            );
        }
        assert!(
            seen_definition,
            "the banding function moved out of this file list; update the guard"
        );
    }

    /// The prologue must register the thread's row through the one place that
    /// also bands it.
    ///
    /// Located inside the prologue's own body rather than anywhere in the file,
    /// because a registration that drifted out of the single thread-transition
    /// owner is the same defect as no registration: threads would start without
    /// passing it.
    #[test]
    fn the_prologue_registers_the_thread() {
        let src = production_scope(include_str!("task.rs"));
        let body_of = |signature: &str| -> &str {
            src.split_once(signature)
                .expect("the function is still in this file")
                .1
                .split_once("\n}\n")
                .expect("the function's body is terminated")
                .0
        };
        let prologue = body_of("pub fn enter_ioc_thread(");
        // Both prologues, banded and not, share one preparation.
        for entry in [prologue, body_of("fn enter_process_thread(")] {
            assert!(entry.contains("prepare_current_thread();"), "{entry}");
        }
        // The row half sits behind `band_and_register`, which is also what
        // `reband_current_thread` goes through, so the chain is checked in
        // two steps rather than one: the prologue reaches it, and it is what
        // writes the row.
        assert!(
            prologue.contains("band_and_register(priority)"),
            "the prologue must take its band through the one place that also \
             writes the row, or a thread can start banded and unlisted"
        );
        assert!(
            body_of("fn band_and_register(")
                .contains("thread_registry::register_current(priority, applied);"),
            "`epicsThreadShowAll` prints exactly what the band call \
             registered; a band without a registration is a thread whose row \
             reports a priority it is not at"
        );
    }

    /// No thread may block on the errlog drain until it says so: not a banded
    /// thread, not an iocsh-band one (its `iocshBody` scope raises it), and
    /// not a thread the port did not create — the tokio workers process
    /// records too. The flag is per-thread.
    #[test]
    fn no_thread_is_ok_to_block_until_it_says_so() {
        assert!(!thread_is_ok_to_block(), "a thread the port did not create");
        for band in [ThreadPriority::ScanLow, ThreadPriority::Iocsh] {
            let after_prologue = std::thread::spawn(move || {
                let _ = enter_ioc_thread(band);
                thread_is_ok_to_block()
            })
            .join()
            .expect("the banded thread");
            assert!(!after_prologue, "{band:?}");
        }
        let raised = std::thread::spawn(|| {
            set_thread_ok_to_block(true);
            thread_is_ok_to_block()
        })
        .join()
        .expect("the raised thread");
        assert!(raised);
        assert!(
            !thread_is_ok_to_block(),
            "the flag is per-thread: the child's raise must not reach ours"
        );
    }

    /// The list holds a thread for exactly as long as the thread exists: C's
    /// `ellAdd` in `start_routine` and `ellDelete` in the thread-specific-data
    /// destructor. A row that outlived its thread would be a `epicsThreadShow`
    /// listing of stacks that are gone.
    #[test]
    fn a_row_lasts_exactly_as_long_as_its_thread() {
        let name = "cbRegLife";
        assert!(thread_by_name(name).is_none(), "name must start unused");

        let (started_tx, started_rx) = std::sync::mpsc::channel();
        let (finish_tx, finish_rx) = std::sync::mpsc::channel();
        let join = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                let _ = enter_ioc_thread(ThreadPriority::ScanLow);
                started_tx.send(()).unwrap();
                finish_rx.recv().unwrap();
            })
            .unwrap();

        started_rx.recv().unwrap();
        let listed = thread_by_name(name).expect("listed while running");
        assert_eq!(listed.epics_priority(), ThreadPriority::ScanLow.value());
        assert_eq!(listed.name(), name);
        assert_ne!(listed.id(), 0, "every row carries a usable EPICS ID");

        finish_tx.send(()).unwrap();
        join.join().unwrap();
        assert!(
            thread_by_name(name).is_none(),
            "the row must be reaped with the thread, not left for the next reader"
        );
    }

    /// C's `_main_`: every job runs on one thread, which is listed once, at
    /// C's priority 0 — across jobs and past a job that panics — until a job
    /// cannot proceed. That thread stays listed, suspended, and the next job
    /// starts a `_main_` of its own. One test because the thread is
    /// process-wide.
    #[test]
    fn main_jobs_share_one_main_row() {
        let main_rows = || {
            thread_report()
                .into_iter()
                .filter(|t| t.name() == "_main_")
                .collect::<Vec<_>>()
        };
        assert!(main_rows().is_empty(), "nothing lists `_main_` on its own");

        let probe = || {
            run_on_main_thread(|| (thread_name_self(), thread_registry::os_thread_id()))
                .unwrap()
                .blocking_recv()
                .unwrap()
        };
        let (name, first) = probe();
        assert_eq!(name, "_main_");
        let rows = main_rows();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(
            rows[0].epics_priority(),
            0,
            "C's `_main_` is EPICS priority 0"
        );

        let panicked = run_on_main_thread(|| panic!("a job that panics")).unwrap();
        assert!(panicked.blocking_recv().is_err(), "its result is dropped");
        let (_, after) = probe();
        assert_eq!(after, first, "every job, before and after, on one thread");
        assert_eq!(main_rows().len(), 1, "and one row for it");

        let (began_tx, began_rx) = std::sync::mpsc::channel();
        drop(
            run_on_main_thread(move || {
                let park = ForeverPark::begin();
                began_tx.send(()).unwrap();
                park.park()
            })
            .unwrap(),
        );
        began_rx.recv().unwrap();
        let (name, fresh) = probe();
        assert_eq!(name, "_main_");
        assert_ne!(fresh, first, "a fresh _main_ took the job after the park");
        let rows = main_rows();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(
            (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                main_rows()
                    .iter()
                    .any(|row| row.os_id() == first && row.is_suspended())
            }),
            "{rows:?}"
        );
    }

    /// The `_main_` thread is created at `Iocsh` on RTEMS, the band
    /// `posix/rtems_init.c:1002` gives it, and with no band elsewhere. Source
    /// inspection, because the RTEMS arm does not build here.
    #[test]
    fn the_main_thread_takes_the_iocsh_band_on_rtems_only() {
        let src = include_str!("task.rs");
        let start = src
            .find("    fn start() -> std::io::Result<Sender<Job>> {")
            .unwrap();
        let body = &src[start..start + src[start..].find("\n    }\n").unwrap()];
        let rtems = body
            .split_once("#[cfg(target_os = \"rtems\")]")
            .and_then(|(_, after)| after.split_once("#[cfg(not(target_os = \"rtems\"))]"))
            .unwrap_or_else(|| panic!("{body}"));
        assert!(rtems.0.contains("super::ThreadPriority::Iocsh,"), "{body}");
        assert!(
            rtems
                .1
                .trim_start()
                .starts_with("let thread = MandatoryThread::process_thread("),
            "{body}"
        );
    }

    /// `epicsThreadGetNameSelf`'s three cases: a listed thread answers its
    /// row, an unlisted named one its `std` name, and one with neither gets
    /// C's `createImplicit` row and answers that.
    #[test]
    fn the_name_self_is_the_row_name() {
        let (tx, rx) = std::sync::mpsc::channel();
        MandatoryThread::new("nameSelfRow", ThreadPriority::Low, StackSizeClass::Small)
            .spawn(move || tx.send(thread_name_self()).unwrap())
            .join()
            .unwrap();
        assert_eq!(rx.recv().unwrap(), "nameSelfRow");

        let unlisted = std::thread::Builder::new()
            .name("nameSelfStd".into())
            .spawn(|| (thread_name_self(), thread_registry::current_id()))
            .unwrap();
        assert_eq!(unlisted.join().unwrap(), ("nameSelfStd".to_string(), None));

        let bare = std::thread::spawn(|| (thread_name_self(), thread_registry::os_thread_id()));
        let (name, os_id) = bare.join().unwrap();
        assert_eq!(name, format!("non-EPICS_{os_id}"));
    }

    /// Re-banding a thread is one thread, so it is one row. The boundary the
    /// `thread_local` guard exists for: storing the new registration drops the
    /// old one, which is what removes the superseded row.
    #[test]
    fn re_entering_the_prologue_replaces_the_row_rather_than_adding_one() {
        let name = "cbRegReband";
        let (started_tx, started_rx) = std::sync::mpsc::channel();
        let (finish_tx, finish_rx) = std::sync::mpsc::channel();
        let join = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                let _ = enter_ioc_thread(ThreadPriority::Low);
                let _ = enter_ioc_thread(ThreadPriority::ScanHigh);
                started_tx.send(()).unwrap();
                finish_rx.recv().unwrap();
            })
            .unwrap();

        started_rx.recv().unwrap();
        let rows: Vec<ThreadInfo> = thread_report()
            .into_iter()
            .filter(|t| t.name() == name)
            .collect();
        assert_eq!(rows.len(), 1, "one thread is one row: {rows:?}");
        assert_eq!(rows[0].epics_priority(), ThreadPriority::ScanHigh.value());

        finish_tx.send(()).unwrap();
        join.join().unwrap();
    }

    /// Both handles a shell user can read off the listing resolve, and a
    /// number that is neither resolves to nothing rather than to the first row.
    #[test]
    fn a_row_resolves_by_epics_id_and_by_os_id() {
        let name = "cbRegLookup";
        let (started_tx, started_rx) = std::sync::mpsc::channel();
        let (finish_tx, finish_rx) = std::sync::mpsc::channel();
        let join = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                let _ = enter_ioc_thread(ThreadPriority::Medium);
                started_tx.send(()).unwrap();
                finish_rx.recv().unwrap();
            })
            .unwrap();

        started_rx.recv().unwrap();
        let listed = thread_by_name(name).expect("listed while running");
        assert_eq!(thread_by_id(listed.id()).map(|t| t.id()), Some(listed.id()));
        assert_eq!(
            thread_by_id(listed.os_id()).map(|t| t.id()),
            Some(listed.id())
        );
        assert!(thread_by_id(u64::MAX).is_none());

        finish_tx.send(()).unwrap();
        join.join().unwrap();
    }

    /// `OSSPRI` is the thread's own `sched_priority`, whatever the platform's
    /// default policy reads — 0 on Linux, 31 on Darwin — as C's live
    /// `pthread_getschedparam` prints it.
    #[cfg(all(unix, not(epics_embedded_target)))]
    #[test]
    fn os_priority_is_the_threads_own_sched_priority() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (finish_tx, finish_rx) = std::sync::mpsc::channel::<()>();
        let join = std::thread::Builder::new()
            .name("cbOssLive".to_string())
            .spawn(move || {
                let _ = enter_ioc_thread(ThreadPriority::High);
                let mut policy = 0;
                // SAFETY: plain-integer struct, valid zeroed.
                let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
                // SAFETY: the calling thread, with stack-local out-params.
                unsafe {
                    libc::pthread_getschedparam(libc::pthread_self(), &mut policy, &mut param)
                };
                tx.send(param.sched_priority).unwrap();
                finish_rx.recv().unwrap();
            })
            .unwrap();
        let own = rx.recv().unwrap();
        let row = thread_report()
            .into_iter()
            .find(|t| t.name() == "cbOssLive")
            .expect("listed while it runs");
        assert_eq!(row.os_priority(), own);
        assert_eq!(row.epics_priority(), ThreadPriority::High.value());
        finish_tx.send(()).unwrap();
        join.join().unwrap();
    }

    /// C's `%16.16s %14p %8lu    %3d%8d %8.8s%s`, against two rows copied from
    /// a running `softIoc` built from the pinned C tree. The EPICS ID column
    /// holds C's `epicsThreadOSD` addresses so the widths are the ones C
    /// actually produced, not ones chosen to fit.
    #[cfg(target_os = "linux")]
    #[test]
    fn show_line_matches_c_s_columns_byte_for_byte() {
        let main = ThreadInfo {
            id: 0x604f_304e_f4f0,
            name: "_main_".to_string(),
            os_id: 3_650_070,
            priority: ThreadPriority::Custom(0),
            os_priority: 0,
            suspension: Arc::default(),
        };
        assert_eq!(
            main.show_line(),
            "          _main_ 0x604f304ef4f0  3650070      0       0       OK"
        );

        let errlog = ThreadInfo {
            id: 0x604f_304f_8a90,
            name: "errlog".to_string(),
            os_id: 3_650_072,
            priority: ThreadPriority::Low,
            os_priority: 0,
            suspension: Arc::default(),
        };
        assert_eq!(
            errlog.show_line(),
            "          errlog 0x604f304f8a90  3650072     10       0       OK"
        );

        assert_eq!(
            THREAD_SHOW_HEADER,
            "            NAME       EPICS ID   LWP ID   OSIPRI  OSSPRI  STATE"
        );
    }

    /// The other `osdThreadExtra.c`: a wider OS id column under a different
    /// name. Written out rather than derived so the two layouts cannot drift
    /// into each other.
    #[cfg(not(target_os = "linux"))]
    #[test]
    fn show_line_matches_c_s_generic_posix_columns() {
        let row = ThreadInfo {
            id: 0x604f_304e_f4f0,
            name: "_main_".to_string(),
            os_id: 3_650_070,
            priority: ThreadPriority::Custom(0),
            os_priority: 0,
            suspension: Arc::default(),
        };
        assert_eq!(
            row.show_line(),
            "          _main_ 0x604f304ef4f0      3650070      0       0       OK"
        );
        assert_eq!(
            THREAD_SHOW_HEADER,
            "            NAME       EPICS ID   PTHREAD ID   OSIPRI  OSSPRI  STATE"
        );
    }

    /// The suspended state end to end, and the boundary a naive latch gets
    /// wrong.
    ///
    /// C's `epicsThreadResume` signals a latching event, so a resume with
    /// nobody suspended banks a token that would skip the next park. C's own
    /// iocsh refuses before it can (`libComRegister.c:445-449`) and `dbc`
    /// only reaches it for a lock set that is stopped; this port makes the
    /// refusal the primitive, so the two resumes below must leave nothing
    /// behind and the park after them must still hold.
    #[test]
    fn a_suspended_thread_reads_suspend_and_only_a_resume_wakes_it() {
        let (id_tx, id_rx) = std::sync::mpsc::channel();
        let (go_tx, go_rx) = std::sync::mpsc::channel::<()>();
        let (woke_tx, woke_rx) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("suspendTarget".to_string())
            .spawn(move || {
                let _ = enter_ioc_thread(ThreadPriority::ScanLow);
                id_tx.send(current_thread_id()).unwrap();
                go_rx.recv().unwrap();
                suspend_self();
                woke_tx.send(()).unwrap();
            })
            .unwrap();
        let id = id_rx.recv().unwrap();

        // Nothing is suspended yet: both resumes report the refusal and,
        // crucially, bank nothing.
        assert!(!resume_thread(id));
        assert!(!resume_thread(id));
        assert!(!thread_by_id(id).unwrap().is_suspended());
        assert!(thread_by_id(id).unwrap().show_line().ends_with("      OK"));

        go_tx.send(()).unwrap();
        let row = (0..500)
            .find_map(|_| {
                let row = thread_by_id(id).expect("row");
                row.is_suspended().then_some(row).or_else(|| {
                    std::thread::sleep(Duration::from_millis(10));
                    None
                })
            })
            .expect("the thread must reach suspend_self");
        assert!(
            row.show_line().ends_with(" SUSPEND"),
            "C prints SUSPEND for isSuspended (osdThreadExtra.c:53), got {:?}",
            row.show_line()
        );
        assert_eq!(
            woke_rx.recv_timeout(Duration::from_millis(250)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout),
            "the two earlier resumes must not have banked a wake-up"
        );

        assert!(
            resume_thread(id),
            "C epicsThreadResume on a suspended thread"
        );
        woke_rx
            .recv_timeout(Duration::from_secs(5))
            .expect("resumed");
        thread.join().unwrap();
    }

    /// C `createImplicit` (`osdThread.c:697-735`): a thread that never went
    /// through `epicsThreadCreate` is given a `non-EPICS_` row the first time
    /// its handle is asked for, so it can be listed and resumed rather than
    /// being suspended somewhere nothing can name.
    #[test]
    fn a_thread_that_never_registered_gets_c_s_implicit_row() {
        let (id, name, listed) = std::thread::spawn(|| {
            let id = current_thread_id();
            let row = thread_by_id(id).expect("createImplicit must put it on the list");
            (id, row.name().to_string(), row.epics_priority())
        })
        .join()
        .unwrap();
        assert!(name.starts_with("non-EPICS_"), "C's name, got {name:?}");
        assert_eq!(listed, 0, "C gives the implicit row osiPriority 0");
        assert!(
            thread_by_id(id).is_none(),
            "the implicit row is reaped with the thread, as C frees it"
        );
    }

    /// A name longer than the column is cut, not allowed to shift every field
    /// after it — C's `%16.16s` precision, which a plain width would lose.
    #[test]
    fn a_long_name_is_truncated_rather_than_widening_the_row() {
        let row = ThreadInfo {
            id: 1,
            name: "aVeryLongThreadNameIndeed".to_string(),
            os_id: 7,
            priority: ThreadPriority::Low,
            os_priority: 0,
            suspension: Arc::default(),
        };
        let short = ThreadInfo {
            name: "s".to_string(),
            ..row.clone()
        };
        let line = row.show_line();
        assert!(line.starts_with("aVeryLongThreadN "), "{line}");
        assert_eq!(
            line.len(),
            short.show_line().len(),
            "a row's width must not depend on its name"
        );
    }

    /// The stderr trailer C prints after the listing. With the real-time
    /// switch off the range is genuinely a single point, and no probe may run
    /// to discover a wider one.
    #[test]
    fn the_show_all_trailer_reports_the_range_this_process_may_enter() {
        let line = osd_priority_range_line();
        assert!(line.ends_with(", memory not locked"), "{line}");
        if RtPolicy::current() == RtPolicy::Disabled {
            assert_eq!(line, "OSD priority range min: 0 max 0, memory not locked");
        }
    }

    /// The owner path: a mandatory thread that *can* be created runs its body
    /// under the name and band it was declared with.
    #[test]
    fn a_mandatory_thread_runs_under_its_declared_name() {
        let (tx, rx) = std::sync::mpsc::channel();
        let join = MandatoryThread::new(
            "cbTestOwner",
            ThreadPriority::ScanLow,
            StackSizeClass::Small,
        )
        .spawn(move || {
            let _ = tx.send(
                std::thread::current()
                    .name()
                    .map(str::to_owned)
                    .unwrap_or_default(),
            );
        });
        assert_eq!(rx.recv().expect("the body ran"), "cbTestOwner");
        join.join().expect("the thread exited cleanly");
    }

    /// `try_spawn` is the same construction with the failure handed back, so a
    /// caller inside a fallible boot step can refuse to serve.
    #[test]
    fn try_spawn_hands_back_a_handle_on_success() {
        let (tx, rx) = std::sync::mpsc::channel();
        let join =
            MandatoryThread::new("cbTestTry", ThreadPriority::ScanLow, StackSizeClass::Small)
                .try_spawn(move || {
                    let _ = tx.send(());
                })
                .expect("a thread is creatable in the test environment");
        rx.recv().expect("the body ran");
        join.join().expect("the thread exited cleanly");
    }

    /// The console line names the thread and what the OS said, so an operator
    /// reading a target console can tell *which* thread the IOC died for.
    ///
    /// `EAGAIN` cannot be forced portably — the failure shape is the subject
    /// here, not the syscall.
    #[test]
    fn the_fatal_message_names_the_thread_and_the_error() {
        let msg = mandatory_thread_failure_message(
            "scan-0.1",
            &std::io::Error::from(std::io::ErrorKind::WouldBlock),
        );
        assert!(msg.contains("scan-0.1"), "{msg}");
        assert!(msg.contains("FATAL"), "{msg}");
        assert!(
            msg.contains(&std::io::Error::from(std::io::ErrorKind::WouldBlock).to_string()),
            "{msg}"
        );
    }

    /// The bypass regression: a mandatory thread that cannot be created must
    /// take the **process** down, not the calling thread.
    ///
    /// The defect this closes: an `EAGAIN` from the periodic-scan spawn
    /// panicked the `scan-owner` thread, and on a `panic = "unwind"` target
    /// such as RTEMS the process survived and went on serving CA with no
    /// periodic scanning at all. A test
    /// that only asserted "it panics" would have passed against that defect —
    /// so this one re-executes itself and asserts the *process* died.
    ///
    /// Gated off the embedded target: it has no process to spawn.
    #[cfg(all(unix, not(target_os = "rtems")))]
    #[test]
    fn a_mandatory_thread_that_cannot_be_created_aborts_the_process() {
        use std::os::unix::process::ExitStatusExt;

        const CHILD: &str = "EPICS_RS_MANDATORY_THREAD_ABORT_CHILD";
        const TEST: &str =
            "runtime::task::tests::a_mandatory_thread_that_cannot_be_created_aborts_the_process";

        if std::env::var_os(CHILD).is_some() {
            mandatory_thread_unavailable(
                "scan-0.1",
                &std::io::Error::from(std::io::ErrorKind::WouldBlock),
            );
        }

        let out =
            std::process::Command::new(std::env::current_exe().expect("the test binary path"))
                .args(["--exact", TEST, "--nocapture"])
                .env(CHILD, "1")
                .output()
                .expect("re-exec the test binary");

        assert_eq!(
            out.status.signal(),
            Some(libc::SIGABRT),
            "a mandatory thread's failure must abort the process, not unwind \
             one thread — child exited {:?}, stderr: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            stderr.contains("scan-0.1"),
            "the console must name the thread; got: {stderr}"
        );
    }

    #[epics_macros_rs::epics_test]
    async fn spawn_blocking_with_priority_runs_closure() {
        let handle = spawn_blocking_with_priority(ThreadPriority::CaServerHigh, || 7);
        assert_eq!(handle.await.unwrap(), 7);
    }

    /// C `ca_client_context::pendIO` compares the remaining budget *before* it
    /// blocks (`ca_client_context.cpp:490-499`: `remaining <
    /// CAC_SIGNIFICANT_DELAY` → `ECA_TIMEOUT`, `break`), so an already-spent
    /// budget cannot be beaten by work that lands a moment later.
    /// `tokio::time::timeout` could: it polls the inner future, arms a
    /// zero-length `Sleep`, and that `Sleep` is not reported elapsed until the
    /// time driver next runs — one `yield_now` is enough for the inner future
    /// to win, which is how `caget -w -1` exited 0 where C exits 1.
    ///
    /// A future that is `Pending` on its first poll and `Ready` on its second
    /// is the whole race in one value, and it needs no load to show it.
    #[epics_macros_rs::epics_test]
    async fn an_expired_budget_is_not_beaten_by_work_that_needs_a_second_poll() {
        let r = timeout(Duration::ZERO, async {
            yield_now().await;
            7u8
        })
        .await;
        assert!(
            r.is_err(),
            "a spent budget must expire before work that was not already done"
        );
    }

    /// The other half of C's order: `pendIO` tests `pndRecvCnt > 0` first, so a
    /// request with nothing outstanding returns `ECA_NORMAL` even on an expired
    /// budget. One poll of the future is that same test.
    #[epics_macros_rs::epics_test]
    async fn an_expired_budget_still_takes_work_that_is_already_done() {
        let r = timeout(Duration::ZERO, std::future::ready(7u8)).await;
        assert_eq!(r.ok(), Some(7));
    }

    /// [`timeout_at`] carries the same rule against an absolute deadline: a
    /// loop that re-uses one deadline reaches it already past, which is the
    /// `pvlist-rs` receive loop's shape.
    #[epics_macros_rs::epics_test]
    async fn a_deadline_already_in_the_past_expires_without_racing_the_work() {
        let past = Instant::now() - Duration::from_secs(1);
        let r = timeout_at(past, async {
            yield_now().await;
            7u8
        })
        .await;
        assert!(r.is_err(), "a past deadline must not be raced either");
    }

    #[test]
    fn background_global_inits_and_runs_work() {
        // Host-exercises the OnceLock init path the RTEMS spawn/sleep/interval
        // arms rely on: background_init() forces creation, background() hands
        // back a usable executor whose callback pool runs submitted work.
        background_init();
        let exec = background();
        let (tx, rx) = std::sync::mpsc::channel();
        exec.callbacks()
            .handle()
            .request(
                crate::runtime::background::CallbackPriority::Medium,
                Box::new(move || tx.send(1u8).unwrap()),
            )
            .unwrap();
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)).unwrap(), 1);
    }
}
