//! The allocator of every process that serves. Calls allocate on one thread and free on another,
//! which costs mimalloc less than the system's allocator.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Returns memory that this thread has freed to the system. Loading a model frees more than is
/// needed again, and the allocator would keep it.
#[expect(
    unsafe_code,
    reason = "the allocator's own call for that, which has no precondition"
)]
pub fn give_memory_back() {
    // SAFETY: the call only touches memory that is freed already.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
