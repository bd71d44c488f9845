//! Runtime logging — `errlog` severity surface plus the `rt_*` macros.
//!
//! C parity: `modules/libcom/src/error/errlog.{c,h}`.
//!
//! The four `rt_*` macros route through the `tracing` facade (the
//! crate's de-facto logging path) instead of bare `eprintln!`, so an
//! application's `tracing` subscriber controls level filtering,
//! formatting, and sinks uniformly.
//!
//! The `errlog`-severity API mirrors `errlogSevEnum`,
//! `errlogSevEnumString`, `errlogSetSevToLog`/`errlogGetSevToLog`, and
//! `errlogSevPrintf`. Note what C does *not* do: `errlogSevVprintf`
//! (`errlog.c:376-388`) consults no threshold, and nothing else in base
//! reads `pvt.sevToLog` either — `errlogSetSevToLog`/`errlogGetSevToLog`
//! are a stored setting and no more. A C IOC therefore prints every
//! `errlogSevPrintf` line whatever the setting says, and so does this.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::runtime::sync::{CMutex, Event, EventWaiter, PriorityInheritanceMutex};

/// True when no `tracing` subscriber would take an event — i.e. when
/// everything this module emits is being discarded.
///
/// Every diagnostic in this workspace funnels into `tracing`, and installing a
/// subscriber is the *application's* job. The hosted binaries do it; the RTEMS
/// IOC entry points do not, because `tracing-subscriber` sits behind an
/// optional feature that also drags in a Prometheus exporter. The result on
/// target was an IOC that emitted **nothing at all** on its console — not a
/// quiet IOC, a mute one, with every `errlog` line dropped on the floor.
///
/// C cannot reach that state: `errlogPrintf` ends at the console writer, which
/// always exists. This restores that property without duplicating output when
/// a subscriber *is* installed.
///
/// [`tracing::level_filters::LevelFilter::current`] reads the active
/// dispatcher's max-level hint and is `OFF` exactly when there is no
/// dispatcher (or one that has declared it wants nothing). It sees a
/// scoped `with_default` subscriber as well as a global one, so a test that
/// captures events does not also get console noise.
fn nothing_is_listening() -> bool {
    tracing::level_filters::LevelFilter::current() == tracing::level_filters::LevelFilter::OFF
}

/// The `tracing` target every `errlog` entry point publishes on.
///
/// The `tracing` macros take a literal, so this constant cannot be used at the
/// emit sites; `the_errlog_target_is_the_one_the_macros_publish_on` asserts the
/// two spellings agree, so the subscriber's skip cannot drift from them.
const ERRLOG_TARGET: &str = "epics_base_rs::errlog";

/// True when the dispatcher that would take this event is this crate's own
/// [`ConsoleSubscriber`] — i.e. when the errlog console is ours to write.
///
/// A fact about the process, not a guess: [`ConsoleSubscriber`] exists to give
/// an IOC C's console, so when it is the one installed, C's bytes are what the
/// console must get, and [`write_console`] is what writes them. An application
/// that installed its OWN subscriber asked for its own formatting instead, and
/// gets it — errlog stays a `tracing` event for exactly that reason.
fn console_subscriber_is_current() -> bool {
    tracing::dispatcher::get_default(|d| d.is::<ConsoleSubscriber>())
}

/// Whether this process's errlog console is ours to write — asked on the
/// posting thread, so a scoped `tracing` subscriber still decides it, and
/// carried with the message to the worker that writes it.
///
/// The console is ours in the two states an IOC runs in: nothing listening at
/// all ([`nothing_is_listening`]), and [`ConsoleSubscriber`] installed — which
/// then skips `epics_base_rs::errlog` events precisely so these bytes are
/// written once, verbatim, instead of a second time behind a `LEVEL target:`
/// prefix. Routing errlog's console through the queue rather than through the
/// subscriber is also what keeps `errlogPrintfNoConsole` off the console and
/// makes `eltc(0)` mean what C means by it: both are decisions about *these*
/// bytes, and a `tracing` event carries neither.
fn console_is_ours() -> bool {
    nothing_is_listening() || console_subscriber_is_current()
}

/// The one place errlog bytes become console bytes, and it adds nothing.
///
/// C's console writer is `fprintf(console, "%s", base+1u)` (`errlog.c:795`,
/// and `:170` on the at-exit path): the caller's bytes and no terminator, so a
/// C caller that wants a line break puts `\n` in its own format string and one
/// that does not gets none. This does the same — `write_all`, never
/// `eprintln!`. A console that appends its own newline gives a call site's
/// bytes and the console's bytes two different meanings, and then no call site
/// can be read against its C original: the ones that correctly carry `\n`
/// print a blank line C does not print, and the ones that carry none are
/// silently rescued.
///
/// Framing only: which stream the bytes land on, and whether that stream has
/// to be flushed afterwards, belong to [`Console`] — this is the step both of
/// its arms share.
///
/// The bytes go out in one `write`. `write_fmt` on stderr writes each piece
/// of the format separately, and a stdout line from another thread then lands
/// inside the console line. glibc writes an unbuffered `fprintf` in 128-byte
/// chunks, so one write at any length is a deliberate deviation from C.
fn write_console<'a>(out: &mut impl std::io::Write, line: impl Into<Message<'a>>) {
    // C ignores `fprintf`'s return here too: a console that cannot be written
    // is not something an errlog line can report.
    let _ = out.write_all(StagedLine::of_message(line.into()).bytes());
}

/// One errlog message as its poster hands it over. C has one kind,
/// `vsnprintf`'s output, and that is bytes: a `%s` of a device's reply
/// (asynManager.c:3175) carries whatever the device sent. `Bytes` is that
/// case, its parts run together as one message.
#[derive(Clone, Copy)]
enum Message<'a> {
    Text(std::fmt::Arguments<'a>),
    Bytes(&'a [&'a [u8]]),
}

impl<'a> From<std::fmt::Arguments<'a>> for Message<'a> {
    fn from(text: std::fmt::Arguments<'a>) -> Self {
        Message::Text(text)
    }
}

impl Message<'_> {
    /// Write it as C's `vsnprintf` writes the slot.
    fn put(self, out: &mut impl WriteBytes) {
        match self {
            // A `Display` that fails leaves what it wrote, as `vsnprintf` has
            // no failure to report.
            Message::Text(text) => {
                let _ = std::fmt::write(out, text);
            }
            Message::Bytes(parts) => parts.iter().for_each(|p| out.write_bytes(p)),
        }
    }
}

/// A sink an errlog message is written into byte for byte.
trait WriteBytes: std::fmt::Write {
    fn write_bytes(&mut self, bytes: &[u8]);
}

/// Bytes as text for the consumers that take `&str` — listeners and the
/// `tracing` record: U+FFFD for a byte that is not UTF-8. The one place this
/// port cuts what C passes through; the arena and the console keep the byte.
struct Lossy<'a>(&'a [&'a [u8]]);

impl std::fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for chunk in self.0.iter().flat_map(|p| p.utf8_chunks()) {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                std::fmt::Write::write_char(f, char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// `line` to `out` in one `write_all`, at any length: a deliberate deviation
/// from C, whose unbuffered `fprintf` glibc writes in 128-byte chunks.
/// `write!` on stderr or a `File` writes each piece of the format separately,
/// and another writer's line can then land between the pieces.
pub fn write_whole(
    out: &mut (impl std::io::Write + ?Sized),
    line: std::fmt::Arguments<'_>,
) -> std::io::Result<()> {
    out.write_all(StagedLine::of(line).bytes())
}

/// Text and raw bytes staged whole before one write: on the stack, so a
/// poster's immediate echo allocates nothing, and on the heap only past the
/// stack buffer.
pub struct StagedLine {
    buf: [u8; 1024],
    len: usize,
    spill: Vec<u8>,
}

impl Default for StagedLine {
    fn default() -> Self {
        StagedLine {
            buf: [0; 1024],
            len: 0,
            spill: Vec::new(),
        }
    }
}

impl StagedLine {
    pub fn of(line: std::fmt::Arguments<'_>) -> Self {
        Self::of_message(line.into())
    }

    fn of_message(line: Message<'_>) -> Self {
        let mut staged = StagedLine::default();
        line.put(&mut staged);
        staged
    }

    /// Append `b` untouched: invalid UTF-8 and control bytes included.
    pub fn push_bytes(&mut self, b: &[u8]) {
        if self.spill.is_empty() && self.len + b.len() <= self.buf.len() {
            self.buf[self.len..self.len + b.len()].copy_from_slice(b);
            self.len += b.len();
        } else {
            if self.spill.is_empty() {
                self.spill.extend_from_slice(&self.buf[..self.len]);
            }
            self.spill.extend_from_slice(b);
        }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.spill.is_empty() {
            &self.buf[..self.len]
        } else {
            &self.spill
        }
    }
}

impl WriteBytes for StagedLine {
    fn write_bytes(&mut self, s: &[u8]) {
        self.push_bytes(s);
    }
}

impl std::fmt::Write for StagedLine {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.push_bytes(s.as_bytes());
        Ok(())
    }
}

/// The process's stderr. The workspace's `clippy.toml` bans
/// `std::io::stderr` everywhere else outside tests, so every write to it goes
/// through this module: [`StagedStderr`], [`stderr_print!`](crate::stderr_print!) or the console.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place the workspace takes the stderr handle"
)]
fn raw_stderr() -> std::io::Stderr {
    std::io::stderr()
}

/// Whether stderr is a terminal.
pub fn stderr_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&raw_stderr())
}

/// stderr as a [`std::io::Write`]: a `write!` / `writeln!` is staged whole
/// ([`write_whole`]) and each `write` goes out in one `write_all`, so no call
/// reaches the stream in pieces another writer's line can land between.
pub struct StagedStderr;

impl std::io::Write for StagedStderr {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        raw_stderr().write_all(buf)?;
        Ok(buf.len())
    }

    fn write_fmt(&mut self, line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
        write_whole(&mut raw_stderr(), line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        raw_stderr().flush()
    }
}

/// [`stderr_print!`](crate::stderr_print!)'s body: the line staged whole, then handed to `eprint!`
/// as one `&str`, which `std` writes with one `write_all`. Through `eprint!`
/// rather than to `stderr()` so a test harness still captures it and a failed
/// write still panics, as before.
#[doc(hidden)]
pub fn stderr_whole(line: std::fmt::Arguments<'_>) {
    let staged = StagedLine::of(line);
    #[expect(
        clippy::disallowed_macros,
        reason = "the one `eprint!` the workspace keeps: its argument is a single staged `&str`"
    )]
    {
        std::eprint!("{}", String::from_utf8_lossy(staged.bytes()));
    }
}

/// `eprint!` in one `write`: the line is formatted whole first, so a stdout
/// line from another thread cannot land inside it. The workspace's
/// `clippy.toml` bans `eprint!` / `eprintln!` outside tests for that reason.
#[macro_export]
macro_rules! stderr_print {
    ($($arg:tt)*) => {
        $crate::runtime::log::stderr_whole(::core::format_args!($($arg)*))
    };
}

/// `eprintln!` in one `write`; see [`stderr_print!`](crate::stderr_print!).
#[macro_export]
macro_rules! stderr_println {
    () => {
        $crate::runtime::log::stderr_whole(::core::format_args!("\n"))
    };
    ($($arg:tt)*) => {
        $crate::runtime::log::stderr_whole(::core::format_args!(
            "{}\n",
            ::core::format_args!($($arg)*)
        ))
    };
}

/// C's `pvt.console` and `pvt.ttyConsole` (`errlog.c:100-101`): the stream
/// errlog's own bytes go to, and whether that stream understands ANSI escapes.
///
/// The two are one cell because [`errlog_set_console`] decides them together,
/// as C does: the `isATTY` answer belongs to the stream it was taken from, and
/// pairing them is what makes "escapes stripped against the stream they were
/// not measured on" unrepresentable.
struct Console {
    sink: ConsoleSink,
}

/// Which stream, and — for a caller's — the `isATTY` answer taken when it was
/// installed.
enum ConsoleSink {
    /// C `errlogInitPvt`'s `pvt.console = stderr` (`errlog.c:584-585`).
    Stderr,
    /// C `errlogSetConsole`'s argument (`errlog.c:478-487`).
    Set {
        stream: Box<dyn std::io::Write + Send>,
        paints: bool,
    },
}

/// The errlog console, and the lock that makes replacing it safe.
///
/// C calls `errlogSequence()` after the swap because its console writer is the
/// errlog worker, which copies `pvt.console` under `msgQueueLock` and prints
/// with the lock dropped (`errlog.c:761`, `:795`): a swap has to wait a whole
/// worker pass out to know the previous stream is idle. Here the writer holds
/// this lock for the write itself, so when [`errlog_set_console`] returns no
/// thread can still be writing the stream it replaced — the guarantee C
/// sequences for holds by construction.
///
/// A lock of its own, and not a field of [`ErrlogQueue`] where C keeps it,
/// because admission must not wait behind console I/O. C does not pay that
/// either: its print is outside `msgQueueLock`.
///
/// A caller's stream must not log. This lock is held across its `write`, so an
/// `errlogPrintf` from inside one deadlocks; C's stream carries the same rule
/// for the same reason, its `FILE` lock being held by `fprintf`.
static CONSOLE: std::sync::Mutex<Console> = std::sync::Mutex::new(Console {
    sink: ConsoleSink::Stderr,
});

/// The console, through a poisoning that must not be allowed to silence it.
///
/// A panic inside a caller's `write` poisons this lock. Refusing every later
/// line over it would turn one bad stream into a mute IOC — the state
/// [`install_console_subscriber`] exists to prevent — so the guard is taken
/// either way and the next writer gets the same stream.
fn console() -> std::sync::MutexGuard<'static, Console> {
    CONSOLE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Console {
    /// One already-formatted errlog line to whichever stream is installed.
    fn write<'a>(&mut self, line: impl Into<Message<'a>>) {
        let line = line.into();
        match &mut self.sink {
            // stderr is unbuffered, so C's `fflush(console)` (`errlog.c:830`)
            // has nothing to do here.
            ConsoleSink::Stderr => write_console(&mut raw_stderr().lock(), line),
            ConsoleSink::Set { stream, .. } => {
                write_console(stream, line);
                // A caller's stream may buffer, and a line sitting in a buffer
                // has not reached the console. C flushes once per drain pass;
                // this writer runs per line, so this is where it belongs.
                let _ = stream.flush();
            }
        }
    }

    /// Whether an errlog line's ANSI escapes survive to this console — C's
    /// `pvt.ttyConsole`.
    fn paints(&self) -> bool {
        match &self.sink {
            // Asked each time rather than latched as C latches it in
            // `errlogInitPvt` (`pvt.ttyConsole = isATTY(stderr)`,
            // `errlog.c:585`): this port answers at the call site, which can
            // run before any errlog entry point has, so there is no init pass
            // to latch it in.
            ConsoleSink::Stderr => is_a_tty(&raw_stderr()),
            ConsoleSink::Set { paints, .. } => *paints,
        }
    }
}

/// C `isATTY` (`errlog.c:218-237`), for any stream: a terminal, and one that
/// names itself in `$TERM`.
///
/// Both halves are C's. The second is there because C will not assume escape
/// support from a terminal that declines to say what it is, and it is the half
/// that makes a captured Rust IOC's bytes match a captured C IOC's.
fn is_a_tty(stream: &impl std::io::IsTerminal) -> bool {
    // C's order: `$TERM` is read only for a terminal, so a piped console asks
    // nothing of the environment.
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|t| !t.is_empty())
}

/// The same bytes as a `tracing` record, which is one event and not a byte
/// stream.
///
/// A subscriber terminates an event itself, so handing it the caller's
/// trailing newline as well puts a blank line after every errlog line. The
/// console that shows is an *application's* formatter — `qsrv-rs`,
/// `pva-gateway-rs`, `procserv-rs` and the example IOCs all install
/// `tracing_subscriber::fmt` — and the capture tests that read the errlog sink
/// through one. This crate's own [`ConsoleSubscriber`] no longer renders these
/// events at all ([`ConsoleSubscriber::line_for`]); [`write_console`] writes
/// C's bytes for it, so the two consoles do not disagree. Only the
/// *trailing* newline is framing: the ones inside a multi-line message
/// (`dbScan`'s over-run report, `iocBuild`'s two-line `asInit` failure) are
/// content and stay.
fn as_record(line: &str) -> &str {
    line.strip_suffix('\n').unwrap_or(line)
}

/// [`as_record`] for a message still in `format_args!` form: the text with
/// one trailing newline held back, without formatting it anywhere first.
struct Record<'a>(std::fmt::Arguments<'a>);

impl std::fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Writes everything but a final `\n`, which waits for a later piece.
        struct HoldNewline<'f, 'g> {
            out: &'f mut std::fmt::Formatter<'g>,
            held: bool,
        }
        impl std::fmt::Write for HoldNewline<'_, '_> {
            fn write_str(&mut self, s: &str) -> std::fmt::Result {
                if s.is_empty() {
                    return Ok(());
                }
                if std::mem::take(&mut self.held) {
                    self.out.write_str("\n")?;
                }
                let body = s.strip_suffix('\n').unwrap_or(s);
                self.held = body.len() != s.len();
                self.out.write_str(body)
            }
        }
        std::fmt::write(
            &mut HoldNewline {
                out: f,
                held: false,
            },
            self.0,
        )
    }
}

