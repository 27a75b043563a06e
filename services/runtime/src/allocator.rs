//! The allocator of every process that serves: what one thread allocates and another frees, as
//! calls do, costs mimalloc less than the system's allocator.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives the system back what this thread has freed: who has loaded a model has freed more than is
/// ever needed again, and the allocator would keep it for them.
#[expect(
    unsafe_code,
    reason = "the allocator's own call for that, which has no precondition"
)]
pub fn give_memory_back() {
    // SAFETY: it only touches memory that nobody has.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
