use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use crate::runtime::log::{StagedLine, write_whole};
use crate::runtime::stdio;
use crate::server::database::PvDatabase;

/// Argument type for a command parameter.
#[derive(Debug, Clone)]
pub enum ArgType {
    String,
    Int,
    Double,
    /// C `iocshArgStringPath` (`iocsh.h:105`): "Equivalent to
    /// iocshArgString with a hint for tab completion that the argument
    /// is a file system path". It converts exactly as
    /// [`ArgType::String`] (`iocsh.cpp:852-855`); the hint is read only
    /// by the interactive completer (`iocsh.cpp:582-584`).
    Path,
    /// C `iocshArgStringRecord` (`iocsh.h:99`): the same string, hinted
    /// as a record name, which the completer routes to
    /// `iocshCompleteRecord` (`iocsh.cpp:579-580`).
    Record,
    /// C `iocshArgArgv` (`iocsh.h:107`): not one token but every token from
    /// this position to the end of the line (`iocsh.cpp:1282-1285`, which
    /// sets `aval.ac = tokenize.size() - iarg` and `aval.av =
    /// &tokenize.argv[iarg]`). The variadic tail behind `epicsThreadShow`,
    /// `epicsThreadResume`, `help` and `on`.
    ///
    /// C's `av[0]` at `iarg == 0` is the command name, which every C callback
    /// then skips by starting at `i = 1`; the vector here carries the
    /// arguments alone, so a handler starts at 0.
    Argv,
}

/// Description of a single command argument.
#[derive(Debug, Clone)]
pub struct ArgDesc {
    pub name: &'static str,
    pub arg_type: ArgType,
}

/// One `iocshArgString` value: C's `sval`, a `char *` into the line buffer,
/// so it is the bytes the script held. A command that needs text converts
/// at its own site — [`Self::to_str`] where the bytes are an identity,
/// [`Self::to_str_lossy`] where they are only shown.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IocshString(Vec<u8>);

impl IocshString {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The text, or the refusal a String-keyed consumer answers a
    /// non-UTF-8 argument with.
    pub fn to_str(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.0)
            .map_err(|_| format!("'{}' is not valid UTF-8", self.to_str_lossy()))
    }

    pub fn to_str_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The file name C `fopen`s: the bytes themselves on Unix.
    pub fn to_path(&self) -> Result<&std::path::Path, String> {
        bytes_path(&self.0)
    }

    /// The bytes as the OS takes a name (`setenv`, `unsetenv`).
    pub fn to_os_str(&self) -> Result<&std::ffi::OsStr, String> {
        bytes_os_str(&self.0)
    }
}

/// A file name held as bytes, as C hands it to `fopen`.
pub fn bytes_path(name: &[u8]) -> Result<&std::path::Path, String> {
    bytes_os_str(name).map(std::path::Path::new)
}

/// Bytes as an OS string: the bytes themselves on Unix, UTF-8 elsewhere.
pub fn bytes_os_str(name: &[u8]) -> Result<&std::ffi::OsStr, String> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(std::ffi::OsStr::from_bytes(name))
    }
    #[cfg(not(unix))]
    {
        std::str::from_utf8(name)
            .map(std::ffi::OsStr::new)
            .map_err(|_| format!("'{}' is not valid UTF-8", String::from_utf8_lossy(name)))
    }
}

impl std::ops::Deref for IocshString {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for IocshString {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for IocshString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.to_str_lossy(), f)
    }
}

/// Display-only: a diagnostic quoting the argument.
impl std::fmt::Display for IocshString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_str_lossy())
    }
}

impl From<Vec<u8>> for IocshString {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for IocshString {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<String> for IocshString {
    fn from(s: String) -> Self {
        Self(s.into_bytes())
    }
}

impl From<&str> for IocshString {
    fn from(s: &str) -> Self {
        Self(s.as_bytes().to_vec())
    }
}

impl From<&String> for IocshString {
    fn from(s: &String) -> Self {
        Self(s.as_bytes().to_vec())
    }
}

impl From<std::borrow::Cow<'_, str>> for IocshString {
    fn from(s: std::borrow::Cow<'_, str>) -> Self {
        Self(s.into_owned().into_bytes())
    }
}

impl PartialEq<str> for IocshString {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for IocshString {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<IocshString> for &str {
    fn eq(&self, other: &IocshString) -> bool {
        self.as_bytes() == other.0
    }
}

impl PartialEq<IocshString> for str {
    fn eq(&self, other: &IocshString) -> bool {
        self.as_bytes() == other.0
    }
}

/// A parsed argument value.
#[derive(Debug, Clone)]
pub enum ArgValue {
    String(IocshString),
    Int(i64),
    Double(f64),
    /// Every remaining token, for an [`ArgType::Argv`] parameter. Empty when
    /// the line ended at this position — C hands the callback `ac == 0` there
    /// rather than treating the argument as absent, so there is no `Missing`
    /// case for this type.
    Argv(Vec<IocshString>),
    Missing,
}

/// Result of executing a command.
pub enum CommandOutcome {
    Continue,
    /// The line FAILED and the command has already said everything it is
    /// going to say — C `iocshSetError(-1)` with no diagnostic of its own,
    /// the shape `dbStateSetCallFunc` and friends use
    /// (`dbIocRegister.c:534-542`, `:548-556`, `:563-571`).
    ///
    /// `Err(String)` means "failed AND print this"; those are two separate
    /// facts, and a command that must fail without printing had no way to
    /// say so. Rather than let one variant carry both meanings by context,
    /// each combination is its own named outcome: `Continue` is neither,
    /// `Failed` is the failure alone, `Err` is both. Every loop consumer
    /// therefore decides "print?" and "failed?" independently instead of
    /// inferring one from the other.
    Failed,
    Exit,
}

/// Command result type.
///
/// `Err(msg)` is C's "print `msg` AND mark the line errored"; the silent
/// failure is [`CommandOutcome::Failed`] on the `Ok` side. A handler's
/// `msg` is printed exactly as given, with no `ERROR <file> line <n>:`
/// frame: it stands for the text the C command prints itself.
pub type CommandResult = Result<CommandOutcome, String>;

/// Trait for command handlers.
pub trait CommandHandler: Send + Sync {
    fn call(&self, args: &[ArgValue], ctx: &CommandContext) -> CommandResult;
}

impl<F> CommandHandler for F
where
    F: Fn(&[ArgValue], &CommandContext) -> CommandResult + Send + Sync,
{
    fn call(&self, args: &[ArgValue], ctx: &CommandContext) -> CommandResult {
        self(args, ctx)
    }
}

/// A registered command definition.
///
/// `handler` is `Arc`-backed because the clone is the dispatch lookup's
/// result: the shell takes the registry's read guard, clones the entry,
/// drops the guard, and only then calls — C's shape, where `registryFind`
/// returns and `(*found->def.func)(&argBuf[0])` runs with nothing held
/// (`iocsh.cpp:1258-1281`). With one process-wide table that is
/// load-bearing rather than stylistic: a handler may register more
/// commands while it runs, so holding the guard across the call
/// deadlocks the script's `iocInit` line against its own registrations.
/// A clone therefore duplicates the name, usage and arg descriptors and
/// shares the one handler, never a second command.
#[derive(Clone)]
pub struct CommandDef {
    pub name: String,
    pub args: Vec<ArgDesc>,
    /// C `iocshFuncDef.usage` (`iocsh.h:126`): the DESCRIPTION only.
    ///
    /// `help` renders the synopsis line itself from `name` and `args`
    /// (`iocsh.cpp:956-969`), so repeating it here prints it twice. Most
    /// of this port's commands were written before `help` had that
    /// shape and still open with `"<name> <args> — "`; new ones should
    /// not.
    pub usage: String,
    pub handler: Arc<dyn CommandHandler>,
}

impl CommandDef {
    pub fn new(
        name: impl Into<String>,
        args: Vec<ArgDesc>,
        usage: impl Into<String>,
        handler: impl CommandHandler + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            args,
            usage: usage.into(),
            handler: Arc::new(handler),
        }
    }
}

/// Sync→async bridge for commands running on a blocking thread.
pub struct CommandContext {
    db: Arc<PvDatabase>,
    bridge: crate::runtime::task::BlockingBridge,
    /// The IOC's live Access Security policy cell. `asInit` stores the
    /// parsed ACF here and the `as*` inspection commands read it — the
    /// same cell the IOC's protocol servers gate on when the shell was
    /// built by a server-owning root ([`CommandContext::new_with_acf`]).
    /// [`CommandContext::new`] creates a fresh unobserved cell for
    /// standalone shells that administer no server.
    acf: crate::server::access_security::AcfCell,
    /// C's raw `stdout`/`stderr`: what a C file that does not include
    /// `epicsStdio.h` writes — `dbAccess.c`, `dbLexRoutines.c`,
    /// `dbLoadTemplate.y` among them. No iocsh redirect swaps these
    /// (measured: `dbLoadRecords nosuch.db 2> f` leaves `f` empty), so they
    /// are not the thread's streams of [`crate::runtime::stdio`].
    console_out: std::cell::RefCell<Box<dyn std::io::Write>>,
    console_err: std::cell::RefCell<Box<dyn std::io::Write>>,
    /// The owning shell's live command table, weakly held.
    ///
    /// C needs no such field: its command table IS the registry every other
    /// kind lives in — `iocshRegister` does `registryAdd(iocshCmdID, ...)`
    /// (`iocsh.cpp:171`) and lookup is `registryFind(iocshCmdID, name)`
    /// (`:200`) — so anything holding the process can walk it. This port
    /// keeps the table on the shell instead, which leaves `registryDump`,
    /// the one command that must read the whole of it, with nothing to read.
    /// Weak so a context can never keep its shell alive, and empty for a
    /// context built standalone: no shell owns it, so it has no commands.
    ///
    /// It cannot dangle either, and not by luck: the only context that ever
    /// holds a live handle is [`IocShell::ctx`](crate::server::iocsh::IocShell),
    /// owned by value inside the very shell whose `Arc` it points at, and
    /// `CommandContext` is not `Clone`, so a handler cannot outlive the
    /// registry it is reading. `upgrade()` returning `None` therefore means
    /// "this context has no shell", never "the table was freed underneath
    /// me" — and a handler that reaches it sees an empty command list rather
    /// than a stale or resurrected one.
    commands: std::cell::RefCell<std::sync::Weak<std::sync::RwLock<CommandRegistry>>>,
}

impl CommandContext {
    pub fn new(db: Arc<PvDatabase>, bridge: crate::runtime::task::BlockingBridge) -> Self {
        Self::new_with_acf(
            db,
            bridge,
            crate::server::access_security::new_acf_cell(None),
        )
    }

