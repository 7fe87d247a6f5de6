//! The runtime of the calling thread, found through one thread-local pointer.
//!
//! Invariant: the pointer is null or points to the `Core` of a `Runtime` that lives on this
//! thread; `Runtime` sets it when it is made and clears it last in its drop.
#![allow(
    unsafe_code,
    reason = "a thread-local pointer costs one load where Rc costs a count"
)]

use std::cell::Cell;
use std::ptr;

use super::runtime::Core;

thread_local! {
    static CORE: Cell<*const Core> = const { Cell::new(ptr::null()) };
}

/// Runs `f` on this thread's runtime.
///
/// # Panics
/// Outside of a runtime: a bug of the caller, not of its input.
pub(crate) fn with<R>(f: impl FnOnce(&Core) -> R) -> R {
    try_with(f).expect("lb_core::rt used on a thread without a Runtime")
}

/// As `with`; `None` outside of a runtime.
pub(crate) fn try_with<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
    // SAFETY: the module's invariant; `Core` is never borrowed mutably, and `Runtime` is `!Send`,
    // so it cannot be dropped while this thread is inside `f` unless `f` owns it, and no `f` does.
    unsafe { CORE.get().as_ref() }.map(f)
}

/// Makes `core` the thread's runtime. False if there is one already.
pub(crate) fn enter(core: &Core) -> bool {
    if !CORE.get().is_null() {
        return false;
    }
    CORE.set(ptr::from_ref(core));
    true
}

/// Ends what `enter` began.
pub(crate) fn leave() {
    CORE.set(ptr::null());
}
