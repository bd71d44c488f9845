// RTEMS-EXEC-MODEL-ALLOW(2): a sync test that hand-builds its own tokio
// runtime, and `scanParallelThreads`'s refusal test, which wants a runtime
// only as the start-context `ScanOwner::start` requires; both run and pass in
// the exec-backend suite.
//! The callback- and scanOnce-queue iocsh commands from
//! `dbIocRegister.c` (@R7.0.10): `scanOnceSetQueueSize`,
//! `scanOnceQueueShow`, `callbackSetQueueSize`, `callbackQueueShow`
//! and `callbackParallelThreads`, plus `scanParallelThreads` from
//! epics-base #998.
//!
//! All five reach the same two facilities the port already runs — the
//! priority-banded callback pool and the `scanOnce` ring in
//! `epics_libcom_rs::runtime::background` — through the process-global
//! executor in `runtime::task`. The two sizing commands and
//! `callbackParallelThreads` write module state that the pool reads
//! once, when it is built, which is why C refuses them after
//! `callbackInit` and why this port refuses them after
//! `background_started()`.
//!
//! Two C error paths in `callbackParallelThreads` (`callback.c:181-190`)
//! are not reproduced because they cannot arise here: `pdbbase not set`
//! and `No Priority menu` both report a database that has not loaded
//! `menuPriority`, and the port's `menuPriority` is the compile-time
//! `dbd_generated::MENU_PRIORITY`, which always exists.

use super::registry::*;
use crate::runtime::background::{CallbackPriority, CallbackQueueStats};
use epics_libcom_rs::cfmt::CFloat;

/// Register the queue-facility command set on `registry`.
pub(crate) fn register(registry: &mut CommandRegistry) {
    registry.register(cmd_scan_once_set_queue_size());
    registry.register(cmd_scan_parallel_threads());
    registry.register(cmd_scan_rate_threads());
    registry.register(cmd_scan_once_queue_show());
    registry.register(cmd_callback_set_queue_size());
    registry.register(cmd_callback_queue_show());
    registry.register(cmd_callback_parallel_threads());
}

/// C `callbackQueueShow`'s refusal (`callback.c:145-146`), one line,
/// verbatim.
const CALLBACK_NOT_INIT: &str =
    "Callback system not initialized, yet. Please run iocInit before using this command.";

/// C `scanOnceQueueShow`'s refusal (`dbScan.c:762-763`), one line,
/// verbatim.
const SCAN_ONCE_NOT_INIT: &str =
    "scanOnce system not initialized, yet. Please run iocInit before using this command.";

/// C `scanParallelThreads`'s refusal and its two clamp reports
/// (`dbScan.c:302`, `:311-312`, `:320-321`).
const SCAN_PARALLEL_ALREADY_INIT: &str = "scanParallelThreads: scan system already initialized";

/// C `scanRateThreads`'s refusal (`dbScan.c:335`).
const SCAN_RATE_ALREADY_INIT: &str = "scanRateThreads: scan system already initialized";

/// C `callbackSetQueueSize`'s two diagnostics (`callback.c:103`, `:107`).
const QUEUE_SIZE_MUST_BE_POSITIVE: &str = "Queue size must be positive";
const CALLBACK_ALREADY_INIT: &str = "Callback system already initialized";

/// C `threadNamePrefix[]` (`callback.c:86-88`) — what
/// `callbackQueueShow` puts in the PRIORITY column. Not the
/// `menuPriority` choices `callbackParallelThreads` matches against;
/// the two spellings belong to different C tables.
const BAND_NAMES: [&str; 3] = ["cbLow", "cbMedium", "cbHigh"];

/// What the count column counts, and so what it is headed — the one thing
/// `callbackQueueShow` and `scanOnceQueueShow` no longer agree on.
/// `callbackQueueShow` says `IN USE` (`callback.c:298`) because a worker gives
/// its run entries back in batches, so the count includes entries already run;
/// `scanOnceQueueShow`'s ring is returned entry by entry and its column stays
/// `ITEMS IN Q` (`dbScan.c:765`).
const IN_USE_COLUMN: &str = "    IN USE";
const ITEMS_IN_Q_COLUMN: &str = "ITEMS IN Q";

/// The table both `callbackQueueShow` and `scanOnceQueueShow` print
/// (`callback.c:294-302`, `dbScan.c:765-771`) — the same
/// `%8s  %15d  %10d  %6d  %6.1f  %11d` row in both and a header that differs
/// only in `count_column`, which is why one formatter serves both.
fn queue_stats_table(count_column: &str, rows: &[(&str, CallbackQueueStats)]) -> Vec<String> {
    let mut out = vec![format!(
        "PRIORITY  HIGH-WATER MARK  {count_column}  Q SIZE  % USED  Q OVERFLOWS"
    )];
    for (name, st) in rows {
        let qusage = 100.0 * st.num_used as f64 / st.size as f64;
        out.push(format!(
            "{:>8}  {:>15}  {:>10}  {:>6}  {:>6.1}  {:>11}",
            name,
            st.max_used,
            st.num_used,
            st.size,
            CFloat(qusage),
            st.num_overflow
        ));
    }
    out
}

