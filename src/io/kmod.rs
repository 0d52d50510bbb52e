//! The kernel module `clusterd` (`kmod/`), if it is loaded.
//!
//! It has a file in each network namespace: a line written adds or removes a virtual IP, and each
//! line read is one. What was added stays without the daemon, as rules do, and until it is
//! removed the module cannot be unloaded.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;

use serde::Serialize;

use super::error::attempt;

const PROC: &str = "/proc/thread-self/net/clusterd";
const VERSION: &str = "/sys/module/clusterd/version";

/// The module, loaded and open to this process.
#[derive(Clone, Copy, Debug)]
pub struct Module(());

impl Module {
    /// None if it is not loaded; an error if this process may not use it.
    pub fn find() -> io::Result<Option<Self>> {
        match OpenOptions::new().write(true).open(PROC) {
            Ok(_) => Ok(Some(Self(()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(attempt(format!("open {PROC}"), error)),
        }
    }

    /// From now on frames to `vip` have the packet type *host*. With a `gate`, which is a log
    /// group, only those of a client that has chosen this host get to TCP, and what acknowledges
    /// another host's answer instead of this one's is copied to the group. Replaces what was
    /// asked for `vip` before.
    pub fn add(self, vip: IpAddr, gate: Option<u16>) -> io::Result<()> {
        match gate {
            Some(group) => write(&format!("+{vip} gate log={group}")),
            None => write(&format!("+{vip}")),
        }
    }
}

/// Takes these virtual IPs out of the module, in which they may not be.
pub fn remove(vips: &BTreeSet<IpAddr>) -> io::Result<()> {
    // Who may not write there has put nothing there.
    for vip in self::vips()?.iter().filter(|vip| vips.contains(vip)) {
        match write(&format!("-{vip}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// The virtual IPs in the module, in this network namespace.
fn vips() -> io::Result<Vec<IpAddr>> {
    Ok(listing()?.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}

/// What the module does for the virtual IPs of a cluster, and how often it has for all of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Version of the module.
    version: String,
    /// It is the strict gate, too.
    gate: bool,
    /// Packets whose type it has set.
    rewritten: u64,
    /// Packets that acknowledged what another host had answered, where this one had answered, too.
    wrong: u64,
    /// Packets of other hosts' connections.
    unknown: u64,
}

/// None if the module is not loaded, or has nothing to do for any of `vips`.
pub fn status(vips: &BTreeSet<IpAddr>) -> Option<Status> {
    let version = fs::read_to_string(VERSION).ok()?;
    total(&listing().ok()?, vips, version.trim_end())
}

fn total(listing: &str, vips: &BTreeSet<IpAddr>, version: &str) -> Option<Status> {
    let each = listing.lines().filter_map(|line| parse(line, vips, version));
    each.reduce(|all, one| Status {
        version: all.version,
        gate: all.gate && one.gate,
        rewritten: all.rewritten.saturating_add(one.rewritten),
        wrong: all.wrong.saturating_add(one.wrong),
        unknown: all.unknown.saturating_add(one.unknown),
    })
}

fn parse(line: &str, vips: &BTreeSet<IpAddr>, version: &str) -> Option<Status> {
    let mut words = line.split(' ');
    if !vips.contains(&words.next()?.parse().ok()?) {
        return None;
    }
    let mut status =
        Status { version: version.to_owned(), gate: false, rewritten: 0, wrong: 0, unknown: 0 };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let count = value.parse().ok()?;
        match name {
            "gate" => status.gate = count != 0,
            "rewritten" => status.rewritten = count,
            "wrong" => status.wrong = count,
            "unknown" => status.unknown = count,
            _ => {}
        }
    }
    Some(status)
}

/// Empty if the module is not loaded.
fn listing() -> io::Result<String> {
    match fs::read_to_string(PROC) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        outcome => outcome.map_err(|error| attempt(format!("read {PROC}"), error)),
    }
}

fn write(command: &str) -> io::Result<()> {
    let written = OpenOptions::new().write(true).open(PROC).and_then(|mut file| {
        // The module takes what is written at once as one command.
        file.write_all(command.as_bytes())
    });
    written.map_err(|error| attempt(format!("write {command} to {PROC}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_cluster() {
        let listing = "10.0.0.2 gate=1 log=16386 rewritten=18446744073709551615 wrong=2 unknown=3\n\
                       2001:db8::2 gate=1 log=16386 rewritten=1 wrong=20 unknown=30\n\
                       10.0.0.20 gate=0 rewritten=7 wrong=200 unknown=300\n";
        let of = |vips: &[&str]| {
            let vips = vips.iter().map(|vip| vip.parse().expect("an address")).collect();
            total(listing, &vips, "0.1.0").map(|it| (it.gate, it.rewritten, it.wrong, it.unknown))
        };
        assert_eq!(of(&["10.0.0.2"]), Some((true, u64::MAX, 2, 3)));
        assert_eq!(of(&["10.0.0.2", "2001:db8::2"]), Some((true, u64::MAX, 22, 33)));
        assert_eq!(of(&["10.0.0.20", "10.0.0.21"]), Some((false, 7, 200, 300)));
        assert_eq!(of(&["10.0.0.21"]), None);
    }
}
