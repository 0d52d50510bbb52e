//! What a daemon leaves behind: nothing.

use std::net::{IpAddr, Ipv4Addr};

use crate::rig::{Lab, MAC_MODES, VIP, VIP6, end, wait_until};

const SECOND_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

impl Lab {
    /// Everything about a host's network that a daemon could change.
    pub fn dump(&self, role: &str) -> String {
        let mut lines = vec![
            "nft --stateless --terse list ruleset",
            "ip -d -o link",
            "ip -o addr",
            "ip maddr",
            "bridge fdb show",
            "ip rule",
            "ip route show table all",
            // How many connections there are is no setting.
            "sysctl -a 2>/dev/null | grep '^net\\.' | grep -v nf_conntrack_count",
        ];
        if has_iptables(self, role) {
            // Comments have the date, and policies their counters.
            lines.push("iptables-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'");
            lines.push("ip6tables-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'");
        }
        lines.iter().map(|line| format!("$ {line}\n{}", self.shell(role, line))).collect()
    }
}

fn has_iptables(lab: &Lab, role: &str) -> bool {
    lab.run(role, &["iptables-save"]).status.success()
}

/// Fails with the lines that differ.
#[track_caller]
pub fn assert_unchanged(before: &str, after: &str) {
    let lost: Vec<_> = before.lines().filter(|line| !after.lines().any(|l| l == *line)).collect();
    let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|l| l == *line)).collect();
    assert!(before == after, "lost {lost:#?}, new {new:#?}");
}

#[test]
fn a_stopped_daemon_leaves_nothing_behind() {
    for guard in ["rst", "strict"] {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let Some(lab) = Lab::bare() else { return };
            let before = lab.dump("h1");
            let daemon = lab.start_daemon(1, VIP, &["--guard", guard]);
            assert_ne!(lab.dump("h1"), before, "the dump shows what a daemon does");
            end(daemon, signal);
            assert_unchanged(&before, &lab.dump("h1"));
        }
    }
}

#[test]
fn cleanup_removes_what_a_killed_daemon_left() {
    let Some(lab) = Lab::bare() else { return };
    let before = lab.dump("h1");
    // Others may have flushed the rules meanwhile: the address is left all the same.
    for meanwhile in ["true", "nft flush ruleset"] {
        end(lab.start_daemon(1, VIP, &[]), libc::SIGKILL);
        lab.shell("h1", meanwhile);
        assert_ne!(lab.dump("h1"), before, "a killed daemon cannot clean up");
        let output = lab.run("h1", &["clusterd", "cleanup"]);
        assert!(output.status.success(), "{output:?}");
        assert_unchanged(&before, &lab.dump("h1"));
    }
}

#[test]
fn a_restart_after_a_kill_leaves_nothing_behind() {
    let Some(lab) = Lab::bare() else { return };
    let before = lab.dump("h1");
    for meanwhile in ["true", "nft flush ruleset"] {
        end(lab.start_daemon(1, VIP, &["--guard", "strict"]), libc::SIGKILL);
        lab.shell("h1", meanwhile);
        end(lab.start_daemon(1, VIP, &[]), libc::SIGTERM);
        assert_unchanged(&before, &lab.dump("h1"));
    }
}

/// In each MAC mode, also if it is another one after the crash.
#[test]
fn each_mac_mode_leaves_nothing_behind() {
    [IpAddr::from(VIP), VIP6.into()].into_iter().for_each(each_mode_leaves_nothing_behind_of);
}

fn each_mode_leaves_nothing_behind_of(vip: IpAddr) {
    let Some(lab) = Lab::bare_for(vip) else { return };
    let length = if vip.is_ipv4() { 32 } else { 128 };
    let before = lab.dump("h1");
    let kill_in = |mode: &str| {
        end(lab.start_daemon(1, vip, &["--mac", mode]), libc::SIGKILL);
        assert_ne!(lab.dump("h1"), before, "a killed daemon cannot clean up");
    };
    for ((mode, _), (next, _)) in MAC_MODES.iter().zip(MAC_MODES.iter().cycle().skip(1)) {
        kill_in(mode);
        lab.shell("h1", &format!("nft flush ruleset; ip addr del {vip}/{length} dev eth0"));
        let output = lab.run("h1", &["clusterd", "cleanup"]);
        assert!(output.status.success(), "{output:?}");
        assert_unchanged(&before, &lab.dump("h1"));

        kill_in(mode);
        end(lab.start_daemon(1, vip, &["--mac", mode]), libc::SIGTERM);
        assert_unchanged(&before, &lab.dump("h1"));

        kill_in(mode);
        end(lab.start_daemon(1, vip, &["--mac", next]), libc::SIGTERM);
        assert_unchanged(&before, &lab.dump("h1"));
    }
}