/// A `tracing` subscriber that writes events to the console and nothing else.
///
/// Deliberately not `tracing_subscriber::fmt`: that crate is an optional
/// dependency here, it pulls a Prometheus exporter along with it in the
/// dependents that enable it, and none of what it adds — span storage, env
/// filters, ANSI, timestamps off a clock that is quantised to whole seconds on
/// RTEMS — is wanted on an IOC console. What is wanted is C's property: a
/// diagnostic reaches the console.
struct ConsoleSubscriber;

impl ConsoleSubscriber {
    /// The line this subscriber writes for `event`, or `None` when the event is
    /// errlog's.
    ///
    /// An errlog event's bytes are C's, and [`write_console`] has already put
    /// them on the console exactly as `fprintf(console, "%s", …)` does
    /// (`errlog.c:795`). Rendering them here as well would print each line
    /// twice, the second copy behind a `LEVEL target:` prefix C does not write
    /// — and would re-frame a caller that deliberately composes one console
    /// line out of several unterminated `errlogPrintf` calls, which is what C's
    /// own `dumpInfo` does (`epicsStackTrace.c:46-57`).
    fn line_for(event: &tracing::Event<'_>) -> Option<String> {
        (event.metadata().target() != ERRLOG_TARGET).then(|| render_event(event))
    }
}

/// Renders one event as `LEVEL target: message key=value …`.
struct ConsoleLine {
    out: String,
    wrote_message: bool,
}

impl tracing::field::Visit for ConsoleLine {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        if field.name() == "message" {
            // The message field arrives as `format_args!`, whose `Debug` is its
            // `Display` — so this is the text, not a quoted rendering of it.
            let _ = write!(self.out, "{value:?}");
            self.wrote_message = true;
        } else {
            let _ = write!(
                self.out,
                "{}{}={value:?}",
                if self.wrote_message { " " } else { "" },
                field.name()
            );
            self.wrote_message = true;
        }
    }
}

/// `LEVEL target: message key=value …` — the one place an event becomes text.
fn render_event(event: &tracing::Event<'_>) -> String {
    let meta = event.metadata();
    let mut line = ConsoleLine {
        out: format!("{:<5} {}: ", meta.level(), meta.target()),
        wrote_message: false,
    };
    event.record(&mut line);
    line.out
}

impl tracing::Subscriber for ConsoleSubscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    /// Declared so [`nothing_is_listening`] is false once this is installed —
    /// without it the `errlog` console fallback would double every line.
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    /// Through [`Console`], not `eprintln!`, so this subscriber's console is
    /// the one [`errlog_set_console`] names.
    ///
    /// These are the lines whose C originals are `errlogPrintf` calls in the
    /// servers — `pvt.console`'s bytes there — and while this subscriber is
    /// the installed one, the errlog console is ours by the same test
    /// [`console_is_ours`] applies ([`console_subscriber_is_current`]). An
    /// application that redirects errlog to a file and then reads only errlog
    /// lines in it would otherwise be missing half of what C puts there. The
    /// subscriber frames the event, so the newline is added here: C's
    /// `errlogPrintf` callers carry one in their own format string.
    ///
    /// `eltc` does not gate it, and that is C's line too: `pvt.toConsole`
    /// gates messages that went through errlog's queue, and these did not.
    fn event(&self, event: &tracing::Event<'_>) {
        if let Some(line) = Self::line_for(event) {
            console().write(format_args!("{line}\n"));
        }
    }

    // Spans are not rendered: this crate's diagnostics are events, and storing
    // span data would be the one part of this that needs allocation per span.
    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

/// Make this process's diagnostics reach the console, if nothing else has.
///
/// Every diagnostic in this workspace — `errlog`, the `rt_*` macros, and the
/// `tracing::{warn,error,info}!` calls in the CA and PVA servers — funnels into
/// `tracing`, and an event with no subscriber installed is *discarded*, not
/// buffered. An IOC binary that never installs one is therefore mute: measured
/// on target, a CA server refusing clients at its memory ceiling produced no
/// console output of any kind, which is indistinguishable from a network fault.
///
/// C has no such state. `errlogPrintf` and `epicsPrintf` end at a console
/// writer that always exists, so an IOC that is running always says so. This is
/// the entry point that restores that property, and it belongs in the binary
/// rather than in a library: installing a global subscriber is a whole-process
/// decision, and a hosted application that installs its own must win.
///
/// Returns `false` when a subscriber was already installed — the caller's own
/// choice takes precedence and nothing is changed.
pub fn install_console_subscriber() -> bool {
    tracing::subscriber::set_global_default(ConsoleSubscriber).is_ok()
}

/// Set once by [`install_panic_hook`], so a second call cannot chain the hook
/// onto itself and print every panic twice.
static PANIC_HOOK_INSTALLED: std::sync::atomic::AtomicBool =
    std::sync::atomic::AtomicBool::new(false);

/// One line saying what a panic on this thread costs the IOC.
///
/// A function, and a pure one, because the *consequence* is the part `std`'s
/// default hook does not print and the part nobody can infer from a serial
/// console. `std` says a thread panicked and where; it does not say whether the
/// IOC is still serving.
///
/// The two arms are genuinely different outcomes on the target. The RTEMS build
/// defaults to `panic = "unwind"`, so:
///
/// * on the entry thread the unwind leaves `main`, and the image is finished;
/// * on any other thread — a CA client thread, a PVA connection thread, the
///   status pusher — only that thread dies. The IOC keeps listening, keeps
///   answering searches, and quietly no longer does whatever that thread did.
///   That is the state this line exists to make visible, because it looks
///   exactly like a healthy IOC from outside.
fn panic_announcement(thread: Option<&str>, location: &str, payload: &str) -> String {
    let thread = thread.unwrap_or("<unnamed>");
    let consequence = if thread == "main" {
        "the IOC's entry thread is unwinding: the image is going down, and every \
         connection it serves with it"
    } else {
        "that thread is gone and nothing restarts it; the IOC keeps listening and \
         keeps answering searches, so from outside it still looks healthy"
    };
    format!("panic on thread `{thread}` at {location}: {payload} -- {consequence}")
}

/// The panic payload as text — the message a `panic!`/`assert!` carried.
fn panic_payload(info: &std::panic::PanicHookInfo<'_>) -> String {
    if let Some(s) = info.payload().downcast_ref::<&str>() {
        (*s).to_string()
    } else if let Some(s) = info.payload().downcast_ref::<String>() {
        s.clone()
    } else {
        "<non-string panic payload>".to_string()
    }
}

/// Route panics through `errlog`, in addition to whatever `std` already does.
///
/// Call it once, in an IOC's `main`, next to [`install_console_subscriber`].
///
/// # Why an IOC needs this and a program does not
///
/// `std`'s default hook writes to stderr, which on the target is the serial
/// console, so a panic is not *invisible* without this. Two things are missing
/// from it, and both matter more on an IOC than in a program:
///
/// 1. **It says nothing about what still works.** A panic on a per-connection
///    thread kills that thread and leaves the IOC listening, answering searches
///    and serving every other client — indistinguishable from health, from
///    outside, forever. The line this emits states which of the two outcomes
///    this was.
/// 2. **It is not on the errlog.** Every other diagnostic an IOC produces goes
///    through `errlog`, and a panic is the most severe thing that can happen to
///    one. Routing it there puts it in the same stream, at
///    [`ErrlogSevEnum::Fatal`], for whatever is reading that stream.
///
/// # It replaces rather than chains
///
/// This used to run `std`'s default hook after its own line, on the reasoning
/// that installing it could then only *add* output. On the target that
/// reasoning does not hold, for three measured reasons:
///
/// 1. **The output would be doubled.** The line below already carries the
///    thread, the panic site and the payload — everything the default hook
///    prints — so chaining puts the same panic on the console twice. It reaches
///    the console either way: it is written with nothing listening and with
///    [`install_console_subscriber`] in place alike, and an
///    application that installed its own subscriber gets it through that.
/// 2. **The `RUST_BACKTRACE` note is advice that cannot be taken.** There is no
///    environment on the target to set that variable in, so a backtrace is off
///    by construction; printing "run with `RUST_BACKTRACE=1`" on a serial
///    console tells an operator to do something impossible.
/// 3. **The panic path must stay shallow.** The default hook's formatting and
///    backtrace machinery is stack the panic path does not otherwise need, and
///    the per-connection stack ceiling is the thing currently being measured on
///    the target. A hook must not be what makes the panic path deeper than the
///    peak that measurement is establishing.
///
/// The consequence for a hosted build is deliberate and worth stating: a
/// process that calls this gives up `std`'s backtrace-on-panic for the one line
/// below. A host application that wants the backtrace should not install this
/// hook — it is written for an image with no environment and no debugger.
///
/// Deliberately **not** routed through
/// [`cant_proceed`](crate::runtime::cant_proceed::cant_proceed), and not a reader
/// of `EPICS_ABORT_ON_ASSERT` either. The reason is structural rather than a
/// preference: a panic hook runs **before** `catch_unwind` catches, so it cannot
/// tell a panic that is about to be contained from one that will end the thread.
/// Any exit taken here is therefore taken for both, and it would defeat every
/// containment boundary in the port — `source::contain_callback_panic` among
/// them, whose whole job is to keep a third-party `ChannelSource` from ending a
/// connection.
///
/// The knob's owner is `cant_proceed`, called at sites that have already decided
/// they cannot continue. A panic is by construction not such a site: it is a
/// decision its catcher may still overrule. This hook only makes sure the
/// operator can read it.
///
/// Returns `false` when it was already installed, having changed nothing.
pub fn install_panic_hook() -> bool {
    use std::sync::atomic::Ordering as AtomicOrdering;
    if PANIC_HOOK_INSTALLED.swap(true, AtomicOrdering::AcqRel) {
        return false;
    }
    std::panic::set_hook(Box::new(|info| {
        let location = match info.location() {
            Some(l) => format!("{}:{}", l.file(), l.line()),
            None => "an unknown location".to_string(),
        };
        let thread = std::thread::current();
        // Terminated by the caller, as every C errlog format string is: the
        // console writer appends nothing (see [`write_console`]).
        let line = format!(
            "sevr={} {}\n",
            ErrlogSevEnum::Fatal.as_str(),
            panic_announcement(thread.name(), &location, &panic_payload(info))
        );
        tracing::error!(target: "epics_base_rs::errlog", "{}", as_record(&line));
        // Written by the panicking thread itself: it may be about to abort
        // the process, and it may not wait for the worker.
        errlog_post(format_args!("{line}").into(), ConsoleEcho::Immediate);
    }));
    true
}

/// Error-message severity — C `errlogSevEnum` (`errlog.h:49-53`).
///
/// Ordered `Info < Minor < Major < Fatal`; the discriminants match the
/// C enum values so they can be compared as the C code does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ErrlogSevEnum {
    /// `errlogInfo` = 0.
    Info = 0,
    /// `errlogMinor` = 1.
    Minor = 1,
    /// `errlogMajor` = 2.
    Major = 2,
    /// `errlogFatal` = 3.
    Fatal = 3,
}

impl ErrlogSevEnum {
    /// String form — C `errlogSevEnumString` (`errlog.h:60-65`).
    pub fn as_str(self) -> &'static str {
        match self {
            ErrlogSevEnum::Info => "info",
            ErrlogSevEnum::Minor => "minor",
            ErrlogSevEnum::Major => "major",
            ErrlogSevEnum::Fatal => "fatal",
        }
    }

    fn from_u8(v: u8) -> ErrlogSevEnum {
        match v {
            0 => ErrlogSevEnum::Info,
            1 => ErrlogSevEnum::Minor,
            2 => ErrlogSevEnum::Major,
            _ => ErrlogSevEnum::Fatal,
        }
    }
}

/// String representation of an errlog severity.
///
/// C parity: `errlogGetSevEnumString` (`errlog.c:391-397`) — an
/// out-of-range value yields `"unknown"`; the typed Rust enum cannot be
/// out of range, so this always maps to a real name.
pub fn errlog_sev_enum_string(severity: ErrlogSevEnum) -> &'static str {
    severity.as_str()
}

/// Backing store for `errlogSetSevToLog`/`errlogGetSevToLog`. C parity:
/// `pvt.sevToLog` (`errlog.c:96`), which lives in the file-scope static
/// `pvt` and is therefore zero-initialised — `errlogInfo`, not
/// `errlogMinor`. Nothing may consult it; see [`errlog_set_sev_to_log`].
static SEV_TO_LOG: AtomicU8 = AtomicU8::new(ErrlogSevEnum::Info as u8);

/// Store the severity-to-log setting — C `errlogSetSevToLog`
/// (`errlog.c:399-405`).
///
/// This sets a value and changes no behaviour, which is exactly what the
/// C call does: `rg sevToLog` over base finds the struct member
/// (`errlog.c:96`), this store (`:403`) and the read-back in
/// [`errlog_get_sev_to_log`] (`:412`) and nothing else, so no message is
/// ever filtered by it. Do not add a suppression test against this value
/// — that would drop lines a C IOC prints.
pub fn errlog_set_sev_to_log(severity: ErrlogSevEnum) {
    SEV_TO_LOG.store(severity as u8, Ordering::Relaxed);
}

/// Read the severity-to-log setting back — C `errlogGetSevToLog`
/// (`errlog.c:407-415`). Round-trips [`errlog_set_sev_to_log`]; carries
/// no filtering authority.
pub fn errlog_get_sev_to_log() -> ErrlogSevEnum {
    ErrlogSevEnum::from_u8(SEV_TO_LOG.load(Ordering::Relaxed))
}

/// C `ANSI_ESC_RED` (`errlog.h:281`) — the escape that opens a red bold span.
///
/// Present as a constant because two callers need the halves rather than the
/// whole word: this module builds [`ERL_ERROR`] from them, and the iocsh error
/// framer paints a message body the way C's own `showError` call sites do —
/// they spell the format string `ANSI_RED(...)`, so the body arrives painted
/// and the port must wrap it the same way.
pub const ANSI_ESC_RED: &str = "\x1b[31;1m";

/// C `ANSI_ESC_BOLD` (`errlog.h:287`) — opens a bold span.
///
/// Read by `iocsh`'s `format_help_entry`, which paints a command name the way
/// C's `helpCallFunc` does, and by `softIoc`'s `verbose_out`
/// (`softMain.cpp:58`), whose `CMD` colour this is.
pub const ANSI_ESC_BOLD: &str = "\x1b[1m";

/// C `ANSI_ESC_BLUE` (`errlog.h:284`) — opens a blue bold span.
///
/// `verbose_out`'s `REM` colour (`softMain.cpp:58`), and the colour `iocsh`
/// echoes a script comment in.
pub const ANSI_ESC_BLUE: &str = "\x1b[34;1m";

/// C `ANSI_ESC_UNDERLINE` (`errlog.h:288`) — opens an underlined span.
///
/// Read by `iocsh`'s `format_help_entry` for an argument name.
pub const ANSI_ESC_UNDERLINE: &str = "\x1b[4m";

/// C `ANSI_ESC_GREEN` (`errlog.h:282`) — opens a green bold span.
///
/// `afterIocRunningHook`'s `ANSI_GREEN("afterIocRunning:")` echo
/// (`afterIocRunning.c:47`).
pub const ANSI_ESC_GREEN: &str = "\x1b[32;1m";

/// C `ANSI_ESC_RESET` (`errlog.h:289`) — closes any span above.
pub const ANSI_ESC_RESET: &str = "\x1b[0m";

// The remaining three of `errlog.h:281-288` — YELLOW, MAGENTA, CYAN — are
// deliberately absent: a constant nothing reads is a claim about C nobody is
// checking. Magenta does appear in this workspace, but only inside a whole
// string that is already correct and has no half-reader: [`ERL_WARNING`]
// (`ANSI_MAGENTA("WARNING")`).

/// C `ERL_ERROR` (`errlog.h:298`) — `ANSI_RED("ERROR")`, the severity word a
/// diagnostic written straight to stderr carries.
///
/// Unconditional, and that is the whole distinction from [`erl_warning`]. C
/// puts the escapes IN the message and strips them in one place only:
/// `errlogStripANSI` sits inside errlog's own message pump
/// (`errlog.c:671-681`), so it can only reach text that was handed to
/// `errlogPrintf`. A `fprintf(stderr, ERL_ERROR ": …")` never enters that pump,
/// so its escapes reach the stream whatever the stream is — a pipe, a file, a
/// terminal alike. Every `.db`/`.dbd` loader diagnostic is such an `fprintf`.
/// C composes this from the halves (`ANSI_RED("ERROR")`, `errlog.h:290`) and
/// so would we, but `concat!` takes literals and not constants and a
/// const-concat dependency is a poor trade for three tokens. The identity
/// `ERL_ERROR == ANSI_ESC_RED ++ "ERROR" ++ ANSI_ESC_RESET` is asserted in
/// `the_severity_words_carry_c_s_escapes` instead, so the halves and the whole
/// cannot drift apart unnoticed.
pub const ERL_ERROR: &str = "\x1b[31;1mERROR\x1b[0m";

