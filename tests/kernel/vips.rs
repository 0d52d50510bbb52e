//! Several virtual IPs in one daemon, of both families, and ports in scope.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::datagrams::{ECHO_PORT, Echo, ask};
use crate::dumps::assert_unchanged;
use crate::rig::{BINARY, Lab, PATIENCE, PORT, VIP, VIP6, end, wait_until};
use crate::sockets::{OTHER_PORT, connect_to, hello};

const HOSTS: usize = 3;
const SECOND: &str = "10.77.0.3";
const THIRD: &str = "fd00:77::2";
const USAGE: i32 = 2;
const IN_USE: i32 = 75;
const ALL: [&[&str]; HOSTS] = [&[SECOND, THIRD]; HOSTS];

fn vips() -> [IpAddr; 3] {
    [VIP.into(), Ipv4Addr::new(10, 77, 0, 3).into(), VIP6.into()]
}

fn add_ipv6(lab: &Lab, role: &str, address: &str) {
    lab.shell(
        role,
        &format!(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 \
             net.ipv6.conf.eth0.accept_dad=0 && sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 && \
             ip addr add {address}/64 dev eth0 nodad"
        ),
    );
    wait_until("the link-local address is there", || {
        let addresses = lab.shell(role, "ip -6 -o addr show dev eth0 scope link");
        addresses.contains("fe80::") && !addresses.contains("tentative")
    });
}

/// A cluster with both families, whose hosts have these further virtual IPs.
///
/// The lab gives hosts sequence numbers of their own for its own virtual IP only; for the others they
/// share the kernel's, with which only guard `strict` can do.
fn raise(further: [&[&str]; HOSTS], options: &[&str]) -> Option<Lab> {
    let lab = Lab::up(HOSTS, "rst")?;
    add_ipv6(&lab, "client", "fd00:77::200");
    for host in 1..=HOSTS {
        add_ipv6(&lab, &format!("h{host}"), &format!("fd00:77::1{host}"));
        end(lab.service(host), libc::SIGTERM);
        lab.start_service_of_both(host);
        end(lab.daemon(host), libc::SIGTERM);
    }
    for (host, further) in (1..).zip(further) {
        lab.start_daemon(host, VIP, &[further, &["--guard", "strict"], options].concat());
    }
    lab.settle();
    Some(lab)
}

/// Those who answer some connections to this virtual IP.
fn who_answers(lab: &Lab, vip: IpAddr) -> BTreeSet<String> {
    let service = SocketAddr::new(vip, PORT);
    let answer = |_| {
        let stream = lab.within("client", || connect_to(service, 0));
        let answer = stream.and_then(|mut stream| hello(&mut stream));
        answer.unwrap_or_else(|error| panic!("{vip}: {error}"))
    };
    (0..60).map(answer).collect()
}

fn names(hosts: &[usize]) -> BTreeSet<String> {
    hosts.iter().map(|host| format!("h{host}")).collect()
}

