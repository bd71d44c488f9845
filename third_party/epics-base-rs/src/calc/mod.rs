pub mod engine;
pub mod math;

pub use engine::cvt;
pub use engine::error::{CalcError, calc_error_str};
pub use engine::opcodes::{CoreOp, Opcode};
pub use engine::{
    CALC_NARGS, CalcResult, CompiledExpr, ExprKind, NumericInputs, Rpcl, infix_to_postfix_size,
};

pub use engine::StringInputs;
pub use engine::opcodes::StringOp;
pub use engine::string::ScalcResult;
pub use engine::value::{SCALC_STRING_MAX, SCALC_STRING_SIZE, ScalcString, StackValue};

pub use engine::ArrayInputs;
pub use engine::array_value::{ArrayCell, ArrayStackValue};
pub use engine::opcodes::ArrayOp;

/// Compile an infix expression for the **numeric** engine — C `postfix()`
/// (`postfix.c`), used by calc, calcout and swait.
///
/// Symbols outside `postfix.c`'s element table (`SVAL`, string literals and
/// sCalc string functions, aCalc array functions, `UNTIL`, `AA`..`LL`, `>?`,
/// `<?`, `NRNDM`, `INT`) are `CalcError::Syntax` — C's `CALC_ERR_SYNTAX`,
/// raised at compile time (`CLCV != 0`), not at first evaluation.
///
/// The empty expression is `CALC_ERR_NULL_ARG` (`postfix.c:235-241` lumps
/// `*psrc == '\0'` in with the NULL-pointer arguments), which is where base
/// parts company with sCalc and aCalc — they accept it. Whitespace-only is not
/// empty: it lexes to nothing and comes out `Incomplete`, as in C.
pub fn compile(expr: &str) -> CalcResult<CompiledExpr> {
    if expr.is_empty() {
        return Err(CalcError::NullArg);
    }
    engine::postfix::compile(expr, ExprKind::Numeric)
}

/// Evaluate a compiled expression with the given inputs. `expr` is a
/// [`CompiledExpr`] or a record's inline [`Rpcl`].
pub fn eval(expr: &(impl AsRef<[u8]> + ?Sized), inputs: &mut NumericInputs) -> CalcResult<f64> {
    engine::numeric::eval(expr.as_ref(), inputs)
}

/// [`eval`] on the caller's own arg block — C `calcPerform(&prec->a, &prec->val,
/// rpcl)`, whose stores land in the record as the expression runs. `prev_val`
/// is what the `VAL` token reads.
pub fn eval_in_place(
    expr: &(impl AsRef<[u8]> + ?Sized),
    vars: &mut [f64; CALC_NARGS],
    prev_val: f64,
) -> CalcResult<f64> {
    engine::numeric::eval_vars(expr.as_ref(), engine::NumericVars::all(vars, prev_val))
}

/// Compile and evaluate an expression in one step.
pub fn calc(expr: &str, inputs: &mut NumericInputs) -> CalcResult<f64> {
    let compiled = compile(expr)?;
    eval(&compiled, inputs)
}

/// Compile an infix expression for the **string** engine — synApps
/// `sCalcPostfix()`, used by scalcout. Its element table is its own: no `FMOD`,
/// no `>>>`, operands `A`..`P` / `AA`..`LL`, plus the string symbols base has
/// never had.
///
/// Unlike base, the empty expression SUCCEEDS with the empty program
/// (`sCalcPostfix.c:432-434`) — so `CLCV` reads 0 — and `sCalcPerform` then
/// fails on it every cycle ([`CompiledExpr::empty`]).
pub fn scalc_compile(expr: &str) -> CalcResult<CompiledExpr> {
    if expr.is_empty() {
        return Ok(CompiledExpr::empty(ExprKind::String));
    }
    engine::postfix::compile(expr, ExprKind::String)
}

pub fn scalc_eval(
    expr: &(impl AsRef<[u8]> + ?Sized),
    inputs: &mut StringInputs,
) -> CalcResult<StackValue> {
    engine::string::eval(expr.as_ref(), inputs)
}

pub fn scalc(expr: &str, inputs: &mut StringInputs) -> CalcResult<StackValue> {
    let compiled = scalc_compile(expr)?;
    scalc_eval(&compiled, inputs)
}

/// C `sCalcPerform` (`sCalcoutRecord.c:357-359`, `:768-770`) — evaluate, then
/// run the epilogue that fills BOTH of the record's cells, `(VAL, SVAL)` or
/// `(OVAL, OSV)`. They are two views of ONE result, never two computations, so
/// a record must not re-derive either with a formatter or a parser of its own.
///
/// `precision` is C's ninth argument, which scalcout passes as `pcalc->prec`.
/// It is an argument and not a property of the value because only ONE of C's
/// two epilogues honours it — see [`engine::string::epilogue`], which is where
/// that rule lives. This is the only way to obtain the pair: a bare
/// [`StackValue`] cannot know which evaluator produced it, so there is no
/// `scalc_result(&value)` for a caller to reach for and get wrong.
pub fn scalc_perform(
    expr: &(impl AsRef<[u8]> + ?Sized),
    inputs: &mut StringInputs,
    precision: i16,
) -> CalcResult<ScalcResult> {
    let code = expr.as_ref();
    let top = engine::string::eval(code, inputs)?;
    Ok(engine::string::epilogue(code, &top, precision))
}

/// Compile an infix expression for the **array** engine — synApps
/// `aCalcPostfix()`, used by acalcout. Its element table is its own: no `FMOD`,
/// no `>>>`, no `INF`/`NAN` literal and no `SVAL`, operands `A`..`P` /
/// `AA`..`LL`, plus the array symbols.
///
/// As in sCalc, the empty expression succeeds with the empty program
/// (`aCalcPostfix.c:439-441`), which `aCalcPerform` then refuses to run.
pub fn acalc_compile(expr: &str) -> CalcResult<CompiledExpr> {
    if expr.is_empty() {
        return Ok(CompiledExpr::empty(ExprKind::Array));
    }
    engine::postfix::compile(expr, ExprKind::Array)
}

pub fn acalc_eval(
    expr: &(impl AsRef<[u8]> + ?Sized),
    inputs: &mut ArrayInputs,
) -> CalcResult<ArrayStackValue> {
    engine::array::eval(expr.as_ref(), inputs)
}

pub fn acalc(expr: &str, inputs: &mut ArrayInputs) -> CalcResult<ArrayStackValue> {
    let compiled = acalc_compile(expr)?;
    acalc_eval(&compiled, inputs)
}