/// C `ERL_WARNING` (`errlog.h:299`) — `ANSI_MAGENTA("WARNING")`, unconditional
/// for the same reason as [`ERL_ERROR`].
///
/// Use [`erl_warning`] instead for a word that goes out through `errlogPrintf`;
/// those DO pass the strip and so must follow the console.
///
/// Written out rather than built from an `ANSI_ESC_MAGENTA` constant because
/// this is magenta's only appearance in the workspace; the constant would have
/// exactly one reader, and a whole word already spelled correctly is not the
/// shape the escapes above earn — those exist because a second crate was
/// otherwise defining `errlog.h`'s bytes for itself.
pub const ERL_WARNING: &str = "\x1b[35;1mWARNING\x1b[0m";

/// The word an *errlog* warning line carries — magenta on a terminal console
/// and plain everywhere else.
///
/// C spells it `ANSI_MAGENTA("WARNING")` ([`ERL_WARNING`]) at the call site
/// either way; the difference is that errlog strips the escapes at print time
/// when its console is not a terminal (`errlog.c:672-681`,
/// `pvt.ttyConsole = isATTY(stderr)` at `errlog.c:555`). `isATTY`
/// (`errlog.c:218-237`) also demands a non-empty `$TERM`, on the grounds that a
/// terminal that will not name itself cannot be assumed to understand escapes.
/// Both halves of that rule are here, so an `epicsEnvSet`-style capture of a
/// Rust IOC's stderr gets the same bytes as C's.
///
/// Verified head-to-head with the compiled `softIoc` (bind-conflict warning):
/// redirected to a file it writes `cas WARNING: …`; under `script(1)` it writes
/// `cas \x1b[35;1mWARNING\x1b[0m: …`.
pub fn erl_warning() -> &'static str {
    if errlog_console_paints() {
        ERL_WARNING
    } else {
        "WARNING"
    }
}

/// [`erl_warning`] for `ERL_ERROR`: red on a terminal console, plain
/// everywhere else, for the word an `errlogPrintf` line carries.
pub fn erl_error() -> &'static str {
    if errlog_console_paints() {
        ERL_ERROR
    } else {
        "ERROR"
    }
}

/// Whether an errlog line keeps the ANSI escapes its C literal carries.
///
/// C strips them at print time when the console is not a terminal
/// (`errlog.c:789-793`, `pvt.ttyConsole = isATTY(stderr)` at `:555`), and
/// `isATTY` (`:218-237`) also demands a non-empty `$TERM` on the grounds
/// that a terminal which will not name itself cannot be assumed to
/// understand escapes.
///
/// [`erl_warning`] answers this for one word. A call site whose C literal
/// paints more than one span — `iocBuild`'s `asInit` failure carries both
/// `ERL_ERROR` and an `ANSI_MAGENTA` sentence (`iocInit.c:188-190`) — asks
/// it directly, so the predicate stays owned here rather than being
/// re-derived per site.
pub fn errlog_console_paints() -> bool {
    console().paints()
}

/// Emit a pre-formatted error message at the given severity.
///
/// C parity: `errlogSevVprintf`/`errlogSevPrintf` (`errlog.c:366-388`)
/// — the C code prefixes `"sevr=%s "` and routes to the message queue,
/// unconditionally. Here the prefix is preserved and the message is
/// routed through `tracing` at a level mapped from the severity.
///
/// Unconditionally is the whole point: `errlogSevVprintf` tests no
/// threshold, so an `errlogInfo` line reaches a C console whatever
/// `errlogSetSevToLog` was told. See [`errlog_set_sev_to_log`].
pub fn errlog_sev_printf(severity: ErrlogSevEnum, message: &str) {
    errlog_sev_vprintf(severity, format_args!("{message}"));
}

/// C `errlogSevVprintf` (`errlog.c:366-388`): [`errlog_sev_printf`] for a
/// caller's `format_args!`, which is formatted straight into the errlog arena,
/// so posting allocates nothing.
pub fn errlog_sev_vprintf(severity: ErrlogSevEnum, message: std::fmt::Arguments<'_>) {
    let line = format_args!("sevr={} {}", severity.as_str(), message);
    let record = Record(line);
    match severity {
        ErrlogSevEnum::Info => {
            tracing::info!(target: "epics_base_rs::errlog", "{record}")
        }
        ErrlogSevEnum::Minor => {
            tracing::warn!(target: "epics_base_rs::errlog", "{record}")
        }
        ErrlogSevEnum::Major | ErrlogSevEnum::Fatal => {
            tracing::error!(target: "epics_base_rs::errlog", "{record}")
        }
    }
    errlog_post(line.into(), ConsoleEcho::Yes);
}

/// Emit a pre-formatted message through the errlog facility
/// unconditionally — C `errlogVprintf`/`errlogPrintf`
/// (`errlog.c:315-335`), the *no-severity* variant.
///
/// Unlike [`errlog_sev_printf`] this carries no `sevr=` prefix (C
/// `errlogVprintf` enqueues the caller's bytes verbatim). Neither call
/// is gated: see [`errlog_set_sev_to_log`]. Routed through `tracing` at info
/// level on the same `epics_base_rs::errlog` target, so an application's
/// subscriber sees it on the errlog sink. Used by `stdio` device support
/// for the `"errlog"` output stream (`devStdio.c` `logPrintf`).
pub fn errlog_printf(message: &str) {
    errlog_vprintf(format_args!("{message}"));
}

/// C `errlogVprintf` (`errlog.c:315-335`): [`errlog_printf`] for a caller's
/// `format_args!`, which is formatted straight into the errlog arena, so
/// posting allocates nothing.
pub fn errlog_vprintf(message: std::fmt::Arguments<'_>) {
    tracing::info!(target: "epics_base_rs::errlog", "{}", Record(message));
    errlog_post(message.into(), ConsoleEcho::Yes);
}

/// [`errlog_vprintf`] of bytes that need not be text, `parts` run together as
/// one message: C's `errlogPrintf("%.*s\n", n, buffer)` of a device's reply
/// (asynManager.c:3175). The arena, the console and a
/// [`errlog_add_listener_bytes`] listener take the bytes as C's do; a text
/// listener and the `tracing` record get U+FFFD for a byte that is not UTF-8.
pub fn errlog_printf_bytes(parts: &[&[u8]]) {
    tracing::info!(target: "epics_base_rs::errlog", "{}", Record(format_args!("{}", Lossy(parts))));
    errlog_post(Message::Bytes(parts), ConsoleEcho::Yes);
}

/// C `errlogPrintfNoConsole` (`errlog.c:343-364`): the same message queue,
/// but the console echo is suppressed for this line whatever `eltc` says.
/// Listeners — the IOC log client among them — still receive it.
pub fn errlog_printf_no_console(message: std::fmt::Arguments<'_>) {
    tracing::info!(target: "epics_base_rs::errlog", "{}", Record(message));
    errlog_post(message.into(), ConsoleEcho::No);
}

/// C `errlogMessage` (`errlog.c:337-341`) — `errlogPrintf("%s", message)`.
pub fn errlog_message(message: &str) {
    errlog_printf(message);
}

/// Debug-level runtime log line. Routes through the `tracing` facade.
#[macro_export]
macro_rules! rt_debug {
    ($($arg:tt)*) => {
        ::tracing::debug!(target: "epics_base_rs::runtime", "{}", format!($($arg)*));
    };
}

/// Info-level runtime log line. Routes through the `tracing` facade.
#[macro_export]
macro_rules! rt_info {
    ($($arg:tt)*) => {
        ::tracing::info!(target: "epics_base_rs::runtime", "{}", format!($($arg)*));
    };
}

/// Warn-level runtime log line. Routes through the `tracing` facade.
#[macro_export]
macro_rules! rt_warn {
    ($($arg:tt)*) => {
        ::tracing::warn!(target: "epics_base_rs::runtime", "{}", format!($($arg)*));
    };
}

/// Error-level runtime log line. Routes through the `tracing` facade.
#[macro_export]
macro_rules! rt_error {
    ($($arg:tt)*) => {
        ::tracing::error!(target: "epics_base_rs::runtime", "{}", format!($($arg)*));
    };
}

// ---------------------------------------------------------------------------
// The errlog message queue — C `errlog.c` @`R7.0.10`.
// ---------------------------------------------------------------------------

/// C `errlog.c:44`. `errlogInit` raises anything smaller to this.
pub const MIN_BUFFER_SIZE: usize = 2560;
/// C `errlog.c:45` — the `maxMsgSize` `errlogInit` passes.
pub const DEFAULT_MAX_MSG_SIZE: usize = 512;
/// C `errlog.c:46`.
pub const MIN_MESSAGE_SIZE: usize = 256;
/// C `MAX_MESSAGE_SIZE(bufsize)` (`errlog.c:47`): a fifth of the arena.
pub const fn max_message_size(bufsize: usize) -> usize {
    bufsize / 5
}

/// What `errlogAddListener` hands back.
///
/// C keys a listener on the `(function pointer, void *pPrivate)` pair, because
/// that is the only identity a C callback has, and `errlogRemoveListeners`
/// removes *every* node matching it. A Rust closure has no comparable identity
/// — two clones of one closure are indistinguishable and `fn` pointers to
/// generic shims collide — so the registration hands back a token instead.
/// Every registration is therefore removable exactly once and never removes a
/// stranger's, which is a property C's pair-matching does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrlogListenerId(u64);

/// A registered listener, called with the record's bytes as C's
/// `const char *message`. Shared so the worker can call it with the list's
/// `RefCell` released, which is what lets a callback add or remove listeners.
type ErrlogListenerFn = std::sync::Arc<dyn Fn(&[u8]) + Send + Sync>;

/// C `listenerNode` (`errlog.c:79-85`).
struct ListenerNode {
    id: ErrlogListenerId,
    listener: ErrlogListenerFn,
    /// The worker is inside this listener's callback.
    active: bool,
    /// Removed by its own callback; the worker drops it when the call returns.
    removed: bool,
}

/// C `pvt.listenerList` under `pvt.listenerLock` (`errlog.c:96-97`), an
/// `epicsMutex` and so recursive: a callback may add or remove listeners,
/// and the worker sees the change from the next listener of the same message.
type ErrlogListeners = parking_lot::ReentrantMutex<std::cell::RefCell<Vec<ListenerNode>>>;

/// C `ERL_STATE_READY` (`errlog.c:56`): the flag byte of a committed message.
const ERL_STATE_READY: u8 = 0x40;
/// C `ERL_LOCALECHO` (`errlog.c:58`): the worker writes this one to the
/// console. The port folds the poster's [`console_is_ours`] into it.
const ERL_LOCALECHO: u8 = 0x20;

/// C `buffer_t` (`errlog.c:74-77`): a flat arena of `[flag][text][NUL]`
/// records, allocated once at init, so admitting a message is a bounded copy
/// under the queue lock and never an allocation.
struct ErrlogBuf {
    base: Box<[u8]>,
    /// C `buffer_t::pos` — bytes consumed, `1 + nchar + 1` per message
    /// (`errlog.c:175`).
    pos: usize,
}

impl ErrlogBuf {
    fn new(size: usize) -> Self {
        Self {
            base: vec![0; size].into_boxed_slice(),
            pos: 0,
        }
    }

    /// The committed messages in order, as `(console, text)`.
    #[cfg(test)]
    fn messages(&self) -> impl Iterator<Item = (bool, &str)> {
        self.message_bytes()
            .map(|(echo, body)| (echo, std::str::from_utf8(body).unwrap_or_default()))
    }

    /// [`Self::messages`] as the bytes the arena holds.
    #[cfg(test)]
    fn message_bytes(&self) -> impl Iterator<Item = (bool, &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.pos {
                return None;
            }
            let flag = self.base[at];
            let body = &self.base[at + 1..self.pos];
            let len = body.iter().position(|&b| b == 0).unwrap_or(body.len());
            at += 1 + len + 1;
            Some((flag & ERL_LOCALECHO != 0, &body[..len]))
        })
    }

    /// The committed messages in order, each handed over mutable: the worker
    /// owns a drained arena outright, so a message is rewritten in its own
    /// record instead of copied out.
    fn drain(&mut self, mut each: impl FnMut(bool, &mut [u8])) {
        let mut at = 0;
        while at < self.pos {
            let flag = self.base[at];
            let body = &mut self.base[at + 1..self.pos];
            let len = body.iter().position(|&b| b == 0).unwrap_or(body.len());
            each(flag & ERL_LOCALECHO != 0, &mut body[..len]);
            at += 1 + len + 1;
        }
    }
}

/// Everything C guards with `pvt.msgQueueLock`.
struct ErrlogQueue {
    buf_size: usize,
    max_msg_size: usize,
    log: ErrlogBuf,
    print: ErrlogBuf,
    n_lost: usize,
    at_exit: bool,
    to_console: bool,
    flush_seq: u64,
    /// Producers blocked in [`errlog_flush`], C's `pvt.nFlushers`
    /// (`errlog.c:103`, also under `msgQueueLock`). C counts them and chains
    /// one binary event from each released flusher to the next
    /// (`:191-217`); one event per flusher is the same rendezvous without the
    /// chain, and it is what lets this lock be the PI one.
    flushers: Vec<Flusher>,
}

/// One producer waiting for the worker to finish a pass.
struct Flusher {
    /// The `flush_seq` the flusher saw when it registered. The worker has
    /// given it the pass it came for once `flush_seq` is past this, which is
    /// also the worker's test for whether it may go back to sleep.
    start: u64,
    event: std::sync::Arc<Event>,
}

struct Errlog {
    /// C's `pvt.msgQueueLock`, and an `epicsMutex` there (`errlog.c:95`) — so
    /// a [`PriorityInheritanceMutex`] here.
    ///
    /// Every line any thread logs passes through this lock, and the thread
    /// that holds it longest is the `errlog` worker at
    /// [`ThreadPriority::Low`](crate::runtime::task::ThreadPriority::Low).
    /// Fused to a `Condvar` the lock could not be the PI one, so a record at
    /// High logging an alarm waited behind a Low worker for as long as
    /// anything in between cared to run.
    ///
    /// Contention allocates on a thread's first park unless the thread came
    /// through [`enter_ioc_thread`](crate::runtime::task::enter_ioc_thread),
    /// which builds that park state at entry.
    queue: PriorityInheritanceMutex<ErrlogQueue>,
    /// C `pvt.waitForWork` (`errlog.c:93`) — one waiter, the worker.
    work: Event,
    /// The worker has left its loop for good — the end of C's
    /// `epicsThreadMustJoin(tid)` in `errlogExitHandler` (`errlog.c:530`).
    ///
    /// Not an [`Event`]: its waiter is the process `atexit` handler, and on
    /// macOS `exit()` destroys the main thread's locals first, so
    /// `std::thread::current()` and `park` abort there. parking_lot parks
    /// on a stack `ThreadData` once its thread-local is gone.
    stopped: parking_lot::Mutex<bool>,
    exited: parking_lot::Condvar,
    listeners: ErrlogListeners,
    next_id: std::sync::atomic::AtomicU64,
}

static ERRLOG: std::sync::OnceLock<&'static Errlog> = std::sync::OnceLock::new();

/// C `errlogInit(bufsize)` — `errlogInit2(bufsize, DEFAULT_MAX_MSG_SIZE)`
/// (`errlog.c:689-692`). Idempotent: C runs `errlogInitPvt` under
/// `epicsThreadOnce`, so the FIRST call fixes the sizes and every later one is
/// a no-op whatever it asks for.
pub fn errlog_init(bufsize: usize) {
    errlog_init2(bufsize, DEFAULT_MAX_MSG_SIZE);
}

/// C `errlogInit2` (`errlog.c:583-607`): both sizes are clamped before the
/// once-init, and the worker thread is started there.
pub fn errlog_init2(bufsize: usize, max_msg_size: usize) {
    errlog_pvt2(bufsize, max_msg_size);
}

/// [`errlog_init`]'s private half — the once-initialised state itself. Every
/// entry point below starts here, exactly as every C entry point starts with
/// `errlogInit(0)`.
fn errlog_pvt() -> &'static Errlog {
    errlog_pvt2(0, DEFAULT_MAX_MSG_SIZE)
}

