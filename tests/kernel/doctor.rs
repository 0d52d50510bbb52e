//! `clusterd doctor` on the hosts of a lab, and `--mac auto`.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::capture::packet_socket;
use crate::dumps::assert_unchanged;
use crate::rig::{Lab, VIP, cluster_mac, end, mac_text, note, wait_until};
use crate::sender::Sender;

/// The type of the doctor's broadcasts.
const ETHERTYPE: u16 = 0x88b5;

/// What a run said: exit code and report.
type Said = (i32, Value);

/// Runs doctors on these hosts at the same time.
fn doctors(lab: &Lab, hosts: &[usize], options: &[&str]) -> Vec<Said> {
    let vip = VIP.to_string();
    let words = [&["clusterd", "doctor", "eth0", &vip, "--json"], options].concat();
    let start = |host: &usize| {
        let mut command = lab.command(&format!("h{host}"), &words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a doctor")
    };
    let running: Vec<_> = hosts.iter().map(start).collect();
    running.into_iter().map(finish).collect()
}

fn finish(child: Child) -> Said {
    let output = child.wait_with_output().expect("wait for a doctor");
    let (stdout, stderr) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(stdout).unwrap_or_else(|_| panic!("{stderr}"));
    note(&format!("{} {} {stderr}", report["modes"], report["findings"]));
    (output.status.code().expect("an exit code"), report)
}

/// The culprits of what is found, problems and notes.
fn culprits(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["culprit"].as_str().expect("a culprit")).collect()
}

/// The culprit of each mode.
fn by_mode(report: &Value) -> Vec<Option<&str>> {
    report["modes"].as_array().expect("modes").iter().map(|mode| mode["culprit"].as_str()).collect()
}

fn stop_daemons(lab: &Lab) {
    (1..=lab.nodes()).for_each(|host| end(lab.daemon(host), libc::SIGTERM));
}

/// The other kinds of switches are `lab reach`'s, see `mac`.
#[test]
fn before_going_live_the_switch_is_recognised() {
    let options = ["--topology", "snooping", "--mac", "stealth"];
    let Some(lab) = Lab::up_with(3, &options) else { return };
    stop_daemons(&lab);
    let before = lab.dump("h1");
    let snooping = Some("snooping");
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s"]) {
        assert_eq!(by_mode(&report), [snooping, snooping, None]);
        assert_eq!((code, &report["recommended"]), (0, &"stealth".into()));
        assert_eq!(report["others"], 2);
    }
    assert_unchanged(&before, &lab.dump("h1"));

    // Who insists on a mode is told that it does not work.
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s", "--mac", "igmp"]) {
        assert_eq!((code, &report["recommended"]), (3, &Value::Null));
        assert_eq!(by_mode(&report), [Some("segment")], "nothing else was tried");
    }
}

#[test]
fn a_router_that_refuses_group_macs() {
    let options = ["--topology", "router", "--mac", "stealth"];
    let Some(lab) = Lab::up_with(3, &options) else { return };
    // The daemons of a cluster that is live answer the router themselves.
    let (code, report) = doctors(&lab, &[2], &[]).remove(0);
    assert_eq!((code, &report["live"]), (0, &"stealth".into()), "{report}");
    assert_eq!(report["modes"][2]["gateway"], "accepts");

    stop_daemons(&lab);
    lab.shell("router", &format!("ip neigh del {VIP} dev eth0; true"));
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s", "--mac", "all"]) {
        let refuses = Some("router_refuses");
        assert_eq!(by_mode(&report), [refuses, refuses, None, Some("learning")]);
        assert_eq!((code, &report["recommended"]), (0, &"stealth".into()));
    }
    // One that has been told another MAC by hand never asks.
    lab.shell(
        "router",
        &format!("ip neigh replace {VIP} lladdr 02:00:00:00:00:09 dev eth0 nud permanent"),
    );
    let (code, report) = doctors(&lab, &[1], &["--for", "1s", "--mac", "stealth"]).remove(0);
    assert_eq!((code, culprits(&report)), (3, vec!["router_entry"]));
}