    /// Build a context that administers `acf` — the policy cell the
    /// owning IOC's servers enforce, so `asInit` from this shell is a
    /// live (re)load rather than a dead-end copy.
    pub fn new_with_acf(
        db: Arc<PvDatabase>,
        bridge: crate::runtime::task::BlockingBridge,
        acf: crate::server::access_security::AcfCell,
    ) -> Self {
        Self {
            db,
            bridge,
            acf,
            console_out: std::cell::RefCell::new(Box::new(std::io::stdout())),
            console_err: std::cell::RefCell::new(Box::new(crate::runtime::log::StagedStderr)),
            commands: std::cell::RefCell::new(std::sync::Weak::new()),
        }
    }

    /// Attach the shell's live command table, so `registryDump` can print
    /// C's `iocshCmd` registry. Called once by [`crate::server::iocsh::IocShell`].
    pub(crate) fn set_command_registry(&self, reg: &Arc<std::sync::RwLock<CommandRegistry>>) {
        *self.commands.borrow_mut() = Arc::downgrade(reg);
    }

    /// C's `iocshCmd` registry as `(name, entry address)`, sorted by name.
    ///
    /// Empty when no shell owns this context, which is the truth rather than
    /// a gap: C's table is a process global that exists from the first
    /// `iocshRegister`, and a port context with no shell has registered none.
    pub(crate) fn command_entries(&self) -> Vec<(String, usize)> {
        let Some(reg) = self.commands.borrow().upgrade() else {
            return Vec::new();
        };
        let guard = reg.read().unwrap_or_else(|e| e.into_inner());
        let mut entries: Vec<(String, usize)> = guard
            .list()
            .into_iter()
            .map(|name| (name.to_string(), name.as_ptr() as usize))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    }

    /// Access the PV database.
    pub fn db(&self) -> &Arc<PvDatabase> {
        &self.db
    }

    /// The IOC's live Access Security policy cell.
    pub fn acf(&self) -> &crate::server::access_security::AcfCell {
        &self.acf
    }

    /// The captured runtime access — for spawning tasks or blocking on async
    /// work from iocsh command handlers (which run on the blocking shell
    /// thread, where the tokio backend's runtime is otherwise unreachable).
    pub fn bridge(&self) -> &crate::runtime::task::BlockingBridge {
        &self.bridge
    }

    /// Print a line to the thread's stdout, which a `>` redirect sets.
    pub fn println(&self, msg: &str) {
        stdio::stdout_whole(format_args!("{msg}\n"));
    }

    /// Print raw BYTES plus a newline to the current output.
    ///
    /// C's `echo` (`libComRegister.c:84-91`) hands `dbTranslateEscape`'s output
    /// straight to `printf("%s")` — bytes, not characters — so `echo "\xff"`
    /// emits the single byte 0xFF. Routing that through [`Self::println`] would
    /// force it through a Rust `str` and replace it.
    pub fn println_bytes(&self, bytes: &[u8]) {
        let mut line = StagedLine::default();
        line.push_bytes(bytes);
        line.push_bytes(b"\n");
        stdio::stdout_bytes(line.bytes());
    }

    /// Print raw BYTES to the current output, as C's `printf("%s")` does.
    pub fn print_bytes(&self, bytes: &[u8]) {
        stdio::stdout_bytes(bytes);
    }

    /// Print a formatted string to the current output.
    pub fn print_fmt(&self, args: std::fmt::Arguments<'_>) {
        stdio::stdout_whole(format_args!("{args}\n"));
    }

    /// Print a line to the thread's stderr, which a `2>` redirect sets —
    /// C `fprintf(stderr, ...)` under `epicsStdio.h`.
    pub fn eprintln(&self, msg: &str) {
        let _ = stdio::with_stderr(|err| write_whole(err, format_args!("{msg}\n")));
    }

    /// A line on C's raw `stdout`, which no iocsh redirect swaps.
    pub fn console_println(&self, msg: &str) {
        let _ = write_whole(
            &mut **self.console_out.borrow_mut(),
            format_args!("{msg}\n"),
        );
    }

    /// Raw BYTES plus a newline on C's raw `stdout`.
    pub fn console_println_bytes(&self, bytes: &[u8]) {
        let mut out = self.console_out.borrow_mut();
        let _ = out.write_all(bytes);
        let _ = out.write_all(b"\n");
    }

    /// A line on C's raw `stderr`, which no iocsh redirect swaps.
    pub fn console_eprintln(&self, msg: &str) {
        let _ = write_whole(
            &mut **self.console_err.borrow_mut(),
            format_args!("{msg}\n"),
        );
    }

    /// Exchange the console cells with `other`'s. Called twice around a
    /// shell's line, it lends that shell what a test captured on this one;
    /// the thread's own streams need no lending.
    pub(crate) fn swap_streams(&self, other: &CommandContext) {
        self.console_out.swap(&other.console_out);
        self.console_err.swap(&other.console_err);
    }

