//! `clusterd doctor` on the hosts of a lab.

use std::io::Read;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::capture::packet_socket;
use crate::dumps::assert_unchanged;
use crate::rig::{FAMILIES, Lab, VIP, cluster_mac, end, mac_text, note, wait_until};
use crate::sender::Sender;

/// The type of the doctor's broadcasts.
const ETHERTYPE: u16 = 0x88b5;

/// What a run said: exit code and report.
pub type Said = (i32, Value);

/// Runs doctors on these hosts at the same time.
pub fn doctors(lab: &Lab, hosts: &[usize], options: &[&str]) -> Vec<Said> {
    let vip = lab.vip().to_string();
    let words = [&["clusterd", "doctor", "eth0", &vip, "--json"], options].concat();
    let start = |host: &usize| {
        let mut command = lab.command(&format!("h{host}"), &words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a doctor")
    };
    let running: Vec<_> = hosts.iter().map(start).collect();
    running.into_iter().map(finish).collect()
}

fn finish(child: Child) -> Said {
    read(&child.wait_with_output().expect("wait for a doctor"))
}

/// What a doctor has printed.
pub fn read(output: &Output) -> Said {
    let (stdout, stderr) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let took = report["seconds"].as_f64().expect("how long it took");
    note(&format!("{took} s: {} {} {stderr}", report["modes"], report["findings"]));
    (output.status.code().expect("an exit code"), report)
}

/// The culprits of what is found, problems and notes.
pub fn culprits(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["culprit"].as_str().expect("a culprit")).collect()
}

/// The culprit of each mode.
pub fn by_mode(report: &Value) -> Vec<Option<&str>> {
    report["modes"].as_array().expect("modes").iter().map(|mode| mode["culprit"].as_str()).collect()
}

pub fn stop_daemons(lab: &Lab) {
    (1..=lab.nodes()).for_each(|host| end(lab.daemon(host), libc::SIGTERM));
}

/// The other kinds of switches are `lab reach`'s, see `mac`.
#[test]
fn before_going_live_the_switch_is_recognised() {
    FAMILIES.into_iter().for_each(before_going_live_with);
}

fn before_going_live_with(family: &[&str]) {
    let options = [&["--topology", "snooping", "--mac", "stealth"], family].concat();
    let Some(lab) = Lab::up_with(3, &options) else { return };
    stop_daemons(&lab);
    let before = lab.dump("h1");
    let snooping = Some("snooping");
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s"]) {
        assert_eq!(by_mode(&report), [snooping, snooping, None]);
        assert_eq!((code, &report["recommended"]), (0, &"stealth".into()));
        assert_eq!((&report["others"], &report["port"]), (&2.into(), &"forwards".into()));
        // The switch asks whether there are other members of a group that was left.
        assert!(report["querier"].is_string(), "{report}");
    }
    assert_unchanged(&before, &lab.dump("h1"));

    // Who insists on a mode is told that it does not work.
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s", "--mac", "igmp"]) {
        assert_eq!((code, &report["recommended"]), (3, &Value::Null));
        assert_eq!(by_mode(&report), [Some("segment")], "nothing else was tried");
    }
}

#[test]
fn a_switch_that_snoops_without_a_querier_forgets_its_members() {
    for family in FAMILIES {
        let options = [&["--topology", "mac-snooping", "--mac", "igmp"], family].concat();
        let Some(lab) = Lab::up_with(2, &options) else { return };
        let (code, report) = doctors(&lab, &[1], &["--for", "3s"]).remove(0);
        assert_eq!((code, culprits(&report)), (0, vec!["no_querier"]), "{report}");
        stop_daemons(&lab);
        for (_, report) in doctors(&lab, &[1, 2], &["--for", "3s"]) {
            assert_eq!(by_mode(&report), [Some("mac_snooping"), None, None]);
            assert_eq!(report["recommended"], "igmp");
            assert!(culprits(&report).contains(&"no_querier"), "{report}");
        }
    }
}

#[test]
fn a_router_that_refuses_group_macs() {
    FAMILIES.into_iter().for_each(a_router_that_refuses_with);
}

