//! `clusterd doctor` about the host that it runs on.

use std::fs;
use std::net::TcpListener;

use crate::doctor::{by_mode, culprits, doctors, read};
use crate::rig::{BINARY, Lab, PORT, VIP, VIP6, scratch, skip};
use crate::tools::without;

#[test]
fn what_is_wrong_on_a_host_is_named() {
    let Some(lab) = Lab::bare() else { return };
    let _service = lab.within("h1", || TcpListener::bind(("0.0.0.0", PORT))).expect("listen");
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
            "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }; \
             add rule inet fw in tcp dport 80 drop'",
            "nft delete table inet fw",
            "firewall",
            false,
        ),
        (
            "nft 'add table inet fw; add chain inet fw pre { type filter hook prerouting priority raw; }; \
             add rule inet fw pre meta pkttype multicast drop'",
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
            false,
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
        (
            "ip link add br9 type bridge; ip link set br9 up; ip link set eth0 master br9",
            "ip link del br9",
            "interface",
            true,
        ),
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
fn what_is_wrong_with_ipv6_on_a_host_is_named() {
    let Some(lab) = Lab::bare_for(VIP6.into()) else { return };
    let look = || doctors(&lab, &[1], &["--for", "1s"]).remove(0);
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (4, vec![]), "alone, and nothing is wrong");
    assert_eq!(report["recommended"], "multicast");
    let drops = "drop_unicast_in_multicast";
    for (make, undo, expected, is_problem) in [
        (
            "nft 'add table ip6 fw; add chain ip6 fw in { type filter hook input priority 0; policy drop; }'",
            "nft delete table ip6 fw",
            vec!["firewall"],
            true,
        ),
        (
            "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }; \
             add rule inet fw in ip6 daddr fd00:77::/64 reject'",
            "nft delete table inet fw",
            vec!["firewall"],
            true,
        ),
        // Of the other family.
        (
            "nft 'add table ip fw; add chain ip fw in { type filter hook input priority 0; policy drop; }'",
            "nft delete table ip fw",
            vec![],
            false,
        ),
        (
            "nft 'add table netdev fw; add chain netdev fw in { type filter hook ingress device eth0 priority 0; }; \
             add rule netdev fw in ip6 nexthdr 150 drop'",
            "nft delete table netdev fw",
            vec!["firewall"],
            true,
        ),
        (
            "ip neigh add fd00:77::2 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
            "ip neigh del fd00:77::2 dev eth0",
            vec!["neighbour_entry"],
            true,
        ),
        // Of both group modes; the third works.
        (
            "sysctl -qw net.ipv6.conf.eth0.drop_unicast_in_l2_multicast=1",
            "sysctl -qw net.ipv6.conf.eth0.drop_unicast_in_l2_multicast=0",
            vec![drops, drops],
            false,
        ),
        (
            "ip addr add fd00:77::2/128 dev eth0 nodad",
            "ip addr del fd00:77::2/128 dev eth0",
            vec!["vip_configured"],
            true,
        ),
        (
            "ip addr flush dev eth0 scope link",
            "ip addr add fe80::b/64 dev eth0 nodad",
            vec!["interface"],
            true,
        ),
        (
            "ip addr del fd00:77::11/64 dev eth0",
            "ip addr add fd00:77::11/64 dev eth0 nodad",
            vec!["interface"],
            true,
        ),
        (
            "ip addr del fd00:77::11/64 dev eth0; ip route add fd00:77::/64 dev eth0",
            "ip route del fd00:77::/64 dev eth0; ip addr add fd00:77::11/64 dev eth0 nodad",
            vec!["speaks_from_vip"],
            false,
        ),
    ] {
        lab.shell("h1", make);
        let (code, report) = look();
        assert_eq!(culprits(&report), expected, "{make}");
        assert_eq!(code, if is_problem { 3 } else { 4 }, "{make}");
        if expected.contains(&drops) {
            assert_eq!(by_mode(&report), [Some(drops), Some(drops), None]);
            assert_eq!(report["recommended"], "stealth");
        }
        lab.shell("h1", undo);
    }

    lab.shell("client", "ip addr add fd00:77::2/64 dev eth0 nodad");
    let (code, report) = look();
    assert_eq!((code, culprits(&report)), (3, vec!["duplicate_vip"]));
}

#[test]
fn a_macvlan_has_no_mode_stealth() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell(
        "h1",
        "ip link add mv0 link eth0 type macvlan mode bridge; ip link set mv0 up
         ip addr add 10.77.0.12/24 dev mv0",
    );
    let vip = VIP.to_string();
    let words = ["clusterd", "doctor", "mv0", &vip, "--json", "--for", "1s"];
    let (code, report) = read(&lab.run("h1", &words));
    assert_eq!(by_mode(&report), [None, None, Some("interface")]);
    assert_eq!((code, &report["recommended"]), (4, &"multicast".into()), "{report}");
}

/// The limit is that of the whole machine, so this host is shown another count.
#[test]
fn a_full_table_of_connections_is_named() {
    let Some(lab) = Lab::bare() else { return };
    let directory = "/proc/sys/net/netfilter";
    let max = lab.run("h1", &["cat", &format!("{directory}/nf_conntrack_max")]);
    if !max.status.success() {
        return skip("this kernel does not say how many connections it tracks").unwrap_or(());
    }
    let count = scratch("doctor-conntrack-count");
    fs::write(&count, &max.stdout).expect("write a count");
    let line = format!(
        "mount --bind {} {directory}/nf_conntrack_count && exec {BINARY} doctor eth0 {VIP} --json --for 1s",
        count.display()
    );
    let output = lab.run("h1", &["unshare", "--mount", "sh", "-c", &line]);
    let (code, report) = read(&output);
    assert_eq!((code, culprits(&report)), (3, vec!["conntrack_full"]));
    fs::remove_file(&count).expect("remove a count");
}

#[test]
fn what_the_kernel_lacks_is_named() {
    let Some(lab) = Lab::bare() else { return };
    let vip = VIP.to_string();
    for (feature, expected, code) in
        [("ct state", vec!["conntrack_missing"], 3), ("hook ingress", vec!["ingress_missing"], 4)]
    {
        let program = without(feature);
        let words = [program.path(), "doctor", "eth0", &vip, "--json", "--for", "1s"];
        let (got, report) = read(&lab.run("h1", &words));
        assert_eq!((got, culprits(&report)), (code, expected));
    }
}
