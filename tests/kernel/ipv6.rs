//! What is different with IPv6: an interface that cannot carry it, and links that go down.

use std::fs;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::dumps::assert_unchanged;
use crate::rig::{BINARY as CLUSTERD, Lab, VIP6, cluster_mac, end, wait_until};

const UNAVAILABLE: i32 = 69;
const IN_USE: i32 = 75;
const CONFIG: i32 = 78;

/// A daemon that must not start says why, and leaves the host as it was.
#[track_caller]
fn fails(lab: &Lab, words: &[&str], code: i32, message: &str) {
    let before = lab.dump("h1");
    // One that starts after all would run for ever.
    let output = lab.run("h1", &[&["timeout", "20", CLUSTERD], words].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
    assert!(stderr.contains(message), "{words:?} said: {stderr}");
    assert_unchanged(&before, &lab.dump("h1"));
}

#[test]
fn what_is_wrong_with_the_address_is_said() {
    let Some(lab) = Lab::bare_for(VIP6.into()) else { return };
    for (vip, message) in [
        ("2001:db8::2", "2001:db8::2 is in no prefix of eth0 (fd00:77::/64)"),
        ("fd00:77::", "the routers' anycast address of fd00:77::/64"),
        ("fe80::2", "fe80::2 is not the unicast address of a host"),
        ("ff05::2", "ff05::2 is not the unicast address of a host"),
        ("::ffff:10.0.0.2", "not the unicast address of a host"),
        ("10.77.0.2", "10.77.0.2 is in no subnet of eth0 (it has no IPv4 address)"),
    ] {
        fails(&lab, &["eth0", vip], CONFIG, message);
    }
    let message = "fd00:77::11 is already an address of this host";
    fails(&lab, &["eth0", "fd00:77::11"], IN_USE, message);
    lab.shell("client", &format!("ip addr add {VIP6}/64 dev eth0"));
    let message = "in use by a host outside the cluster (";
    fails(&lab, &["eth0", "fd00:77::2"], IN_USE, message);
    lab.shell("client", &format!("ip addr del {VIP6}/64 dev eth0"));

    let setting = "net.ipv6.conf.eth0.drop_unicast_in_l2_multicast";
    lab.shell("h1", &format!("sysctl -qw {setting}=1"));
    fails(&lab, &["eth0", "fd00:77::2"], CONFIG, &format!("(sysctl {setting}=0)"));
    end(lab.start_daemon(1, VIP6, &["--mac", "stealth"]), libc::SIGTERM);
    lab.shell("h1", &format!("sysctl -qw {setting}=0"));
}

#[test]
fn what_is_wrong_with_the_link_local_address_is_said() {
    let Some(lab) = Lab::bare_for(VIP6.into()) else { return };
    // An address that a neighbour has fails the detection of duplicates.
    lab.shell("client", "ip addr add fe80::9/64 dev eth0 nodad");
    lab.shell("h1", "ip addr flush dev eth0 scope link");
    let message = "eth0 has no link-local IPv6 address";
    fails(&lab, &["eth0", "fd00:77::2"], UNAVAILABLE, message);
    lab.shell("h1", "sysctl -qw net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.all.accept_dad=1");
    lab.shell("h1", "ip addr add fe80::9/64 dev eth0");
    wait_until("the kernel finds the duplicate", || {
        lab.shell("h1", "ip addr show dev eth0").contains("dadfailed")
    });
    fails(&lab, &["eth0", "fd00:77::2"], UNAVAILABLE, "fe80::9 of eth0 is in use by another host");
    // A probe every minute: it is tentative until then.
    lab.shell("h1", "sysctl -qw net.ipv6.neigh.eth0.retrans_time_ms=60000");
    lab.shell("h1", "ip addr del fe80::9/64 dev eth0; ip addr add fe80::8/64 dev eth0");
    fails(&lab, &["eth0", "fd00:77::2"], UNAVAILABLE, "(tentative); try again in a second or two");
}

/// The kernel takes all IPv6 addresses from an interface that goes down.
#[test]
fn the_address_is_back_when_the_link_is() {
    let Some(lab) = Lab::up_with(2, &["--ipv6"]) else { return };
    let has_it = || lab.shell("h1", "ip addr show dev eth0").contains("fd00:77::2/128");
    lab.shell("h1", "ip link set eth0 down");
    wait_until("the daemon has noticed", || lab.log(1).contains("removed the address"));
    lab.shell("h1", "ip link set eth0 up; ip addr replace fd00:77::11/64 dev eth0");
    wait_until("the address is back", has_it);
    lab.settle();
    lab.connect_to_host(1);
    let rules = lab.shell("h1", "nft list ruleset");
    assert!(rules.contains("table inet clusterd_fd00_77__2"), "{rules}");
}

#[test]
fn who_says_another_mac_is_named() {
    let Some(lab) = Lab::up_with(2, &["--ipv6"]) else { return };
    end(lab.daemon(1), libc::SIGTERM);
    let words = ["eth0", "fd00:77::2", "--mac", "stealth"];
    fails(&lab, &words, IN_USE, "fd00:77::2 is answered in mode --mac multicast by other hosts");
    let says = |mac: [u8; 6]| {
        // An unsolicited advertisement to all nodes, whose checksum the kernel makes.
        let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        message.extend(VIP6.octets());
        message.extend([2, 1]);
        message.extend(mac);
        lab.within("client", || {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6));
            let socket = socket.expect("a raw socket");
            socket.set_multicast_hops_v6(255).expect("a hop limit");
            socket.bind_device(Some(b"eth0")).expect("the interface");
            let all: SocketAddr = "[ff02::1]:0".parse().expect("an address");
            socket.send_to(&message, &all.into()).expect("send");
        });
    };
    says(cluster_mac(VIP6.into(), "igmp"));
    let warning = "another host answers in mode --mac igmp, this one in multicast";
    wait_until("the daemon has said so", || lab.log(2).contains(warning));
    says([2, 0, 0, 0, 0, 9]);
    let warning = "a host outside the cluster claims the virtual IP";
    wait_until("the daemon has said so", || lab.log(2).contains(warning));
}

#[test]
fn one_daemon_for_an_address_and_its_files_have_its_name() {
    let Some(lab) = Lab::bare_for(VIP6.into()) else { return };
    let daemon = lab.start_daemon(1, VIP6, &["--guard", "strict"]);
    // However it is written.
    let message = "a clusterd for fd00:77::2 is running on this host already";
    fails(&lab, &["eth0", "FD00:0077:0::0:2"], IN_USE, message);
    assert_eq!(lab.status(1)["vip"], "fd00:77::2");
    let output = lab.run("h1", &["clusterd", "cleanup", "fd00:77::2"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "left fd00:77::2 alone: its daemon is running\n");
    wait_until("the members are kept", || {
        let files = fs::read_dir(lab.state_directory()).expect("the lab").flatten();
        files.map(|it| it.file_name()).any(|name| name.to_string_lossy().starts_with("fd00_77__2-"))
    });
    end(daemon, libc::SIGKILL);
    let marked = lab.shell("h1", "ip link show dev eth0");
    assert!(marked.contains("altname clusterd-fd00_77__2-multicast-"), "{marked}");
    let output = lab.run("h1", &["clusterd", "cleanup", "fd00:77::2"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "removed what was left of fd00:77::2\n");
}
