//! Scheduling of the threads whose delays would be measured as the path's.
//!
//! A kernel that preempts lazily lets a thread that wakes wait for the end of another's tick, up to
//! 4 ms: many times what the NICs take. The built-in endpoints of a comparison therefore run before
//! ordinary threads, in every mode alike, where that is allowed.

/// Below the daemons and the delay line, whose work the endpoints wait for.
const PRIORITY: libc::c_int = 2;

/// Lets the calling thread run before all ordinary ones: sched_setscheduler(SCHED_FIFO), which
/// needs CAP_SYS_NICE or RLIMIT_RTPRIO. Threads it starts are ordinary again. Returns whether that
/// was allowed.
pub fn run_first() -> bool {
    run_at(PRIORITY)
}

/// Lets the calling thread run at real-time `priority` (1–99), as [`run_first`] does at its own.
pub fn run_at(priority: i32) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a sched_param that lives through the call; 0 is this thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) == 0
    }
}

/// Tells whether [`run_first`] is allowed, without changing the calling thread.
pub fn is_allowed() -> bool {
    std::thread::scope(|scope| scope.spawn(run_first).join().unwrap_or(false))
}
