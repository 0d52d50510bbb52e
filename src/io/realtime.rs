//! Making one thread's waits short: scheduling, memory, timers.
//!
//! None of it is needed for a correct answer, only for a fast one, so nothing
//! here fails the caller: [`enter`] tries, and reports what it got.
//!
//! *Overrun:* a real-time thread that never sleeps is throttled by
//! `sched_rt_runtime_us`. *Restart and shutdown:* all settings end with the
//! process; its children do not inherit the policy (`SCHED_RESET_ON_FORK`).

use std::fs;
use std::io;
use std::time::Duration;

use super::error::{attempt, checked};

/// Above all ordinary threads, below the kernel's interrupt threads (50).
const PRIORITY: libc::c_int = 10;
/// Timers may be late by this much, in nanoseconds.
const TIMER_SLACK: libc::c_ulong = 1;
/// Bit of `CAP_IPC_LOCK` in a capability set.
const CAP_IPC_LOCK: u32 = 14;

/// What [`enter`] got, for warnings. `Ok` means in force.
#[derive(Debug)]
pub struct Realtime {
    /// The calling thread runs before all ordinary threads. Needs
    /// `CAP_SYS_NICE` or `RLIMIT_RTPRIO` of at least 10.
    pub scheduler: io::Result<()>,
    /// The process' memory is not paged out. Needs `CAP_IPC_LOCK` or
    /// `RLIMIT_MEMLOCK` unlimited.
    pub memory: io::Result<()>,
    /// Timers of the calling thread go off when asked.
    pub timer_slack: io::Result<()>,
}

/// Makes the calling thread a real-time thread; locks the memory of the process.
pub fn enter() -> Realtime {
    Realtime {
        timer_slack: set_timer_slack(),
        memory: lock_memory(),
        scheduler: set_scheduler(PRIORITY),
    }
}

/// The processor time that the calling thread has used.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call. The clock exists on every kernel since 2.6.12.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets the calling thread run before all that have called [`enter`].
pub fn outrank() -> io::Result<()> {
    set_scheduler(PRIORITY + 1)
}

fn set_scheduler(priority: libc::c_int) -> io::Result<()> {
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: all-zero is a valid value of this C structure.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = priority;
    // SAFETY: `parameter` lives through the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    checked(result).map(drop).map_err(|error| attempt("set scheduling policy SCHED_FIFO", error))
}

/// Locks pages once they have been touched. Without `MCL_ONFAULT` the whole
/// reserved stack of every thread would become resident.
///
/// Under a finite limit this is not even tried: every later mapping, touched or
/// not, counts in full (`mlock_future_ok`), and the next thread to be started
/// would fail for lack of memory.
fn lock_memory() -> io::Result<()> {
    let attempted = |error| attempt("lock memory", error);
    if !may_lock_all() {
        let text = "needs CAP_IPC_LOCK or RLIMIT_MEMLOCK unlimited";
        return Err(attempted(io::Error::new(io::ErrorKind::PermissionDenied, text)));
    }
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: no pointers.
    checked(unsafe { libc::mlockall(flags) }).map(drop).map_err(attempted)
}

fn may_lock_all() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    known && limit.rlim_cur == libc::RLIM_INFINITY || has_capability(CAP_IPC_LOCK)
}

/// Is the capability in the effective set of the calling thread?
fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> bit & 1 == 1)
}

/// Real-time threads have no timer slack anyway since Linux 6.13
/// (`prctl` ignores the setting for them); this is for the case that
/// [`set_scheduler`] fails, and for older kernels.
fn set_timer_slack() -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK) })
        .map(drop)
        .map_err(|error| attempt("set the timer slack", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::is_root;

    #[test]
    fn a_thread_enters_real_time() {
        if !is_root() {
            return println!("skipped: needs root");
        }
        std::thread::spawn(|| {
            assert!(has_capability(CAP_IPC_LOCK) && !has_capability(63));
            let realtime = enter();
            // Memory belongs to the process, and so to the other tests too.
            // SAFETY: no pointers.
            unsafe { libc::munlockall() };
            realtime.timer_slack.unwrap();
            realtime.memory.unwrap();
            realtime.scheduler.unwrap();
            // SAFETY: no pointers.
            let policy = unsafe { libc::sched_getscheduler(0) };
            assert_eq!(policy, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK);
        })
        .join()
        .unwrap();
    }
}