fn errlog_pvt2(bufsize: usize, max_msg_size: usize) -> &'static Errlog {
    ERRLOG.get_or_init(|| {
        let (buf_size, max_msg_size) = errlog_clamp_sizes(bufsize, max_msg_size);
        let errlog: &'static Errlog = Box::leak(Box::new(Errlog {
            queue: PriorityInheritanceMutex::new(
                ErrlogQueue {
                    buf_size,
                    max_msg_size,
                    // C `errlogInitPvt` `calloc`s both once (`errlog.c:592-593`);
                    // nothing on the posting path allocates after this.
                    log: ErrlogBuf::new(buf_size),
                    print: ErrlogBuf::new(buf_size),
                    n_lost: 0,
                    at_exit: false,
                    // C `errlogInitPvt`: `pvt.toConsole = TRUE`.
                    to_console: true,
                    flush_seq: 0,
                    flushers: Vec::new(),
                },
                CMutex::ErrlogMsgQueue,
            ),
            work: Event::new(),
            stopped: parking_lot::Mutex::new(false),
            exited: parking_lot::Condvar::new(),
            listeners: parking_lot::ReentrantMutex::new(std::cell::RefCell::new(Vec::new())),
            next_id: std::sync::atomic::AtomicU64::new(1),
        }));
        // C `epicsThreadCreateOpt("errlog", …)` at `epicsThreadPriorityLow`
        // with `epicsThreadStackSmall` (`errlog.c:568-574`).
        //
        // Mandatory, as C makes it: `errlogInitPvt` leaves
        // `pvt.errlogInitFailed` set unless the thread started, and every
        // `errlogInit`/`errlogInit2` entry then prints `ERROR: errlogInit
        // failed` and `exit(1)`s (`errlog.c:667-670`) — not `cantProceed`,
        // which would recurse through this very function. Carrying on instead
        // is what needed a "no drainer" state for the flush at the end of
        // [`errlog_emit`] to consult; `MandatoryThread` leaves no failure for
        // a caller to resolve, so that state is gone with it. This is also the
        // call site [`crate::runtime::task::MandatoryThread`]'s own docs name:
        // the message reporting a failed thread creation cannot be routed
        // through the worker whose creation just failed.
        crate::runtime::task::MandatoryThread::new(
            "errlog",
            crate::runtime::task::ThreadPriority::Low,
            crate::runtime::task::StackSizeClass::Small,
        )
        .spawn(move || errlog_worker(errlog));
        // C `epicsAtExit(errlogExitHandler, pvt.tid)` (`errlog.c:609`). A
        // process-level hook rather than `runtime::exit::at_exit`, because a
        // Rust IOC also ends by returning from `main`, which runs no
        // `epicsExit` list, and a queued line must not die with it.
        #[cfg(unix)]
        {
            extern "C" fn on_exit() {
                errlog_exit_handler();
            }
            // SAFETY: registers a plain `extern "C"` function with no state.
            unsafe { libc::atexit(on_exit) };
        }
        #[cfg(not(unix))]
        crate::runtime::exit::at_exit("errlog", errlog_exit_handler);
        errlog
    })
}

/// The errlog worker's [`os_thread_id`](crate::runtime::task::os_thread_id),
/// so the exit handler never waits for itself.
static WORKER: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

/// C `errlogExitHandler` (`errlog.c:523-531`): stop admitting, and wait for
/// the worker to write out what was already queued.
///
/// Nothing here may touch `std` thread-local state (`thread::current`,
/// `park`, a `thread_local!`): see [`Errlog::stopped`].
fn errlog_exit_handler() {
    let Some(errlog) = ERRLOG.get() else {
        return;
    };
    {
        let mut q = errlog.queue.lock();
        if q.at_exit {
            return;
        }
        q.at_exit = true;
    }
    errlog.work.signal();
    if WORKER.get() == Some(&crate::runtime::task::os_thread_id()) {
        return;
    }
    let mut stopped = errlog.stopped.lock();
    while !*stopped {
        errlog.exited.wait(&mut stopped);
    }
}

/// C `errlogThread` (`errlog.c:624-720`): swap the buffers, drain the snapshot
/// with the queue UNLOCKED, then report anything the arena refused.
fn errlog_worker(errlog: &'static Errlog) {
    let _ = WORKER.set(crate::runtime::task::os_thread_id());
    let parked = errlog.work.waiter();
    let mut q = errlog.queue.lock();
    loop {
        q.flush_seq += 1;
        // C triggers `waitForSeq` once and lets the released flusher chain to
        // the next (`errlog.c:204-215`); each flusher owning an event means
        // the pass is announced to all of them here instead.
        for f in &q.flushers {
            if f.start < q.flush_seq {
                f.event.signal();
            }
        }

        if q.log.pos == 0 {
            if q.at_exit {
                break;
            }
            drop(q);
            // A flusher that registered while this thread was asleep is the
            // second reason to get up, and the reason it is a *condition* and
            // not a token: C's `waitForWork` latches a trigger, so its worker
            // can be woken by a flusher it has already served and simply make
            // one more empty pass. Asking whether any flusher is still short
            // of its pass answers the same question without the extra pass.
            parked.wait_until(|| {
                let q = errlog.queue.lock();
                q.log.pos != 0 || q.at_exit || q.flushers.iter().any(|f| f.start >= q.flush_seq)
            });
            q = errlog.queue.lock();
            continue;
        }

        let n_lost = std::mem::take(&mut q.n_lost);
        let to_console = q.to_console;
        // C swaps `pvt.log` and `pvt.print` so logging can continue while
        // this pass drains (`errlog.c:766-770`). The worker owns the drained
        // arena until it hands it back below; `q.print` is an empty
        // placeholder meanwhile, which allocates nothing.
        let ErrlogQueue { log, print, .. } = &mut *q;
        std::mem::swap(log, print);
        let mut print = std::mem::replace(&mut q.print, ErrlogBuf::new(0));
        drop(q);

        print.drain(|echo, record| {
            // C writes the console first, from this thread, for a message
            // posted with local echo while `pvt.toConsole` holds, stripped
            // in the record unless the console is a terminal (`errlog.c:789-795`);
            // the listeners always get it stripped (`:798-799`).
            let mut len = None;
            if echo && to_console {
                let mut console = console();
                if !console.paints() {
                    len = Some(strip_ansi_in_place(record));
                }
                console.write(Message::Bytes(&[&record[..len.unwrap_or(record.len())]]));
            }
            let len = len.unwrap_or_else(|| strip_ansi_in_place(record));
            deliver(&errlog.listeners, &record[..len]);
        });
        // C `errlog.c:823-824`.
        print.base.fill(0);
        print.pos = 0;

        if n_lost > 0 && to_console {
            // C `fprintf(console, "errlog: lost %zu messages\n", nLost)`
            // (`errlog.c:826-827`). The stream is `pvt.console`, so this line
            // follows [`errlog_set_console`] exactly as a message does.
            console().write(format_args!("errlog: lost {n_lost} messages\n"));
        }

        q = errlog.queue.lock();
        q.print = print;
    }
    drop(q);
    *errlog.stopped.lock() = true;
    errlog.exited.notify_all();
}

/// C `errlogThread`'s listener walk (`errlog.c:801-815`): the live list, under
/// its lock, once per message. The next node is found after the call, so a
/// listener added by a callback hears this message, and one removed by it
/// hears nothing more.
fn deliver(listeners: &ErrlogListeners, record: &[u8]) {
    let list = listeners.lock();
    let mut at = 0;
    loop {
        let listener = {
            let mut nodes = list.borrow_mut();
            let Some(node) = nodes.get_mut(at) else {
                return;
            };
            node.active = true;
            std::sync::Arc::clone(&node.listener)
        };
        listener(record);
        let mut nodes = list.borrow_mut();
        // The callback may have removed a node ahead of this one.
        let Some(here) = nodes.iter().position(|n| n.active) else {
            return;
        };
        if nodes[here].removed {
            nodes.remove(here);
            at = here;
        } else {
            nodes[here].active = false;
            at = here + 1;
        }
    }
}

/// Whether this call site puts the message on the console at all — C's
/// `localEcho` argument to `msgbufCommit`, which is `pvt.toConsole` for
/// `errlogVprintf`/`errlogSevVprintf` and a hard `0` for the `NoConsole` pair
/// (`errlog.c:334`, `:365`, `:388`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConsoleEcho {
    Yes,
    No,
    /// The panic hook's line, which has no C original: written by the posting
    /// thread before it returns, because that thread may never get to wait
    /// for the worker and must not be made to.
    Immediate,
}

/// C `msgbufAlloc`/`msgbufCommit` (`errlog.c:113-188`) as one step: admit the
/// message, wake the worker, and — for a poster that may block — wait for the
/// drain.
///
/// The worker writes the console, as C's `errlogThread` does
/// (`errlog.c:790-796`); a poster never does. So the order of an errlog line
/// against the poster's own `stderr` is C's: a poster that may block returns
/// only after the worker has written it (`msgbufCommit`'s `errlogFlush()`,
/// `errlog.c:186-187`), and one that may not — every `epicsThreadCreate`
/// thread, and softMain's `_main_` (`osdThread.c:406`) — returns at once and
/// its line comes out after whatever it writes next.
///
/// The admission rule is C's: a message is accepted only when the WORST CASE
/// still fits — `bufSize - pos >= 1 + maxMsgSize` — so a burst is dropped and
/// counted instead of consuming memory, and the count reaches the console as
/// `errlog: lost N messages`. The flush is what keeps a boot from hitting it:
/// a blocking producer cannot get ahead of the drainer by more than one
/// message, which is why a C IOC boots a 400-line script through a 2560-byte
/// arena and loses nothing. Admission itself is a bounded copy into an arena
/// allocated at init: it never allocates and never waits for space.
///
/// The three flush gates are C's and each closes a real path: `ok_to_block`
/// keeps a scan or serving thread off the drain and, because only an iocsh
/// scope or `iocInit` raises it, also stops the errlog worker from flushing
/// into itself when a listener logs;
/// `at_exit` matches C's `!atExit`, the worker having stopped; `local_echo`
/// matches C's argument, so `errlogPrintfNoConsole` and `eltc(0)` cost no wait.
fn errlog_post(message: Message<'_>, echo: ConsoleEcho) {
    let errlog = errlog_pvt();
    // C reads it before the lock (`errlog.c:147`); it is this thread's own.
    let ok_to_block = crate::runtime::task::thread_is_ok_to_block();
    // The poster's dispatcher, not the worker's, says whose console it is.
    let ours = echo != ConsoleEcho::No && console_is_ours();

    let mut q = errlog.queue.lock();
    let was_empty = q.log.pos == 0;
    let at_exit = q.at_exit;
    // One read of `eltc` per message, under the same lock that admits it.
    let local_echo = echo == ConsoleEcho::Yes && q.to_console;
    let immediate = echo == ConsoleEcho::Immediate && q.to_console && ours;
    let accepted = q.accept(message, local_echo && ours);
    drop(q);

    if accepted && was_empty {
        errlog.work.signal();
    }
    // C `msgbufCommit` (`errlog.c:166-170`): with the worker gone, a poster
    // that may block prints its own line and the rest are dropped.
    if immediate || (at_exit && local_echo && ours && ok_to_block) {
        console().write(message);
    }

    // C `msgbufCommit`'s tail (`errlog.c:186-187`). `accepted` stands for C's
    // `msgbufAlloc` having returned a buffer at all: a refused message never
    // reaches `msgbufCommit` and so never flushes there either.
    if accepted && local_echo && ok_to_block && !at_exit {
        errlog_flush();
    }
}

/// C `msgbufCommit`'s truncation marker (`errlog.c:157`).
const TRUNCATED: &str = "<<TRUNCATED>>\n";

/// C `vsnprintf` into `msgbufAlloc`'s slot: copies the prefix that fits and
/// counts the rest. Bytes, as C's arena is, so a cut can split a character
/// exactly where C's does.
struct ArenaText<'a> {
    buf: &'a mut [u8],
    len: usize,
    /// What an unbounded write would have produced — `vsnprintf`'s return.
    nchar: usize,
    /// A NUL was written: C's `%s` ends there, and so does the record.
    ended: bool,
}

impl WriteBytes for ArenaText<'_> {
    fn write_bytes(&mut self, s: &[u8]) {
        if self.ended {
            return;
        }
        let s = match s.iter().position(|&b| b == 0) {
            Some(nul) => {
                self.ended = true;
                &s[..nul]
            }
            None => s,
        };
        let take = s.len().min(self.buf.len() - self.len);
        self.buf[self.len..self.len + take].copy_from_slice(&s[..take]);
        self.len += take;
        self.nchar += s.len();
    }
}

impl std::fmt::Write for ArenaText<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.write_bytes(s.as_bytes());
        Ok(())
    }
}

impl ErrlogQueue {
    /// The whole admission decision, in one place so it can be tested at its
    /// boundaries without a worker thread. `true` when the message was taken.
    fn accept<'a>(&mut self, message: impl Into<Message<'a>>, console: bool) -> bool {
        if self.at_exit {
            return false;
        }
        // C `msgbufAlloc` (`errlog.c:132-142`): a message is taken only when
        // the WORST CASE still fits, whoever posts it, so a burst is dropped
        // and counted rather than waited on or grown into.
        if self.buf_size - self.log.pos < 1 + self.max_msg_size {
            self.n_lost += 1;
            return false;
        }

        // C `errlogVprintf` (`errlog.c:121-144`): format into the slot under
        // the lock, then `msgbufCommit` (`errlog.c:155-163`): `nchar` is what
        // `vsnprintf` WOULD have written, so a message at or past `maxMsgSize`
        // is cut to `maxMsgSize - 1` bytes with its tail overwritten by the
        // marker.
        let max = self.max_msg_size;
        let start = self.log.pos;
        let rec = &mut self.log.base[start..start + 1 + max];
        let (flag, text) = rec.split_first_mut().expect("1 + max bytes");
        let mut slot = ArenaText {
            buf: &mut text[..max - 1],
            len: 0,
            nchar: 0,
            ended: false,
        };
        message.into().put(&mut slot);
        let mut nchar = slot.len;
        if slot.nchar >= max {
            let cut = (max - 1).saturating_sub(TRUNCATED.len());
            text[cut..cut + TRUNCATED.len()].copy_from_slice(TRUNCATED.as_bytes());
            nchar = cut + TRUNCATED.len();
        }
        *flag = ERL_STATE_READY | if console { ERL_LOCALECHO } else { 0 };
        text[nchar] = 0;
        self.log.pos += 1 + nchar + 1;
        true
    }
}

/// C `errlogClampConfig` (`errlog.c:539-561`), in C's order: the message
/// ceiling is a fifth of the CLAMPED buffer, and the floor wins over it.
fn errlog_clamp_sizes(bufsize: usize, max_msg_size: usize) -> (usize, usize) {
    let bufsize = bufsize.max(MIN_BUFFER_SIZE);
    let max_msg_size = max_msg_size
        .min(max_message_size(bufsize))
        .max(MIN_MESSAGE_SIZE);
    (bufsize, max_msg_size)
}

/// C `errlogSequence` (`errlog.c:189-217`): block until the worker completes
/// one pass of its loop.
///
/// The event is the caller's, not the facility's, so the worker needs no
/// chain to pass a wake from one waiting producer to the next.
fn errlog_sequence(errlog: &'static Errlog, mine: &std::sync::Arc<Event>, waiter: &EventWaiter) {
    let start = {
        let mut q = errlog.queue.lock();
        if q.at_exit {
            return;
        }
        let start = q.flush_seq;
        q.flushers.push(Flusher {
            start,
            event: std::sync::Arc::clone(mine),
        });
        start
    };
    // C `errlog.c:209` — force the worker to wake and increment the sequence.
    errlog.work.signal();
    waiter.wait_until(|| {
        let q = errlog.queue.lock();
        q.flush_seq != start || q.at_exit
    });
    let mut q = errlog.queue.lock();
    q.flushers
        .retain(|f| !std::sync::Arc::ptr_eq(&f.event, mine));
}

/// C `errlogFlush` (`errlog.c:614-622`): TWO sequences, because it takes both
/// buffers being handled to know every message logged so far has been seen.
pub fn errlog_flush() {
    thread_local! {
        // An `Event` has one waiter for life, so a thread's flushes share one.
        static FLUSH: std::sync::Arc<Event> = std::sync::Arc::new(Event::new());
    }
    let errlog = errlog_pvt();
    // A thread already tearing its locals down flushes on an event of its own.
    let mine = FLUSH
        .try_with(std::sync::Arc::clone)
        .unwrap_or_else(|_| std::sync::Arc::new(Event::new()));
    let waiter = mine.waiter();
    errlog_sequence(errlog, &mine, &waiter);
    errlog_sequence(errlog, &mine, &waiter);
}

/// [`errlog_add_listener_bytes`] for a listener that wants text: a byte that
/// is not UTF-8 reaches it as U+FFFD.
pub fn errlog_add_listener<F>(listener: F) -> ErrlogListenerId
where
    F: Fn(&str) + Send + Sync + 'static,
{
    errlog_add_listener_bytes(move |m: &[u8]| listener(&String::from_utf8_lossy(m)))
}

/// C `errlogAddListener` (`errlog.c:417-431`).
///
/// The listener is called on the errlog worker thread with the message after
/// ANSI stripping — never on the thread that logged it — as the bytes C hands
/// its `const char *message`.
pub fn errlog_add_listener_bytes<F>(listener: F) -> ErrlogListenerId
where
    F: Fn(&[u8]) + Send + Sync + 'static,
{
    let errlog = errlog_pvt();
    let id = ErrlogListenerId(
        errlog
            .next_id
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
    );
    errlog.listeners.lock().borrow_mut().push(ListenerNode {
        id,
        listener: std::sync::Arc::new(listener),
        active: false,
        removed: false,
    });
    id
}

/// Remove the listener registered under `id`; `true` when one was there.
///
/// C's `errlogRemoveListeners(listener, pPrivate)` returns how many nodes
/// matched the pair (`errlog.c:434-462`); a token matches at most one, so the
/// count degenerates to a boolean. When this returns the listener is never
/// called again, as in C: from another thread it waits out the message being
/// delivered, and from inside a callback the lock is this thread's already.
pub fn errlog_remove_listener(id: ErrlogListenerId) -> bool {
    let list = errlog_pvt().listeners.lock();
    let mut nodes = list.borrow_mut();
    let Some(at) = nodes.iter().position(|n| n.id == id && !n.removed) else {
        return false;
    };
    // C `errlog.c:450-455`: a callback removing itself is only marked.
    if nodes[at].active {
        nodes[at].removed = true;
    } else {
        nodes.remove(at);
    }
    true
}

