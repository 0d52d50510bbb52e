//! The daemon beside the module: it uses it, says so, and takes back what it asked for.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::inside::world::{unload, wait_until};
use crate::inside::{is_guest, is_loaded, say, shell};

const VIP: &str = "10.77.0.2";
const SECOND: &str = "10.77.0.3";
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

#[test]
#[ignore = "runs in a guest"]
fn the_daemon_uses_the_module_and_says_so() {
    if !is_guest() {
        return;
    }
    shell("modprobe clusterd");
    shell("clusterd lab up --nodes 1 --guard rst");
    says_what_it_uses("h1", false);
    shell("clusterd lab down");

    let lab = shell("clusterd lab up --json --guard strict");
    let lab: Value = serde_json::from_str(&lab).expect("lab up is JSON");
    HOSTS.iter().for_each(|host| says_what_it_uses(host, true));
    evidence();
    // One leaves, one is killed.
    let pid = |host: usize| lab["hosts"][host]["daemon_pid"].as_u64().expect("a process id");
    assert_ne!(in_module("h1"), "");
    shell(&format!("kill {}", pid(0)));
    wait_until("the daemon has taken its address back", || in_module("h1").is_empty());
    shell(&format!("kill -KILL {}", pid(1)));
    assert_ne!(in_module("h2"), "", "its connections go on");
    wait_until("the killed daemon is gone", || {
        shell("clusterd lab exec h2 clusterd cleanup").contains("removed what was left")
    });
    assert_eq!(in_module("h2"), "");
    assert!(is_loaded());
    shell("clusterd lab down");
    further_virtual_ips_go_too();
    unload();
}

/// Also if the interface goes first, by which the daemon ends, and with it the notes of a killed one.
fn further_virtual_ips_go_too() {
    let up = format!("clusterd lab up --json --nodes 2 --guard strict --daemon-arg={SECOND}");
    let lab: Value = serde_json::from_str(&shell(&up)).expect("lab up is JSON");
    for host in &HOSTS[..2] {
        let listed = in_module(host);
        assert!(listed.contains(&format!("{VIP} ")) && listed.contains(&format!("{SECOND} ")));
    }
    let pid = lab["hosts"][1]["daemon_pid"].as_u64().expect("a process id");
    shell(&format!("kill -KILL {pid}"));
    HOSTS[..2]
        .iter()
        .for_each(|host| drop(shell(&format!("clusterd lab exec {host} ip link del eth0"))));
    wait_until("the daemon has ended", || in_module("h1").is_empty());
    wait_until("the killed daemon is gone", || {
        shell("clusterd lab exec h2 clusterd cleanup").contains("removed what was left")
    });
    assert_eq!(in_module("h2"), "");
    shell("clusterd lab down");
}

/// In its status and in its log.
fn says_what_it_uses(host: &str, gate: bool) {
    let module = &status(host)["kernel_module"];
    assert_eq!(module["gate"], gate, "{host}: {module}");
    let version = fs::read_to_string("/sys/module/clusterd/version").expect("a version");
    assert_eq!(module["version"], version.trim(), "{host}");
    let log = fs::read_to_string(format!("/run/clusterd-lab/lab/{host}.log"));
    let log = log.expect("read a host's log");
    assert!(log.contains("the kernel module sets the packet type"), "{log}");
    assert_eq!(log.contains("is the gate of guard strict"), gate, "{log}");
}

/// All hosts answer, and those that the client did not choose learn it from the gate.
fn evidence() {
    let total = |what: [&str; 2]| -> u64 {
        let of = |host: &&str| status(host)[what[0]][what[1]].as_u64().expect("a count");
        HOSTS.iter().map(of).sum()
    };
    lose_claims();
    wait_until("a host learns that it was not chosen", || {
        shell(&format!("echo hello | clusterd lab exec client nc {VIP} 80 | grep '^h'"));
        total(["protocol", "not_chosen"]) > 0
    });
    assert!(total(["kernel_module", "wrong"]) > 0);
    say(&format!(
        "not chosen {}, stopped at the gate {} + {}",
        total(["protocol", "not_chosen"]),
        total(["kernel_module", "wrong"]),
        total(["kernel_module", "unknown"])
    ));
}

/// Sequence numbers that differ by tens only, as hosts on one kernel have them, are no trouble for
/// the gate, even if all hosts answer.
#[test]
#[ignore = "runs in a guest"]
fn the_gate_tells_hosts_apart_that_share_a_kernel() {
    if !is_guest() {
        return;
    }
    shell("modprobe clusterd");
    let said = shell(
        "clusterd lab run --guard strict --isn shared --claim-loss 100% --connections 100 \
         --concurrency 8 2>/dev/null",
    );
    for line in
        said.lines().filter(|line| line.contains("second SYN-ACKs") || line.contains("failed"))
    {
        say(line);
    }
    unload();
}

fn status(host: &str) -> Value {
    let line = format!("clusterd lab exec {host} clusterd status --json {VIP}");
    serde_json::from_str(&shell(&line)).expect("status is JSON")
}

fn in_module(host: &str) -> String {
    let output = Command::new("clusterd")
        .args(["lab", "exec", host, "cat", "/proc/net/clusterd"])
        .output()
        .expect("run lab exec");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The switch loses all claims, so that more than one host answers.
fn lose_claims() {
    shell(
        "clusterd lab exec switch nft -f - <<'END'
table netdev loss {
    chain to_hosts {
        type filter hook egress devices = { h1, h2, h3 } priority 0
        ip protocol 150 drop
    }
}
END",
    );
}
