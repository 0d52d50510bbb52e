//! Several virtual IPs in one daemon, of both families, and ports in scope.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;

use socket2::{Domain, Socket, Type};

use crate::datagrams::{ECHO_PORT, Echo, ask};
use crate::dumps::assert_unchanged;
use crate::overload::{divide, host_for, table};
use crate::rig::{BINARY, Lab, PATIENCE, PORT, VIP, VIP6, cluster_mac, end, mac_text, wait_until};
use crate::sockets::{OTHER_PORT, connect_to, hello};

const HOSTS: usize = 3;
const SECOND: &str = "10.77.0.3";
const THIRD: &str = "fd00:77::2";
const USAGE: i32 = 2;
const IN_USE: i32 = 75;
const CONFIG: i32 = 78;
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
    raise_as(VIP.into(), further, options)
}

/// The same with this first virtual IP.
fn raise_as(first: IpAddr, further: [&[&str]; HOSTS], options: &[&str]) -> Option<Lab> {
    let lab = Lab::up(HOSTS, "rst")?;
    add_ipv6(&lab, "client", "fd00:77::200");
    for host in 1..=HOSTS {
        add_ipv6(&lab, &format!("h{host}"), &format!("fd00:77::1{host}"));
        end(lab.service(host), libc::SIGTERM);
        lab.start_service_of_both(host);
        end(lab.daemon(host), libc::SIGTERM);
    }
    for (host, further) in (1..).zip(further) {
        lab.start_daemon(host, first, &[further, &["--guard", "strict"], options].concat());
    }
    lab.settle();
    Some(lab)
}

/// Who answers a connection from this port of the client, or from any, to this virtual IP.
fn who_answers_from(lab: &Lab, port: u16, vip: IpAddr) -> String {
    let stream = lab.within("client", || connect_to(SocketAddr::new(vip, PORT), port));
    let answer = stream.and_then(|mut stream| hello(&mut stream));
    answer.unwrap_or_else(|error| panic!("{vip} from port {port}: {error}"))
}

/// Those who answer some connections to this virtual IP.
fn who_answers(lab: &Lab, vip: IpAddr) -> BTreeSet<String> {
    (0..60).map(|_| who_answers_from(lab, 0, vip)).collect()
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
        let by_further = lab.run("h2", &["clusterd", "status", "--json", THIRD]);
        let by_further: serde_json::Value =
            serde_json::from_slice(&by_further.stdout).expect("status is JSON");
        assert_eq!(by_further["vip"], status["vip"]);
        // For people: each number that it shows is one that the daemon says.
        let table = lab.run("h2", &["clusterd", "status"]);
        let table = String::from_utf8_lossy(&table.stdout);
        assert!(table.starts_with(&format!("10.77.0.2, {SECOND}, {THIRD} at 03:bf:0a:4d:00:02")));
        assert_eq!(table.matches("  yes ").count(), HOSTS - 1, "{table}");
        let unsaid: Vec<_> = table.lines().filter(|line| line.ends_with('-')).collect();
        assert!(!table.contains(" -,") && unsaid.is_empty(), "{table}");
    }
}

#[test]
fn an_ipv6_address_names_a_cluster_with_further_ones_of_ipv4() {
    let first = &VIP.to_string();
    let Some(lab) = raise_as(VIP6.into(), [&[first, SECOND]; HOSTS], &[]) else { return };
    for vip in vips() {
        assert_eq!(who_answers(&lab, vip), names(&[1, 2, 3]), "{vip}");
        lab.shell("client", &format!("ping -q -c 1 -w 20 {vip}"));
        let known = lab.shell("client", &format!("ip neigh show {vip}"));
        assert!(known.contains(&mac_text(cluster_mac(VIP6.into(), "multicast"))), "{vip}: {known}");
    }
    let doctor = |role: &str, vip: &str, code: i32, says: &str| {
        let output = lab.run(role, &["clusterd", "doctor", "eth0", vip, "--for", "1s"]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    };
    doctor("h1", SECOND, CONFIG, "ask the doctor about fd00:77::2");
    doctor("h1", THIRD, 0, "the cluster answers in mode multicast, and that works");
    doctor(
        "client",
        SECOND,
        3,
        "or an IPv6 address, of which these four bytes of 03:bf:dd:8b:e7:6a",
    );
}

#[test]
fn sixty_four_virtual_ips_are_answered_and_leave_nothing() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    (1..=2).for_each(|host| end(lab.daemon(host), libc::SIGTERM));
    let before = [lab.dump("h1"), lab.dump("h2")];
    let further: Vec<_> = (100..163).map(|last| Ipv4Addr::new(10, 77, 0, last)).collect();
    let words: Vec<_> = further.iter().map(Ipv4Addr::to_string).collect();
    let words: Vec<_> = words.iter().map(String::as_str).chain(["--guard", "strict"]).collect();
    for host in 1..=2 {
        lab.start_daemon(host, VIP, &words);
    }
    lab.settle();
    for vip in [VIP, further[0], further[31], further[62]] {
        who_answers_from(&lab, 0, vip.into());
    }
    for host in 1..=2 {
        let status = lab.status(host);
        assert_eq!(status["vips"].as_array().map(Vec::len), Some(64));
        assert_eq!(status["by_hash"], false, "what they do at the start is no load: {status}");
    }
    (1..=2).for_each(|host| end(lab.daemon(host), libc::SIGTERM));
    for (role, before) in ["h1", "h2"].into_iter().zip(before) {
        assert_unchanged(&before, &lab.dump(role));
    }
}

