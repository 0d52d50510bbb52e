//! A guest, from its start to its verdict.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::packages::Kernel;
use crate::{cache, note};

/// What the guest prints at the end, if all went well. QEMU ends with 0 after a panic, too.
const PASS: &str = "guest: PASS";
/// What is worth saying even if all went well.
const PREFIX: &str = "guest: ";
/// Only a guest that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(1500);

/// Nanoseconds of the guest's clock for each of its instructions: a processor of 250 million a second. With
/// a faster one kernel 6.1 does not get through the calibration of its own clocks.
pub const INSTRUCTION: u32 = 4;

/// QEMU as all guests need it: emulating, with one processor, booting from memory; `append` is for the
/// guest's kernel and `init.sh`.
pub fn qemu(kernel: &Kernel, image: &Image, append: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=single", "-smp", "1", "-cpu", "max", "-machine", "q35"])
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(&image.0)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 oops=panic loglevel=4 {append}"));
    command
}

/// A booted kernel.
pub struct Guest {
    child: Child,
}

impl Guest {
    /// Boots a kernel, and panics unless the guest says that it has passed.
    ///
    /// Its clock counts instructions, [`INSTRUCTION`] each, and jumps when the processor sleeps:
    /// however busy the machine at hand is, no deadline passes early in the guest. It has one processor:
    /// several on threads of their own do not survive a kernel that patches its own code while
    /// they run it, as it does for each first and last hook ("Oops: int3" in ip_rcv), and
    /// several that take turns on one thread wait for each other for most of the time.
    pub fn run(kernel: &Kernel, image: &Image, task: &str) {
        let mut command = qemu(kernel, image, &format!("task={task}"));
        command
            .args(["-icount", &format!("shift={},sleep=off", INSTRUCTION.ilog2())])
            .args(["-m", "1024", "-nic", "none", "-serial", "stdio"]);
        let start = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = match child.spawn() {
            Ok(child) => child,
            Err(error) => panic!("qemu-system-x86_64 (package qemu-system-x86): {error}"),
        };
        let log = Self { child }.watch(&format!("{}-{task}.log", kernel.release));
        assert!(log.lines().any(|line| line == PASS), "{}: {task}\n{log}", kernel.release);
        note(&format!("{}: {task} in {} s", kernel.release, start.elapsed().as_secs()));
        let said = log.lines().filter_map(|line| line.strip_prefix(PREFIX));
        said.for_each(|line| note(&format!("{}: {line}", kernel.release)));
    }

    /// All that the guest prints until its end, also kept in a file of this name, there with the
    /// seconds that have passed here.
    fn watch(mut self, name: &str) -> String {
        let output = self.child.stdout.take().expect("the guest's console");
        let mut file = File::create(cache().join(name)).expect("create the log");
        let start = Instant::now();
        let reader = std::thread::spawn(move || {
            let mut log = String::new();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                let seconds = start.elapsed().as_secs();
                writeln!(file, "{seconds:3} {line}").expect("write the log");
                log.push_str(line);
                log.push('\n');
            }
            log
        });
        while !reader.is_finished() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self);
        reader.join().expect("read the guest's console")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended, or never will.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