    /// Fail the line as C's iocsh fails a command that threw
    /// (`iocsh.cpp:1275-1285`): `C++ error: <what>` in red on the diagnostic
    /// stream.
    pub fn cxx_error(&self, what: impl std::fmt::Display) -> CommandOutcome {
        self.eprintln(&super::paint_error(&format!("C++ error: {what}")));
        CommandOutcome::Failed
    }

    /// Read one line from the thread's stdin, which a `<` redirect sets —
    /// C `fgets(..., stdin)` under `epicsStdio.h`. `Ok(0)` is end of input.
    pub fn read_line(&self, buf: &mut String) -> std::io::Result<usize> {
        stdio::with_stdin(|input| input.read_line(buf))
    }

    /// Swap both console cells for the length of `f`, so a test can read
    /// what a command wrote past every redirect.
    #[cfg(test)]
    pub(crate) fn with_console<O: std::io::Write + 'static, E: std::io::Write + 'static, R>(
        &self,
        out: O,
        err: E,
        f: impl FnOnce() -> R,
    ) -> R {
        let prev_out = self.console_out.replace(Box::new(out));
        let prev_err = self.console_err.replace(Box::new(err));
        let result = f();
        let _ = self.console_out.borrow_mut().flush();
        let _ = self.console_err.borrow_mut().flush();
        self.console_out.replace(prev_out);
        self.console_err.replace(prev_err);
        result
    }

    /// [`stdio::redirect_stderr`], for tests that hold a context.
    #[cfg(test)]
    pub(crate) fn with_error<W: std::io::Write + 'static, R>(
        &self,
        writer: W,
        f: impl FnOnce() -> R,
    ) -> R {
        stdio::redirect_stderr(writer, f)
    }

    /// [`stdio::redirect_stdout`], for tests that hold a context.
    #[cfg(test)]
    pub(crate) fn with_output<W: std::io::Write + 'static, R>(
        &self,
        writer: W,
        f: impl FnOnce() -> R,
    ) -> R {
        stdio::redirect_stdout(writer, f)
    }

    /// Run an async future from the blocking REPL thread.
    ///
    /// # Panics
    /// Panics if called from within a tokio runtime thread.
    pub fn block_on<F: std::future::Future>(&self, future: F) -> F::Output {
        self.bridge.block_on(future)
    }
}

/// Registry of all available commands.
pub(crate) struct CommandRegistry {
    commands: HashMap<String, CommandDef>,
    /// Every name a later [`CommandRegistry::register`] displaced.
    ///
    /// Replacement is C's behaviour — `iocshRegister` overwrites the
    /// entry when the name is already in its list (`iocsh.cpp:684-700`),
    /// which is how a support module legitimately takes a name over —
    /// so this must not refuse. But the port's own built-in table is
    /// assembled from one file per C registrar, and two of those
    /// claiming one name is a build defect that `HashMap::insert`
    /// swallows in silence: the merged tree registers one of them and
    /// nothing fails. Recording the displacement is what lets
    /// `register_builtins` assert the table is collision-free, so two
    /// panels adding families in parallel cannot auto-merge into a tree
    /// neither of them tested.
    displaced: Vec<String>,
}

impl CommandRegistry {
    pub fn new() -> Self {
        Self {
            commands: HashMap::new(),
            displaced: Vec::new(),
        }
    }

    pub fn register(&mut self, def: CommandDef) {
        let name = def.name.clone();
        if self.commands.insert(name.clone(), def).is_some() {
            self.displaced.push(name);
        }
    }

    /// The names registered more than once, in the order they collided.
    pub fn displaced(&self) -> &[String] {
        &self.displaced
    }

    pub fn get(&self, name: &str) -> Option<&CommandDef> {
        self.commands.get(name)
    }

    pub fn list(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.commands.keys().map(|s| s.as_str()).collect();
        names.sort();
        names
    }
}

/// [`split`]'s words, for tests that read only those.
#[cfg(test)]
pub(crate) fn tokenize(line: &[u8]) -> Vec<IocshString> {
    split(line).map(|s| s.argv).unwrap_or_default()
}

/// One line's redirect: C `iocshRedirect`'s name and mode for one fd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// Already expanded once, as C's `split` sees a `macDefExpand`ed line.
    pub(crate) path: Vec<u8>,
    pub(crate) append: bool,
}

/// C `split()`'s result: the words, and each fd's redirect in C's
/// `std::map` order (`iocsh.cpp:223`), which is the order `openRedirect`
/// opens them in.
#[derive(Debug, Default)]
pub(crate) struct Split {
    pub(crate) argv: Vec<IocshString>,
    pub(crate) redirects: std::collections::BTreeMap<u8, Redirect>,
}

/// Break a command line into words the way C `split()` does
/// (`iocsh.cpp:255-376`).
///
/// C has ONE separator set — `strchr(" \t(),\r", c)` (`:271`) — and no
/// notion of two syntaxes: `cmd(a, b)`, `cmd (a, b)` and `cmd a b` are
/// the same line to it, and a `)` or a `,` anywhere outside a quote ends
/// a word wherever it appears. Deciding between a "call" and a "legacy"
/// shape first, and then giving each its own splitter, is what made
/// `dbl)` an unregistered command and `dbl , ai` a three-token line here
/// while C ran both.
///
/// Quotes are removed wherever they appear rather than stripped from the
/// ends afterwards, so `echo(a"b"c)` is the one token `abc` (measured),
/// and a backslash is special only OUTSIDE a quote — inside one it is
/// ordinary data, which is why `epicsEnvSet X "a\\b"` sets two
/// backslashes and `epicsEnvSet X "hello \"world\""` is an unbalanced
/// quote rather than an escaped one (both measured).
///
/// The state behind all of that is [`ShellScan`]: C keeps one
/// `quote`/`backslash` pair and answers every question from it.
///
/// C parity (`iocsh.cpp:1184` `macDefExpand` → `:1215` `tokenize.split`):
/// macros are expanded across the WHOLE line *before* it is split into
/// words, and `split` itself expands nothing. So a macro whose value
/// contains a separator (`$(CMD)` with `CMD="dbpr REC 2"`) is
/// re-tokenized into multiple words, and a leading `$(MACRO)` at command
/// position resolves before the command name is taken. The caller
/// ([`super::IocShell::execute_line`]) owns that one expansion; this
/// function must not perform a second one.
///
/// Words and redirects come out of the one pass, as in C. A redirect may
/// sit anywhere and names exactly one word; `<`, `>`, `>>` and `N>`/`N>>` (any `1`-`9` directly before `>`, even inside a word) are
/// separators. A second operator before the first has its word ends the
/// scan (`:280-281`, `:293-294`); a second name for one fd ends it too and
/// keeps the first (`:336-337`).
pub(crate) fn split(line: &[u8]) -> Result<Split, &'static str> {
    enum Into {
        Argv,
        Fd(u8),
    }
    let mut out = Split::default();
    let mut scan = ShellScan::default();
    // The fd whose operator still waits for its name, and the word being
    // built with where it goes.
    let mut pending: Option<u8> = None;
    let mut word: Option<(Into, Vec<u8>)> = None;
    let mut modes: std::collections::BTreeMap<u8, bool> = Default::default();

    fn close(
        out: &mut Split,
        modes: &std::collections::BTreeMap<u8, bool>,
        word: Option<(Into, Vec<u8>)>,
    ) {
        match word {
            Some((Into::Argv, w)) => out.argv.push(w.into()),
            Some((Into::Fd(fd), path)) => {
                out.redirects.insert(
                    fd,
                    Redirect {
                        path,
                        append: modes[&fd],
                    },
                );
            }
            None => {}
        }
    }

    let mut i = 0;
    'scan: while i < line.len() {
        let mut c = line[i];
        i += 1;
        if scan.is_syntax() {
            let mut op = None;
            if c == b'<' {
                op = Some((0, false));
            } else {
                let mut fd = 1;
                if (b'1'..=b'9').contains(&c) && line.get(i) == Some(&b'>') {
                    fd = c - b'0';
                    c = b'>';
                    i += 1;
                }
                if c == b'>' {
                    let append = line.get(i) == Some(&b'>');
                    if append {
                        i += 1;
                    }
                    op = Some((fd, append));
                }
            }
            if let Some((fd, append)) = op {
                if pending.is_some() {
                    break 'scan;
                }
                pending = Some(fd);
                // C sets the mode on the map entry at the operator, so a
                // second operator for an fd that keeps its first name still
                // changes how that name opens.
                modes.insert(fd, append);
                close(&mut out, &modes, word.take());
                if let Some(r) = out.redirects.get_mut(&fd) {
                    r.append = append;
                }
                continue;
            }
        }
        let role = scan.feed(c);
        if matches!(role, SplitRole::Escape) {
            continue;
        }
        if matches!(role, SplitRole::Separator) {
            close(&mut out, &modes, word.take());
            continue;
        }
        if word.is_none() {
            let into = match pending.take() {
                // C `:336-337`: `return false`, the line as split so far.
                Some(fd) if out.redirects.contains_key(&fd) => break 'scan,
                Some(fd) => Into::Fd(fd),
                None => Into::Argv,
            };
            word = Some((into, Vec::new()));
        }
        if let (SplitRole::Data, Some((_, w))) = (role, word.as_mut()) {
            w.push(c);
        }
    }
    close(&mut out, &modes, word.take());

    // C `:357-371`, in C's order.
    if pending.is_some() {
        return Err("Invalid redirection.");
    }
    if scan.unbalanced_quote() {
        return Err("Unbalanced quote.");
    }
    if scan.trailing_backslash() {
        return Err("Trailing backslash.");
    }
    Ok(out)
}

