//! What a daemon says when it cannot start: a message, an exit code, and no trace on the host.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Output, Stdio};

use crate::dumps::assert_unchanged;
use crate::rig::{BINARY as CLUSTERD, Lab, VIP, cluster_mac, end, skip, wait_until};
use crate::sender::Sender;

const UNAVAILABLE: i32 = 69;
const IN_USE: i32 = 75;
const PRIVILEGE: i32 = 77;
const CONFIG: i32 = 78;

/// Starts a daemon that must fail so, and leave the host as it was.
#[track_caller]
fn fails(lab: &Lab, words: &[&str], code: i32, message: &str) {
    let before = lab.dump("h1");
    // A daemon that starts after all would run for ever.
    let words: Vec<_> = ["timeout", "20"].into_iter().chain(words.iter().copied()).collect();
    let output = lab.run("h1", &words);
    let stderr = said(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
    assert!(stderr.contains(message), "{words:?} said: {stderr}");
    assert_unchanged(&before, &lab.dump("h1"));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn no_privilege() {
    let Some(lab) = Lab::bare() else { return };
    // Root without capabilities: the binary may lie where nobody else may look.
    let none = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let words = [&none[..], &[CLUSTERD, "eth0", "10.77.0.2"]].concat();
    fails(&lab, &words, PRIVILEGE, "CAP_NET_ADMIN is missing");
    let no_raw = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"];
    let words = [&no_raw[..], &[CLUSTERD, "eth0", "10.77.0.2"]].concat();
    fails(&lab, &words, PRIVILEGE, "CAP_NET_RAW is missing");

    let words = [&none[..], &[CLUSTERD, "rules", "eth0", "10.77.0.2"]].concat();
    let output = lab.run("h1", &words);
    assert!(output.status.success(), "rules need no privilege: {}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("table inet clusterd_10.77.0.2"));
}

#[test]
fn no_such_interface() {
    let Some(lab) = Lab::bare() else { return };
    let message = "there is no interface eth9 here; there are: ";
    fails(&lab, &[CLUSTERD, "eth9", "10.77.0.2"], UNAVAILABLE, message);
}

#[test]
fn interface_down() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell("h1", "ip link set eth0 down");
    let message = "eth0 is down; bring it up first: ip link set eth0 up";
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0.2"], UNAVAILABLE, message);
}

#[test]
fn not_ethernet() {
    let Some(lab) = Lab::bare() else { return };
    fails(&lab, &[CLUSTERD, "lo", "127.0.0.9"], CONFIG, "lo is not an Ethernet interface");
    if lab.run("h1", &["ip", "tuntap", "add", "tun0", "mode", "tun"]).status.success() {
        lab.shell("h1", "ip addr add 10.78.0.1/24 dev tun0; ip link set tun0 up");
        fails(&lab, &[CLUSTERD, "tun0", "10.78.0.2"], CONFIG, "tun0 is not an Ethernet interface");
    }
}

#[test]
fn address_that_does_not_fit() {
    let Some(lab) = Lab::bare() else { return };
    for (vip, message) in [
        ("10.78.0.2", "10.78.0.2 is in no subnet of eth0 (10.77.0.11/24)"),
        ("10.77.0.11", "this host's own address on eth0"),
        ("10.77.0.0", "the network or broadcast address of 10.77.0.11/24"),
        ("10.77.0.255", "the network or broadcast address of 10.77.0.11/24"),
    ] {
        fails(&lab, &[CLUSTERD, "eth0", vip], CONFIG, message);
    }
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0"], 2, "invalid value '10.77.0'");
    fails(&lab, &[CLUSTERD, "eth0"], 2, "VIP");
}

#[test]
fn address_of_a_stranger() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell("client", &format!("ip addr add {VIP}/24 dev eth0"));
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0.2"], IN_USE, "in use by a host outside the cluster");
}

#[test]
fn address_of_this_host() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell("h1", &format!("ip addr add {VIP}/24 dev eth0"));
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0.2"], IN_USE, "already an address of this host");
}

#[test]
fn second_daemon() {
    let Some(lab) = Lab::bare() else { return };
    let first = lab.start_daemon(1, VIP, &[]);
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0.2"], IN_USE, "is running on this host already");
    end(first, libc::SIGTERM);
}

#[test]
fn other_mac_mode() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    end(lab.daemon(1), libc::SIGTERM);
    let words = [CLUSTERD, "eth0", "10.77.0.2", "--mac", "stealth"];
    fails(&lab, &words, IN_USE, "10.77.0.2 is answered in mode --mac multicast by other hosts");
    // Hosts that started before they could hear each other go on, and say so.
    Sender::open(&lab).announce(cluster_mac(VIP.into(), "igmp"));
    let warning = "another host answers in mode --mac igmp, this one in multicast";
    wait_until("the host notices", || lab.log(2).contains(warning));
}