/// The first positional argument as C's `args[0].ival`: an omitted
/// `iocshArgInt` reaches the handler as 0.
fn ival(args: &[ArgValue], index: usize) -> i64 {
    match args.get(index) {
        Some(ArgValue::Int(n)) => *n,
        _ => 0,
    }
}

/// The same for an `iocshArgString`: C's `args[n].sval` is NULL when the
/// argument was omitted, and `scanRateThreads` prints `''` for it.
fn sval(args: &[ArgValue], index: usize) -> std::borrow::Cow<'_, str> {
    match args.get(index) {
        Some(ArgValue::String(s)) => s.to_str_lossy(),
        _ => "".into(),
    }
}

/// C `callbackParallelThreads`'s count arithmetic (`callback.c:167-171`):
/// a negative count is relative to the CPU count, zero means
/// `callbackParallelThreadsDefault`, and the result floors at 1.
fn resolve_thread_count(count: i64, cpus: i64, default: i64) -> usize {
    let n = if count < 0 {
        cpus + count
    } else if count == 0 {
        default
    } else {
        count
    };
    n.max(1) as usize
}

/// C's priority-name lookup (`callback.c:191-203`): `NULL`, `""` and
/// `"*"` mean every band, anything else is matched case-insensitively
/// against the `menuPriority` choice values with `epicsStrCaseCmp`.
/// `Err(name)` is C's "Unknown priority" fall-through.
fn priority_from_name(prio: Option<&str>) -> Result<Option<CallbackPriority>, ()> {
    let Some(name) = prio else {
        return Ok(None);
    };
    if name.is_empty() || name == "*" {
        return Ok(None);
    }
    for (i, choice) in crate::server::record::dbd_generated::MENU_PRIORITY
        .iter()
        .enumerate()
    {
        if choice.eq_ignore_ascii_case(name) {
            return Ok(Some(CallbackPriority::ALL[i]));
        }
    }
    Err(())
}