/// What the kernel decides by itself of virtual IPs that not every host has, and of ports that not
/// every host serves.
#[test]
fn what_cannot_be_divided_by_buckets_is_not() {
    let Some(lab) = raise([&[SECOND, THIRD], &[SECOND, THIRD], &[SECOND]], &[]) else { return };
    let [_, second, third] = vips();
    let set = |host: usize, name: &str| {
        lab.shell(&format!("h{host}"), &format!("nft list set {} {name}", table(&lab)))
    };
    let has = |host: usize, name: &str, element: &str| set(host, name).contains(element);
    wait_until("one of two answers all that the kernel decides", || {
        let whole = [1, 2].map(|host| has(host, "whole6", THIRD));
        let left = [1, 2].map(|host| has(host, "left6", THIRD));
        (whole, left) == ([true, false], [false, true])
            || (whole, left) == ([false, true], [true, false])
    });
    divide(&lab, true);
    for port in 20_000..20_030 {
        assert_eq!(who_answers_from(&lab, port, second), format!("h{}", host_for(&lab, port)));
    }
    // By claims, since buckets of the third host would find nobody.
    assert_eq!(who_answers(&lab, third), names(&[1, 2]));
    lab.shell("client", &format!("ping -q -c 1 -w 20 {third}"));

    end(lab.service(2), libc::SIGTERM);
    let its = (21_000..).find(|&port| host_for(&lab, port) == 2).expect("a third of all");
    assert_ne!(who_answers_from(&lab, its, second), "h2");
    for host in 1..=HOSTS {
        wait_until("the kernel knows which port of which virtual IP", || {
            has(host, "undivided4", &format!("{SECOND} . {PORT}"))
        });
    }
    divide(&lab, true);
    for port in 22_000..22_030 {
        assert_ne!(who_answers_from(&lab, port, second), "h2");
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
    let service = |host: usize, vip| {
        let bind = || UdpSocket::bind((vip, OTHER_PORT));
        let socket = lab.within(&format!("h{host}"), bind).expect("a service");
        socket.set_nonblocking(true).expect("a socket that does not block");
        socket
    };
    let services: Vec<_> =
        (1..=HOSTS).flat_map(|host| vips().map(|vip| service(host, vip))).collect();
    let begin = |vip| {
        let connect = || {
            let service = SocketAddr::new(vip, OTHER_PORT);
            let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // In progress.
            drop(socket.connect(&service.into()));
            Ok::<_, std::io::Error>(socket)
        };
        lab.within("client", connect).expect("a socket")
    };
    let opened = vips().map(begin);
    let asked = vips().map(|vip| client_of(&lab, vip, OTHER_PORT));
    for socket in &asked {
        socket.send(b"?").expect("send");
    }
    // Each of these takes longer than an answer would.
    for vip in vips() {
        lab.shell("client", &format!("ping -q -c 1 -w 20 {vip}"));
        assert_eq!(who_answers(&lab, vip), names(&[1, 2, 3]));
        let _services: Vec<_> = (1..=HOSTS).map(|host| Echo::start_at(&lab, host, vip)).collect();
        ask(&client_of(&lab, vip, ECHO_PORT), b"?").expect("it answers");
    }
    for socket in &opened {
        assert!(socket.peer_addr().is_err(), "nobody accepts");
        assert!(matches!(socket.take_error(), Ok(None)), "nobody refuses");
    }
    let nothing = |socket: &UdpSocket| socket.recv(&mut [0; 8]).expect_err("nothing").kind();
    for socket in services.iter().chain(&asked) {
        socket.set_nonblocking(true).expect("a socket that does not block");
        assert_eq!(nothing(socket), std::io::ErrorKind::WouldBlock, "neither heard nor refused");
    }
}

/// Connections work; a host that takes no part in them says so.
#[test]
fn a_host_tells_that_others_have_further_ports_in_scope() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    let _listeners = lab.listen_everywhere(OTHER_PORT);
    lab.replace_daemon(2, libc::SIGTERM, &["--ports", &format!("tcp/{PORT}")]);
    lab.settle();
    let out_of_scope = || lab.status(2)["wire"]["out_of_scope"].as_u64().expect("a counter");
    let connect = |port| {
        let service = SocketAddr::new(VIP.into(), port);
        drop(lab.within("client", || connect_to(service, 0)).expect("it is answered"));
    };
    (0..20).for_each(|_| connect(PORT));
    assert_eq!(out_of_scope(), 0);
    connect(OTHER_PORT);
    wait_until("it is told", || out_of_scope() > 0);
}