#[test]
fn interface_without_a_second_mac() {
    let Some(lab) = Lab::bare() else { return };
    let add = ["ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan"];
    if !lab.run("h1", &add).status.success() {
        let _: Option<()> = skip("needs macvlan");
        return;
    }
    lab.shell("h1", "ip addr add 10.78.0.1/24 dev mv0; ip link set mv0 up");
    let words = [CLUSTERD, "mv0", "10.78.0.2", "--mac", "stealth"];
    fails(&lab, &words, UNAVAILABLE, "mv0 cannot receive frames to a second unicast MAC");
}

/// One of a bond is refused: see `tests/guest/cluster.sh`, since kernels without modules have no bonds.
#[test]
fn port_of_a_bridge() {
    let Some(lab) = Lab::bare() else { return };
    lab.shell("h1", "ip link add br9 type bridge; ip link set br9 up; ip link set eth0 master br9");
    // A rule may leave it its frames, so it may start.
    let words = ["timeout", "20", CLUSTERD, "eth0", "10.77.0.2", "--no-state"];
    let mut command = lab.command("h1", &words);
    let mut daemon = command.stderr(Stdio::piped()).spawn().expect("start a daemon");
    let stderr = daemon.stderr.take().expect("its log");
    let mut log = BufReader::new(stderr).lines().map(|line| line.expect("its log is text"));
    let warning =
        "eth0 is a port of br9, which gets its frames; use that one: clusterd br9 10.77.0.2";
    assert!(log.any(|line| line.contains(warning)), "it warns, and");
    assert!(log.any(|line| line.contains("ready")), "goes on");
    end(daemon.id(), libc::SIGTERM);
    daemon.wait().expect("wait for a daemon");
}

#[test]
fn interface_with_another_shared_mac() {
    let Some(lab) = Lab::bare() else { return };
    let first = lab.start_daemon(1, VIP, &["--mac", "shared"]);
    let words = [CLUSTERD, "eth0", "10.77.0.3", "--mac", "shared"];
    fails(&lab, &words, CONFIG, "eth0 has the MAC of 10.77.0.2 already");
    end(first, libc::SIGTERM);
}

#[test]
fn no_nft() {
    let Some(lab) = Lab::bare() else { return };
    let words = ["env", "PATH=/nonexistent", CLUSTERD, "eth0", "10.77.0.2"];
    fails(&lab, &words, UNAVAILABLE, "install the package nftables");
}

#[test]
fn queue_numbers_of_others() {
    let Some(lab) = Lab::bare() else { return };
    let rules = lab.shell("h1", &format!("{CLUSTERD} rules eth0 {VIP}"));
    let first = rules.split("queue num ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let first: u16 = first.and_then(|number| number.parse().ok()).expect("a queue number");

    // One that is taken is stepped over,
    let taken = bind_queues(&lab, &[first]);
    let before = lab.dump("h1");
    let daemon = lab.start_daemon(1, VIP, &[]);
    let installed = lab.shell("h1", "nft list ruleset");
    assert!(installed.contains(&format!("group {}", first + 2)), "{installed}");
    end(daemon, libc::SIGTERM);
    assert_unchanged(&before, &lab.dump("h1"));
    drop(taken);

    // but not all of them can be.
    let all: Vec<_> = (0..8).map(|pair| 0x4000 + ((first - 0x4000 + 2 * pair) & 0x7ffe)).collect();
    let _taken = bind_queues(&lab, &all);
    fails(&lab, &[CLUSTERD, "eth0", "10.77.0.2"], IN_USE, &first.to_string());
}

/// Takes queue numbers on h1 as any other program might, until dropped.
fn bind_queues(lab: &Lab, numbers: &[u16]) -> OwnedFd {
    lab.within("h1", || {
        // SAFETY: the descriptor is checked and belongs to nobody else.
        let socket = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let descriptor = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER);
            assert!(descriptor >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(descriptor)
        };
        for number in numbers {
            bind_queue(&socket, *number);
        }
        socket
    })
}

fn bind_queue(socket: &OwnedFd, number: u16) {
    // NFQNL_MSG_CONFIG of NFNL_SUBSYS_QUEUE with one NFQA_CFG_CMD: bind.
    let mut message = Vec::new();
    message.extend(28u32.to_ne_bytes());
    message.extend((3u16 << 8 | 2).to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([libc::AF_UNSPEC as u8, 0]);
    message.extend(number.to_be_bytes());
    message.extend(8u16.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend([1, 0, 0, 0]);
    let mut answer = [0u8; 64];
    // SAFETY: pointers and lengths describe the two local buffers.
    let got = unsafe {
        let descriptor = socket.as_raw_fd();
        let sent = libc::send(descriptor, message.as_ptr().cast(), message.len(), 0);
        assert_eq!(sent, message.len() as isize, "{}", io::Error::last_os_error());
        libc::recv(descriptor, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    assert!(got >= 20, "an answer: {}", io::Error::last_os_error());
    let error = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
    assert_eq!(error, 0, "bind queue {number}: {}", io::Error::from_raw_os_error(-error));
}