/// `scanOnceSetQueueSize <size>` — C `scanOnceSetQueueSize`
/// (`dbScan.c:728-732`), the bare assignment `onceQueueSize = size`. It
/// validates nothing, prints nothing, and always returns 0, so the line
/// never fails however absurd the size.
fn cmd_scan_once_set_queue_size() -> CommandDef {
    CommandDef::new(
        "scanOnceSetQueueSize",
        vec![ArgDesc {
            name: "size",
            arg_type: ArgType::Int,
        }],
        "scanOnceSetQueueSize <size> — Change size of Scan once queue. \
         Must be called before iocInit().",
        |args: &[ArgValue], _ctx: &CommandContext| {
            let size = ival(args, 0);
            crate::runtime::background::scan_once::set_queue_size(size.max(1) as usize);
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `scanParallelThreads <count> <reserve>` — C `scanParallelThreads`
/// (`dbScan.c:289-315`), registered with `iocshSetError`
/// (`dbIocRegister.c:667`), so its refusal fails the line.
///
/// The count arithmetic is C's, and it differs from
/// `callbackParallelThreads`' in its floor: a resolved count of zero is a
/// valid answer there — no helpers, which is what every IOC that never calls
/// this runs — where a callback band floors at one worker.
///
/// The reserve is how many helpers the pool keeps off the slower rates, and
/// its zero is not "none": zero selects the default of one, and only a
/// negative argument asks for none.
fn cmd_scan_parallel_threads() -> CommandDef {
    CommandDef::new(
        "scanParallelThreads",
        vec![
            ArgDesc {
                name: "no of threads",
                arg_type: ArgType::Int,
            },
            ArgDesc {
                name: "kept off slower rates",
                arg_type: ArgType::Int,
            },
        ],
        "scanParallelThreads <no of threads> <kept off slower rates> — Configure helper \
         threads shared by all periodic scan rates. 0 uses scanParallelThreadsDefault (at \
         most CPUs - 1), a negative count leaves that many CPUs without a helper. The \
         second argument keeps that many helpers off the slower rates (0: one, negative: \
         none).",
        |args: &[ArgValue], ctx: &CommandContext| {
            use crate::server::scan;
            if scan::periodic_lists_built() {
                ctx.eprintln(SCAN_PARALLEL_ALREADY_INIT);
                return Ok(CommandOutcome::Failed);
            }
            // The same two different globals as `callbackParallelThreads`:
            // the processor count for the negative arm,
            // `scanParallelThreadsDefault` for the zero arm.
            let asked = ival(args, 0);
            let mut count = if asked < 0 {
                crate::runtime::background::callback_executor::cpu_count() as i64 + asked
            } else if asked == 0 {
                // C `dbScan.c:307-314`: the default leaves one CPU to the
                // leaders, so on a single CPU it asks for no helper at all —
                // one there could only take turns with the thread it is
                // helping. The `.max(0)` below is C's own `count < 0` clamp.
                let leaders_cpu =
                    crate::runtime::background::callback_executor::cpu_count() as i64 - 1;
                (scan::parallel_threads_default() as i64).min(leaders_cpu)
            } else {
                asked
            }
            .max(0);
            if count > scan::MAX_PARALLEL_THREADS as i64 {
                ctx.eprintln(&format!(
                    "scanParallelThreads: clamping {count} to {}",
                    scan::MAX_PARALLEL_THREADS
                ));
                count = scan::MAX_PARALLEL_THREADS as i64;
            }
            // C `dbScan.c:303-306`: zero is the default of one helper kept
            // off the slower rates, negative is none.
            let asked_reserve = ival(args, 1);
            let mut reserve = match asked_reserve {
                0 => 1,
                r if r < 0 => 0,
                r => r,
            };
            if reserve > count {
                ctx.eprintln(&format!(
                    "scanParallelThreads: clamping reserve {reserve} to {count}"
                ));
                reserve = count;
            }
            scan::set_parallel_threads(count as i32, reserve as i32);
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `scanRateThreads <rate> <count>` — C `scanRateThreads`
/// (`dbScan.c:329-355`), registered with `iocshSetError`
/// (`dbIocRegister.c:668`).
///
/// Helpers that serve one periodic rate and no other, at that rate's band, so
/// every pass of it is shared by the same workers whatever the other rates are
/// doing. They are not under the `scanParallelThreads` reserve, and may be
/// combined with a pool.
///
/// C refuses an unknown rate by walking `menuScan`'s choices from
/// `SCAN_1ST_PERIODIC` up, so a non-periodic choice (`Passive`, `Event`,
/// `I/O Intr`) is as unknown as a misspelling. C also refuses when no `.dbd`
/// has been loaded; here the stock `menuScan` is always resolvable, which
/// leaves the unknown-rate refusal as the only one, and the lookup is the
/// non-freezing [`crate::server::record::menu_scan::pending_index_of`] so that
/// naming a rate does not close the door on a later `menu(menuScan)`.
fn cmd_scan_rate_threads() -> CommandDef {
    CommandDef::new(
        "scanRateThreads",
        vec![
            ArgDesc {
                name: "SCAN rate",
                arg_type: ArgType::String,
            },
            ArgDesc {
                name: "no of threads",
                arg_type: ArgType::Int,
            },
        ],
        "scanRateThreads <SCAN rate> <no of threads> — Add helper threads that process \
         records of one periodic SCAN rate only, at that rate's priority.",
        |args: &[ArgValue], ctx: &CommandContext| {
            use crate::server::record::menu_scan::{SCAN_1ST_PERIODIC, pending_index_of};
            if crate::server::scan::periodic_lists_built() {
                ctx.eprintln(SCAN_RATE_ALREADY_INIT);
                return Ok(CommandOutcome::Failed);
            }
            let rate = sval(args, 0);
            let Some(ind) = pending_index_of(&rate)
                .filter(|index| *index >= SCAN_1ST_PERIODIC)
                .map(|index| (index - SCAN_1ST_PERIODIC) as usize)
                .filter(|ind| *ind < crate::server::scan::MAX_PARALLEL_THREADS)
            else {
                ctx.eprintln(&format!(
                    "scanRateThreads: '{rate}' is not a periodic SCAN rate"
                ));
                return Ok(CommandOutcome::Failed);
            };
            // C `if (count < 0) count = 0` (`dbScan.c:352`); the store floors
            // it, so there is one place that decides what a negative means.
            crate::server::scan::set_rate_threads(ind, ival(args, 1) as i32);
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `scanOnceQueueShow <reset>` — C `scanOnceQueueShow`
/// (`dbScan.c:759-773`). `void` in C and registered without
/// `iocshSetError` (`dbIocRegister.c:444-447`), so even the refusal
/// leaves the line successful.
fn cmd_scan_once_queue_show() -> CommandDef {
    CommandDef::new(
        "scanOnceQueueShow",
        vec![ArgDesc {
            name: "reset",
            arg_type: ArgType::Int,
        }],
        "scanOnceQueueShow <reset> — Show details and statistics of scan once queue processing.",
        |args: &[ArgValue], ctx: &CommandContext| {
            let reset = ival(args, 0) != 0;
            match crate::runtime::task::background_scan_once_stats(reset) {
                None => ctx.eprintln(SCAN_ONCE_NOT_INIT),
                Some(st) => {
                    let row = CallbackQueueStats {
                        size: st.size,
                        num_used: st.num_used,
                        max_used: st.max_used,
                        num_overflow: st.num_overflow,
                    };
                    for line in queue_stats_table(ITEMS_IN_Q_COLUMN, &[("scanOnce", row)]) {
                        ctx.println(&line);
                    }
                }
            }
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `callbackSetQueueSize <bufsize>` — C `callbackSetQueueSize`
/// (`callback.c:101-113`). The size check comes before the
/// already-initialised guard in C, so a non-positive size is reported
/// as such even on a running IOC.
fn cmd_callback_set_queue_size() -> CommandDef {
    CommandDef::new(
        "callbackSetQueueSize",
        vec![ArgDesc {
            name: "bufsize",
            arg_type: ArgType::Int,
        }],
        "callbackSetQueueSize <bufsize> — Change depth of queue for callback workers. \
         Must be called before iocInit().",
        |args: &[ArgValue], ctx: &CommandContext| {
            let size = ival(args, 0);
            if size <= 0 {
                ctx.console_eprintln(QUEUE_SIZE_MUST_BE_POSITIVE);
                return Ok(CommandOutcome::Failed);
            }
            if crate::runtime::task::background_started() {
                ctx.console_eprintln(CALLBACK_ALREADY_INIT);
                return Ok(CommandOutcome::Failed);
            }
            crate::runtime::background::callback_executor::set_queue_size(size as usize);
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `callbackQueueShow <reset>` — C `callbackQueueShow`
/// (`callback.c:143-159`). Like `scanOnceQueueShow` it is `void` and
/// registered without `iocshSetError` (`dbIocRegister.c:500-503`).
fn cmd_callback_queue_show() -> CommandDef {
    CommandDef::new(
        "callbackQueueShow",
        vec![ArgDesc {
            name: "reset",
            arg_type: ArgType::Int,
        }],
        "callbackQueueShow <reset> — Show status of callback thread processing queue.",
        |args: &[ArgValue], ctx: &CommandContext| {
            let reset = ival(args, 0) != 0;
            match crate::runtime::task::background_callback_stats(reset) {
                None => ctx.console_eprintln(CALLBACK_NOT_INIT),
                Some(bands) => {
                    let rows: Vec<(&str, CallbackQueueStats)> = BAND_NAMES
                        .iter()
                        .copied()
                        .zip(bands.iter().copied())
                        .collect();
                    for line in queue_stats_table(IN_USE_COLUMN, &rows) {
                        ctx.console_println(&line);
                    }
                }
            }
            Ok(CommandOutcome::Continue)
        },
    )
}

/// `callbackParallelThreads <no of threads> <priority>` — C
/// `callbackParallelThreads` (`callback.c:160-208`). The
/// already-initialised guard fires first, before the count arithmetic
/// and before the priority is looked at.
fn cmd_callback_parallel_threads() -> CommandDef {
    CommandDef::new(
        "callbackParallelThreads",
        vec![
            ArgDesc {
                name: "no of threads",
                arg_type: ArgType::Int,
            },
            ArgDesc {
                name: "priority",
                arg_type: ArgType::String,
            },
        ],
        "callbackParallelThreads <no of threads> <priority> — Configure multiple workers for a \
         given callback queue priority level. priority may be omitted or \"*\" to act on all \
         priorities or one of LOW, MEDIUM, or HIGH.",
        |args: &[ArgValue], ctx: &CommandContext| {
            if crate::runtime::task::background_started() {
                ctx.console_eprintln(CALLBACK_ALREADY_INIT);
                return Ok(CommandOutcome::Failed);
            }
            let prio = match args.get(1) {
                Some(ArgValue::String(s)) => Some(s.to_str_lossy()),
                _ => None,
            };
            let band = match priority_from_name(prio.as_deref()) {
                Ok(band) => band,
                Err(()) => {
                    ctx.console_eprintln(&format!(
                        "callbackParallelThreads: Unknown priority \"{}\"",
                        prio.as_deref().unwrap_or("")
                    ));
                    return Ok(CommandOutcome::Failed);
                }
            };
            // Two different C globals, and only their startup values
            // coincide: `epicsThreadGetCPUs()` for the negative arm,
            // `callbackParallelThreadsDefault` for the zero arm.
            use crate::runtime::background::callback_executor as cb;
            let count = resolve_thread_count(
                ival(args, 0),
                cb::cpu_count() as i64,
                cb::parallel_threads_default() as i64,
            );
            crate::runtime::background::callback_executor::set_parallel_threads(count, band);
            Ok(CommandOutcome::Continue)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::database::PvDatabase;
    use std::sync::Arc;

    fn make_ctx() -> CommandContext {
        let rt = tokio::runtime::Runtime::new().unwrap();
        let db = Arc::new(PvDatabase::new());
        let bridge = {
            let _guard = rt.enter();
            crate::runtime::task::BlockingBridge::capture()
        };
        let ctx = CommandContext::new(db, bridge);
        std::mem::forget(rt);
        ctx
    }

    /// Both streams, because which one a line lands on is the assertion:
    /// C prints these tables with `printf` and every refusal with
    /// `fprintf(stderr, ...)`, so a helper that captured stdout alone let a
    /// refusal on the wrong stream pass its test. Each stream as the operator
    /// sees it: the thread's (dbScan.c) and the raw one (callback.c).
    fn run(ctx: &CommandContext, name: &str, tokens: &[&str]) -> (String, String, bool) {
        let mut reg = CommandRegistry::new();
        register(&mut reg);
        let cmd = reg.get(name).unwrap();
        let tokens: Vec<IocshString> = tokens.iter().map(|t| IocshString::from(*t)).collect();
        let args = parse_args(&tokens, &cmd.args).unwrap();
        let out_tmp = tempfile::NamedTempFile::new().unwrap();
        let err_tmp = tempfile::NamedTempFile::new().unwrap();
        let out_path = out_tmp.path().to_path_buf();
        let err_path = err_tmp.path().to_path_buf();
        let out = std::fs::File::create(&out_path).unwrap();
        let err = std::fs::File::create(&err_path).unwrap();
        let (raw_out, raw_err) = (out.try_clone().unwrap(), err.try_clone().unwrap());
        let outcome = ctx.with_console(raw_out, raw_err, || {
            ctx.with_output(out, || ctx.with_error(err, || cmd.handler.call(&args, ctx)))
        });
        let failed = matches!(outcome, Ok(CommandOutcome::Failed));
        (
            std::fs::read_to_string(&out_path).unwrap(),
            std::fs::read_to_string(&err_path).unwrap(),
            failed,
        )
    }

    /// C declares the arity and types in `dbIocRegister.c:426-441`,
    /// `:482-510`; a wrong arity silently drops the argument the
    /// handler reads.
    #[test]
    fn arity_and_types_match_c() {
        let mut reg = CommandRegistry::new();
        register(&mut reg);
        for (name, arity) in [
            ("scanOnceSetQueueSize", 1),
            ("scanOnceQueueShow", 1),
            ("callbackSetQueueSize", 1),
            ("callbackQueueShow", 1),
            ("callbackParallelThreads", 2),
            // `dbIocRegister.c:487-493` in the #998 prototype.
            ("scanParallelThreads", 2),
        ] {
            assert_eq!(reg.get(name).unwrap().args.len(), arity, "{name}");
        }
        let cpt = reg.get("callbackParallelThreads").unwrap();
        assert!(matches!(cpt.args[0].arg_type, ArgType::Int));
        assert!(matches!(cpt.args[1].arg_type, ArgType::String));
        let spt = reg.get("scanParallelThreads").unwrap();
        assert!(matches!(spt.args[0].arg_type, ArgType::Int));
        assert!(
            matches!(spt.args[1].arg_type, ArgType::Int),
            "the reserve is `iocshArgInt`, not a priority name"
        );
    }

    /// C `scanParallelThreads`' count arithmetic (`dbScan.c:293-311`), which
    /// differs from `callbackParallelThreads`' in both ends: it floors at 0
    /// rather than 1 — no helpers is the state every IOC that never calls it
    /// runs in — and it has a ceiling, the width of the pool's masks. The
    /// reserve's own arithmetic has the opposite shape: its zero is the
    /// default of one, and only a negative argument means none.
    #[test]
    #[serial_test::serial(scan_parallel)]
    fn scan_parallel_threads_resolves_its_count_the_way_c_does() {
        use crate::server::scan;
        let ctx = make_ctx();
        let cpus = crate::runtime::background::callback_executor::cpu_count();

        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["3", "1"]);
        assert!(!failed && err.is_empty(), "a plain count: {err:?}");
        assert_eq!(scan::parallel_threads(), (3, 1));

        // Zero is the knob, which C declares 8 and leaves there — but capped
        // at one less than the CPU count (`dbScan.c:307-314`), so the knob's
        // value is what a box with enough CPUs gets and no box gets a helper
        // per CPU. A single-CPU box resolves zero to no helper at all.
        let (_, _, failed) = run(&ctx, "scanParallelThreads", &["0", "0"]);
        assert!(!failed);
        assert_eq!(scan::parallel_threads_default(), 8);
        assert_eq!(
            scan::parallel_threads().0,
            scan::parallel_threads_default().min(cpus - 1).max(0),
            "the default is capped at CPUs - 1 ({cpus} CPUs here)"
        );

        // Negative leaves that many CPUs without a helper, and never goes
        // below none at all. C applies the ceiling after this arithmetic, not
        // before, so on a box with more CPUs than the mask is wide the count
        // lands on the ceiling and says so.
        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["-1", "0"]);
        assert!(!failed);
        let max = scan::MAX_PARALLEL_THREADS as i32;
        assert_eq!(scan::parallel_threads().0, (cpus - 1).min(max));
        if cpus - 1 > max {
            assert!(
                err.contains(&format!(
                    "scanParallelThreads: clamping {} to {max}",
                    cpus - 1
                )),
                "{err:?}"
            );
        } else {
            assert!(err.is_empty(), "{err:?}");
        }
        let (_, _, failed) = run(
            &ctx,
            "scanParallelThreads",
            &[&format!("-{}", cpus + 7), "0"],
        );
        assert!(!failed);
        assert_eq!(
            scan::parallel_threads().0,
            0,
            "C's `if (count < 0) count = 0`"
        );

        // Both clamps report on stderr, as C's `fprintf(stderr, ...)` does.
        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["9999", "0"]);
        assert!(!failed);
        assert_eq!(scan::parallel_threads().0, max);
        assert!(
            err.contains(&format!("scanParallelThreads: clamping 9999 to {max}")),
            "{err:?}"
        );
        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["2", "5"]);
        assert!(!failed);
        assert_eq!(scan::parallel_threads(), (2, 2));
        assert!(
            err.contains("scanParallelThreads: clamping reserve 5 to 2"),
            "{err:?}"
        );

        // BOUNDARY: the reserve's zero and its negative arm
        // (`dbScan.c:303-306`). Zero is one helper kept off the slower rates,
        // not none; none takes a negative argument.
        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["4", "0"]);
        assert!(!failed && err.is_empty(), "{err:?}");
        assert_eq!(scan::parallel_threads(), (4, 1));
        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["4", "-1"]);
        assert!(!failed && err.is_empty(), "{err:?}");
        assert_eq!(scan::parallel_threads(), (4, 0));
        // BOUNDARY: and that default is clamped like any other reserve, so a
        // resolved count of none reports the one helper it cannot keep.
        let (_, err, failed) = run(
            &ctx,
            "scanParallelThreads",
            &[&format!("-{}", cpus + 7), "0"],
        );
        assert!(!failed);
        assert_eq!(scan::parallel_threads(), (0, 0));
        assert!(
            err.contains("scanParallelThreads: clamping reserve 1 to 0"),
            "{err:?}"
        );

        scan::set_parallel_threads(0, 0);
    }

    /// C's `if (papPeriodic)` (`dbScan.c:301-304`, `:334-337`): a helper
    /// count is a pre-`iocInit` knob, because `spawnHelpers` reads both of
    /// them once. Driven through a real scan facility rather than a flag,
    /// since the gate's whole content is "the lists exist".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[serial_test::serial(scan_parallel)]
    async fn scan_parallel_threads_is_refused_once_the_scan_system_is_up() {
        use crate::server::scan;
        let db = Arc::new(PvDatabase::new());
        let ctx = CommandContext::new(
            Arc::clone(&db),
            crate::runtime::task::BlockingBridge::capture(),
        );

        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["2", "1"]);
        assert!(!failed && err.is_empty(), "before iocInit: {err:?}");
        let (_, err, failed) = run(&ctx, "scanRateThreads", &["1 second", "1"]);
        assert!(!failed && err.is_empty(), "before iocInit: {err:?}");

        let owner = scan::ScanOwner::start(Arc::clone(&db));
        let deadline = std::time::Instant::now() + fact_budget::FACT_BUDGET;
        while !scan::periodic_lists_built() {
            assert!(
                std::time::Instant::now() < deadline,
                "the scan owner never built its periodic lists"
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }

        let (_, err, failed) = run(&ctx, "scanParallelThreads", &["4", "0"]);
        assert!(
            failed,
            "C returns -1, and the command is registered with iocshSetError"
        );
        assert!(err.contains(SCAN_PARALLEL_ALREADY_INIT), "{err:?}");
        assert_eq!(
            scan::parallel_threads(),
            (2, 1),
            "a refused line must not have stored its count"
        );

        let (_, err, failed) = run(&ctx, "scanRateThreads", &["1 second", "4"]);
        assert!(failed, "the same gate guards the per-rate count");
        assert!(err.contains(SCAN_RATE_ALREADY_INIT), "{err:?}");
        let rate = periodic_offset("1 second");
        assert_eq!(
            scan::rate_threads().get(rate).copied(),
            Some(1),
            "a refused line must not have stored its count"
        );

        drop(owner);
        scan::set_parallel_threads(0, 0);
        scan::set_rate_threads(rate, 0);
    }

    /// The rate offset a choice string names — what `scanRateThreads` keys
    /// its count by, and what the pool indexes its passes by.
    fn periodic_offset(rate: &str) -> usize {
        use crate::server::record::menu_scan::{SCAN_1ST_PERIODIC, pending_index_of};
        (pending_index_of(rate).expect("a menuScan choice") - SCAN_1ST_PERIODIC) as usize
    }

    /// C `scanRateThreads` (`dbScan.c:329-355`): the rate has to be a
    /// *periodic* `menuScan` choice, and a negative count is none.
    #[test]
    #[serial_test::serial(scan_parallel)]
    fn scan_rate_threads_takes_a_periodic_choice_and_nothing_else() {
        use crate::server::scan;
        let ctx = make_ctx();
        let fast = periodic_offset(".1 second");
        let slow = periodic_offset("1 second");

        let (_, err, failed) = run(&ctx, "scanRateThreads", &[".1 second", "2"]);
        assert!(!failed && err.is_empty(), "{err:?}");
        assert_eq!(scan::rate_threads().get(fast).copied(), Some(2));

        // BOUNDARY: the three choices below `SCAN_1ST_PERIODIC` are as
        // unknown as a misspelling — C walks the choices from there up, so a
        // real menu entry that is not a rate gets the same refusal. An
        // omitted argument reaches the handler as the empty string, which C
        // prints as `''` for the same reason.
        for rate in ["Passive", "Event", "I/O Intr", "sometimes", ""] {
            let (_, err, failed) = run(&ctx, "scanRateThreads", &[rate, "1"]);
            assert!(failed, "`{rate}` was accepted as a rate");
            assert!(
                err.contains(&format!(
                    "scanRateThreads: '{rate}' is not a periodic SCAN rate"
                )),
                "{err:?}"
            );
        }

        // BOUNDARY: negative is none. Unlike `scanParallelThreads`' count
        // there is no CPU-relative arm, so `-3` is not `cpus - 3`.
        let (_, err, failed) = run(&ctx, "scanRateThreads", &["1 second", "-3"]);
        assert!(!failed && err.is_empty(), "{err:?}");
        assert_eq!(scan::rate_threads().get(slow).copied(), Some(0));

        scan::set_rate_threads(fast, 0);
        scan::set_rate_threads(slow, 0);
    }

    /// C's `%8s  %15d  %10d  %6d  %6.1f  %11d` with a percentage the
    /// test can compute: 3 of 8 used is 37.5%.
    #[test]
    fn the_table_reproduces_c_s_column_layout() {
        let st = CallbackQueueStats {
            size: 8,
            num_used: 3,
            max_used: 5,
            num_overflow: 12,
        };
        let out = queue_stats_table(IN_USE_COLUMN, &[("cbLow", st)]);
        assert_eq!(
            out[0],
            "PRIORITY  HIGH-WATER MARK      IN USE  Q SIZE  % USED  Q OVERFLOWS"
        );
        assert_eq!(
            out[1],
            "   cbLow                5           3       8    37.5           12"
        );
    }

    /// `callbackQueueShow` bands the three queues in `threadNamePrefix`
    /// order and `scanOnceQueueShow` prints one row called `scanOnce`
    /// (`callback.c:151`, `dbScan.c:768`).
    #[test]
    fn both_show_commands_print_c_s_row_names_once_the_pool_is_up() {
        crate::runtime::task::background_init();
        let ctx = make_ctx();

        let (out, err, failed) = run(&ctx, "callbackQueueShow", &["0"]);
        assert!(!failed, "C never sets an error status for this command");
        assert!(err.is_empty(), "C prints the table with printf: {err:?}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 4, "header plus one row per band: {out:?}");
        for (line, name) in lines[1..].iter().zip(BAND_NAMES) {
            assert_eq!(line.split_whitespace().next(), Some(name));
        }

        let (out, err, failed) = run(&ctx, "scanOnceQueueShow", &["0"]);
        assert!(!failed, "C never sets an error status for this command");
        assert!(err.is_empty(), "C prints the table with printf: {err:?}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 2, "header plus one row: {out:?}");
        assert_eq!(lines[1].split_whitespace().next(), Some("scanOnce"));
    }

    /// C checks the size before the initialised guard
    /// (`callback.c:102-109`), so this holds whether or not the pool is
    /// up — which is what makes it the one command test that needs no
    /// `background_init` of its own.
    #[test]
    fn callback_set_queue_size_rejects_a_non_positive_size_in_either_state() {
        let ctx = make_ctx();
        let (out, err, failed) = run(&ctx, "callbackSetQueueSize", &["0"]);
        assert!(failed, "C returns -1 through iocshSetError");
        assert_eq!(err.trim_end(), QUEUE_SIZE_MUST_BE_POSITIVE);
        assert!(
            out.is_empty(),
            "C writes this one with fprintf(stderr): {out:?}"
        );
        let (out, err, failed) = run(&ctx, "callbackSetQueueSize", &["-1"]);
        assert!(failed);
        assert_eq!(err.trim_end(), QUEUE_SIZE_MUST_BE_POSITIVE);
        assert!(
            out.is_empty(),
            "C writes this one with fprintf(stderr): {out:?}"
        );
    }

    /// Both sizing commands refuse once the pool exists, because the
    /// pool read the knob when it was built (`callback.c:106-109`,
    /// `:162-165`).
    #[test]
    fn the_sizing_commands_refuse_once_the_pool_is_up() {
        crate::runtime::task::background_init();
        let ctx = make_ctx();
        let (out, err, failed) = run(&ctx, "callbackSetQueueSize", &["4000"]);
        assert!(failed);
        assert_eq!(err.trim_end(), CALLBACK_ALREADY_INIT);
        assert!(
            out.is_empty(),
            "C writes this one with fprintf(stderr): {out:?}"
        );
        let (out, err, failed) = run(&ctx, "callbackParallelThreads", &["2", "LOW"]);
        assert!(failed);
        assert_eq!(err.trim_end(), CALLBACK_ALREADY_INIT);
        assert!(
            out.is_empty(),
            "C writes this one with fprintf(stderr): {out:?}"
        );
    }

    /// The refusals the two show commands print when the facility is
    /// absent (`callback.c:145-146`, `dbScan.c:762-763`). The branch is
    /// `background_*_stats(..) == None`; the process-global executor
    /// cannot be torn down, so the text is asserted here and the
    /// mapping is the one `match` arm above it.
    #[test]
    fn the_not_initialized_refusals_are_c_s_sentences() {
        assert_eq!(
            CALLBACK_NOT_INIT,
            "Callback system not initialized, yet. Please run iocInit before using this command."
        );
        assert_eq!(
            SCAN_ONCE_NOT_INIT,
            "scanOnce system not initialized, yet. Please run iocInit before using this command."
        );
    }

    /// C matches `menuPriority`'s choice values with `epicsStrCaseCmp`,
    /// and treats `NULL`, `""` and `"*"` alike (`callback.c:173`).
    #[test]
    fn priority_names_follow_menu_priority_case_insensitively() {
        assert_eq!(priority_from_name(None), Ok(None));
        assert_eq!(priority_from_name(Some("")), Ok(None));
        assert_eq!(priority_from_name(Some("*")), Ok(None));
        assert_eq!(
            priority_from_name(Some("low")),
            Ok(Some(CallbackPriority::Low))
        );
        assert_eq!(
            priority_from_name(Some("Medium")),
            Ok(Some(CallbackPriority::Medium))
        );
        assert_eq!(
            priority_from_name(Some("HIGH")),
            Ok(Some(CallbackPriority::High))
        );
        assert_eq!(priority_from_name(Some("URGENT")), Err(()));
    }

    /// `count < 0` is relative to the CPU count, `count == 0` takes the
    /// default, and the result floors at 1 (`callback.c:167-171`).
    #[test]
    fn thread_count_follows_c_s_arithmetic() {
        assert_eq!(resolve_thread_count(3, 8, 8), 3);
        assert_eq!(resolve_thread_count(0, 8, 8), 8);
        assert_eq!(resolve_thread_count(-2, 8, 8), 6);
        assert_eq!(resolve_thread_count(-8, 8, 8), 1, "floors at 1");
        assert_eq!(resolve_thread_count(-99, 8, 8), 1, "floors at 1");
    }

    /// callback.c does not include `epicsStdio.h`, so its lines stay on the
    /// console under `cmd > f` and `cmd 2> f`. C oracle (`oracleStdIoc`):
    /// every `f` empty.
    #[test]
    fn the_callback_queue_lines_stay_on_the_console() {
        let shell = crate::server::iocsh::tests::make_shell();
        assert_eq!(
            shell.err_file_and_console("callbackSetQueueSize 0"),
            (String::new(), "Queue size must be positive\n".to_string())
        );
        assert_eq!(
            shell.err_file_and_console("callbackParallelThreads 2 Nope"),
            (
                String::new(),
                "callbackParallelThreads: Unknown priority \"Nope\"\n".to_string()
            )
        );
        let (out, out_console) = shell.file_and_console("callbackQueueShow");
        let (err, err_console) = shell.err_file_and_console("callbackQueueShow");
        assert_eq!((out, err), (String::new(), String::new()));
        assert!(!out_console.is_empty() || !err_console.is_empty());
    }
}
