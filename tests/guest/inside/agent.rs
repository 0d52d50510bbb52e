//! Runs in the guest what the test outside says: lines of the shell come as JSON strings on the second
//! serial console, and what each comes to goes back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use serde_json::json;

use super::is_guest;

#[test]
#[ignore = "runs in a guest"]
fn serve() {
    if !is_guest() {
        return;
    }
    let console = File::options().read(true).write(true).open("/dev/ttyS1");
    let console = console.expect("open the second console");
    make_raw(&console).expect("take the console as a plain cable");
    let answer = |status: i32, output: &str| {
        let line = json!({ "status": status, "output": output });
        writeln!(&console, "{line}").expect("answer");
    };
    // Whoever starts this waits until it can be heard.
    answer(0, "");
    for order in BufReader::new(&console).lines() {
        let order: String = serde_json::from_str(&order.expect("hear")).expect("a JSON string");
        let output = Command::new("sh")
            .args(["-ec", &format!("exec 2>&1\n{order}")])
            .stdin(Stdio::null())
            .output()
            .expect("run the shell");
        answer(output.status.code().unwrap_or(-1), &String::from_utf8_lossy(&output.stdout));
    }
}

/// No echo, no signals, no other line ends.
fn make_raw(terminal: &File) -> io::Result<()> {
    // SAFETY: all bytes zero is a valid termios, and the pointers are to it.
    let result = unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings);
        libc::cfmakeraw(&raw mut settings);
        libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
