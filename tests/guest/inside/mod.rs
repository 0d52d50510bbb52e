//! What runs in a guest: the ignored tests of this binary, started by `init.sh`.

mod agent;
mod figures;
mod module;
mod prober;
mod world;

use std::path::Path;
use std::process::Command;

/// Is this a guest? `cargo test -- --ignored` must not touch the machine at hand.
fn is_guest() -> bool {
    let guest = std::env::var_os("CLUSTERD_GUEST").is_some();
    if !guest {
        crate::note("skipped: only for a guest");
    }
    guest
}

/// Says something that the host's log of the tests is to hold, too.
fn say(text: &str) {
    println!("\nguest: {text}");
}

/// Runs a line of the shell that must succeed.
#[track_caller]
fn shell(line: &str) -> String {
    crate::succeed(Command::new("sh").args(["-ec", line]))
}

/// The whole log of the kernel.
fn dmesg() -> String {
    shell("dmesg")
}

/// Is the module loaded?
fn is_loaded() -> bool {
    Path::new("/sys/module/clusterd").exists()
}