/// In mode `igmp` these have one group MAC.
#[test]
fn virtual_ips_that_end_alike_share_a_group_and_end_separately() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell("h1", "ip addr add 10.78.0.11/24 dev eth0");
    let before = lab.dump("h1");
    let first = lab.start_daemon(1, VIP, &["--mac", "igmp"]);
    let with_the_first = lab.dump("h1");
    let second = lab.start_daemon(1, Ipv4Addr::new(10, 78, 0, 2), &["--mac", "igmp"]);
    end(second, libc::SIGTERM);
    assert_unchanged(&with_the_first, &lab.dump("h1"));
    end(first, libc::SIGTERM);
    assert_unchanged(&before, &lab.dump("h1"));
}

#[test]
fn cleanup_leaves_a_running_daemon_alone() {
    let Some(lab) = Lab::bare() else { return };
    lab.start_daemon(1, VIP, &[]);
    let running = lab.dump("h1");
    for words in [&["clusterd", "cleanup"][..], &["clusterd", "cleanup", "10.77.0.2"]] {
        let output = lab.run("h1", words);
        assert!(output.status.success(), "{output:?}");
        assert_unchanged(&running, &lab.dump("h1"));
    }
}

#[test]
fn rules_of_others_are_untouched() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell(
        "h1",
        "nft 'table ip filter2 { chain c { type filter hook input priority 0; \
         tcp dport 22 accept; ct state invalid drop; }; }; \
         table arp theirs { chain c { type filter hook output priority 0; }; }'",
    );
    if has_iptables(&lab, "h1") {
        lab.shell("h1", "iptables -A INPUT -p tcp --dport 443 -j ACCEPT");
        lab.shell("h1", "iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j ACCEPT");
        lab.shell("h1", "iptables -P FORWARD DROP");
    }
    let before = lab.dump("h1");
    end(lab.start_daemon(1, VIP, &["--guard", "strict"]), libc::SIGTERM);
    assert_unchanged(&before, &lab.dump("h1"));
    end(lab.start_daemon(1, VIP, &[]), libc::SIGKILL);
    assert!(lab.run("h1", &["clusterd", "cleanup"]).status.success());
    assert_unchanged(&before, &lab.dump("h1"));
}

#[test]
fn two_virtual_ips_share_hosts_and_end_separately() {
    let Some(lab) = Lab::up(2, "strict") else { return };
    let seconds = [1, 2].map(|host| lab.start_daemon(host, SECOND_VIP, &["--guard", "strict"]));
    let ask = |vip: Ipv4Addr| {
        let line = format!("exec 3<>/dev/tcp/{vip}/80; echo hello >&3; head -1 <&3");
        lab.run("client", &["timeout", "8", "bash", "-c", &line])
    };
    let both_hosts_answer = |vip| {
        for host in ["h1\n", "h2\n"] {
            wait_until("each host answers", || {
                let output = ask(vip);
                assert!(output.status.success(), "{vip}: {output:?}");
                output.stdout == host.as_bytes()
            });
        }
    };
    both_hosts_answer(VIP);
    both_hosts_answer(SECOND_VIP);
    let mut kept = lab.connect_to_host(1);

    seconds.iter().for_each(|&daemon| end(daemon, libc::SIGTERM));
    both_hosts_answer(VIP);
    assert_eq!(crate::sockets::hello(&mut kept).expect("the other VIP's end is not ours"), "h1");
    let rules = lab.shell("h1", "nft list tables; ip -o addr");
    assert!(rules.contains("10.77.0.2") && !rules.contains("10.77.0.3"), "{rules}");
}