/// How many listeners are registered — C has no such call; this exists for
/// the tests and for `iocLogShow`.
#[must_use]
pub fn errlog_listener_count() -> usize {
    let list = errlog_pvt().listeners.lock();
    list.borrow().iter().filter(|n| !n.removed).count()
}

/// C `errlogShow(level)` (`errlog.c:694-720`). Returns the lines rather than
/// printing them, so the iocsh command can send them through its own
/// redirected output — the same split `ioc_log_show` uses.
///
/// Level 0 is the two sizes, level 1 adds the listener count, level 2 adds
/// both arenas as C prints them: `printf("%s\n", base)`, which stops at the
/// first NUL and so shows the first record's flag byte and text, then a caret
/// at `pos`. The arena the worker is draining reads as empty until it is
/// handed back.
#[must_use]
pub fn errlog_show(level: u32) -> Vec<String> {
    /// `printf("%s\n", base)` and `printf("%*s^\n", pos, "")` for one arena.
    fn dump(which: &str, buf: &ErrlogBuf) -> [String; 3] {
        let first = buf
            .base
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(buf.base.len());
        [
            format!("  buffer({which}) contents:"),
            String::from_utf8_lossy(&buf.base[..first]).into_owned(),
            format!("{:>1$}", "^", buf.pos + 1),
        ]
    }
    let errlog = errlog_pvt();
    // C prints under `msgQueueLock`; copying under it is the same snapshot.
    let (buf_size, max_msg_size, arenas) = {
        let q = errlog.queue.lock();
        (
            q.buf_size,
            q.max_msg_size,
            (level > 1).then(|| [dump("log", &q.log), dump("print", &q.print)]),
        )
    };

    let mut out = vec![
        "Error log:".to_string(),
        format!("  buffer size: {buf_size}"),
        format!("  max message size: {max_msg_size}"),
    ];
    if level > 0 {
        // Taken after the queue lock is released, never under it.
        out.push(format!(
            "  number of listeners: {}",
            errlog_listener_count()
        ));
    }
    out.extend(arenas.into_iter().flatten().flatten());
    out
}

/// C `eltc(yesno)` (`errlog.c:465-473`) — "error log to console". Returns the
/// previous setting.
///
/// C's console lives in the errlog worker, so `eltc` gates the worker's
/// `fprintf`. The port's console is the `tracing` facade, emitted on the
/// thread that logged the message so a scoped subscriber and the caller's span
/// still see it; `eltc` therefore gates that call site instead. The setting
/// and its observable — a quiet console — are the same either way.
pub fn eltc(yesno: bool) -> bool {
    let errlog = errlog_pvt();
    let previous = {
        let mut q = errlog.queue.lock();
        std::mem::replace(&mut q.to_console, yesno)
    };
    errlog_flush();
    previous
}

/// Whether errlog messages currently reach the console — the `eltc` setting.
#[must_use]
pub fn errlog_to_console() -> bool {
    errlog_pvt().queue.lock().to_console
}

/// C `errlogSetConsole(stream)` (`errlog.c:478-487`) — send errlog's console
/// bytes to a stream of the caller's instead of `stderr`.
///
/// The bound is `IsTerminal` and not plain `Write` because C takes the
/// `isATTY` answer from the stream it is given (`errlog.c:483`), and that
/// answer decides whether an [`ERL_WARNING`]'s escapes reach the stream or are
/// stripped first (`errlog.c:789-793`). A sink that cannot be asked would
/// leave the port guessing at the one thing C measures. Nothing is lost by
/// demanding it: a line is flushed as it is written, so a buffered wrapper —
/// which is what would not satisfy the bound — would have nothing to hold.
///
/// Every byte this port writes to a console follows it: a message's echo, the
/// worker's `errlog: lost N messages` line, and — while the subscriber
/// [`install_console_subscriber`] installs is the one in place — the events it
/// renders, whose C originals are `errlogPrintf` calls. An application that
/// installed a subscriber of its own keeps its own console, as it keeps its
/// own formatting.
///
/// C returns 0 unconditionally, so there is nothing to hand back.
/// [`errlog_set_console_to_stderr`] is C's `NULL` argument.
pub fn errlog_set_console<S>(stream: S)
where
    S: std::io::Write + std::io::IsTerminal + Send + 'static,
{
    // C `errlogInit(0)` first (`errlog.c:480`), so a process that sets its
    // console before logging anything has the drainer its first line needs.
    errlog_pvt();
    let paints = is_a_tty(&stream);
    install_console(ConsoleSink::Set {
        stream: Box::new(stream),
        paints,
    });
}

/// C `errlogSetConsole(NULL)` — back to `stderr`, the stream `errlogInitPvt`
/// starts with (`errlog.c:482`, `:584`).
pub fn errlog_set_console_to_stderr() {
    errlog_pvt();
    install_console(ConsoleSink::Stderr);
}

/// Install a console and leave the previous stream flushed.
///
/// The swap is under the console lock, which is what gives C's
/// post-`errlogSetConsole` guarantee (see [`CONSOLE`]); the flush is outside
/// it, because by then the stream is this thread's alone and holding the lock
/// across it would stall writers on a stream nobody can reach any more.
fn install_console(sink: ConsoleSink) {
    let previous = std::mem::replace(&mut console().sink, sink);
    if let ConsoleSink::Set { mut stream, .. } = previous {
        let _ = stream.flush();
    }
}

/// How many messages the buffer has refused since the last drain reported.
#[must_use]
pub fn errlog_messages_lost() -> usize {
    errlog_pvt().queue.lock().n_lost
}

