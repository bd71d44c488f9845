//! Lending decoded elements to numpy without a copy, and objects without the garbage collector: the one file with unsafe
//! code.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use numpy::ndarray::ArrayView1;
use numpy::{Element, PyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::{PyClass, ffi};

use crate::array::Elements;
use crate::guard;

/// Keeps the lent elements alive: numpy holds it as the array's base.
#[pyclass(frozen, name = "Elements", module = "epicsrs_native._native")]
struct Lent {
    _elements: Box<dyn std::any::Any + Send + Sync>,
}

/// Import numpy before the first array is made: the interpreter's exit waits for it.
pub fn import_numpy(py: Python<'_>) -> PyResult<()> {
    static IMPORTED: AtomicBool = AtomicBool::new(false);
    if !IMPORTED.load(Ordering::Relaxed) {
        guard::inside(|| py.import("numpy"))?;
        IMPORTED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// A read-only numpy array over the elements.
pub fn lend<T: Element + Send + Sync + 'static>(py: Python<'_>, elements: Elements<T>) -> PyResult<Py<PyAny>> {
    import_numpy(py)?;
    // The view's pointer stays valid when the Arc moves into the keeper: it points to the elements, which do not move.
    let slice: &[T] = (*elements).as_ref();
    let (start, length) = (slice.as_ptr(), slice.len());
    let keeper = Bound::new(
        py,
        Lent {
            _elements: Box::new(elements),
        },
    )?;
    // SAFETY: `start..start + length` is the slice above, which the keeper owns from here on through its Arc, and which
    // nobody writes: Elements gives shared references only.
    let array = unsafe {
        let view = ArrayView1::from_shape_ptr(length, start);
        PyArray1::borrow_from_array(&view, keeper.into_any())
    };
    debug_assert_eq!(array.len(), length);
    // SAFETY: the array was made a line above and nobody else has seen it; clearing the flag only forbids writing.
    unsafe {
        (*array.as_array_ptr()).fields.flags &= !numpy::npyffi::NPY_ARRAY_WRITEABLE;
    }
    Ok(array.into_any().unbind())
}

/// Have Python's garbage collector leave a new object alone, which shows it nothing to follow anyway: thousands of them
/// would have it look at all young objects again and again.
pub fn uncollected<T: PyClass>(object: &Bound<'_, T>) {
    // SAFETY: every class of pyo3 has objects of the collector, and untracking one is allowed at any time, also twice.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
}