#[test]
fn while_live_the_daemons_answer() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    let kept = lab.connect_to_host(2);
    let (code, report) = doctors(&lab, &[1], &[]).remove(0);
    assert_eq!((code, &report["live"]), (0, &"multicast".into()), "{report}");
    assert_eq!((&report["others"], culprits(&report)), (&2.into(), vec![]));
    let mode = &report["modes"][0];
    assert_eq!((&mode["ways"], &mode["working"]), (&6.into(), &6.into()));

    // Of the modes that daemons do not use nothing is known.
    assert_eq!(report["modes"][2]["ways"], 0);
    for host in 1..=3 {
        let status = lab.status(host);
        assert_eq!(status["by_hash"], false, "{status}");
    }
    drop(kept);

    // A host that hears nobody: its port drops what goes to the group MAC.
    let mac = mac_text(cluster_mac(VIP.into(), "multicast"));
    lab.shell("switch", &format!(
        "nft add table netdev deaf; nft \"add chain netdev deaf c {{ type filter hook egress device h3 priority 0; }}\"; \
         nft add rule netdev deaf c ether daddr {mac} drop"
    ));
    let (code, report) = doctors(&lab, &[1], &[]).remove(0);
    assert_eq!((code, by_mode(&report)[0]), (3, Some("deaf_host")), "{report}");
    assert!(report["findings"][0]["text"].as_str().expect("a text").contains("10.77.0.13"));
    assert_eq!(report["recommended"], Value::Null, "nothing else was tried");

    // Daemons remember what they have seen of each of several doctors.
    for (code, report) in doctors(&lab, &[1, 2], &["--for", "3s"]) {
        assert_eq!((code, by_mode(&report)[0]), (3, Some("deaf_host")), "{report}");
    }
}

#[test]
fn what_is_wrong_on_a_host_is_named() {
    let Some(lab) = Lab::bare() else { return };
    let look = || doctors(&lab, &[1], &["--for", "1s"]).remove(0);
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (4, vec![]), "alone, and nothing is wrong");
    assert_eq!(report["recommended"], "multicast");

    // Each culprit: what makes it, what takes it back, and whether it is a problem.
    for (make, undo, culprit, is_problem) in [
        (
            "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }'",
            "nft delete table inet fw",
            "firewall",
            true,
        ),
        (
            "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }; \
             add rule inet fw in ip daddr 10.77.0.0/24 tcp dport 22 accept; add rule inet fw in ip daddr 10.77.0.0/24 reject'",
            "nft delete table inet fw",
            "firewall",
            false,
        ),
        (
            "nft 'add table netdev fw; add chain netdev fw in { type filter hook ingress device eth0 priority 0; }; \
             add rule netdev fw in ip protocol 150 drop'",
            "nft delete table netdev fw",
            "firewall",
            true,
        ),
        (
            "nft 'add table ip fw; add chain ip fw raw { type filter hook prerouting priority -300; }; \
             add rule ip fw raw ip daddr 10.77.0.2 notrack'",
            "nft delete table ip fw",
            "conntrack_off",
            true,
        ),
        (
            "ip neigh add 10.77.0.2 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
            "ip neigh del 10.77.0.2 dev eth0",
            "neighbour_entry",
            true,
        ),
        (
            "sysctl -qw net.ipv4.conf.eth0.drop_unicast_in_l2_multicast=1",
            "sysctl -qw net.ipv4.conf.eth0.drop_unicast_in_l2_multicast=0",
            "drop_unicast_in_multicast",
            false,
        ),
        (
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ip route add default dev lo",
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=0; ip route del default dev lo",
            "rp_filter",
            true,
        ),
        (
            "ip addr add 10.77.0.2/32 dev eth0",
            "ip addr del 10.77.0.2/32 dev eth0",
            "vip_configured",
            true,
        ),
        (
            "ip addr del 10.77.0.11/24 dev eth0",
            "ip addr add 10.77.0.11/24 dev eth0",
            "interface",
            true,
        ),
        ("ip link set eth0 down", "ip link set eth0 up", "interface", true),
    ] {
        lab.shell("h1", make);
        let (code, report) = look();
        assert_eq!(culprits(&report), [culprit], "{make}");
        assert_eq!(code, if is_problem { 3 } else { 4 }, "{make}");
        lab.shell("h1", undo);
    }

    lab.shell("client", "ip link set eth0 down");
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (3, vec!["carrier"]));
    lab.shell("client", "ip link set eth0 up; ip addr add 10.77.0.2/24 dev eth0");
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (3, vec!["duplicate_vip"]));

    // Nothing is tried with a gateway then: it would take the address away from its owner.
    lab.shell("h1", "ip route add default via 10.77.0.200");
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (3, vec!["duplicate_vip"]));
    let modes = report["modes"].as_array().expect("modes");
    assert!(modes.iter().all(|mode| mode["gateway"] == "untested"), "{report}");
}