/// C `errlogStripANSI` (`errlog.c:269-313`) — remove CSI escape sequences.
///
/// Transcribed rather than written afresh, edges included: a lone `ESC` not
/// followed by `[` loses only the `ESC`, and a CSI run ends at the first byte
/// outside `?;0-9` — consuming one final letter if there is one, and nothing
/// if the sequence is truncated. Only ASCII bytes are ever dropped, so UTF-8
/// text survives.
#[must_use]
pub fn errlog_strip_ansi(message: &str) -> String {
    let mut out = message.as_bytes().to_vec();
    let len = strip_ansi_in_place(&mut out);
    out.truncate(len);
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// [`errlog_strip_ansi`]'s rule over `b` itself, as C's `errlogStripANSI`
/// rewrites its argument; returns the stripped length.
fn strip_ansi_in_place(b: &mut [u8]) -> usize {
    let mut out = 0;
    let mut i = 0;
    while i < b.len() {
        if b[i] != 0x1b {
            b[out] = b[i];
            out += 1;
            i += 1;
            continue;
        }
        i += 1; // the ESC itself is dropped
        if i < b.len() && b[i] == b'[' {
            i += 1;
            while i < b.len() && (b[i] == b'?' || b[i] == b';' || b[i].is_ascii_digit()) {
                i += 1;
            }
            if i < b.len() && b[i].is_ascii_alphabetic() {
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fresh_process::with_a_process_of_its_own;
    use serial_test::serial;

    // One `#[serial]` key for this whole module, because there is one piece of
    // state behind it: the arena, the listener list, `eltc` and the console are
    // all `pvt`, and a test that touches any of them can be the reason another
    // one sees the wrong thing. These tests used to hold four independent keys
    // over it — the default plus `errlog_listeners`, `errlog_console` and
    // `errlog_sev` — so any two groups could run at once and clobber each
    // other: a `eltc(false)` landing inside the test that asserts the setting,
    // or a console line consuming the arena the boot-burst test measures. The
    // keys bought parallelism only under `cargo test`; `cargo nextest` gives
    // each test a process and does not need them at all.

    #[test]
    fn test_log_macros_compile() {
        rt_debug!("debug message {}", 42);
        rt_info!("info message");
        rt_warn!("warn: {}", "something");
        rt_error!("error: {} {}", "bad", "thing");
    }

    /// The condition the console fallback keys on. With no subscriber the
    /// `tracing` dispatcher reports `OFF`, and every errlog line in the
    /// process is being discarded — the state each RTEMS IOC binary runs in,
    /// because installing a subscriber is the application's job and those
    /// entry points do not do it (`tracing-subscriber` sits behind an
    /// optional feature that also pulls a Prometheus exporter).
    #[test]
    #[serial(errlog)]
    fn with_no_subscriber_nothing_is_listening() {
        with_a_process_of_its_own(
            "runtime::log::tests::with_no_subscriber_nothing_is_listening",
            || {
                assert!(
                    nothing_is_listening(),
                    "a process with no global subscriber discards every errlog \
                     line, so the console fallback must engage"
                );
            },
        );
    }

    /// …and with one installed the fallback must stand down, or every hosted
    /// IOC gets each errlog line twice: once through its own sink and once on
    /// stderr.
    #[test]
    #[serial(errlog)]
    fn with_a_subscriber_the_fallback_stands_down() {
        use tracing::subscriber::with_default;
        let captured = with_default(tracing_subscriber::registry(), nothing_is_listening);
        assert!(
            !captured,
            "a scoped subscriber is listening, so the console fallback must not fire"
        );
    }

    /// The console subscriber must be one of the subscribers that stands the
    /// fallback down. It is not automatic: a `Subscriber` whose
    /// `max_level_hint` is left at the default reports no hint, and this file's
    /// own fallback would then print every errlog line a second time on the
    /// very target the subscriber exists for.
    #[test]
    #[serial(errlog)]
    fn the_console_subscriber_declares_itself_to_the_dispatcher() {
        use tracing::level_filters::LevelFilter;
        use tracing::subscriber::with_default;

        let (still_mute, level) = with_default(ConsoleSubscriber, || {
            (nothing_is_listening(), LevelFilter::current())
        });
        assert!(
            !still_mute,
            "the console subscriber is listening, so the errlog fallback must \
             not also print — that is every line twice"
        );
        assert_eq!(
            level,
            LevelFilter::INFO,
            "the console takes INFO and above, matching a C IOC's errlog console"
        );
    }

    /// A capturing stand-in that shares the console's rendering. What it
    /// asserts is [`render_event`], which is the whole of what the console
    /// subscriber does with an event.
    struct CapturingSubscriber(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

    impl tracing::Subscriber for CapturingSubscriber {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }
        fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
            Some(tracing::level_filters::LevelFilter::INFO)
        }
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().expect("sink").push(render_event(event));
        }
        fn new_span(&self, _s: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _s: &tracing::span::Id, _v: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _s: &tracing::span::Id, _f: &tracing::span::Id) {}
        fn enter(&self, _s: &tracing::span::Id) {}
        fn exit(&self, _s: &tracing::span::Id) {}
    }

    /// The rendered line carries the message *unquoted* and the structured
    /// fields as `key=value`. The message field arrives as `format_args!`, so
    /// rendering it through `Debug` is what keeps it readable; switching to a
    /// `record_str` arm would wrap every diagnostic in quotes.
    #[test]
    #[serial(errlog)]
    fn the_console_line_carries_message_and_fields() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        tracing::subscriber::with_default(CapturingSubscriber(seen.clone()), || {
            tracing::warn!(target: "epics_base_rs::test", nth = 7, "refused a client");
            tracing::debug!(target: "epics_base_rs::test", "not at console level");
        });

        let lines = seen.lock().expect("sink").clone();
        assert_eq!(
            lines,
            vec!["WARN  epics_base_rs::test: refused a client nth=7".to_string()],
            "one INFO-or-above event, message unquoted, fields appended"
        );
    }

    /// Below-INFO events must not reach the console — asserted above by the
    /// `debug!` that produced no line, and here at the filter itself so the
    /// reason is not mistaken for a rendering accident.
    #[test]
    #[serial(errlog)]
    fn the_console_subscriber_declines_below_info() {
        use tracing::level_filters::LevelFilter;
        let taken = tracing::subscriber::with_default(ConsoleSubscriber, || {
            LevelFilter::current() >= LevelFilter::DEBUG
        });
        assert!(!taken, "DEBUG must be below the console's level");
    }

    #[test]
    fn sev_enum_strings_match_c() {
        // C `errlogSevEnumString` (errlog.h:60-65).
        assert_eq!(errlog_sev_enum_string(ErrlogSevEnum::Info), "info");
        assert_eq!(errlog_sev_enum_string(ErrlogSevEnum::Minor), "minor");
        assert_eq!(errlog_sev_enum_string(ErrlogSevEnum::Major), "major");
        assert_eq!(errlog_sev_enum_string(ErrlogSevEnum::Fatal), "fatal");
    }

    #[test]
    fn sev_enum_ordering() {
        assert!(ErrlogSevEnum::Info < ErrlogSevEnum::Minor);
        assert!(ErrlogSevEnum::Minor < ErrlogSevEnum::Major);
        assert!(ErrlogSevEnum::Major < ErrlogSevEnum::Fatal);
    }

    #[test]
    #[serial(errlog)]
    fn sev_to_log_threshold_roundtrips() {
        errlog_set_sev_to_log(ErrlogSevEnum::Major);
        assert_eq!(errlog_get_sev_to_log(), ErrlogSevEnum::Major);
        // Restore the C default.
        errlog_set_sev_to_log(ErrlogSevEnum::Info);
        assert_eq!(errlog_get_sev_to_log(), ErrlogSevEnum::Info);
    }

    /// C's `pvt` is a file-scope static, so `pvt.sevToLog` starts at 0 —
    /// `errlogInfo`. Every test in the `errlog_sev` group restores that
    /// value, so this holds whichever order they run in.
    #[test]
    #[serial(errlog)]
    fn sev_to_log_defaults_to_info_like_c_zero_init() {
        assert_eq!(
            errlog_get_sev_to_log(),
            ErrlogSevEnum::Info,
            "C zero-initialises pvt.sevToLog to errlogInfo, not errlogMinor"
        );
    }

    /// The setting is inert. `errlogSevVprintf` (`errlog.c:376-388`) tests
    /// no threshold, and no other C function reads `pvt.sevToLog`, so a
    /// C IOC prints `sevr=info` lines even after `errlogSetSevToLog(major)`
    /// — e.g. `devBiDbState`'s "Creating new db state" notice at iocInit.
    #[test]
    #[serial(errlog)]
    fn sev_printf_emits_every_severity_whatever_sev_to_log_says() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        errlog_set_sev_to_log(ErrlogSevEnum::Fatal);
        tracing::subscriber::with_default(CapturingSubscriber(seen.clone()), || {
            errlog_sev_printf(ErrlogSevEnum::Info, "creating new db state 'mystate'");
            errlog_sev_printf(ErrlogSevEnum::Minor, "a minor complaint");
            errlog_sev_printf(ErrlogSevEnum::Major, "a major complaint");
        });
        errlog_set_sev_to_log(ErrlogSevEnum::Info);

        let lines = seen.lock().expect("sink").clone();
        assert!(
            lines
                .iter()
                .any(|l| l.contains("sevr=info creating new db state 'mystate'")),
            "sevToLog=fatal must not suppress an errlogInfo line: {lines:?}"
        );
        assert!(
            lines
                .iter()
                .any(|l| l.contains("sevr=minor a minor complaint")),
            "sevToLog=fatal must not suppress an errlogMinor line: {lines:?}"
        );
        assert!(
            lines
                .iter()
                .any(|l| l.contains("sevr=major a major complaint")),
            "sevToLog=fatal must not suppress an errlogMajor line: {lines:?}"
        );
    }
    /// The distinction the whole hook exists for. A panic on a worker thread
    /// leaves an IOC that still listens and still answers searches, which is
    /// indistinguishable from health from outside; the announcement has to say
    /// so, because nothing else will.
    #[test]
    fn a_worker_panic_says_the_ioc_is_still_up_and_no_longer_whole() {
        let line = panic_announcement(
            Some("CAS-client-3"),
            "blocking.rs:412",
            "index out of bounds",
        );
        assert!(line.contains("CAS-client-3"), "{line}");
        assert!(line.contains("blocking.rs:412"), "{line}");
        assert!(line.contains("index out of bounds"), "{line}");
        assert!(
            line.contains("keeps listening"),
            "a worker panic must say the IOC survives it, or the console reads \
             like the IOC died when it did not: {line}"
        );
        assert!(
            !line.contains("going down"),
            "a worker panic must not claim the image is finished: {line}"
        );
    }

    /// The other outcome, which is the opposite claim and must not be confused
    /// with it: the RTEMS build unwinds, so a panic that leaves `main` ends the
    /// image.
    #[test]
    fn an_entry_thread_panic_says_the_image_is_finished() {
        let line = panic_announcement(Some("main"), "realtime-ca-ioc.rs:118", "iocInit failed");
        assert!(
            line.contains("going down"),
            "a panic out of the entry thread ends the image, and the console is \
             the only place that can say so: {line}"
        );
        assert!(!line.contains("keeps listening"), "{line}");
    }

    /// RTEMS threads that were not named through `thread::Builder` have no
    /// name, and the line must still identify itself rather than render an
    /// empty pair of backticks.
    #[test]
    fn an_unnamed_thread_is_still_named_something() {
        let line = panic_announcement(None, "x.rs:1", "boom");
        assert!(line.contains("<unnamed>"), "{line}");
        assert!(
            line.contains("keeps listening"),
            "an unnamed thread is not the entry thread — std names that one \
             `main` — so it takes the worker consequence: {line}"
        );
    }

    /// `install_panic_hook`'s two halves, restored together.
    ///
    /// The refusal is a process one-shot — `PANIC_HOOK_INSTALLED`, so that a
    /// second install cannot chain the hook onto itself — and a test that
    /// takes the hook back without clearing the flag leaves the one state no
    /// process can reach on its own: the flag set and the default hook in
    /// place, where the next `install_panic_hook` refuses and installs
    /// nothing. Under `cargo nextest` each test has a process of its own and
    /// never sees it; under `cargo test`, which shares one, whichever of
    /// these tests ran second used to fail. Both halves on drop is what makes
    /// that state unreachable, panic or not.
    struct PanicHookUnderTest;

    impl Drop for PanicHookUnderTest {
        fn drop(&mut self) {
            let _ = std::panic::take_hook();
            PANIC_HOOK_INSTALLED.store(false, std::sync::atomic::Ordering::Release);
        }
    }

    /// Installing twice must not chain the hook onto itself: that prints every
    /// panic once per install, and the second copy looks like a second panic.
    #[test]
    #[serial(errlog)]
    fn the_panic_hook_installs_once() {
        let _restore = PanicHookUnderTest;
        assert!(install_panic_hook(), "the first install takes effect");
        assert!(
            !install_panic_hook(),
            "a second install must be refused, not chained onto the first"
        );
    }

    /// The hook replaces the previous one; it does not run it afterwards.
    ///
    /// Chaining would print the panic twice — this hook's line already carries
    /// the thread, site and payload — and would append `std`'s
    /// "run with `RUST_BACKTRACE=1`" note, which on the target is advice for an
    /// environment that does not exist. A sentinel hook proves the absence
    /// directly: if the previous hook still ran, it would flip the flag.
    #[test]
    #[serial(errlog)]
    fn the_panic_hook_does_not_run_the_hook_it_replaced() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};

        let _restore = PanicHookUnderTest;
        let previous_ran = Arc::new(AtomicBool::new(false));
        let flag = previous_ran.clone();
        std::panic::set_hook(Box::new(move |_| {
            flag.store(true, AtomicOrdering::SeqCst);
        }));

        assert!(install_panic_hook(), "the install takes effect");
        let caught = std::panic::catch_unwind(|| panic!("a panic the hook must report once"));
        assert!(caught.is_err(), "the panic was raised");

        assert!(
            !previous_ran.load(AtomicOrdering::SeqCst),
            "the replaced hook must not run: chaining it doubles the console \
             output and appends a RUST_BACKTRACE note that cannot be acted on"
        );
    }

    fn test_queue() -> ErrlogQueue {
        let (buf_size, max_msg_size) = errlog_clamp_sizes(0, DEFAULT_MAX_MSG_SIZE);
        ErrlogQueue {
            buf_size,
            max_msg_size,
            log: ErrlogBuf::new(buf_size),
            print: ErrlogBuf::new(buf_size),
            n_lost: 0,
            at_exit: false,
            to_console: true,
            flush_seq: 0,
            flushers: Vec::new(),
        }
    }

    /// Boundary: every clamp in `errlogClampConfig` (`errlog.c:539-561`).
    /// `errlogInit(0)` — the call every entry point makes — produces
    /// 2560/512, and the message ceiling is a fifth of the clamped buffer.
    #[test]
    fn errlog_init_clamps_both_sizes_the_way_c_does() {
        assert_eq!(errlog_clamp_sizes(0, DEFAULT_MAX_MSG_SIZE), (2560, 512));
        assert_eq!(
            errlog_clamp_sizes(MIN_BUFFER_SIZE - 1, MIN_MESSAGE_SIZE - 1),
            (MIN_BUFFER_SIZE, MIN_MESSAGE_SIZE)
        );
        assert_eq!(
            errlog_clamp_sizes(5000, 1000),
            (5000, 1000),
            "a fifth of the buffer is kept"
        );
        assert_eq!(errlog_clamp_sizes(5000, 1001), (5000, 1000));
        assert_eq!(
            errlog_clamp_sizes(0, 513),
            (2560, 512),
            "the ceiling follows the clamped buffer, not the request"
        );
    }

    /// Boundary: the admission rule. C takes a message only when the WORST
    /// case still fits — `bufSize - pos >= 1 + maxMsgSize` — so with the
    /// default 2560/512 the arena stops accepting once `pos` passes 2047,
    /// whatever the actual message lengths were. This is what makes the
    /// buffer a bound; a `Vec` that simply grew would never refuse.
    #[test]
    fn the_buffer_refuses_and_counts_once_the_worst_case_no_longer_fits() {
        let mut q = test_queue();
        let msg = "0123456789"; // 10 bytes, so 12 bytes of `pos` each
        let mut taken = 0;
        while q.accept(format_args!("{}", msg), false) {
            taken += 1;
            assert!(taken < 1000, "the arena must stop accepting");
        }
        // `pos` may reach 2047 and still admit, so the last accepted message
        // is the one that starts at 2040 — 171 of them.
        assert_eq!(taken, 171, "the last message that starts at or below 2047");
        assert_eq!(q.log.pos, 171 * 12);
        assert_eq!(q.n_lost, 1, "the first refusal is counted");
        assert!(!q.accept(format_args!("{}", msg), false));
        assert_eq!(q.n_lost, 2, "and so is the next");
        assert_eq!(q.log.messages().count(), 171, "nothing lost was stored");
        assert!(q.log.messages().all(|(echo, text)| !echo && text == msg));
    }

    /// The arena holds C's `[flag][text][NUL]` records, so a NUL inside a
    /// message — which C's `%s` could never have copied — ends it there and
    /// does not misplace the record after it.
    #[test]
    fn a_record_ends_at_its_first_nul() {
        let mut q = test_queue();
        assert!(q.accept(format_args!("{}", "a\0b\n"), true));
        assert!(q.accept(format_args!("{}", "next\n"), false));
        assert_eq!(
            q.log.messages().collect::<Vec<_>>(),
            [(true, "a"), (false, "next\n")]
        );
        assert_eq!(
            &q.log.base[..3],
            &[ERL_STATE_READY | ERL_LOCALECHO, b'a', 0]
        );
    }

    /// Boundary: exactly at the limit. `pos == buf_size - (1 + max_msg_size)`
    /// still admits; one byte past does not.
    #[test]
    fn the_admission_boundary_is_inclusive() {
        let mut q = test_queue();
        q.log.pos = q.buf_size - (1 + q.max_msg_size);
        assert!(
            q.accept(format_args!("{}", "x"), false),
            "the last worst case that fits is taken"
        );
        let mut q = test_queue();
        q.log.pos = q.buf_size - q.max_msg_size;
        assert!(
            !q.accept(format_args!("{}", "x"), false),
            "one byte past it is not"
        );
        assert_eq!(q.n_lost, 1);
    }

    /// The defect this arena had without C's back-pressure: a boot burst.
    ///
    /// 200 console-echoed messages is what a real `iocBoot` script produces,
    /// and 2560/512 admits 171 short ones at a time. C loses none of it because
    /// `msgbufCommit` flushes after every echoed message (`errlog.c:186-187`),
    /// so `pos` is 0 again before the next call. The observable is both halves
    /// of "nothing was lost": the refusal counter, and the listener copies —
    /// the console copy is written by the producer here and would survive the
    /// loss, which is exactly why the counter alone would have looked fine.
    ///
    /// Deterministic, not a race: the last message's flush cannot return until
    /// the worker has completed a pass with it in hand.
    #[test]
    #[serial(errlog)]
    fn a_boot_sized_burst_of_console_messages_loses_none() {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let sink = std::sync::Arc::clone(&seen);
        let id = errlog_add_listener(move |_| {
            sink.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        });

        const BURST: usize = 200;
        let blocking_was = crate::runtime::task::thread_is_ok_to_block();
        crate::runtime::task::set_thread_ok_to_block(true);
        for i in 0..BURST {
            errlog_vprintf(format_args!("burst line {i}\n"));
        }
        crate::runtime::task::set_thread_ok_to_block(blocking_was);

        let lost = errlog_messages_lost();
        let heard = seen.load(std::sync::atomic::Ordering::SeqCst);
        assert!(errlog_remove_listener(id));
        assert_eq!(lost, 0, "the arena refused {lost} of {BURST}");
        assert_eq!(heard, BURST, "every message reached the listeners");
    }

    /// The invariant the previous test rests on, stated directly and in both
    /// directions: **a producer that echoes to the console and may block does
    /// not return until the worker has drained its message; one that may not
    /// block returns straight away.**
    ///
    /// C `msgbufCommit` (`errlog.c:186-187`). Holding the worker inside a
    /// listener makes both halves decidable rather than timed: while the gate
    /// is shut the drain cannot complete, so a producer that waits for it
    /// cannot return, and a producer that does not wait must already have.
    #[test]
    #[serial(errlog)]
    fn only_a_blocking_producer_waits_for_the_drain() {
        for ok_to_block in [true, false] {
            let (release_tx, release_rx) = std::sync::mpsc::channel::<()>();
            let (entered_tx, entered_rx) = std::sync::mpsc::channel::<()>();
            let release_rx = std::sync::Mutex::new(release_rx);
            let holding = std::sync::atomic::AtomicBool::new(false);
            let id = errlog_add_listener(move |_| {
                if !holding.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    let _ = entered_tx.send(());
                    let _ = release_rx.lock().expect("gate").recv();
                }
            });

            // Shuts the gate, and is itself the producer under test.
            let (done_tx, done_rx) = std::sync::mpsc::channel::<()>();
            let producer = std::thread::spawn(move || {
                crate::runtime::task::set_thread_ok_to_block(ok_to_block);
                errlog_printf("gated\n");
                let _ = done_tx.send(());
            });
            entered_rx
                .recv_timeout(std::time::Duration::from_secs(10))
                .expect("the worker reaches the listener");

            let returned_while_gated = done_rx
                .recv_timeout(std::time::Duration::from_millis(300))
                .is_ok();
            let _ = release_tx.send(());
            if !returned_while_gated {
                done_rx
                    .recv_timeout(std::time::Duration::from_secs(10))
                    .expect("the producer returns once the drain completes");
            }
            producer.join().expect("the producer thread");
            errlog_flush();
            assert!(errlog_remove_listener(id));

            assert_eq!(
                returned_while_gated, !ok_to_block,
                "ok_to_block={ok_to_block}: C waits exactly when `epicsThreadIsOkToBlock`"
            );
        }
    }

    /// Boundary: more than one producer inside the flush rendezvous at once.
    ///
    /// C triggers `waitForSeq` once and has the released flusher re-trigger it
    /// for the next (`errlog.c:214-217`), because its event is binary — one
    /// trigger releases one waiter. Each flusher owning its own event is what
    /// replaces that chain; a rendezvous that kept the single event and
    /// dropped the chain would leave every flusher but one blocked for the
    /// life of the IOC. Holding the worker in a listener makes it decidable:
    /// while the gate is shut not one of them may return, and once it opens
    /// all of them must.
    #[test]
    #[serial(errlog)]
    fn every_producer_in_the_flush_rendezvous_is_released() {
        const FLUSHERS: usize = 8;
        let (release_tx, release_rx) = std::sync::mpsc::channel::<()>();
        let (entered_tx, entered_rx) = std::sync::mpsc::channel::<()>();
        let release_rx = std::sync::Mutex::new(release_rx);
        let holding = std::sync::atomic::AtomicBool::new(false);
        let id = errlog_add_listener(move |_| {
            if !holding.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let _ = entered_tx.send(());
                let _ = release_rx.lock().expect("gate").recv();
            }
        });

        let (done_tx, done_rx) = std::sync::mpsc::channel::<usize>();
        let waiting: Vec<_> = (0..FLUSHERS)
            .map(|i| {
                let done_tx = done_tx.clone();
                std::thread::spawn(move || {
                    // Only a thread that may block waits — see
                    // `only_a_blocking_producer_waits_for_the_drain`.
                    crate::runtime::task::set_thread_ok_to_block(true);
                    errlog_vprintf(format_args!("rendezvous {i}\n"));
                    let _ = done_tx.send(i);
                })
            })
            .collect();
        drop(done_tx);
        entered_rx
            .recv_timeout(std::time::Duration::from_secs(10))
            .expect("the worker reaches the listener");
        assert_eq!(
            done_rx.recv_timeout(std::time::Duration::from_millis(300)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout),
            "a producer returned while the drain it waits for was still gated"
        );

        let _ = release_tx.send(());
        let mut released = Vec::new();
        for _ in 0..FLUSHERS {
            released.push(
                done_rx
                    .recv_timeout(std::time::Duration::from_secs(10))
                    .expect("every producer in the rendezvous is released"),
            );
        }
        for t in waiting {
            t.join().expect("a producer thread");
        }
        released.sort_unstable();
        assert_eq!(released, (0..FLUSHERS).collect::<Vec<_>>());
        errlog_flush();
        assert!(errlog_remove_listener(id));
    }

    /// The same burst with the console off, which is C's other answer and the
    /// proof that the burst really does overflow.
    ///
    /// `eltc(0)` makes `localEcho` 0, so `msgbufCommit` takes no back-pressure
    /// and the arena behaves as a pure bound: 127 of the 200 fit in 2560/512
    /// and the other 73 are refused and counted. Holding the worker inside a listener makes that the only
    /// possible outcome rather than a race with the drain — and it is the same
    /// hold that shows the previous test is measuring something, since without
    /// the flush that burst is this one.
    #[test]
    #[serial(errlog)]
    fn the_same_burst_with_the_console_off_overflows_and_is_counted() {
        let (release_tx, release_rx) = std::sync::mpsc::channel::<()>();
        let (entered_tx, entered_rx) = std::sync::mpsc::channel::<()>();
        let release_rx = std::sync::Mutex::new(release_rx);
        let holding = std::sync::atomic::AtomicBool::new(false);
        let id = errlog_add_listener(move |_| {
            if !holding.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let _ = entered_tx.send(());
                let _ = release_rx.lock().expect("gate").recv();
            }
        });

        let was = eltc(false);
        errlog_printf("prime\n");
        entered_rx
            .recv_timeout(std::time::Duration::from_secs(10))
            .expect("the worker reaches the listener");

        for i in 0..200 {
            errlog_vprintf(format_args!("burst line {i}\n"));
        }
        let lost = errlog_messages_lost();

        let _ = release_tx.send(());
        errlog_flush();
        eltc(was);
        assert!(errlog_remove_listener(id));
        // 10 records of 15 bytes, 90 of 16, then 17 each while `pos` <= 2047.
        assert_eq!(
            lost, 73,
            "a stalled drain refuses what 2560/512 cannot hold"
        );
    }

    /// The gate that makes the flush safe: the errlog worker must never wait
    /// for its own next pass.
    ///
    /// A listener runs on the worker thread, and a listener that logs is
    /// ordinary — the IOC log client does it on a reconnect. C is protected by
    /// `isOkToBlock`, which is 0 for every `epicsThreadCreate` thread; here
    /// it is 0 for every thread until raised, and the worker never raises it.
    /// Without it this
    /// test does not fail, it hangs, so the wait is bounded and the failure is
    /// a timeout rather than a wedged process.
    #[test]
    #[serial(errlog)]
    fn a_listener_that_logs_does_not_wait_for_its_own_drain() {
        let logged = std::sync::atomic::AtomicBool::new(false);
        let id = errlog_add_listener(move |_| {
            if !logged.swap(true, std::sync::atomic::Ordering::SeqCst) {
                errlog_printf("from inside the listener\n");
            }
        });

        let (done_tx, done_rx) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            crate::runtime::task::set_thread_ok_to_block(true);
            errlog_printf("trigger\n");
            errlog_flush();
            let _ = done_tx.send(());
        });
        let finished = done_rx
            .recv_timeout(std::time::Duration::from_secs(10))
            .is_ok();
        if finished {
            worker.join().expect("the logging thread");
        }
        assert!(errlog_remove_listener(id));
        assert!(
            finished,
            "the worker flushed into itself and the producer never returned"
        );
    }

    /// Boundary: a message at `maxMsgSize`. C cuts it to `maxMsgSize - 1`
    /// bytes and overwrites the tail with `<<TRUNCATED>>\n`
    /// (`errlog.c:148-154`) — the marker replaces text, it is not appended.
    #[test]
    fn an_oversized_message_is_cut_to_max_minus_one_with_the_marker_as_its_tail() {
        let mut q = test_queue();
        let max = q.max_msg_size;
        assert!(q.accept(format_args!("{}", "a".repeat(max)), false));
        let (_, stored) = q.log.messages().next().unwrap();
        assert_eq!(stored.len(), max - 1, "C's `nchar = maxMsgSize - 1`");
        assert!(stored.ends_with(TRUNCATED), "{stored}");

        // One byte under the limit is stored whole.
        let mut q = test_queue();
        assert!(q.accept(format_args!("{}", "a".repeat(max - 1)), false));
        let (_, stored) = q.log.messages().next().unwrap();
        assert_eq!(stored.len(), max - 1);
        assert!(!stored.contains("TRUNCATED"));
    }

    /// The message is formatted in the slot, piece by piece, and `nchar` is
    /// the whole would-be length. The slot is bytes, as C's is, so the cut
    /// before the marker splits a character where C's does.
    #[test]
    fn a_formatted_message_is_measured_and_cut_in_the_slot() {
        let mut q = test_queue();
        assert!(q.accept(format_args!("{} {:>3}|{}\n", "sevr=major", 7, 'é'), true));
        assert_eq!(q.log.messages().next(), Some((true, "sevr=major   7|é\n")));

        let mut q = test_queue();
        let max = q.max_msg_size;
        // The cut before the marker, `max - 1 - 14`, falls inside the `é`.
        let head = "a".repeat(max - 1 - TRUNCATED.len() - 1);
        assert!(q.accept(format_args!("{head}{}{}", "é", "z".repeat(max)), false));
        let (_, stored) = q.log.message_bytes().next().unwrap();
        assert_eq!(
            stored,
            [head.as_bytes(), &[0xc3], TRUNCATED.as_bytes()].concat()
        );
    }

    /// C's arena is bytes: a byte that is not UTF-8 is stored and reaches the
    /// console as itself, and only a `&str` listener sees it as U+FFFD.
    #[test]
    #[serial(errlog)]
    fn device_bytes_reach_the_console_as_bytes_and_listeners_as_text() {
        let mut q = test_queue();
        assert!(q.accept(Message::Bytes(&[b"a\xff", b"\0b"]), true));
        assert_eq!(q.log.message_bytes().next(), Some((true, &b"a\xff"[..])));

        let console = ConsoleUnderTest::new("bytes");
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&heard);
        let id = errlog_add_listener(move |m: &str| sink.lock().unwrap().push(m.to_string()));
        tracing::subscriber::with_default(ConsoleSubscriber, || {
            errlog_printf_bytes(&[b"reply \xfe", b"\n"])
        });
        errlog_flush();
        assert!(errlog_remove_listener(id));
        let bytes = std::fs::read(console.path("bytes")).unwrap();
        assert_eq!(bytes, b"reply \xfe\n");
        assert_eq!(*heard.lock().unwrap(), ["reply \u{fffd}\n"]);
    }

    /// The two severity words expand exactly as `errlog.h:290-299` does:
    /// `ANSI_ESC_RED` / `ANSI_ESC_MAGENTA`, the word, `ANSI_ESC_RESET`.
    /// Measured against `softIoc` @`R7.0.10` with stderr redirected to a FILE,
    /// where a terminal-conditional word would have come out bare and does not
    /// — `dbLoadRecords("nosuch.db")` writes these bytes either way.
    #[test]
    fn the_severity_words_carry_c_s_escapes() {
        assert_eq!(ERL_ERROR, "\u{1b}[31;1mERROR\u{1b}[0m");
        // The halves and the whole are one definition, the way C's
        // `ANSI_RED("ERROR")` makes them one (`errlog.h:290`).
        assert_eq!(ERL_ERROR, format!("{ANSI_ESC_RED}ERROR{ANSI_ESC_RESET}"));
        assert_eq!(
            errlog_strip_ansi(&format!("{ANSI_ESC_RED}x{ANSI_ESC_RESET}")),
            "x"
        );
        assert_eq!(ERL_WARNING, "\u{1b}[35;1mWARNING\u{1b}[0m");
        // The pair errlog itself hands to `errlogStripANSI` — a wrapped word
        // and the word alone must be the same message to a log listener, or
        // the console and the listener disagree about what was logged.
        assert_eq!(errlog_strip_ansi(ERL_ERROR), "ERROR");
        assert_eq!(errlog_strip_ansi(ERL_WARNING), "WARNING");
        // `erl_warning` is the errlogPrintf-side twin: same bytes when the
        // console is a terminal, stripped by errlog when it is not. It may
        // never be substituted for the constant at a direct-`fprintf` site,
        // and this is the assertion that would fail if it were — under
        // `cargo test` stderr is not a terminal.
        assert_eq!(erl_warning(), "WARNING");
        assert_eq!(erl_error(), "ERROR");
    }

    /// The escapes `iocsh` and `softIoc` paint with, pinned to the macros they
    /// port. They used to be a second copy in `epics-base-rs`, where nothing
    /// compared them with `errlog.h`.
    #[test]
    fn the_span_escapes_are_errlog_h_s() {
        assert_eq!(ANSI_ESC_RED, "\u{1b}[31;1m"); // errlog.h:281
        assert_eq!(ANSI_ESC_BLUE, "\u{1b}[34;1m"); // errlog.h:284
        assert_eq!(ANSI_ESC_BOLD, "\u{1b}[1m"); // errlog.h:287
        assert_eq!(ANSI_ESC_UNDERLINE, "\u{1b}[4m"); // errlog.h:288
        assert_eq!(ANSI_ESC_RESET, "\u{1b}[0m"); // errlog.h:289
        // Every one of them is a CSI sequence `errlogStripANSI` removes, which
        // is what lets a log listener see the same message as the console.
        for esc in [
            ANSI_ESC_RED,
            ANSI_ESC_BLUE,
            ANSI_ESC_BOLD,
            ANSI_ESC_UNDERLINE,
        ] {
            assert_eq!(errlog_strip_ansi(&format!("{esc}x{ANSI_ESC_RESET}")), "x");
        }
    }

    /// Boundary: `errlogStripANSI` (`errlog.c:269-313`). A listener always
    /// sees stripped text, so a colourised warning does not reach a site's
    /// log server as escape bytes.
    #[test]
    fn ansi_stripping_matches_the_c_state_machine() {
        assert_eq!(errlog_strip_ansi("plain"), "plain");
        assert_eq!(
            errlog_strip_ansi("cas \x1b[35;1mWARNING\x1b[0m: bind"),
            "cas WARNING: bind"
        );
        assert_eq!(
            errlog_strip_ansi("\x1b[?25lhidden\x1b[?25h"),
            "hidden",
            "`?` is part of a CSI parameter run"
        );
        assert_eq!(
            errlog_strip_ansi("a\x1bZb"),
            "aZb",
            "an ESC not followed by `[` loses only the ESC"
        );
        assert_eq!(
            errlog_strip_ansi("a\x1b"),
            "a",
            "a trailing lone ESC is dropped"
        );
        assert_eq!(
            errlog_strip_ansi("a\x1b[31"),
            "a",
            "a truncated CSI consumes the parameter run and stops"
        );
        assert_eq!(
            errlog_strip_ansi("\u{c624}\u{b958}\x1b[0m"),
            "\u{c624}\u{b958}",
            "only ASCII bytes are dropped, so UTF-8 survives"
        );
    }

    /// The console owner appends nothing, which is the whole invariant: C
    /// writes an already-formatted line with `fprintf(console, "%s", base+1u)`
    /// (`errlog.c:795`, and `:170` on the at-exit path), so the caller's format
    /// string owns the framing. A message that ends in `\n` must not gain a
    /// second one and a message that does not must not gain one.
    #[test]
    fn the_console_writes_the_callers_bytes_and_appends_nothing() {
        let mut terminated = Vec::new();
        write_console(&mut terminated, format_args!("iocPause: IOC suspended\n"));
        assert_eq!(terminated, b"iocPause: IOC suspended\n");

        let mut bare = Vec::new();
        write_console(&mut bare, format_args!("dbConvertJSON: "));
        assert_eq!(bare, b"dbConvertJSON: ");
    }

    /// Every `write` call a stream receives.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl std::io::Write for Writes {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.push(buf.to_vec());
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A line is one `write`, past the stack buffer too, so no other writer
    /// on the console's file can land between its pieces.
    #[test]
    fn a_console_line_is_one_write() {
        for n in [7, 5000] {
            let text = "x".repeat(n);
            let mut out = Writes::default();
            write_console(&mut out, format_args!("INFO  t: {text} n={n}\n"));
            assert_eq!(
                out.0,
                [format!("INFO  t: {text} n={n}\n").into_bytes()],
                "n={n}"
            );
        }
    }

    /// A `write!` to [`StagedStderr`] reaches fd 2 whole; the same `write!`
    /// to `stderr()` goes out one format piece per `write`. fd 2 is a
    /// datagram socket here, so each `write` is one datagram.
    #[cfg(unix)]
    #[test]
    fn a_staged_stderr_line_is_one_write() {
        use std::io::Write;
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the pair, and each fd is owned once.
        let (rx, tx) = unsafe {
            assert_eq!(
                libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, fds.as_mut_ptr()),
                0
            );
            (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
        };
        let n = 512;
        let text = "x".repeat(n);
        // SAFETY: fd 2 is swapped for the one `write!` and put back before
        // anything can panic.
        let wrote = unsafe {
            let saved = OwnedFd::from_raw_fd(libc::dup(2));
            libc::dup2(tx.as_raw_fd(), 2);
            let wrote = writeln!(StagedStderr, "t: {text} n={n}");
            libc::dup2(saved.as_raw_fd(), 2);
            wrote
        };
        wrote.unwrap();

        let mut datagrams = Vec::new();
        let mut buf = [0u8; 2048];
        loop {
            // SAFETY: `buf` is writable for its length.
            let got = unsafe {
                libc::recv(
                    rx.as_raw_fd(),
                    buf.as_mut_ptr().cast(),
                    buf.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if got <= 0 {
                break;
            }
            datagrams.push(buf[..got as usize].to_vec());
        }
        let line = format!("t: {text} n={n}\n").into_bytes();
        assert!(datagrams.contains(&line), "{datagrams:?}");
    }

    /// A file console for one test, taken back however the test leaves.
    ///
    /// The console and `eltc` are both process-global, and `#[serial(errlog)]` only
    /// keeps these tests from overlapping — it does not undo a redirect a
    /// failing one left behind, which would silence every later test's
    /// console. Restoring on drop does, panic or not.
    struct ConsoleUnderTest {
        dir: tempfile::TempDir,
        eltc_was: bool,
        ok_to_block_was: bool,
    }

    impl ConsoleUnderTest {
        /// A console at `<tmp>/name`, with `eltc` on so a message is echoed at
        /// all, posted to from a thread that may block as a shell's does, so
        /// a line is on the console when [`Self::log`] returns.
        fn new(name: &str) -> Self {
            let dir = tempfile::tempdir().expect("console dir");
            let under_test = ConsoleUnderTest {
                dir,
                eltc_was: eltc(true),
                ok_to_block_was: crate::runtime::task::thread_is_ok_to_block(),
            };
            crate::runtime::task::set_thread_ok_to_block(true);
            under_test.redirect(name);
            under_test
        }

        fn redirect(&self, name: &str) {
            let file = std::fs::File::create(self.path(name)).expect("console file");
            errlog_set_console(file);
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        /// What reached that console. Every write flushes, so this needs no
        /// sequencing with the writer.
        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap_or_default()
        }

        /// Log through our own subscriber rather than whatever the process
        /// has: `console_is_ours` asks the ambient dispatcher, and a
        /// test that scoped a subscriber earlier in this process has already
        /// latched `nothing_is_listening` false for good.
        fn log(&self, message: &str) {
            tracing::subscriber::with_default(ConsoleSubscriber, || errlog_printf(message));
        }
    }

    impl Drop for ConsoleUnderTest {
        fn drop(&mut self) {
            errlog_set_console_to_stderr();
            eltc(self.eltc_was);
            crate::runtime::task::set_thread_ok_to_block(self.ok_to_block_was);
        }
    }

    /// C `errlogSetConsole` (`errlog.c:478-487`): errlog's console bytes go to
    /// the caller's stream, and they are still only the caller's bytes — a set
    /// console gets the same framing as `stderr`.
    #[test]
    #[serial(errlog)]
    fn a_set_console_takes_the_message_bytes_and_nothing_else() {
        let console = ConsoleUnderTest::new("set");
        console.log("iocPause: IOC suspended\n");
        console.log("dbConvertJSON: ");
        assert_eq!(
            console.text("set"),
            "iocPause: IOC suspended\ndbConvertJSON: "
        );
    }

    /// A line this crate's own subscriber renders is `pvt.console`'s too: its
    /// C original is an `errlogPrintf` in a server, and while that subscriber
    /// is installed the errlog console is ours.
    #[test]
    #[serial(errlog)]
    fn our_subscribers_own_lines_go_to_the_set_console() {
        let console = ConsoleUnderTest::new("subscriber");
        tracing::subscriber::with_default(ConsoleSubscriber, || {
            tracing::warn!(target: "epics_base_rs::runtime", "a runtime line");
        });
        assert_eq!(
            console.text("subscriber"),
            "WARN  epics_base_rs::runtime: a runtime line\n"
        );
    }

    /// The stream a swap replaces stops receiving at the swap — C sequences
    /// its worker out to get this (`errlog.c:486`), the port holds the console
    /// lock across the write instead.
    #[test]
    #[serial(errlog)]
    fn a_swap_stops_writing_the_stream_it_replaced() {
        let console = ConsoleUnderTest::new("first");
        console.log("to the first\n");
        console.redirect("second");
        console.log("to the second\n");
        assert_eq!(console.text("first"), "to the first\n");
        assert_eq!(console.text("second"), "to the second\n");
    }

    /// C takes `pvt.ttyConsole` from the stream it is handed
    /// (`errlog.c:483`), so a console that is a file strips the escapes a
    /// terminal would have kept — and giving the console back restores the
    /// answer for `stderr`.
    #[test]
    #[serial(errlog)]
    fn the_paint_answer_follows_the_stream_that_was_installed() {
        let before = errlog_console_paints();
        {
            let _console = ConsoleUnderTest::new("paints");
            assert!(
                !errlog_console_paints(),
                "a file is not a terminal, so an errlog line reaches it stripped"
            );
            assert_eq!(erl_warning(), "WARNING");
        }
        assert_eq!(
            errlog_console_paints(),
            before,
            "giving the console back restores the answer for stderr"
        );
    }

    /// `eltc` still owns whether a line is echoed at all. A set console says
    /// where the bytes go; it is not a decision to send them.
    #[test]
    #[serial(errlog)]
    fn eltc_still_silences_a_set_console() {
        let console = ConsoleUnderTest::new("gated");
        let was = eltc(false);
        console.log("suppressed\n");
        assert_eq!(console.text("gated"), "", "eltc(0) reaches no stream");
        eltc(was);
        console.log("echoed\n");
        assert_eq!(console.text("gated"), "echoed\n");
    }

    /// The worker's own line is `pvt.console`'s too: C writes
    /// `errlog: lost %zu messages` to the console it was given
    /// (`errlog.c:826-827`), not to `stderr`.
    ///
    /// Overflowing the arena needs the drain stalled, and the producer must
    /// not wait for it — `set_thread_ok_to_block(false)` is C's state for
    /// every `epicsThreadCreate` thread and what keeps this test off its own
    /// flush.
    #[test]
    #[serial(errlog)]
    fn the_lost_message_line_goes_to_the_set_console() {
        let console = ConsoleUnderTest::new("lost");
        let (release_tx, release_rx) = std::sync::mpsc::channel::<()>();
        let (entered_tx, entered_rx) = std::sync::mpsc::channel::<()>();
        let release_rx = std::sync::Mutex::new(release_rx);
        let holding = std::sync::atomic::AtomicBool::new(false);
        let id = errlog_add_listener(move |_| {
            if !holding.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let _ = entered_tx.send(());
                let _ = release_rx.lock().expect("gate").recv();
            }
        });

        let blocking_was = crate::runtime::task::thread_is_ok_to_block();
        crate::runtime::task::set_thread_ok_to_block(false);
        console.log("prime\n");
        entered_rx
            .recv_timeout(std::time::Duration::from_secs(10))
            .expect("the worker reaches the listener");
        for i in 0..200 {
            console.log(&format!("burst line {i}\n"));
        }
        let lost = errlog_messages_lost();
        crate::runtime::task::set_thread_ok_to_block(blocking_was);

        let _ = release_tx.send(());
        errlog_flush();
        assert!(errlog_remove_listener(id));
        assert!(lost > 0, "a stalled drain plus 200 messages must overflow");
        let text = console.text("lost");
        assert!(
            text.contains(&format!("errlog: lost {lost} messages\n")),
            "the worker's lost-message line must reach the set console: {text:?}"
        );
    }

    /// The worker writes the console, so a poster that may not block returns
    /// before its line is out (`_main_` under softMain `-d`, `osdThread.c:406`)
    /// and one that may returns after it (`errlog.c:186-187`).
    #[test]
    #[serial(errlog)]
    fn only_an_ok_to_block_poster_returns_after_its_line_is_written() {
        let console = ConsoleUnderTest::new("order");
        let (release_tx, release_rx) = std::sync::mpsc::channel::<()>();
        let (entered_tx, entered_rx) = std::sync::mpsc::channel::<()>();
        let release_rx = std::sync::Mutex::new(release_rx);
        let holding = std::sync::atomic::AtomicBool::new(false);
        let id = errlog_add_listener(move |_| {
            if !holding.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let _ = entered_tx.send(());
                let _ = release_rx.lock().expect("gate").recv();
            }
        });

        let blocking_was = crate::runtime::task::thread_is_ok_to_block();
        crate::runtime::task::set_thread_ok_to_block(false);
        console.log("prime\n");
        entered_rx
            .recv_timeout(std::time::Duration::from_secs(10))
            .expect("the worker reaches the listener");
        console.log("not ok to block\n");
        let before_release = console.text("order");
        let _ = release_tx.send(());
        crate::runtime::task::set_thread_ok_to_block(true);
        console.log("ok to block\n");
        let after_blocking_post = console.text("order");
        crate::runtime::task::set_thread_ok_to_block(blocking_was);
        assert!(errlog_remove_listener(id));

        assert_eq!(
            before_release, "prime\n",
            "a poster that may not block returned before the worker wrote its line"
        );
        assert_eq!(
            after_blocking_post, "prime\nnot ok to block\nok to block\n",
            "a poster that may block returns after its line, in queue order"
        );
    }

    /// The subscriber's skip is keyed on a target the `tracing` macros spell as
    /// a literal, so this is what stops the two spellings drifting apart.
    #[test]
    #[serial(errlog)]
    fn the_errlog_target_is_the_one_the_macros_publish_on() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        tracing::subscriber::with_default(CapturingSubscriber(seen.clone()), || {
            errlog_printf("x\n");
        });
        let lines = seen.lock().expect("sink").clone();
        assert!(
            lines
                .iter()
                .any(|l| l.contains(&format!("{ERRLOG_TARGET}:"))),
            "{lines:?}"
        );
    }

    /// `ConsoleSubscriber` is not the errlog console. Rendering an errlog event
    /// would print C's bytes a second time behind a `LEVEL target:` prefix C
    /// never writes, so it declines them and takes every other target.
    #[test]
    #[serial(errlog)]
    fn the_console_subscriber_declines_errlog_events_and_takes_the_rest() {
        let seen: std::sync::Arc<std::sync::Mutex<Vec<Option<String>>>> =
            std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&seen);
        struct Probe(std::sync::Arc<std::sync::Mutex<Vec<Option<String>>>>);
        impl tracing::Subscriber for Probe {
            fn enabled(&self, m: &tracing::Metadata<'_>) -> bool {
                *m.level() <= tracing::Level::INFO
            }
            fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
                Some(tracing::level_filters::LevelFilter::INFO)
            }
            fn event(&self, event: &tracing::Event<'_>) {
                self.0
                    .lock()
                    .expect("sink")
                    .push(ConsoleSubscriber::line_for(event));
            }
            fn new_span(&self, _s: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _s: &tracing::span::Id, _v: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _s: &tracing::span::Id, _f: &tracing::span::Id) {}
            fn enter(&self, _s: &tracing::span::Id) {}
            fn exit(&self, _s: &tracing::span::Id) {}
        }
        tracing::subscriber::with_default(Probe(sink), || {
            errlog_printf("iocPause: IOC suspended\n");
            tracing::warn!(target: "epics_base_rs::runtime", "a runtime line");
        });

        let lines = seen.lock().expect("sink").clone();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0], None, "an errlog event is write_console's");
        assert_eq!(
            lines[1].as_deref(),
            Some("WARN  epics_base_rs::runtime: a runtime line"),
            "every other target still renders"
        );
    }

    /// The exit handler drains a queued line from a context where
    /// `std::thread::current()` is already gone — what macOS makes of the
    /// `atexit` list on the main thread. Linux gives one to a pthread key
    /// destructor that runs after std's own, which destroys `CURRENT`.
    #[cfg(target_os = "linux")]
    #[test]
    #[serial(errlog)]
    fn the_exit_handler_drains_after_the_threads_locals_are_gone() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        static DRAINED: AtomicBool = AtomicBool::new(false);
        static KEY: AtomicU32 = AtomicU32::new(0);

        extern "C" fn on_thread_exit(_: *mut libc::c_void) {
            let current_gone = std::panic::catch_unwind(|| {
                let _ = std::thread::current();
            })
            .is_err();
            if !current_gone {
                // Std's key has not run yet: come back next round.
                // SAFETY: `KEY` was created by `pthread_key_create`.
                unsafe {
                    libc::pthread_setspecific(
                        KEY.load(Ordering::SeqCst),
                        std::ptr::dangling::<libc::c_void>(),
                    )
                };
                return;
            }
            errlog_exit_handler();
            let code = if DRAINED.load(Ordering::SeqCst) { 0 } else { 4 };
            // SAFETY: ends the process from a thread that is exiting anyway.
            unsafe { libc::_exit(code) };
        }

        with_a_process_of_its_own(
            "runtime::log::tests::the_exit_handler_drains_after_the_threads_locals_are_gone",
            || {
                let mut key: libc::pthread_key_t = 0;
                // SAFETY: `key` is a valid out-pointer.
                assert_eq!(
                    unsafe { libc::pthread_key_create(&mut key, Some(on_thread_exit)) },
                    0
                );
                KEY.store(key, Ordering::SeqCst);
                errlog_init(0);
                // The worker sits in the first line's delivery until the exit
                // handler has started, so the second is still queued then.
                errlog_add_listener(|text| {
                    if text.contains("held") {
                        while !errlog_pvt().queue.lock().at_exit {
                            std::thread::sleep(std::time::Duration::from_millis(1));
                        }
                    } else if text.contains("queued at exit") {
                        DRAINED.store(true, Ordering::SeqCst);
                    }
                });
                errlog_printf_no_console(format_args!("held\n"));
                errlog_printf_no_console(format_args!("queued at exit\n"));
                let _ = std::thread::spawn(move || {
                    // SAFETY: `key` was created above.
                    unsafe { libc::pthread_setspecific(key, std::ptr::dangling::<libc::c_void>()) };
                })
                .join();
                unreachable!("the exiting thread's key destructor ends the process");
            },
        );
    }

    /// The console is ours in the two states an IOC runs in and nobody else's.
    /// An application that installed its own subscriber asked for its own
    /// formatting, so `write_console` must stay silent under one.
    #[test]
    #[serial(errlog)]
    fn the_errlog_console_is_ours_only_with_nothing_listening_or_our_subscriber() {
        with_a_process_of_its_own(
            "runtime::log::tests::the_errlog_console_is_ours_only_with_nothing_listening_or_our_subscriber",
            || {
                // The first row is the one that needs the fresh process: the
                // two below raise the global max level themselves, which is
                // what makes this row unobservable afterwards.
                assert!(nothing_is_listening(), "no subscriber yet in this process");
                assert!(!console_subscriber_is_current());

                tracing::subscriber::with_default(ConsoleSubscriber, || {
                    assert!(!nothing_is_listening());
                    assert!(
                        console_subscriber_is_current(),
                        "our own subscriber leaves the console to write_console"
                    );
                });

                let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
                tracing::subscriber::with_default(CapturingSubscriber(seen), || {
                    assert!(!nothing_is_listening());
                    assert!(
                        !console_subscriber_is_current(),
                        "a foreign subscriber owns its own console"
                    );
                });
            },
        );
    }

    /// The `tracing` half of the same bytes. An event is a record and its
    /// subscriber frames it, so exactly one trailing newline comes off and the
    /// newlines *inside* a multi-line message stay — `dbScan`'s over-run report
    /// (`dbScan.c:832-835`) is four lines and one errlog message.
    #[test]
    fn a_tracing_record_drops_one_trailing_newline_and_no_more() {
        assert_eq!(as_record("Starting iocInit\n"), "Starting iocInit");
        assert_eq!(as_record("dbConvertJSON: "), "dbConvertJSON: ");
        assert_eq!(as_record("a\n\n"), "a\n");
        assert_eq!(
            as_record("\ndbScan WARNING from 'x':\n\tOver-runs.\n"),
            "\ndbScan WARNING from 'x':\n\tOver-runs."
        );
    }

    /// The invariant end to end: one `errlog_printf` reaches its listeners with
    /// the caller's bytes exactly (C hands `base+1u` to every listener,
    /// `errlog.c:687`) while the `tracing` record carries the same line once,
    /// unframed. Not asserted here: the process console itself, which cannot be
    /// read back in-process without redirecting `stderr` — the byte-exactness
    /// of its writer is pinned by
    /// [`the_console_writes_the_callers_bytes_and_appends_nothing`].
    #[test]
    #[serial(errlog)]
    fn the_callers_bytes_frame_every_errlog_sink() {
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&heard);
        let id = errlog_add_listener(move |m| sink.lock().expect("sink").push(m.to_string()));

        let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        tracing::subscriber::with_default(CapturingSubscriber(events.clone()), || {
            errlog_printf("iocPause: IOC suspended\n");
            errlog_printf("dbConvertJSON: ");
        });
        errlog_flush();
        assert!(errlog_remove_listener(id));

        let lines = heard.lock().expect("sink").clone();
        assert!(
            lines.iter().any(|l| l == "iocPause: IOC suspended\n"),
            "a listener sees the caller's terminator: {lines:?}"
        );
        assert!(
            lines.iter().any(|l| l == "dbConvertJSON: "),
            "and gains none when the caller supplied none: {lines:?}"
        );

        let records = events.lock().expect("events").clone();
        assert!(
            records
                .iter()
                .any(|r| r == "INFO  epics_base_rs::errlog: iocPause: IOC suspended"),
            "the tracing record is framed by its subscriber, not by the caller: {records:?}"
        );
        assert!(
            records
                .iter()
                .any(|r| r == "INFO  epics_base_rs::errlog: dbConvertJSON: "),
            "{records:?}"
        );
    }

    /// The row's own observable, half one: a registered listener sees the
    /// message. Delivery is on the errlog worker thread, so the test flushes
    /// the way C's `errlogFlush` does before looking.
    #[test]
    #[serial(errlog)]
    fn a_registered_listener_receives_every_message_after_a_flush() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&seen);
        let id = errlog_add_listener(move |m| sink.lock().expect("sink").push(m.to_string()));

        errlog_printf("one");
        errlog_sev_printf(ErrlogSevEnum::Minor, "two");
        errlog_flush();

        let lines = seen.lock().expect("sink").clone();
        assert!(lines.iter().any(|l| l == "one"), "{lines:?}");
        assert!(lines.iter().any(|l| l == "sevr=minor two"), "{lines:?}");
        assert!(errlog_remove_listener(id));
    }

    /// Boundary: removal. C's `errlogRemoveListeners` returns how many nodes
    /// matched; a token matches at most one, so a second removal answers
    /// false and nothing further is delivered.
    #[test]
    #[serial(errlog)]
    fn a_removed_listener_stops_receiving_and_cannot_be_removed_twice() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&seen);
        let id = errlog_add_listener(move |m| sink.lock().expect("sink").push(m.to_string()));
        errlog_printf("before");
        errlog_flush();
        assert!(errlog_remove_listener(id));
        assert!(!errlog_remove_listener(id), "the token is spent");
        errlog_printf("after");
        errlog_flush();

        let lines = seen.lock().expect("sink").clone();
        assert!(lines.iter().any(|l| l == "before"), "{lines:?}");
        assert!(
            !lines.iter().any(|l| l == "after"),
            "a removed listener must see nothing more: {lines:?}"
        );
    }

    /// Boundary: the listener sees the message with its ANSI stripped, which
    /// is what C does before the listener loop (`errlog.c:678-681`).
    #[test]
    #[serial(errlog)]
    fn a_listener_sees_the_message_with_its_escapes_removed() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&seen);
        let id = errlog_add_listener(move |m| sink.lock().expect("sink").push(m.to_string()));
        errlog_printf("cas \x1b[35;1mWARNING\x1b[0m: bind");
        errlog_flush();
        assert!(errlog_remove_listener(id));

        let lines = seen.lock().expect("sink").clone();
        assert!(lines.iter().any(|l| l == "cas WARNING: bind"), "{lines:?}");
    }

    /// Boundary: a listener that removes itself from inside its own callback.
    /// C's `active`/`removed` flags: the call cannot deadlock on the
    /// recursive list lock, and the removal takes effect on the next message.
    #[test]
    #[serial(errlog)]
    fn a_listener_can_remove_itself_from_inside_its_own_callback() {
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let slot: std::sync::Arc<std::sync::Mutex<Option<ErrlogListenerId>>> =
            std::sync::Arc::new(std::sync::Mutex::new(None));
        let n = std::sync::Arc::clone(&count);
        let me = std::sync::Arc::clone(&slot);
        let id = errlog_add_listener(move |_m| {
            n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if let Some(id) = *me.lock().expect("slot") {
                errlog_remove_listener(id);
            }
        });
        *slot.lock().expect("slot") = Some(id);

        errlog_printf("first");
        errlog_flush();
        errlog_printf("second");
        errlog_flush();

        assert_eq!(
            count.load(std::sync::atomic::Ordering::Relaxed),
            1,
            "the self-removal must take effect, and must not have deadlocked"
        );
    }

    /// Boundary: `eltc`. C returns 0 always; the port returns the previous
    /// setting so a caller can restore it, and the setting itself is what
    /// gates the console.
    #[test]
    #[serial(errlog)]
    fn eltc_reports_the_previous_setting_and_gates_the_console() {
        assert!(errlog_to_console(), "C initialises pvt.toConsole to TRUE");
        assert!(eltc(false), "the previous setting comes back");
        assert!(!errlog_to_console());
        assert!(!eltc(true));
        assert!(errlog_to_console());
    }
}