fn a_router_that_refuses_with(family: &[&str]) {
    let options = [&["--topology", "router", "--mac", "stealth"], family].concat();
    let Some(lab) = Lab::up_with(3, &options) else { return };
    // The daemons of a cluster that is live answer the router themselves.
    let (code, report) = doctors(&lab, &[2], &[]).remove(0);
    assert_eq!((code, &report["live"]), (0, &"stealth".into()), "{report}");
    assert_eq!(report["modes"][2]["gateway"], "accepts");

    stop_daemons(&lab);
    let vip = lab.vip();
    lab.shell("router", &format!("ip neigh del {vip} dev eth0; true"));
    let refuses = Some("router_refuses");
    for (code, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s", "--mac", "all"]) {
        assert_eq!(by_mode(&report), [refuses, refuses, None, Some("learning")]);
        assert_eq!((code, &report["recommended"]), (0, &"stealth".into()));
    }
    assert_eq!(entry(&lab), Some(mac_text(cluster_mac(vip, "stealth"))), "not that tried last");

    // One host has a way to it, and all hear what it says.
    let route = if vip.is_ipv4() { "10.78.0.0/24" } else { "fd00:78::/64" };
    for host in ["h1", "h2"] {
        lab.shell(host, &format!("ip route del {route}"));
    }
    for (_, report) in doctors(&lab, &[1, 2, 3], &["--for", "4s"]) {
        assert_eq!(by_mode(&report), [refuses, refuses, None], "{report}");
    }

    // One that has been told another MAC by hand never asks.
    lab.shell(
        "router",
        &format!("ip neigh replace {vip} lladdr 02:00:00:00:00:09 dev eth0 nud permanent"),
    );
    let (code, report) = doctors(&lab, &[3], &["--for", "1s", "--mac", "stealth"]).remove(0);
    assert_eq!((code, culprits(&report)), (3, vec!["router_entry"]));
}

/// The MAC that the router has for the virtual IP.
fn entry(lab: &Lab) -> Option<String> {
    let known = lab.shell("router", &format!("ip neigh show {} dev eth0", lab.vip()));
    let mut words = known.split_whitespace().skip_while(|&word| word != "lladdr");
    words.nth(1).map(str::to_owned)
}

#[test]
fn a_router_that_accepts_each_mac_is_left_with_that_to_use() {
    for family in FAMILIES {
        let options = [&["--topology", "router", "--mac", "stealth"], family].concat();
        let Some(lab) = Lab::up_with(2, &options) else { return };
        stop_daemons(&lab);
        lab.shell("router", "nft flush ruleset");
        lab.shell("router", &format!("ip neigh del {} dev eth0; true", lab.vip()));
        for (_, report) in doctors(&lab, &[1, 2], &["--for", "3s"]) {
            let answers: Vec<_> =
                (0..3).map(|mode| report["modes"][mode]["gateway"].as_str()).collect();
            assert_eq!(answers, [Some("accepts"); 3], "{report}");
            assert_eq!(report["recommended"], "multicast");
        }
        assert_eq!(entry(&lab), Some(mac_text(cluster_mac(lab.vip(), "multicast"))));
    }
}

/// The router learns the MAC of the host on which somebody has configured the address by hand.
#[test]
fn a_router_that_believes_a_stranger_is_not_accused() {
    for family in FAMILIES {
        let options = [&["--topology", "router", "--mac", "stealth"], family].concat();
        let Some(lab) = Lab::up_with(2, &options) else { return };
        end(lab.daemon(2), libc::SIGTERM);
        let vip = lab.vip();
        let length = if vip.is_ipv4() { "32" } else { "128 nodad" };
        lab.shell("h2", &format!("ip addr add {vip}/{length} dev eth0"));
        let stranger = "02:00:00:00:00:02";
        let believe = format!("ip neigh replace {vip} lladdr {stranger} dev eth0 nud reachable");
        lab.shell("router", &format!("nft flush ruleset; {believe}"));
        // On that host itself nobody else is to be heard but the cluster.
        let (code, report) = doctors(&lab, &[2], &["--for", "1s"]).remove(0);
        assert_eq!((code, culprits(&report)), (3, vec!["vip_configured"]), "{report}");
        assert_eq!(report["live"], "stealth");

        end(lab.daemon(1), libc::SIGTERM);
        lab.shell("router", &believe);
        let said = doctors(&lab, &[1, 2], &["--for", "3s"]);
        for ((code, report), culprit) in said.iter().zip(["duplicate_vip", "vip_configured"]) {
            assert_eq!((*code, culprits(report)), (3, vec![culprit]), "{report}");
        }
        assert_eq!(entry(&lab).as_deref(), Some(stranger), "nobody has told it another");
    }
}

