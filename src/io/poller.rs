//! Waiting for sockets, and for a point in time to the nanosecond.
//!
//! `epoll_wait` counts in milliseconds; `epoll_pwait2` (Linux 5.11) takes a
//! `timespec`. On an older kernel, or under a filter that refuses it with
//! `ENOSYS`, a `timerfd` among the watched descriptors does the same for one more
//! system call. All watches are level-triggered: what was not read is reported again.
//!
//! *Overrun* does not apply. *Restart and shutdown:* nothing is kept.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::error::{attempt, checked};

/// The most descriptors reported by one wait; more follow with the next.
const EVENTS: usize = 16;
/// Token of the poller's own timer.
const TIMER: u64 = u64::MAX;

/// A set of watched descriptors.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    /// In use once `epoll_pwait2` has turned out to be missing.
    timer: Option<OwnedFd>,
}

/// The tokens of descriptors that have something to read (or an error, which
/// reading will report). Empty when the time is up or a signal came.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    tokens: [u64; EVENTS],
    count: usize,
}

impl Ready {
    /// The tokens.
    pub fn tokens(&self) -> &[u64] {
        &self.tokens[..self.count]
    }

    /// Is `token` among them?
    pub fn contains(&self, token: u64) -> bool {
        self.tokens().contains(&token)
    }
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let epoll = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
            .map_err(|error| attempt("create an epoll descriptor", error))?;
        // SAFETY: a new descriptor that nobody else has.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self { epoll, timer: None })
    }

    /// Watches `source` for input. `token` names it in [`Ready`]; all are free
    /// but `u64::MAX`. The watch ends when `source` is closed.
    pub fn add(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` lives through the call.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                source.as_raw_fd(),
                &raw mut event,
            )
        };
        checked(result).map(drop).map_err(|error| attempt("watch a descriptor", error))
    }

    /// Waits for input, at most `timeout` (`None`: without end).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Ready> {
        // SAFETY: all-zero is a valid value of this C structure.
        let mut events: [libc::epoll_event; EVENTS] = unsafe { std::mem::zeroed() };
        let count = match self.wait_events(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result.map_err(|error| attempt("wait for events", error))?,
        };
        let mut ready = Ready { tokens: [0; EVENTS], count: 0 };
        for event in &events[..count] {
            if event.u64 != TIMER {
                ready.tokens[ready.count] = event.u64;
                ready.count += 1;
            }
        }
        Ok(ready)
    }

    fn wait_events(
        &mut self,
        events: &mut [libc::epoll_event; EVENTS],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        if self.timer.is_none() {
            match pwait2(&self.epoll, events, timeout) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                    self.timer = Some(self.add_timer()?);
                }
                result => return result,
            }
        }
        let milliseconds = match (&self.timer, timeout) {
            (_, Some(Duration::ZERO)) => 0,
            (Some(timer), timeout) => {
                set_timer(timer, timeout.unwrap_or_default())?;
                -1
            }
            (None, _) => -1,
        };
        // SAFETY: room for `EVENTS` events.
        let result = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as i32,
                milliseconds,
            )
        };
        checked(result).map(|count| count as usize)
    }

    fn add_timer(&self) -> io::Result<OwnedFd> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers; the result is a new descriptor that nobody else has.
        let timer = unsafe {
            OwnedFd::from_raw_fd(checked(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags))?)
        };
        self.add(&timer, TIMER)?;
        Ok(timer)
    }
}

/// `struct __kernel_timespec`: 64 bits on every architecture.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

fn pwait2(
    epoll: &OwnedFd,
    events: &mut [libc::epoll_event; EVENTS],
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let timeout = timeout.map(|timeout| KernelTimespec {
        seconds: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        nanoseconds: timeout.subsec_nanos().into(),
    });
    let no_mask = ptr::null::<libc::sigset_t>();
    // SAFETY: room for `EVENTS` events; the time lives through the call; a null
    // signal mask means that the mask stays.
    let result = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            EVENTS as libc::c_int,
            timeout.as_ref().map_or(ptr::null(), ptr::from_ref),
            no_mask,
            0usize,
        )
    };
    checked(result as libc::c_int).map(|count| count as usize)
}

/// Sets the timer to go off once after `delay`; zero switches it off. Also
/// takes back an earlier expiry.
fn set_timer(timer: &OwnedFd, delay: Duration) -> io::Result<()> {
    let setting = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: delay.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: delay.subsec_nanos() as _,
        },
    };
    // SAFETY: `setting` lives through the call; the old setting is not wanted.
    let result =
        unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const setting, ptr::null_mut()) };
    checked(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Instant;

    fn reports_input_and_time(mut poller: Poller) {
        let (mut reader, mut writer) = io::pipe().unwrap();
        poller.add(&reader, 5).unwrap();

        let wait = Duration::from_micros(300);
        let before = Instant::now();
        assert!(poller.wait(Some(wait)).unwrap().tokens().is_empty());
        assert!(before.elapsed() >= wait);
        assert!(poller.wait(Some(Duration::ZERO)).unwrap().tokens().is_empty());

        writer.write_all(b"x").unwrap();
        assert_eq!(poller.wait(None).unwrap().tokens(), [5]);
        let ready = poller.wait(Some(Duration::from_secs(1))).unwrap();
        assert!(ready.contains(5) && !ready.contains(4), "level-triggered");
        reader.read_exact(&mut [0]).unwrap();
        assert!(poller.wait(Some(wait)).unwrap().tokens().is_empty());
        drop(writer);
        assert_eq!(poller.wait(None).unwrap().tokens(), [5], "end of file");
    }

    #[test]
    fn with_epoll_pwait2() {
        reports_input_and_time(Poller::new().unwrap());
    }

    #[test]
    fn with_a_timerfd() {
        let mut poller = Poller::new().unwrap();
        poller.timer = Some(poller.add_timer().unwrap());
        reports_input_and_time(poller);
    }
}
