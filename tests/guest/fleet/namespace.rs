//! Network namespaces without a name: nothing is left of them once the test has ended, in whatever way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use crate::succeed;

/// A namespace that lives as long as this and what was started in it.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            // SAFETY: unshare takes no pointers; the thread ends here and nobody else is in it.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "make a namespace: {}", io::Error::last_os_error());
            File::open("/proc/thread-self/ns/net").expect("open the namespace")
        });
        let namespace = Self(file.join().expect("make a namespace"));
        namespace.shell("ip link set lo up");
        namespace
    }

    /// What `ip link set ... netns` takes for it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Makes a command start inside, and end when the thread that starts it ends.
    pub fn confine<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let namespace = self.0.as_raw_fd();
        let enter = move || {
            // SAFETY: these take no pointers; the descriptor is open, since a spawned command holds
            // on to what it was made of until it has started.
            let results = unsafe {
                [
                    libc::setns(namespace, libc::CLONE_NEWNET),
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
                ]
            };
            if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(enter) }
    }

    /// Runs a line of the shell that must succeed.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        succeed(self.confine(Command::new("sh").args(["-ec", line])))
    }

    /// Runs `work` on a thread inside; sockets made there stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: setns takes no pointers; the descriptor is open.
                let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "enter a namespace: {}", io::Error::last_os_error());
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