/// `arg` as line text that [`super::IocShell::execute_line`]'s expansion and
/// `tokenize` hand back as exactly `arg`: for a caller holding a value C
/// would pass as a pointer, not as text. Inside a quote a backslash is data
/// and nothing can be escaped; outside one it makes the next byte data for
/// both passes (`macCore.c:741-743`, `iocsh.cpp:273-278`). Empty is `""`,
/// which `split` keeps as an empty word (`:345-346`).
pub fn escape_arg(arg: &str) -> String {
    if arg.is_empty() {
        return "\"\"".to_owned();
    }
    let mut out = String::with_capacity(arg.len());
    for c in arg.chars() {
        if c.is_ascii_whitespace() || "\\\"'(),$<>".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Scan a command line for the malformed-input conditions C
/// `iocsh.cpp` `split()` (lines 362-371) flags: an unbalanced quote
/// (`"` or `'`) and a trailing backslash. Returns a human-readable
/// diagnostic for the first problem found, or `None` if the line is
/// well-formed. L-5: C marks such a line errored; the Rust tokenizer
/// previously consumed them silently.
#[cfg(test)]
pub(crate) fn lint_line(line: &[u8]) -> Option<&'static str> {
    split(line).err()
}

/// The one owner of C `split()`'s quote/backslash state
/// (`iocsh.cpp:262-346`).
///
/// C keeps a single `quote` character — which remembers *which* quote
/// opened, so only the matching one closes it — and a single
/// `backslash` flag, and gates every syntactic decision it makes on
/// `!quote && !backslash`: the separator test at `:271`, the whole
/// redirect block at `:274-303`, and quote termination at `:307-308`. A
/// scanner that tracks a subset of that state disagrees with the
/// tokenizer about where a token ends, which is how a `>` inside a
/// single-quoted argument became a redirect and truncated a file.
///
/// Note the backslash is only ever armed outside a quote (`:273-276`
/// sits inside the `!quote` block), so inside quotes a backslash is
/// ordinary data to C.
#[derive(Default)]
pub(crate) struct ShellScan {
    /// The byte that opened the current quote, or 0 outside quotes.
    quote: u8,
    backslash: bool,
}

/// What C `split()`'s word builder does with one byte, given the
/// `quote`/`backslash` state before it (`iocsh.cpp:306-349`).
pub(crate) enum SplitRole {
    /// In C's separator set `" \t(),\r"` (`:271`) and not covered by a
    /// quote or an escape: it closes an open word and starts none.
    Separator,
    /// The quote character that opened or closed a quoted run: consumed,
    /// written to no token (`:345-346`, `:307-309`), but a word has
    /// begun.
    Quote,
    /// The backslash that armed the escape (`:275-278`): consumed, and
    /// it neither starts nor ends a word.
    Escape,
    /// Everything else, including any byte inside a quote and the one
    /// byte an escape covers — appended to the current word.
    Data,
}

impl ShellScan {
    /// C's `!quote && !backslash` (`:271`, `:273`, `:311`) for the byte
    /// about to be fed — the gate every syntactic decision in `split()`
    /// sits behind. Read it BEFORE [`Self::feed`] consumes the byte.
    pub(crate) fn is_syntax(&self) -> bool {
        self.quote == 0 && !self.backslash
    }

    /// Feed the next byte and report what C's loop does with it.
    pub(crate) fn feed(&mut self, c: u8) -> SplitRole {
        if self.backslash {
            // C `:325-327`: whatever it is, the escaped byte is data,
            // and `:350` clears the flag.
            self.backslash = false;
            return SplitRole::Data;
        }
        if self.quote != 0 {
            // C `:307-309`: only the byte that opened the quote closes
            // it. Everything else inside is data — a backslash included,
            // because `:273` sits inside the `!quote` block and never
            // arms one here.
            if c == self.quote {
                self.quote = 0;
                return SplitRole::Quote;
            }
            return SplitRole::Data;
        }
        match c {
            b'\\' => {
                self.backslash = true;
                SplitRole::Escape
            }
            b'"' | b'\'' => {
                self.quote = c;
                SplitRole::Quote
            }
            // C `:271`, in full and in order.
            b' ' | b'\t' | b'(' | b')' | b',' | b'\r' => SplitRole::Separator,
            _ => SplitRole::Data,
        }
    }

    pub(crate) fn unbalanced_quote(&self) -> bool {
        self.quote != 0
    }

    pub(crate) fn trailing_backslash(&self) -> bool {
        self.backslash
    }
}

/// Why C `cvtArg` refused an `iocshArgInt` token. C has two sentences
/// here and reaches them from two different conditions, so one error
/// value cannot stand for both: [`IntArgError::OutOfRange`] is the arm
/// where `strtol` AND the `strtoul` retry under it both set `ERANGE`
/// (`iocsh.cpp:824-831`), and [`IntArgError::Invalid`] is the `*endp`
/// arm below that (`:833-837`). C returns from the range arm before it
/// ever looks at `*endp`, so trailing garbage cannot downgrade an
/// out-of-range value to an invalid one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntArgError {
    /// C `iocsh.cpp:833-837` — `strtol` left characters unconsumed.
    Invalid,
    /// C `iocsh.cpp:824-831` — the value fits neither `long` nor
    /// `unsigned long`.
    OutOfRange,
}

/// Parse an `iocshArgInt` token the way C `cvtArg` does
/// (`iocsh.cpp:820-842`): `strtol(arg, &endp, 0)`, retried as `strtoul` on
/// `ERANGE`, stored in the `int` `iocshArgBuf.ival`. An empty arg is 0, and
/// C returns from the range arm before it tests `*endp`.
pub(super) fn parse_iocsh_int(token: &str) -> Result<i32, IntArgError> {
    use crate::types::c_parse::{long_to_int, strtol_errno, strtoul_errno, ulong_to_uint};
    if token.is_empty() {
        return Ok(0);
    }
    let (value, end) = match strtol_errno(token, 0) {
        Some((v, end)) => (long_to_int(v), end),
        None => match strtoul_errno(token, 0) {
            Some((v, end)) => (ulong_to_uint(v) as i32, end),
            None => return Err(IntArgError::OutOfRange),
        },
    };
    if end != token.len() {
        return Err(IntArgError::Invalid);
    }
    Ok(value)
}

