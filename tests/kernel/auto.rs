//! `--mac auto`.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::doctor::stop_daemons;
use crate::dumps::assert_unchanged;
use crate::rig::{FAMILIES, Lab, VIP, end, wait_until};
use crate::tools::without;

/// Starts a daemon that chooses its mode. It is ended by the lab, which kills what runs in it.
fn start(lab: &Lab, host: usize, program: &str) -> Child {
    let vip = lab.vip().to_string();
    let words = [program, "eth0", &vip, "--mac", "auto", "--no-state"];
    let mut command: Command = lab.command(&format!("h{host}"), &words);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a daemon")
}

/// The mode of a daemon that is ready.
fn mode(lab: &Lab, host: usize) -> Option<String> {
    let output = lab.run(&format!("h{host}"), &["clusterd", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    (status["joined"] == true).then(|| status["mac_mode"].as_str().map(str::to_owned))?
}

fn finish(daemons: Vec<Child>) {
    for mut daemon in daemons {
        end(daemon.id(), libc::SIGTERM);
        daemon.wait().expect("wait for a daemon");
    }
}

#[test]
fn hosts_that_start_together_find_one_mode_and_later_ones_follow() {
    for family in FAMILIES {
        let options = [&["--topology", "snooping", "--mac", "stealth"], family].concat();
        let Some(lab) = Lab::up_with(3, &options) else { return };
        stop_daemons(&lab);
        let mut daemons = vec![start(&lab, 1, "clusterd"), start(&lab, 2, "clusterd")];
        for host in [1, 2] {
            wait_until("the daemons have chosen", || mode(&lab, host).is_some());
            assert_eq!(mode(&lab, host).as_deref(), Some("stealth"));
        }
        daemons.push(start(&lab, 3, "clusterd"));
        wait_until("the third follows", || mode(&lab, 3).is_some());
        assert_eq!(mode(&lab, 3).as_deref(), Some("stealth"));
        for host in 1..=3 {
            lab.connect_to_host(host);
        }
        finish(daemons);
    }
}

#[test]
fn what_is_wrong_is_told_also_where_a_cluster_runs() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    end(lab.daemon(2), libc::SIGTERM);
    lab.shell(
        "h2",
        "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }'",
    );
    let words = ["clusterd", "eth0", "10.77.0.2", "--mac", "auto", "--no-state"];
    let mut command = lab.command("h2", &words);
    let daemon = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let daemon = daemon.expect("start a daemon");
    wait_until("the daemon has chosen", || mode(&lab, 2).is_some());
    end(daemon.id(), libc::SIGTERM);
    let output = daemon.wait_with_output().expect("wait for a daemon");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("chain inet fw in drops what no rule accepts"), "{log}");
    assert!(log.contains("multicast, as the cluster that runs"), "{log}");
}

#[test]
fn a_mode_that_one_host_cannot_use_is_chosen_by_none() {
    let options = ["--topology", "snooping", "--mac", "stealth"];
    let Some(lab) = Lab::up_with(2, &options) else { return };
    stop_daemons(&lab);
    let program = without("hook ingress");
    let daemons = vec![start(&lab, 1, program.path()), start(&lab, 2, "clusterd")];
    for host in [1, 2] {
        wait_until("the daemons have chosen", || mode(&lab, host).is_some());
        assert_eq!(mode(&lab, host).as_deref(), Some("multicast"), "the default");
    }
    finish(daemons);
}

/// The switch's port listens and learns for four seconds each, more than it takes to choose.
#[test]
fn behind_a_port_that_does_not_forward_yet_a_host_waits() {
    let Some(lab) = Lab::up_with(3, &["--mac", "stealth"]) else { return };
    end(lab.daemon(1), libc::SIGTERM);
    lab.shell(
        "switch",
        "ip link set br0 type bridge forward_delay 400 stp_state 1; ip link set h1 down; ip link set h1 up",
    );
    let daemons = vec![start(&lab, 1, "clusterd")];
    wait_until("the daemon has chosen", || mode(&lab, 1).is_some());
    assert_eq!(mode(&lab, 1).as_deref(), Some("stealth"), "as the others");
    finish(daemons);
}

#[test]
fn a_host_that_starts_alone_takes_the_default() {
    let Some(lab) = Lab::bare() else { return };
    let output = lab.run("h1", &["clusterd", "rules", "eth0", "10.77.0.2", "--mac", "auto"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let before = lab.dump("h1");
    let daemon = lab.start_daemon(1, VIP, &["--mac", "auto"]);
    assert_eq!(lab.status(1)["mac_mode"], "multicast");
    end(daemon, libc::SIGTERM);
    assert_unchanged(&before, &lab.dump("h1"));
}