#[test]
fn nothing_is_left_of_any_virtual_ip() {
    let Some(lab) = Lab::bare() else { return };
    add_ipv6(&lab, "h1", "fd00:77::11");
    let before = lab.dump("h1");
    let cleanup = |words: &[&str], says: &str| {
        let output = lab.run("h1", &[&["clusterd", "cleanup"], words].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), says);
    };
    let part = "removed what was left of 10.77.0.2, of which 10.77.0.3 is a further virtual IP";
    for mode in ["multicast", "igmp", "stealth", "shared"] {
        let daemon = lab.start_daemon(1, VIP, &[SECOND, THIRD, "--mac", mode]);
        let marked = lab.shell("h1", "ip link show dev eth0");
        assert!(marked.contains("altname clusterd-fd00_77__2-of-10.77.0.2"), "{marked}");
        end(daemon, libc::SIGTERM);
        assert_unchanged(&before, &lab.dump("h1"));
        for meanwhile in ["true", "nft flush ruleset"] {
            end(lab.start_daemon(1, VIP, &[SECOND, THIRD, "--mac", mode]), libc::SIGKILL);
            lab.shell("h1", meanwhile);
            match meanwhile {
                "true" => cleanup(&[SECOND], part),
                _ => cleanup(&[], "removed what was left of 10.77.0.2"),
            }
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
    // Without the interface and its marks the rules say what belongs together.
    end(lab.start_daemon(1, VIP, &[SECOND]), libc::SIGKILL);
    lab.shell("h1", "ip link del eth0");
    cleanup(&["10.77.0.4"], "");
    cleanup(&[SECOND], part);
    assert_eq!(lab.shell("h1", "nft list tables"), "");
}

#[test]
fn auto_takes_a_mode_in_which_the_kernel_takes_ipv6() {
    let Some(lab) = Lab::bare() else { return };
    add_ipv6(&lab, "h1", "fd00:77::11");
    lab.shell("h1", "sysctl -qw net.ipv6.conf.eth0.drop_unicast_in_l2_multicast=1");
    for (further, mode) in [(SECOND, "multicast"), (THIRD, "stealth")] {
        let daemon = lab.start_daemon(1, VIP, &[further, "--mac", "auto"]);
        assert_eq!(lab.status(1)["mac_mode"], mode, "with {further}");
        end(daemon, libc::SIGTERM);
    }
}

/// One of them can do what the other cannot.
#[test]
fn auto_of_hosts_that_start_together_is_a_mode_of_all() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    for host in 1..=2 {
        end(lab.daemon(host), libc::SIGTERM);
        add_ipv6(&lab, &format!("h{host}"), &format!("fd00:77::1{host}"));
    }
    lab.shell("h2", "sysctl -qw net.ipv6.conf.eth0.drop_unicast_in_l2_multicast=1");
    let (first, state) = (VIP.to_string(), lab.state_directory());
    let start = |host: usize| {
        let words = ["clusterd", "eth0", &first, THIRD, "--mac", "auto", "--state-dir", &state];
        let mut command = lab.command(&format!("h{host}"), &words);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a daemon")
    };
    let mut daemons = [start(1), start(2)];
    for host in [1, 2] {
        let role = format!("h{host}");
        wait_until("the daemons have chosen", || {
            lab.run(&role, &["clusterd", "status", THIRD]).status.success()
        });
        assert_eq!(lab.status(host)["mac_mode"], "stealth", "{role}");
    }
    for daemon in &mut daemons {
        end(daemon.id(), libc::SIGTERM);
        daemon.wait().expect("wait for a daemon");
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

    // The first one of a daemon on the same host.
    let daemon = lab.start_daemon(1, Ipv4Addr::new(10, 77, 0, 3), &[]);
    let message =
        "10.77.0.3 is a virtual IP of the cluster 10.77.0.3 on this host; stop its daemon";
    fails("h1", &[first, SECOND], IN_USE, message);
    end(daemon, libc::SIGTERM);

    let _daemon = lab.start_daemon(1, VIP, &[SECOND]);
    // On the same host, and on another one.
    let message = "10.77.0.3 is a virtual IP of the cluster 10.77.0.2 on this host";
    fails("h1", &[SECOND], IN_USE, message);
    fails("h1", &[SECOND, first], IN_USE, message);
    let message = "is answered by hosts of the cluster that 10.77.0.2 names";
    fails("client", &[SECOND, first], IN_USE, message);
    fails("client", &[SECOND], IN_USE, message);
}
