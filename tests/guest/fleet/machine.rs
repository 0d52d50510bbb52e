//! One guest of several: its own kernel, a cable, and somebody inside who runs what the test says.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::namespace::Namespace;
use crate::cache;
use crate::image::Image;
use crate::packages::Kernel;
use crate::qemu::qemu;

/// Only a guest that hangs takes so long. It may have to share the machine with everything else.
const PATIENCE: Duration = Duration::from_secs(600);
/// No complaint that this guest was not let run, and no clock but the one that the machine has: how long
/// things take says nothing about the kernel.
const KERNEL: &str = "tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1";

/// What a line of the shell came to, see `inside/agent.rs`.
#[derive(Deserialize)]
struct Answer {
    status: i32,
    output: String,
}

/// A booted guest, until dropped.
pub struct Machine {
    pub name: String,
    child: Child,
    orders: RefCell<ChildStdin>,
    answers: Receiver<Answer>,
}

impl Machine {
    /// Starts to boot; the guest's only interface is the other end of `tap`.
    pub fn start(kernel: &Kernel, image: &Image, number: u8, segment: &Namespace) -> Self {
        let name = format!("h{number}");
        let log = cache().join(format!("{}-{name}.log", kernel.release));
        let mut command = qemu(kernel, image, &format!("{KERNEL} task=agent"));
        command
            .args(["-m", "512"])
            .args(["-netdev", &format!("tap,id=cable,ifname={name},script=no,downscript=no")])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=cable,romfile=,mac=02:00:00:00:00:{number:02x}"),
            ])
            .args(["-serial", &format!("file:{}", log.display()), "-serial", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = match segment.confine(&mut command).spawn() {
            Ok(child) => child,
            Err(error) => panic!("qemu-system-x86_64 (package qemu-system-x86): {error}"),
        };
        let orders = child.stdin.take().expect("the guest's second console");
        let output = child.stdout.take().expect("the guest's second console");
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line);
                let answer = answer.unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        Self { name, child, orders: RefCell::new(orders), answers }
    }

    /// Waits until the guest has booted.
    pub fn wait(&self) {
        self.answer();
    }

    /// Runs a line of the shell in the guest, which must succeed.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let order = serde_json::to_string(line).expect("a line as JSON");
        writeln!(self.orders.borrow_mut(), "{order}").expect("talk to the guest");
        let Answer { status, output } = self.answer();
        assert_eq!(status, 0, "{}: {line}\n{output}", self.name);
        output
    }

    #[track_caller]
    fn answer(&self) -> Answer {
        let answer = self.answers.recv_timeout(PATIENCE);
        answer.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name))
    }

    /// Starts the daemon; it is not ready yet.
    pub fn start_daemon(&self, vip: IpAddr, options: &str) {
        self.shell(&format!(
            "clusterd eth0 {vip} --no-state {options} >>/run/daemon.log 2>&1 & echo $! >/run/daemon"
        ));
    }

    /// Sends the daemon a signal that ends it.
    pub fn signal_daemon(&self, signal: &str) {
        self.shell(&format!("[ ! -e /run/daemon ] || kill -{signal} $(cat /run/daemon)"));
    }

    /// Waits until the daemon has ended, if there was one.
    pub fn await_end_of_daemon(&self) {
        self.shell(
            "[ ! -e /run/daemon ] || {
                 while kill -0 $(cat /run/daemon) 2>/dev/null; do sleep 0.2; done
                 rm /run/daemon
             }",
        );
    }

    /// What `clusterd status --json` says, once the daemon answers.
    pub fn status(&self, vip: IpAddr) -> Value {
        let text = self.shell(&format!("clusterd status --json {vip} 2>/dev/null || true"));
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Stops the whole guest, or lets it go on: to all others it is dead meanwhile.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: kill takes no pointers; the child has not been waited for, so its id is its own.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "{}: {}", self.name, std::io::Error::last_os_error());
    }

    /// Panics with what the kernel has to complain about.
    pub fn check(&self) {
        let complaints = "WARNING:|BUG:|Oops|suspicious RCU";
        let found = self.shell(&format!("dmesg | grep -E -A 30 '{complaints}' || true"));
        assert_eq!(found, "", "{}", self.name);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