#[test]
fn a_further_virtual_ip_is_examined_with_the_first() {
    let Some(lab) = Lab::bare() else { return };
    lab.start_daemon(1, VIP, &["10.77.0.3"]);
    let examine =
        |role: &str| lab.run(role, &["clusterd", "doctor", "eth0", "10.77.0.3", "--for", "1s"]);
    let output = examine("h1");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("further virtual IP of the cluster 10.77.0.2 on this host"), "{said}");
    let output = examine("client");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("further virtual IP of the cluster that 10.77.0.2 names"), "{said}");
}

#[test]
fn noise_of_the_doctors_type_disturbs_nobody() {
    let Some(lab) = Lab::up(1, "rst") else { return };
    // Frames of the doctor's type that are none; the daemon goes on.
    let sender = Sender::open(&lab);
    for length in [0, 1, 7, 8, 60, 719, 720, 1400] {
        sender.send_ethertype(ETHERTYPE, &vec![0xc1; length]);
    }
    assert_eq!(lab.who().expect("answered"), "h1");
    let (code, report) = doctors(&lab, &[1], &["--for", "1s"]).remove(0);
    assert_eq!((code, &report["live"]), (4, &"multicast".into()));
}

#[test]
fn a_daemon_sends_no_more_than_it_is_sent() {
    const COPIES: usize = 300;
    let Some(lab) = Lab::up(2, "rst") else { return };
    end(lab.daemon(2), libc::SIGTERM);
    let tap = lab.within("client", || packet_socket(ETHERTYPE.to_be().into()));
    tap.set_nonblocking(true).expect("non-blocking");
    let hear = || {
        let mut frame = [0; 2048];
        (&tap).read(&mut frame).ok().map(|length| frame[..length].to_vec())
    };
    let is_from = |frame: &[u8], host: u8| frame[6..12] == [2, 0, 0, 0, 0, host];
    doctors(&lab, &[2], &["--for", "1s"]);
    // One that wants a bulletin: it says so behind magic, version and role.
    let asks = |frame: &Vec<u8>| is_from(frame, 2) && frame[14 + 4] == 1;
    let question = std::iter::from_fn(hear).find(asks).expect("the doctor asked");
    while hear().is_some() {}

    let sender = Sender::open(&lab);
    (0..COPIES).for_each(|_| sender.send_ethertype(ETHERTYPE, &question[14..]));
    let mut answers = Vec::new();
    wait_until("the daemon answers", || {
        answers.extend(std::iter::from_fn(hear).filter(|frame| is_from(frame, 1)));
        !answers.is_empty()
    });
    assert_eq!(lab.who().expect("answered"), "h1");
    answers.extend(std::iter::from_fn(hear).filter(|frame| is_from(frame, 1)));
    note(&format!("{} answers to {COPIES} questions", answers.len()));
    assert!(answers.len() < COPIES / 2);
    assert!(answers.iter().all(|answer| answer.len() <= question.len()));
}

#[test]
fn hosts_that_start_together_find_one_mode_and_later_ones_follow() {
    let options = ["--topology", "snooping", "--mac", "stealth"];
    let Some(lab) = Lab::up_with(3, &options) else { return };
    stop_daemons(&lab);
    // Ended by the lab, which kills what runs in it.
    let start = |host: usize| -> Child {
        let words = ["clusterd", "eth0", "10.77.0.2", "--mac", "auto", "--no-state"];
        let mut command: Command = lab.command(&format!("h{host}"), &words);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a daemon")
    };
    let mode = |host: usize| {
        let output = lab.run(&format!("h{host}"), &["clusterd", "status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["joined"] == true).then(|| status["mac_mode"].as_str().map(str::to_owned))?
    };
    let mut daemons = vec![start(1), start(2)];
    for host in [1, 2] {
        wait_until("the daemons have chosen", || mode(host).is_some());
        assert_eq!(mode(host).as_deref(), Some("stealth"));
    }
    daemons.push(start(3));
    wait_until("the third follows", || mode(3).is_some());
    assert_eq!(mode(3).as_deref(), Some("stealth"));
    for host in 1..=3 {
        lab.connect_to_host(host);
    }
    for daemon in &mut daemons {
        end(daemon.id(), libc::SIGTERM);
        daemon.wait().expect("wait for a daemon");
    }
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