/// C `epicsStrtod(s, &endp)` under the `*endp == '\0'` whole-token check
/// both of its iocsh callers apply — `cvtArg`'s double arm
/// (`iocsh.cpp:844-856`) and `varHandler`'s (`:1431-1442`). One owner
/// here because C has one function: a second port could only disagree
/// with this one about which arguments the shell accepts.
///
/// Rust's own `f64` parser takes the decimal, exponent, `inf` and `nan`
/// spellings C's does, but not the C99 hex form — which glibc's `strtod`
/// accepts, so C accepts it too. Measured on `bin/linux-x86_64/softIoc`
/// (R7.0.10-146-g8f5015b663d764ad75df): `var seqDLYlimit 0x10` leaves
/// the variable reading `double seqDLYlimit = 16`, `var seqDLYlimit
/// 0x1p3` leaves it at 8, and `epicsThreadSleep 0x10` sleeps 16.32 s.
/// The hex arm below is that form; every other spelling goes to Rust's
/// parser.
pub(super) fn epics_strtod_whole(token: &str) -> Option<f64> {
    // C's `strtod` skips leading whitespace before it converts anything,
    // so a quoted `" 1"` is 1 to C and must be here.
    let s = token.trim_start();
    if s.is_empty() {
        return None;
    }
    let (neg, body) = match s.as_bytes()[0] {
        b'-' => (true, &s[1..]),
        b'+' => (false, &s[1..]),
        _ => (false, s),
    };
    let Some(hex) = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) else {
        return s.parse::<f64>().ok();
    };
    let (digits, exponent) = match hex.split_once(['p', 'P']) {
        Some((digits, exponent)) => (digits, Some(exponent)),
        None => (hex, None),
    };
    let (int_part, frac_part) = digits.split_once('.').unwrap_or((digits, ""));
    if int_part.is_empty() && frac_part.is_empty() {
        // `0x` with no hex digit: C's `strtod` converts the leading `0`
        // and leaves `endp` on the `x`, which the whole-token check
        // rejects.
        return None;
    }
    let mut value = 0.0f64;
    for c in int_part.chars() {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let mut scale = 1.0f64 / 16.0;
    for c in frac_part.chars() {
        value += f64::from(c.to_digit(16)?) * scale;
        scale /= 16.0;
    }
    if let Some(exponent) = exponent {
        // `p<exp>` is a power of TWO, and C wants at least one decimal
        // digit after it — without one `strtod` stops before the `p` and
        // the whole-token check refuses the argument. The clamp only
        // saturates to the infinity and the zero C's `strtod` returns
        // for an exponent that far out.
        let exponent = exponent.parse::<i64>().ok()?.clamp(-4096, 4096) as i32;
        value *= 2f64.powi(exponent);
    }
    Some(if neg { -value } else { value })
}