/// Render `record` so it cannot end or split a line in a line-oriented log.
///
/// Every ASCII control character — `0x00..=0x1F` (which includes `\n`, `\r`
/// and NUL) and `0x7F` — becomes a printable `\xNN` escape. Everything else,
/// including all non-ASCII UTF-8, is passed through untouched, so the common
/// case allocates nothing.
///
/// # What this guarantees, and what it does not
///
/// It guarantees **line framing**: one record in, one line out, whatever the
/// record contains. That is the property an audit log needs — a reader must
/// not be able to mistake attacker-supplied text for a separate record.
///
/// It is deliberately **not** a reversible encoding: a backslash is left
/// alone, so a user string containing the four literal characters `\x0a` and
/// a real newline escape to the same bytes. Escaping backslashes would make
/// it reversible but would also corrupt any record that is already escaped —
/// a JSON record whose own encoder emitted `\n` would come back out as
/// `\\n`. Leaving backslash alone is what makes this safe to apply uniformly
/// at the writer, to every record, without the writer having to know which
/// renderer produced it.
///
/// Applying it to already-escaped output is a no-op, because a correct
/// encoder has already removed every raw control byte.
pub fn single_line(record: &str) -> std::borrow::Cow<'_, str> {
    match single_line_bytes(record.as_bytes()) {
        std::borrow::Cow::Borrowed(_) => std::borrow::Cow::Borrowed(record),
        // Only ASCII bytes are replaced, by ASCII, so the UTF-8 survives.
        std::borrow::Cow::Owned(out) => {
            std::borrow::Cow::Owned(String::from_utf8(out).expect("ASCII-for-ASCII escape"))
        }
    }
}

