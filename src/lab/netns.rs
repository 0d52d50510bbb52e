//! Network namespaces held as open file descriptors.
//!
//! An *unnamed* namespace lives exactly as long as the descriptor and the
//! processes inside it, so nothing stays behind however the lab ends. A *named*
//! one is what `ip netns` shows, and stays until it is deleted.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};

/// One network namespace; clones refer to the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Creates a namespace without a name.
    pub fn unnamed() -> Result<Self> {
        // A thread of its own: the namespace of the caller must not change.
        let made = thread::spawn(|| {
            // SAFETY: unshare takes no pointers and changes this thread only.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .expect("the thread only makes two system calls")
            .context("create a network namespace; the lab needs root, so try sudo")?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Creates a namespace under a name, as `ip netns add` does.
    pub fn named(name: &str) -> Result<Self> {
        ip_netns("add", name)?;
        Self::open(name)
    }

    /// Opens the namespace `name`.
    pub fn open(name: &str) -> Result<Self> {
        let path = named_path(name);
        let file =
            File::open(&path).with_context(|| format!("open namespace {}", path.display()))?;
        Ok(Self { file: Arc::new(file) })
    }

    /// The path by which another process, such as `ip link set netns`, can name
    /// this namespace while the lab runs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes no pointers; the descriptor is open while `self` lives.
        check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter().context("enter a network namespace of the lab")?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        // SAFETY: setns and sigprocmask are async-signal-safe and allocate nothing.
        // The lab blocks the signals it waits for; its children must not inherit that.
        unsafe {
            command.pre_exec(move || {
                namespace.enter()?;
                let mut none = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))
            });
        }
        command
    }

    /// Sets kernel parameters, given as paths below `/proc/sys/net`. One that this
    /// kernel does not have needs no setting: its feature is not there.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/net/{key}");
                match std::fs::write(&path, value) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    written => written.with_context(|| format!("write {value} to {path}"))?,
                }
            }
            Ok(())
        })
    }
}

/// Whether a namespace of this name exists.
pub fn is_named(name: &str) -> bool {
    named_path(name).exists()
}

/// Deletes the name; the namespace ends with its last process.
pub fn delete_named(name: &str) -> Result<()> {
    ip_netns("delete", name)
}

/// Where `ip netns` keeps the namespace `name`.
pub fn named_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

fn ip_netns(verb: &str, name: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", verb, name])
        .output()
        .context("run `ip`; the lab needs the package iproute2")?;
    if !output.status.success() {
        bail!(
            "`ip netns {verb} {name}` failed: {}; the lab needs root, so try sudo",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The result of a system call that reports failure by a negative number.
pub fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