/// Parse tokens into argument values according to argument descriptors.
pub(crate) fn parse_args(
    tokens: &[IocshString],
    descs: &[ArgDesc],
) -> Result<Vec<ArgValue>, String> {
    let mut result = Vec::with_capacity(descs.len());

    for (i, desc) in descs.iter().enumerate() {
        // `iocshArgArgv` is the rest of the line, not a token, so it is
        // defined at every position — including one past the last token,
        // where C builds an empty `ac`/`av` rather than reporting a missing
        // argument.
        if matches!(desc.arg_type, ArgType::Argv) {
            result.push(ArgValue::Argv(tokens.get(i..).unwrap_or(&[]).to_vec()));
            continue;
        }
        // C hands `cvtArg` the token or NULL and never reports an absent
        // one: `iocsh.cpp:1294-1296` passes NULL once the tokens run out,
        // and every `cvtArg` arm defaults rather than failing — `ival = 0`,
        // `dval = 0.0`, `sval = arg` (so NULL). Its own comment
        // (`iocsh.cpp:809-812`) states the intent outright: "a double/int
        // with no value will default to 0 which may allow you to add
        // optional arguments to the end of your argument list."
        //
        // So arity is not the shell's rule to enforce. A command that needs
        // an argument checks it itself and prints its own usage — measured,
        // `dbLoadRecords` with no token answers `Usage: dbLoadRecords
        // "file", "subs"` and fails the line from inside the command, not
        // from here. Rejecting here instead made the port refuse lines C
        // runs, and under `on error break` it stopped the script a line
        // early (`libcom/test/iocshTestSuccess.cmd:8`, the argument-less
        // `epicsThreadSleep`).
        let Some(token) = tokens.get(i) else {
            result.push(ArgValue::Missing);
            continue;
        };
        let val = match desc.arg_type {
            // `iocsh.cpp:852-855` converts all three string types
            // through one `argBuf->sval = arg` arm — `Path` and
            // `Record` differ from `String` only in completion. An empty
            // token is a token: C stores `""`, not NULL, so it stays
            // distinguishable from an absent one.
            ArgType::String | ArgType::Path | ArgType::Record => ArgValue::String(token.clone()),
            // The numeric arms guard on `if (arg && *arg)`
            // (`iocsh.cpp:820`, `:843`), which collapses an EMPTY token
            // into the same default as an absent one. Only a non-empty
            // token that fails to parse is an error.
            ArgType::Int | ArgType::Double if token.is_empty() => ArgValue::Missing,
            // The sentence is C's own, and quotes the offending VALUE and
            // nothing else. C names no argument here: `cvtArg` is handed
            // the `iocshArg` but reads only its `type`
            // (`iocsh.cpp:813-819`), so the name never reaches the text.
            // The frame `showError` puts around it — `ERROR <file> line
            // <n>: ` — already says which line, and adding the parameter
            // name is the only thing on this stream that stops a site
            // script's grep from matching.
            // `strtol`/`epicsStrtod` read the bytes; a non-UTF-8 byte is
            // not a digit to them, and U+FFFD is not one to these.
            ArgType::Int => parse_iocsh_int(&token.to_str_lossy())
                .map(|v| ArgValue::Int(v.into()))
                .map_err(|why| match why {
                    IntArgError::OutOfRange => format!("Integer '{token}' out of range."),
                    IntArgError::Invalid => format!("Invalid integer '{token}'."),
                })?,
            ArgType::Double => epics_strtod_whole(&token.to_str_lossy())
                .map(ArgValue::Double)
                .ok_or_else(|| format!("Invalid double '{token}'."))?,
            // Handled above: an `Argv` parameter never reaches the
            // one-token path.
            ArgType::Argv => unreachable!(),
        };
        result.push(val);
    }

    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `write` a sink received, as its own entry.
    #[derive(Clone, Default)]
    struct Writes(Arc<std::sync::Mutex<Vec<Vec<u8>>>>);

    impl std::io::Write for Writes {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(buf.to_vec());
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Each line reaches its stream in one `write`, at any length, a deliberate
    /// deviation from C's chunked `fprintf`: the stream may be stderr or a
    /// redirect file, where a second writer's line would otherwise land
    /// between the text and its newline.
    #[test]
    fn every_context_line_is_one_write() {
        // RTEMS-EXEC-MODEL-ALLOW(1): the runtime is built here only to capture
        // a `BlockingBridge`; the writers under test run synchronously, so the
        // test passes in the exec-backend suite.
        let rt = tokio::runtime::Runtime::new().unwrap();
        let bridge = {
            let _guard = rt.enter();
            crate::runtime::task::BlockingBridge::capture()
        };
        let ctx = CommandContext::new(Arc::new(PvDatabase::new()), bridge);
        let (o, e, co, ce) = (
            Writes::default(),
            Writes::default(),
            Writes::default(),
            Writes::default(),
        );
        ctx.with_console(co.clone(), ce.clone(), || {
            ctx.with_error(e.clone(), || {
                ctx.with_output(o.clone(), || {
                    ctx.println("a line");
                    ctx.println_bytes(b"\xffbytes");
                    ctx.print_fmt(format_args!("{} {}", "two", "pieces"));
                    ctx.eprintln("a diagnostic");
                    ctx.console_println("console out");
                    ctx.console_eprintln("console err");
                })
            })
        });
        let got = |w: &Writes| w.0.lock().unwrap().clone();
        assert_eq!(got(&o), [&b"a line\n"[..], b"\xffbytes\n", b"two pieces\n"]);
        assert_eq!(got(&e), [b"a diagnostic\n"]);
        assert_eq!(got(&co), [b"console out\n"]);
        assert_eq!(got(&ce), [b"console err\n"]);
    }

    // --- Legacy space-separated syntax ---

    #[test]
    fn test_tokenize_simple() {
        assert_eq!(tokenize(b"dbl"), vec!["dbl"]);
        assert_eq!(tokenize(b"dbgf TEMP.VAL"), vec!["dbgf", "TEMP.VAL"]);
    }

    #[test]
    fn test_tokenize_quoted() {
        assert_eq!(
            tokenize(br#"dbpf TEMP "42.0""#),
            vec!["dbpf", "TEMP", "42.0"]
        );
    }

    /// C arms the backslash inside `if (!quote && !backslash)`
    /// (`iocsh.cpp:273-278`), so within a quoted run a backslash is
    /// ordinary data and the very next byte still closes the quote if it
    /// matches. Measured on `bin/linux-x86_64/softIoc`
    /// (R7.0.10-146-g8f5015b663d764ad75df) through `epicsEnvSet` +
    /// `epicsEnvShow`, which pass their argument on untranslated where
    /// `echo` would run it through `dbTranslateEscape`:
    /// `epicsEnvSet X "a\\b"` → `X=a\\b`, and
    /// `epicsEnvSet("X", "a\\\\b")` → `X=a\\\\b`.
    #[test]
    fn a_backslash_inside_a_quote_is_data() {
        assert_eq!(tokenize(br#"cmd "a\\b""#), vec!["cmd", r#"a\\b"#]);
        assert_eq!(tokenize(br#"cmd("a\\\\b")"#), vec!["cmd", r#"a\\\\b"#]);
    }

    /// The same rule read from the other side: `\"` inside a quoted run
    /// does not escape the quote, so the quote closes there and the one
    /// that follows `world` opens a run nothing closes. Measured —
    /// `epicsEnvSet X "hello \"world\""` answers `ERROR u1.cmd line 1:
    /// Unbalanced quote.` and sets nothing.
    #[test]
    fn an_escaped_quote_inside_a_quote_leaves_the_line_unbalanced() {
        assert_eq!(
            lint_line(br#"cmd "hello \"world\"""#),
            Some("Unbalanced quote.")
        );
    }

    /// C split() outside a quote (iocsh.cpp:275-278,326): the backslash
    /// consumes itself and the next character is literal — it neither
    /// separates nor opens a quote nor closes the call. Every expected
    /// token below was measured on the reference softIoc's `echo`.
    #[test]
    fn out_of_quote_backslash_escapes_like_c_split() {
        // Space syntax: `echo \"hello\"` prints `"hello"`, `echo a\ b`
        // prints `a b`.
        assert_eq!(tokenize(br#"echo \"hello\""#), vec!["echo", r#""hello""#]);
        assert_eq!(tokenize(br#"echo a\ b"#), vec!["echo", "a b"]);
        // Call syntax: `echo(a\,b)` prints `a,b` — the escaped comma
        // does not split the argument.
        assert_eq!(tokenize(br#"echo(a\,b)"#), vec!["echo", "a,b"]);
        // Escape-produced quotes are data, not outer quotes — nothing
        // strips them: `echo(\"hi\")` prints `"hi"`.
        assert_eq!(tokenize(br#"echo(\"hi\")"#), vec!["echo", r#""hi""#]);
        // The closing-paren scanner honors the same rules:
        // `echo(a\))` prints `a)`, `echo('a)b')` prints `a)b`.
        assert_eq!(tokenize(br#"echo(a\))"#), vec!["echo", "a)"]);
        assert_eq!(tokenize(br#"echo('a)b')"#), vec!["echo", "a)b"]);
        // lint_line agrees these lines are well-formed — pre-fix it
        // passed them and the splitters then mis-parsed.
        assert_eq!(lint_line(br#"echo \"hello\""#), None);
        assert_eq!(lint_line(br#"echo(a\,b)"#), None);
    }

    #[test]
    fn test_tokenize_empty() {
        assert!(tokenize(b"").is_empty());
        assert!(tokenize(b"   ").is_empty());
    }

    #[test]
    fn test_tokenize_trailing_whitespace() {
        assert_eq!(tokenize(b"dbl   "), vec!["dbl"]);
    }

    // --- C++ EPICS function-call syntax ---

    #[test]
    fn test_tokenize_cpp_basic() {
        assert_eq!(
            tokenize(br#"epicsEnvSet("PREFIX", "SIM1:")"#),
            vec!["epicsEnvSet", "PREFIX", "SIM1:"]
        );
    }

    #[test]
    fn test_tokenize_cpp_mixed_types() {
        assert_eq!(
            tokenize(br#"simDetectorConfig("SIM1", 256, 256, 50000000)"#),
            vec!["simDetectorConfig", "SIM1", "256", "256", "50000000"]
        );
    }

    #[test]
    fn test_tokenize_cpp_no_args() {
        assert_eq!(tokenize(b"iocInit()"), vec!["iocInit"]);
    }

    #[test]
    fn test_tokenize_blanks_before_paren_still_call_syntax() {
        // C split() separates on `strchr(" \t(),\r", c)` uniformly
        // (iocsh.cpp:271), so a blank between the name and `(` changes
        // nothing there. The port must not fall back to space-separated
        // syntax and hand the command `("L0",`-shaped tokens.
        assert_eq!(
            tokenize(br#"asynOctetSetInputEos ("L0", 0, "\r")"#),
            tokenize(br#"asynOctetSetInputEos("L0", 0, "\r")"#)
        );
        assert_eq!(tokenize(b"cmd\t(a, b)"), vec!["cmd", "a", "b"]);
        assert_eq!(tokenize(b"iocInit ()"), vec!["iocInit"]);
    }

    #[test]
    fn test_tokenize_cpp_spaces_around_commas() {
        assert_eq!(
            tokenize(br#"cmd( "a" , "b" , 3 )"#),
            vec!["cmd", "a", "b", "3"]
        );
    }

    #[test]
    fn test_tokenize_cpp_dbloadrecords() {
        // Matches real C++ EPICS syntax
        assert_eq!(
            tokenize(br#"dbLoadRecords("path/to/file.db","P=SIM1:,R=cam1:")"#),
            vec!["dbLoadRecords", "path/to/file.db", "P=SIM1:,R=cam1:"]
        );
    }

    /// C has one separator set and applies it everywhere, so a `)` or a
    /// `,` outside a quote ends a word wherever it stands — there is no
    /// "call syntax" for it to be inside of. Measured on
    /// `bin/linux-x86_64/softIoc` (R7.0.10-146-g8f5015b663d764ad75df),
    /// each line its own script against an empty database: `dbl)` and
    /// `dbl , ai` both print nothing and raise nothing, where this port
    /// answered `Command 'dbl)' not registered.` and passed `,` as a
    /// record type; `echo(a"b"c)` prints `abc`, so a quote is removed
    /// wherever it sits and not merely stripped off the ends; and
    /// `echo(a,,b)` prints `a`, so a run of separators yields no empty
    /// argument between them.
    #[test]
    fn one_separator_set_applies_off_the_call_shape_too() {
        assert_eq!(tokenize(b"dbl)"), vec!["dbl"]);
        assert_eq!(tokenize(b"dbl )"), vec!["dbl"]);
        assert_eq!(tokenize(b"dbl , ai"), vec!["dbl", "ai"]);
        assert_eq!(tokenize(br#"echo(a"b"c)"#), vec!["echo", "abc"]);
        assert_eq!(tokenize(br#"echo "a"b"c""#), vec!["echo", "abc"]);
        assert_eq!(tokenize(b"echo(a,,b)"), vec!["echo", "a", "b"]);
        // An opening quote begins a word even when it closes at once, so
        // an empty argument stays distinguishable from an absent one —
        // `cvtArg` keeps `""` and NULL apart (`iocsh.cpp:858-862`).
        assert_eq!(tokenize(br#"cmd "" x"#), vec!["cmd", "", "x"]);
    }

    #[test]
    fn test_tokenize_cpp_quoted_with_parens_inside() {
        // Parens inside quotes should not confuse the parser
        assert_eq!(
            tokenize(br#"cmd("hello(world)")"#),
            vec!["cmd", "hello(world)"]
        );
    }

    #[test]
    fn test_parse_args_required() {
        let descs = vec![ArgDesc {
            name: "name",
            arg_type: ArgType::String,
        }];
        let tokens: Vec<IocshString> = vec!["TEMP".into()];
        let result = parse_args(&tokens, &descs).unwrap();
        assert!(matches!(&result[0], ArgValue::String(s) if s == "TEMP"));
    }

    #[test]
    fn test_parse_args_optional_missing() {
        let descs = vec![ArgDesc {
            name: "type",
            arg_type: ArgType::String,
        }];
        let result = parse_args(&[], &descs).unwrap();
        assert!(matches!(&result[0], ArgValue::Missing));
    }

    /// C's one uniform rule, by boundary rather than by story. `cvtArg`
    /// (`iocsh.cpp:813-895`) is reached for every declared parameter with
    /// either the token or NULL, so the boundaries are: token absent, token
    /// present but empty, token present and well formed, token present and
    /// malformed — crossed with the type, which is the only thing that
    /// decides the default. A descriptor carries a name and a type and
    /// nothing else, so there is nothing left for the rule to depend on.
    #[test]
    fn a_parameter_with_no_token_takes_its_types_default() {
        for (arg_type, what) in [
            (ArgType::String, "string"),
            (ArgType::Path, "path"),
            (ArgType::Record, "record"),
            (ArgType::Int, "int"),
            (ArgType::Double, "double"),
        ] {
            let descs = vec![ArgDesc {
                name: "only",
                arg_type,
            }];
            let got = parse_args(&[], &descs)
                .unwrap_or_else(|e| panic!("a missing {what} must not fail the line: {e}"));
            assert!(
                matches!(&got[0], ArgValue::Missing),
                "a missing {what} must reach the command as Missing, got {:?}",
                got[0]
            );
        }
    }

    /// `cvtArg`'s numeric arms guard on `if (arg && *arg)`, so an empty
    /// token defaults exactly like an absent one — but the string arm is
    /// `sval = arg`, which keeps `""` distinct from NULL.
    #[test]
    fn an_empty_token_defaults_for_numbers_and_stays_empty_for_strings() {
        let empty: Vec<IocshString> = vec![IocshString::default()];
        for arg_type in [ArgType::Int, ArgType::Double] {
            let descs = vec![ArgDesc {
                name: "only",
                arg_type,
            }];
            let got = parse_args(&empty, &descs).expect("an empty numeric token is C's 0");
            assert!(matches!(&got[0], ArgValue::Missing), "got {:?}", got[0]);
        }
        let descs = vec![ArgDesc {
            name: "only",
            arg_type: ArgType::String,
        }];
        let got = parse_args(&empty, &descs).expect("an empty string token is C's \"\"");
        assert!(
            matches!(&got[0], ArgValue::String(s) if s.is_empty()),
            "got {:?}",
            got[0]
        );
    }

    /// Only a NON-EMPTY token that does not parse is an error — that arm of
    /// `cvtArg` is the one that returns 0 and stops the argument loop, so
    /// the command is never called.
    #[test]
    fn a_malformed_non_empty_token_is_still_an_error() {
        for (arg_type, token) in [(ArgType::Int, "xyz"), (ArgType::Double, "xyz")] {
            let descs = vec![ArgDesc {
                name: "only",
                arg_type,
            }];
            assert!(parse_args(&[token.to_string().into()], &descs).is_err());
        }
    }

    /// C stops converting at `nargs`; surplus tokens are simply not read
    /// (`iocsh.cpp:1270-1300` iterates the DESCRIPTORS). Measured on C:
    /// `epicsThreadSleep 0.0 extra` runs without complaint.
    #[test]
    fn a_surplus_token_is_ignored_not_rejected() {
        let descs = vec![ArgDesc {
            name: "seconds",
            arg_type: ArgType::Double,
        }];
        let tokens: Vec<IocshString> = vec!["0.0".into(), "extra".into()];
        let got = parse_args(&tokens, &descs).expect("a surplus token is not an error");
        assert_eq!(got.len(), 1);
        assert!(matches!(&got[0], ArgValue::Double(d) if *d == 0.0));
    }

    /// The shortfall may be several parameters deep, and each one takes its
    /// own type's default rather than the first absence ending the line.
    #[test]
    fn every_parameter_past_the_last_token_defaults_independently() {
        let descs = vec![
            ArgDesc {
                name: "file",
                arg_type: ArgType::Path,
            },
            ArgDesc {
                name: "level",
                arg_type: ArgType::Int,
            },
            ArgDesc {
                name: "subs",
                arg_type: ArgType::String,
            },
        ];
        let got = parse_args(&["only.db".into()], &descs).expect("a short line still runs");
        assert_eq!(got.len(), 3);
        assert!(matches!(&got[0], ArgValue::String(s) if s == "only.db"));
        assert!(matches!(&got[1], ArgValue::Missing));
        assert!(matches!(&got[2], ArgValue::Missing));
    }

    #[test]
    fn test_parse_args_int() {
        let descs = vec![ArgDesc {
            name: "level",
            arg_type: ArgType::Int,
        }];
        let tokens: Vec<IocshString> = vec!["42".into()];
        let result = parse_args(&tokens, &descs).unwrap();
        assert!(matches!(&result[0], ArgValue::Int(42)));
    }

    #[test]
    fn test_parse_args_int_invalid() {
        let descs = vec![ArgDesc {
            name: "level",
            arg_type: ArgType::Int,
        }];
        let tokens: Vec<IocshString> = vec!["abc".into()];
        assert!(parse_args(&tokens, &descs).is_err());
    }

    /// C `cvtArg` stores `strtol(arg, &endp, 0)`, or its `strtoul` retry, in
    /// `iocshArgBuf.ival`, an `int` (`iocsh.cpp:822-829`): glibc's base-0
    /// `0b`, C `isspace` only, and the `long` truncated to `int`.
    #[test]
    fn an_iocsh_int_is_c_strtol_into_an_int() {
        let lp64 = std::ffi::c_long::BITS == 64;
        assert_eq!(parse_iocsh_int("0b101"), Ok(5));
        assert_eq!(parse_iocsh_int("\u{a0}5"), Err(IntArgError::Invalid));
        assert_eq!(parse_iocsh_int("2147483648"), Ok(-2147483648));
        assert_eq!(
            parse_iocsh_int("4294967296"),
            if lp64 {
                Ok(0)
            } else {
                Err(IntArgError::OutOfRange)
            }
        );
    }

    /// `iocshArgInt` must parse like C `strtol(arg, &endp, 0)`
    /// (base-0: `0x` hex, leading `0` octal), with a `strtoul` overflow
    /// fallback and empty→0 — not Rust's decimal-only `parse::<i64>`.
    #[test]
    fn test_parse_iocsh_int_base0() {
        let lp64 = std::ffi::c_long::BITS == 64;
        let wide = |v| {
            if lp64 {
                Ok(v)
            } else {
                Err(IntArgError::OutOfRange)
            }
        };
        // Decimal.
        assert_eq!(parse_iocsh_int("10"), Ok(10));
        assert_eq!(parse_iocsh_int("0"), Ok(0));
        assert_eq!(parse_iocsh_int("-5"), Ok(-5));
        assert_eq!(parse_iocsh_int("+5"), Ok(5));
        // Octal: `dbpr REC 010` is 8 in C, was silently 10 pre-fix.
        assert_eq!(parse_iocsh_int("010"), Ok(8));
        assert_eq!(parse_iocsh_int("00"), Ok(0));
        // Hex: `postEvent 0x10` is 16 in C, errored pre-fix.
        assert_eq!(parse_iocsh_int("0x10"), Ok(16));
        assert_eq!(parse_iocsh_int("0X1F"), Ok(31));
        assert_eq!(parse_iocsh_int("-0x10"), Ok(-16));
        // Empty arg defaults to 0 (C `if (arg && *arg)` else branch).
        assert_eq!(parse_iocsh_int(""), Ok(0));
        // strtoul fallback, truncated to the int: only a 64-bit unsigned
        // long holds these.
        assert_eq!(parse_iocsh_int("0xFFFFFFFFFFFFFFFF"), wide(-1));
        assert_eq!(parse_iocsh_int("18446744073709551615"), wide(-1));
        // Errors: trailing garbage, invalid octal digit, bare/oversized.
        // Which of C's two sentences each one earns is the point — C
        // returns from the `ERANGE` arm before the `*endp` check, so a
        // magnitude that fits neither `long` nor `unsigned long` is out
        // of range even when garbage follows it.
        assert_eq!(parse_iocsh_int("10abc"), Err(IntArgError::Invalid));
        assert_eq!(parse_iocsh_int("08"), Err(IntArgError::Invalid));
        assert_eq!(parse_iocsh_int("0x"), Err(IntArgError::Invalid));
        assert_eq!(parse_iocsh_int("   "), Err(IntArgError::Invalid));
        assert_eq!(parse_iocsh_int("abc"), Err(IntArgError::Invalid));
        assert_eq!(
            parse_iocsh_int("0x1FFFFFFFFFFFFFFFF"),
            Err(IntArgError::OutOfRange)
        );
        assert_eq!(
            parse_iocsh_int("99999999999999999999"),
            Err(IntArgError::OutOfRange)
        );
        assert_eq!(
            parse_iocsh_int("99999999999999999999abc"),
            Err(IntArgError::OutOfRange)
        );
        // A 64-bit `LONG_MIN` is in range for `strtol`, and its low 32 bits
        // are 0.
        assert_eq!(parse_iocsh_int("-9223372036854775808"), wide(0));
    }

    /// C `cvtArg` quotes the offending VALUE and never the parameter
    /// name, and its integer refusal has two distinct sentences
    /// (`iocsh.cpp:824-831`, `:833-837`). Measured on
    /// `bin/linux-x86_64/softIoc` (R7.0.10-146-g8f5015b663d764ad75df):
    /// `dbpr A1 notanumber` → `ERROR c.cmd line 1: Invalid integer
    /// 'notanumber'.`, `dbpr A1 99999999999999999999` → `ERROR c.cmd
    /// line 1: Integer '99999999999999999999' out of range.`,
    /// `epicsThreadSleep 0.1abc` → `ERROR c.cmd line 1: Invalid double
    /// '0.1abc'.`
    #[test]
    fn numeric_refusals_are_cs_own_sentences() {
        let int_desc = vec![ArgDesc {
            name: "level",
            arg_type: ArgType::Int,
        }];
        assert_eq!(
            parse_args(&["notanumber".into()], &int_desc).unwrap_err(),
            "Invalid integer 'notanumber'."
        );
        assert_eq!(
            parse_args(&["99999999999999999999".into()], &int_desc).unwrap_err(),
            "Integer '99999999999999999999' out of range."
        );
        let double_desc = vec![ArgDesc {
            name: "seconds",
            arg_type: ArgType::Double,
        }];
        assert_eq!(
            parse_args(&["0.1abc".into()], &double_desc).unwrap_err(),
            "Invalid double '0.1abc'."
        );
    }

    /// `epicsStrtod` is glibc's `strtod` here, so C takes the C99 hex
    /// form. Measured on `bin/linux-x86_64/softIoc`
    /// (R7.0.10-146-g8f5015b663d764ad75df): `var seqDLYlimit 0x10` then
    /// `var seqDLYlimit` prints `double seqDLYlimit = 16`, `0x1p3`
    /// prints `8`, `inf` prints `inf`, and `epicsThreadSleep 0x10`
    /// sleeps 16.32 s rather than raising `Invalid double '0x10'.`
    #[test]
    fn epics_strtod_takes_cs_hex_form() {
        assert_eq!(epics_strtod_whole("0x10"), Some(16.0));
        assert_eq!(epics_strtod_whole("0X10"), Some(16.0));
        assert_eq!(epics_strtod_whole("0x1p3"), Some(8.0));
        assert_eq!(epics_strtod_whole("-0x1.8p1"), Some(-3.0));
        assert_eq!(epics_strtod_whole("0x.8"), Some(0.5));
        assert_eq!(epics_strtod_whole("inf"), Some(f64::INFINITY));
        assert!(epics_strtod_whole("nan").is_some_and(f64::is_nan));
        // The decimal spellings are unchanged.
        assert_eq!(epics_strtod_whole("0.5"), Some(0.5));
        assert_eq!(epics_strtod_whole("1e3"), Some(1000.0));
        assert_eq!(epics_strtod_whole(" 1"), Some(1.0));
        // `strtod` stops where the token stops being a number, and the
        // whole-token check then refuses it.
        assert_eq!(epics_strtod_whole("0.1abc"), None);
        assert_eq!(epics_strtod_whole("0x"), None);
        assert_eq!(epics_strtod_whole("0x1p"), None);
        assert_eq!(epics_strtod_whole("0x1g"), None);
        assert_eq!(epics_strtod_whole(""), None);
        // The one port serves both callers, so `var` agrees with the
        // argument converter about what a double is.
        let descs = vec![ArgDesc {
            name: "seconds",
            arg_type: ArgType::Double,
        }];
        assert!(matches!(
            parse_args(&["0x10".into()], &descs).unwrap()[0],
            ArgValue::Double(v) if v == 16.0
        ));
    }

    #[test]
    fn test_parse_args_int_base0_via_parse_args() {
        let descs = vec![ArgDesc {
            name: "mask",
            arg_type: ArgType::Int,
        }];
        let result = parse_args(&["0x10".into()], &descs).unwrap();
        assert!(matches!(&result[0], ArgValue::Int(16)));
    }

    #[test]
    fn test_parse_args_double() {
        let descs = vec![ArgDesc {
            name: "value",
            arg_type: ArgType::Double,
        }];
        let tokens: Vec<IocshString> = vec!["3.14".into()];
        let result = parse_args(&tokens, &descs).unwrap();
        match &result[0] {
            ArgValue::Double(v) => assert!((*v - 3.14).abs() < 1e-10),
            other => panic!("expected Double, got {:?}", other),
        }
    }

    #[test]
    fn test_registry_basic() {
        let mut reg = CommandRegistry::new();
        reg.register(CommandDef::new(
            "test",
            vec![],
            "test command",
            |_args: &[ArgValue], _ctx: &CommandContext| Ok(CommandOutcome::Continue),
        ));
        assert!(reg.get("test").is_some());
        assert!(reg.get("nonexistent").is_none());
        assert_eq!(reg.list(), vec!["test"]);
    }
}