/// [`single_line`] over bytes, for records that carry a client's bytes
/// undecoded (a CA user name). Bytes `>= 0x80` pass through.
pub fn single_line_bytes(record: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    fn must_escape(b: u8) -> bool {
        b < 0x20 || b == 0x7F
    }
    if !record.iter().copied().any(must_escape) {
        return std::borrow::Cow::Borrowed(record);
    }
    let mut out = Vec::with_capacity(record.len() + 8);
    for &b in record {
        if must_escape(b) {
            use std::io::Write;
            let _ = write!(out, "\\x{b:02x}");
        } else {
            out.push(b);
        }
    }
    std::borrow::Cow::Owned(out)
}

#[cfg(test)]
mod single_line_tests {
    use super::single_line;

    /// The framing guarantee, stated as a boundary sweep over every byte a
    /// record could carry rather than as a story about one attack.
    #[test]
    fn no_input_can_produce_more_than_one_line() {
        for b in 0u8..=0x7F {
            let c = b as char;
            let record = format!("a{c}b");
            let out = single_line(&record);
            assert_eq!(
                out.lines().count().max(1),
                1,
                "byte {b:#04x} split the record: {out:?}"
            );
            assert!(!out.contains('\n'), "byte {b:#04x} left a newline");
            assert!(!out.contains('\r'), "byte {b:#04x} left a carriage return");
            assert!(!out.contains('\0'), "byte {b:#04x} left a NUL");
        }
    }

    #[test]
    fn exactly_the_ascii_control_range_is_escaped() {
        for b in 0u8..=0xFF {
            if b >= 0x80 {
                continue; // non-ASCII is tested as UTF-8 below
            }
            let c = b as char;
            let raw = c.to_string();
            let out = single_line(&raw);
            let escaped = out != raw;
            assert_eq!(
                escaped,
                b < 0x20 || b == 0x7F,
                "byte {b:#04x}: escaped={escaped}, expected={}",
                b < 0x20 || b == 0x7F
            );
        }
        assert_eq!(single_line("\n"), "\\x0a");
        assert_eq!(single_line("\r"), "\\x0d");
        assert_eq!(single_line("\0"), "\\x00");
        assert_eq!(single_line("\u{7f}"), "\\x7f");
    }

    /// A clean record is returned borrowed — no allocation on the hot path.
    #[test]
    fn a_clean_record_is_passed_through_without_allocating() {
        let clean = "Apr 09 14:35:21 alice@opi-1 TEMP:setpoint 3.14 old=? OK";
        assert!(matches!(single_line(clean), std::borrow::Cow::Borrowed(_)));
        assert_eq!(single_line(clean), clean);
        // Non-ASCII survives intact: this escapes line framing, not Unicode.
        assert_eq!(single_line("설정값 μm"), "설정값 μm");
    }

    /// Applying it to output that is already escaped must not corrupt it —
    /// this is what lets the writer apply ONE rule to every renderer instead
    /// of asking which renderer produced the record.
    #[test]
    fn it_is_a_no_op_on_already_escaped_output() {
        let json = r#"{"user":"a\nb","pv":"X"}"#;
        assert_eq!(single_line(json), json);
        assert_eq!(single_line(&single_line("a\nb")), single_line("a\nb"));
    }
}