/// As routers do that share an address (VRRP, HSRP): they ask from their own address and MAC.
#[test]
fn a_router_that_asks_from_another_address() {
    let Some(lab) = Lab::up_with(2, &["--topology", "router", "--mac", "stealth"]) else { return };
    stop_daemons(&lab);
    lab.shell(
        "router",
        &format!(
            "ip addr del 10.77.0.1/24 dev eth0; ip addr add 10.77.0.3/24 dev eth0
             ip addr add 10.77.0.1/24 dev eth0; sysctl -qw net.ipv4.conf.eth0.arp_announce=2
             ip neigh del {VIP} dev eth0; nft add table arp own; nft add table netdev own
             nft 'add chain arp own out {{ type filter hook output priority 0; }}'
             nft add rule arp own out arp operation request arp saddr ether set 02:00:00:00:00:77
             nft 'add chain netdev own in {{ type filter hook ingress device eth0 priority 0; }}'
             nft add rule netdev own in ether daddr 02:00:00:00:00:77 meta pkttype set host"
        ),
    );
    let refuses = Some("router_refuses");
    for (code, report) in doctors(&lab, &[1, 2], &["--for", "3s"]) {
        assert_eq!(by_mode(&report), [refuses, refuses, None], "{report}");
        assert_eq!((code, &report["recommended"]), (0, &"stealth".into()));
    }
}

/// As Dell OS9 does.
#[test]
fn a_router_that_believes_the_frame_instead_of_the_answer() {
    let Some(lab) = Lab::up_with(1, &["--topology", "router", "--mac", "stealth"]) else { return };
    stop_daemons(&lab);
    lab.shell(
        "router",
        &format!(
            "nft flush ruleset; ip neigh del {VIP} dev eth0
             nft add table arp learn
             nft 'add chain arp learn in {{ type filter hook input priority 0; }}'
             nft add rule arp learn in arp saddr ip {VIP} arp saddr ether set 02:00:00:00:00:01"
        ),
    );
    let (code, report) = doctors(&lab, &[1], &["--for", "1s"]).remove(0);
    assert_eq!(by_mode(&report), [Some("router_learns_source"); 3], "{report}");
    assert_eq!((code, &report["recommended"]), (3, &Value::Null));
}

#[test]
fn while_live_the_daemons_answer() {
    FAMILIES.into_iter().for_each(while_live_with);
}

fn while_live_with(family: &[&str]) {
    let Some(lab) = Lab::up_with(3, family) else { return };
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
    // Whoever tries another one only has not seen whether the cluster works.
    let (code, report) = doctors(&lab, &[1], &["--for", "1s", "--mac", "stealth"]).remove(0);
    assert_eq!((code, &report["live"]), (3, &"multicast".into()), "{report}");
    drop(kept);

    // A host that hears nobody: its port drops what goes to the group MAC.
    let mac = mac_text(cluster_mac(lab.vip(), "multicast"));
    lab.shell("switch", &format!(
        "nft add table netdev deaf; nft \"add chain netdev deaf c {{ type filter hook egress device h3 priority 0; }}\"; \
         nft add rule netdev deaf c ether daddr {mac} drop"
    ));
    let (code, report) = doctors(&lab, &[1], &[]).remove(0);
    assert_eq!((code, by_mode(&report)[0]), (3, Some("deaf_host")), "{report}");
    let deaf = if family.is_empty() { "10.77.0.13" } else { "fe80::ff:fe00:3" };
    assert!(report["findings"][0]["text"].as_str().expect("a text").contains(deaf), "{report}");
    assert_eq!(report["recommended"], Value::Null, "nothing else was tried");

    // Daemons remember what they have seen of each of several doctors.
    for (code, report) in doctors(&lab, &[1, 2], &["--for", "3s"]) {
        assert_eq!((code, by_mode(&report)[0]), (3, Some("deaf_host")), "{report}");
        // Each of them is one host with the daemon beside it.
        assert_eq!((&report["others"], &report["modes"][0]["ways"]), (&2.into(), &6.into()));
    }

    // From there hosts speak to each other.
    if !family.is_empty() {
        lab.shell("h1", "ip addr flush dev eth0 scope link");
        let (code, report) = doctors(&lab, &[1], &["--for", "1s"]).remove(0);
        assert_eq!((code, culprits(&report)), (3, vec!["interface"]));
    }
}

#[test]
fn a_cluster_in_two_modes_is_named() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    end(lab.daemon(2), libc::SIGTERM);
    // Where the others answer it would not start.
    lab.shell("switch", "ip link set h2 down");
    lab.start_daemon(2, VIP, &["--mac", "igmp"]);
    lab.shell("switch", "ip link set h2 up");
    for host in 1..=3 {
        let (code, report) = doctors(&lab, &[host], &["--for", "3s"]).remove(0);
        assert_eq!(code, 3, "{report}");
        assert!(culprits(&report).contains(&"mixed_modes"), "{report}");
    }
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
