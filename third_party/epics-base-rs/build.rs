//! Derives this crate's own copy of the `exec_backend` / `tokio_backend` cfg.
//!
//! The seam itself lives in `epics-libcom-rs` (whose `build.rs` is the
//! original of this one). This crate still needs the predicate because code
//! *above* the seam gates on it too — `server::scan` sizes its periodic-scan
//! threads differently on the reactor-free backend — and a cfg set by a
//! dependency's build script is not visible here. Each crate that gates on the
//! pair deriving its own cfg from the same two inputs is the existing pattern
//! in this workspace (`epics-ca-rs`, `epics-pva-rs`).
//!
//! Two copies of a predicate is two chances to disagree, so they are pinned:
//! `lib.rs` carries
//! `const _: () = assert!(epics_libcom_rs::EXEC_BACKEND == cfg!(exec_backend))`,
//! which fails to compile if either build script misses
//! `EPICS_RS_BUILD_EXEC_BACKEND`.
//!
//! * `exec_backend` — the std-thread background executor. The only option on
//!   `epics_embedded_target` (RTEMS — no tokio reactor there), and — via
//!   `EPICS_RS_BUILD_EXEC_BACKEND=thread` — the host-selectable RTEMS execution
//!   model.
//! * `tokio_backend` — the tokio runtime. The hosted default (variable unset
//!   or `tokio`, non-embedded target).
//!
//! Exactly one of the two is set for any build.
//!
//! It also stamps the `epicsVCS.h` pair — see [`stamp_vcs_version`] — which
//! is a build-time job for the same reason C makes it one: the values name
//! the checkout that produced the binary, so nothing in the source tree can
//! hold them.

fn main() {
    stamp_vcs_version();
    // autosave's `compiled <ctime>` (autosave_release.pl:6); a build of this
    // crate is C's compile of save_restore.c.
    println!("cargo::rustc-env=EPICS_RS_BUILD_EPOCH=0");

    println!("cargo::rustc-check-cfg=cfg(exec_backend)");
    println!("cargo::rustc-check-cfg=cfg(tokio_backend)");
    println!("cargo::rustc-check-cfg=cfg(epics_embedded_target)");

    let target_os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let embedded_target = target_os == "rtems";
    if embedded_target {
        println!("cargo::rustc-cfg=epics_embedded_target");
    }

    // Build-time backend selection, from the environment rather than from a
    // cargo feature: a feature that flips a backend is not additive, so
    // `--all-features` turned the reactor off and no single invocation meant
    // "everything on". `epics-libcom-rs`'s module docs carry the reasoning;
    // `tools/rtems-exec-gate` holds every copy of this block against that
    // crate's, so 23 derivations of one rule cannot drift apart.
    println!("cargo::rerun-if-env-changed=EPICS_RS_BUILD_EXEC_BACKEND");
    let requested = std::env::var_os("EPICS_RS_BUILD_EXEC_BACKEND").unwrap_or_default();
    let host_exec_backend = match requested.to_string_lossy().as_ref() {
        "thread" => true,
        "" | "tokio" => false,
        bad => panic!(
            "EPICS_RS_BUILD_EXEC_BACKEND={bad}: the exec backend is `thread` \
             (reactor-free std threads) or `tokio` (the host default, which an \
             unset or empty variable also selects)"
        ),
    };
    if embedded_target || host_exec_backend {
        println!("cargo::rustc-cfg=exec_backend");
    } else {
        println!("cargo::rustc-cfg=tokio_backend");
    }
}

/// Fixed stamps: the copy is built inside somebody else's git repository, whose commits say
/// nothing about it and would have this crate compiled again after each of them.
fn stamp_vcs_version() {
    println!("cargo::rustc-env=EPICS_VCS_VERSION=0.33.0");
    println!("cargo::rustc-env=EPICS_VCS_VERSION_DATE=release 0.33.0");
    println!("cargo::rerun-if-changed=build.rs");
}