fn client_of(lab: &Lab, vip: IpAddr, port: u16) -> UdpSocket {
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = lab.within("client", || UdpSocket::bind(any)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    socket.connect((vip, port)).expect("connect");
    socket
}

#[test]
fn each_virtual_ip_is_answered_by_all_hosts() {
    for options in [&[][..], &["--mode", "hash", "--udp", "hash"]] {
        let Some(lab) = raise(ALL, options) else { return };
        for vip in vips() {
            println!("{vip} with {options:?}");
            assert_eq!(who_answers(&lab, vip), names(&[1, 2, 3]));
            let _services: Vec<_> =
                (1..=HOSTS).map(|host| Echo::start_at(&lab, host, vip)).collect();
            for number in 0..20 {
                let socket = client_of(&lab, vip, ECHO_PORT);
                ask(&socket, &[number]).unwrap_or_else(|error| panic!("{vip}: {error}"));
            }
            lab.shell("client", &format!("ping -q -c 1 -w 20 {vip}"));
            let known = lab.shell("client", &format!("ip neigh show {vip}"));
            assert!(known.contains("03:bf:0a:4d:00:02"), "{vip} with {options:?}: {known}");
        }
        let status = lab.status(2);
        assert_eq!(status["vips"], serde_json::json!(["10.77.0.2", SECOND, THIRD]));
    }
}

#[test]
fn hosts_answer_what_is_on_their_list() {
    for mode in ["claim", "hash"] {
        let Some(lab) = raise([&[SECOND, THIRD], &[THIRD, SECOND], &[SECOND]], &["--mode", mode])
        else {
            return;
        };
        let [first, second, third] = vips();
        assert_eq!(who_answers(&lab, first), names(&[1, 2, 3]), "{mode}");
        assert_eq!(who_answers(&lab, second), names(&[1, 2, 3]), "{mode}");
        // By hash one host answers all of it.
        let answer = who_answers(&lab, third);
        assert!(!answer.is_empty() && answer.is_subset(&names(&[1, 2])), "{mode}: {answer:?}");
        for vip in vips() {
            lab.shell("client", &format!("ping -q -c 1 -w 20 {vip}"));
        }
    }
}

#[test]
fn packets_to_ports_out_of_scope_are_dropped_unseen() {
    let options = ["--ports", &format!("tcp/{PORT},udp/{ECHO_PORT}")];
    let Some(lab) = raise(ALL, &options) else { return };
    let _listeners = lab.listen_everywhere(OTHER_PORT);
    let syns = || -> u64 {
        let of = |host| lab.status(host)["protocol"]["syns"].as_u64().expect("a counter");
        (1..=HOSTS).map(of).sum()
    };
    let before = syns();
    let refused = lab.within("client", || connect_to((VIP, OTHER_PORT).into(), 0));
    let error = refused.expect_err("nobody answers");
    assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    client_of(&lab, VIP.into(), OTHER_PORT).send(b"?").expect("send");
    lab.shell("client", &format!("ping -q -c 1 -w 20 {VIP}"));
    assert_eq!(syns(), before);
    for vip in vips() {
        assert_eq!(who_answers(&lab, vip), names(&[1, 2, 3]));
        let _services: Vec<_> = (1..=HOSTS).map(|host| Echo::start_at(&lab, host, vip)).collect();
        ask(&client_of(&lab, vip, ECHO_PORT), b"?").expect("it answers");
    }
}

#[test]
fn nothing_is_left_of_any_virtual_ip() {
    let Some(lab) = Lab::bare() else { return };
    add_ipv6(&lab, "h1", "fd00:77::11");
    let before = lab.dump("h1");
    let cleanup = || {
        let output = lab.run("h1", &["clusterd", "cleanup"]);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, "removed what was left of 10.77.0.2\n");
    };
    for mode in ["multicast", "igmp", "stealth", "shared"] {
        let daemon = lab.start_daemon(1, VIP, &[SECOND, THIRD, "--mac", mode]);
        let marked = lab.shell("h1", "ip link show dev eth0");
        assert!(marked.contains("altname clusterd-fd00_77__2-of-10.77.0.2"), "{marked}");
        end(daemon, libc::SIGTERM);
        assert_unchanged(&before, &lab.dump("h1"));
        for meanwhile in ["true", "nft flush ruleset"] {
            end(lab.start_daemon(1, VIP, &[SECOND, THIRD, "--mac", mode]), libc::SIGKILL);
            lab.shell("h1", meanwhile);
            cleanup();
            assert_unchanged(&before, &lab.dump("h1"));

            // The next start has another list.
            end(lab.start_daemon(1, VIP, &[SECOND, THIRD, "--mac", mode]), libc::SIGKILL);
            lab.shell("h1", meanwhile);
            let daemon = lab.start_daemon(1, VIP, &["10.77.0.4", "--mac", mode]);
            let addresses = lab.shell("h1", "ip -o addr show dev eth0");
            assert!(!addresses.contains(SECOND) && !addresses.contains(THIRD), "{addresses}");
            end(daemon, libc::SIGTERM);
            assert_unchanged(&before, &lab.dump("h1"));
        }
    }
}

#[test]
fn what_others_remove_is_put_back() {
    let Some(lab) = Lab::bare() else { return };
    add_ipv6(&lab, "h1", "fd00:77::11");
    let before = lab.dump("h1");
    let daemon = lab.start_daemon(1, VIP, &[SECOND, THIRD]);
    lab.shell("h1", "ip addr del 10.77.0.3/32 dev eth0; ip addr del fd00:77::2/128 dev eth0");
    wait_until("the addresses are back", || {
        let addresses = lab.shell("h1", "ip -o addr show dev eth0");
        addresses.contains("10.77.0.3/32") && addresses.contains("fd00:77::2/128")
    });
    lab.shell("h1", "nft flush ruleset");
    wait_until("the rules are back", || {
        lab.shell("h1", "nft list ruleset").contains("elements = { 10.77.0.2, 10.77.0.3 }")
    });
    end(daemon, libc::SIGTERM);
    assert_unchanged(&before, &lab.dump("h1"));
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let Some(lab) = Lab::bare() else { return };
    let fails = |role: &str, words: &[&str], code: i32, message: &str| {
        let before = lab.dump(role);
        let output = lab.run(role, &[&["timeout", "20", BINARY, "eth0"], words].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(message), "{words:?} said: {stderr}");
        assert_unchanged(&before, &lab.dump(role));
    };
    let first = "10.77.0.2";
    fails("h1", &[first, SECOND, SECOND], USAGE, "the virtual IP 10.77.0.3 is given twice");
    fails("h1", &[first, SECOND, first], USAGE, "the virtual IP 10.77.0.2 is given twice");
    let many: Vec<_> = (2..67).map(|last| format!("10.78.0.{last}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    fails("h1", &many, USAGE, "65 virtual IPs; one cluster has 64 at most");

    let _daemon = lab.start_daemon(1, VIP, &[SECOND]);
    // On the same host, and on another one.
    let message = "10.77.0.3 is a virtual IP of the cluster 10.77.0.2 on this host";
    fails("h1", &[SECOND], IN_USE, message);
    fails("h1", &[SECOND, first], IN_USE, message);
    let message = "is answered by hosts of the cluster that 10.77.0.2 names";
    fails("client", &[SECOND, first], IN_USE, message);
    fails("client", &[SECOND], IN_USE, message);
}
