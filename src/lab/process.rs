//! Processes of the lab's hosts: their start, their signals and their last words.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::netns::check;

/// Lines of stderr kept to explain an unexpected exit.
const LAST_LINES: usize = 20;

/// Time for a report of an interrupted run.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// What a process told the lab by way of its stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It printed a line with the word `ready`.
    Ready,
    /// It closed its stderr: it is gone.
    Gone,
}

/// A process that ends when the lab does, however the lab ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its end has been waited for: its process id may belong to another by now.
    reaped: bool,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts `command` under a name for messages.
    ///
    /// The kernel kills the process when the calling *thread* ends, so this is
    /// for the main thread. `sign` is called from a thread that follows stderr.
    pub fn start(
        name: String,
        mut command: Command,
        verbose: bool,
        sign: impl Fn(Sign) + Send + 'static,
    ) -> Result<Self> {
        let lab = std::process::id();
        // SAFETY: prctl, getppid and _exit are async-signal-safe and take no pointers.
        unsafe {
            command.pre_exec(move || {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                // The lab may have ended before the line above.
                if libc::getppid() as u32 != lab {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        // A process group of its own: Ctrl-C is for the lab, which stops the rest.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stderr = child.stderr.take().expect("stderr was requested as a pipe");
        let log = Arc::default();
        let process = Self { name, child, reaped: false, log: Arc::clone(&log) };
        let prefix = verbose.then(|| process.name.clone());
        thread::Builder::new()
            .name(format!("log {}", process.name))
            .spawn(move || follow(stderr, prefix.as_deref(), &log, sign))
            .context("start a thread to read a log")?;
        Ok(process)
    }

    /// What the process is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the process has ended with the lab's knowledge.
    pub fn is_reaped(&self) -> bool {
        self.reaped
    }

    /// Starts named commands and waits until each has said that it is ready.
    pub fn start_ready(commands: Vec<(String, Command)>, patience: Duration) -> Result<Vec<Self>> {
        let mut started = Vec::new();
        for (name, command) in commands {
            let (sender, signs) = mpsc::channel();
            let process = Self::start(name, command, false, move |sign| {
                // Nobody listens any more once it is ready.
                sender.send(sign).ok();
            })?;
            started.push((process, signs));
        }
        let ready = |(mut process, signs): (Self, mpsc::Receiver<Sign>)| match signs
            .recv_timeout(patience)
        {
            Ok(Sign::Ready) => Ok(process),
            Ok(Sign::Gone) => bail!(process.epitaph()?),
            Err(_) => bail!("{} is not ready after {patience:?}", process.name),
        };
        started.into_iter().map(ready).collect()
    }

    /// CPU time of all its threads so far, kernel work done on their account included.
    pub fn cpu_time(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut nanoseconds = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("read {}", path.display()))?;
            let first = text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
            nanoseconds += first.with_context(|| format!("{} has no time", path.display()))?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
            .map(|kib: u64| kib << 10)
            .with_context(|| format!("{path} has no VmRSS"))
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        if self.reaped {
            return Ok(());
        }
        // SAFETY: kill takes no pointers, and the process id is still the child's.
        check(unsafe { libc::kill(self.child.id() as libc::pid_t, signal) })
            .with_context(|| format!("send signal {signal} to {}", self.name))
    }

    /// Asks the process to end, and waits until it has.
    pub fn terminate(&mut self) -> Result<()> {
        if self.reaped {
            return Ok(());
        }
        self.signal(libc::SIGTERM)?;
        self.reap().map(drop)
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.reap().map(drop)
    }

    /// Waits for the end of a process that gave [`Sign::Gone`]: its exit status
    /// and its last words.
    pub fn epitaph(&mut self) -> Result<String> {
        let status = self.reap()?;
        let log = self.log.lock().expect("the log reader does not panic");
        let mut text = format!("{} ended unexpectedly ({status})", self.name);
        if log.is_empty() {
            text += " and wrote nothing";
        }
        for line in log.iter() {
            text += "\n    ";
            text += line;
        }
        Ok(text)
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without a wait a zombie would keep the namespace alive until the lab ends.
        let _ = self.kill();
    }
}

fn follow(
    stderr: ChildStderr,
    prefix: Option<&str>,
    log: &Mutex<VecDeque<String>>,
    sign: impl Fn(Sign),
) {
    let mut ready = false;
    // A log need not be UTF-8, and must be drained in any case.
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(prefix) = prefix {
            eprintln!("{prefix}: {line}");
        }
        if !ready && says_ready(&line) {
            ready = true;
            sign(Sign::Ready);
        }
        let mut log = log.lock().expect("nobody panics while holding the log");
        if log.len() == LAST_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
    sign(Sign::Gone);
}

/// Whether a line of a daemon's or service's log says that it answers.
pub fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready")
}

/// Starts `command` so that it outlives the lab, with its output in `log`.
pub fn start_detached(name: &str, mut command: Command, log: &File) -> Result<Child> {
    // SAFETY: setsid is async-signal-safe and takes no pointers.
    unsafe { command.pre_exec(|| check(libc::setsid())) };
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("duplicate a log file")?)
        .stderr(log.try_clone().context("duplicate a log file")?)
        .spawn()
        .with_context(|| format!("start {name}"))
}

/// Raises the limit of open descriptors as far as allowed; each connection takes one.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local of the right type; a failure leaves the
    // limit as it was, and the connections beyond it will say so.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Blocks the signals that end a run and tells `interrupted` of the first. If the
/// process is still there some seconds later, it ends then; that is safe, since
/// nothing of a run outlives it.
///
/// To be called before any other thread starts, since threads inherit the mask.
pub fn on_interrupt(interrupted: impl Fn() + Send + 'static) -> Result<()> {
    // SAFETY: the pointers are to locals of the right type, initialised by sigemptyset.
    let signals = unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut signals, signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()))
            .context("block signals")?;
        signals
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers are to live values of the right type.
            unsafe { libc::sigwait(&signals, &mut signal) };
            interrupted();
            // `timeout` and some shells send a signal twice: a second one is no
            // sign of impatience, so the clock decides.
            thread::sleep(INTERRUPT_GRACE);
            std::process::exit(128 + signal);
        })
        .context("start a thread to wait for signals")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_a_word() {
        assert!(says_ready("2026-01-01 INFO clusterd: ready, 10.77.0.2 on eth0"));
        assert!(says_ready("ready: h1"));
        assert!(!says_ready("already answering"));
        assert!(!says_ready(""));
    }
}
