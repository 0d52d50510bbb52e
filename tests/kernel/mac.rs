//! The MAC modes, each on a switch that leaves it no other way.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::rig::{
    FAMILIES, Lab, MAC_MODES, PORT, VIP, VIP6, cluster_mac, clusterd, end, mac_text, note,
    take_turn, wait_until,
};
use crate::sockets::{accept, hello};

/// Where the client listens for what hosts have to say.
const CLIENT_PORT: u16 = 9000;

#[test]
fn each_mac_mode_answers_and_leaves_the_hosts_their_own_addresses() {
    let cases = MAC_MODES.iter().flat_map(|mode| FAMILIES.map(|family| (mode, family)));
    for ((mode, topology), family) in cases {
        let options = [&["--mac", mode, "--topology", topology], family].concat();
        let Some(lab) = Lab::up_with(3, &options) else { return };
        let status = lab.status(1);
        assert_eq!(status["mac_mode"], *mode);
        assert_eq!(status["mac"], mac_text(cluster_mac(lab.vip(), mode)));
        let mut kept = lab.connect_to_host(1);
        for host in [2, 3] {
            lab.connect_to_host(host);
        }
        own_addresses_are_reached(&lab, mode);
        own_connections_work(&lab, mode);
        // A crash takes no connection along. On a switch that snoops they wait for the next start,
        // since the membership is the daemon's.
        end(lab.daemon(1), libc::SIGKILL);
        if *mode == "igmp" {
            lab.start_daemon(1, lab.vip(), &["--mac", mode]);
        }
        // An adapter that filters by MAC, unlike these, must go on to let frames to it in.
        assert!(receives(&lab, &mac_text(cluster_mac(lab.vip(), mode))), "{mode}");
        assert_eq!(hello(&mut kept).expect("the connection survives"), "h1", "{mode}");
    }
}

/// By the client and by each other, whatever their MAC.
fn own_addresses_are_reached(lab: &Lab, mode: &str) {
    for (role, target) in [("client", 1), ("client", 2), ("client", 3), ("h1", 2), ("h3", 1)] {
        let address = SocketAddr::new(lab.host_address(target), PORT);
        let stream = lab.within(role, || TcpStream::connect(address));
        let mut stream =
            stream.unwrap_or_else(|error| panic!("{mode}, {role} to {address}: {error}"));
        assert_eq!(hello(&mut stream).expect("an answer"), format!("h{target}"), "{mode}, {role}");
    }
}

/// To the VIP, which every host is itself, and from it.
fn own_connections_work(lab: &Lab, mode: &str) {
    let (vip, client) = (lab.vip(), SocketAddr::from((lab.client_address(), CLIENT_PORT)));
    let listener = lab.within("client", || {
        let listener = TcpListener::bind(client).expect("listen");
        listener.set_nonblocking(true).expect("non-blocking");
        listener
    });
    let listeners = [listener];
    for host in 1..=3 {
        let role = format!("h{host}");
        let stream = lab.within(&role, || TcpStream::connect((vip, PORT)));
        let who = hello(&mut stream.expect("a host reaches the VIP")).expect("an answer");
        assert_eq!(who, role, "{mode}: nobody else is asked");

        let mut stream = lab.within(&role, || {
            let domain = Domain::for_address(client);
            let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from((vip, 0)).into()).expect("bind to the VIP");
            socket
                .connect(&client.into())
                .unwrap_or_else(|error| panic!("{mode}, from {role}: {error}"));
            TcpStream::from(socket)
        });
        let mut other_end = accept(&listeners);
        assert_eq!(other_end.peer_addr().expect("an address").ip(), vip);
        other_end.write_all(b"!").expect("send");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("what comes back finds the one host that asked");

        // Who does not ask for it does not speak from it, however close it is to the other end.
        let _stream = lab.within(&role, || TcpStream::connect(client)).expect("the client listens");
        let from = accept(&listeners).peer_addr().expect("an address").ip();
        assert_eq!(from, lab.host_address(host), "{mode}");
    }
}

/// As `clusterd lab reach` says: a table of what works where, and why the rest cannot.
#[test]
fn each_mac_mode_works_where_it_is_said_to() {
    FAMILIES.into_iter().for_each(each_mode_works_where_it_is_said_to_with);
}

fn each_mode_works_where_it_is_said_to_with(family: &[&str]) {
    let Some(_turn) = take_turn() else { return };
    let output = clusterd(&[&["lab", "reach", "--json", "--connections", "30"], family].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let cells: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(cells.len(), 28, "{stderr}{stdout}");
    for cell in &cells {
        note(&format!("{cell}"));
        let works = cell["answered"] == 30 && cell["hearing"] == cell["hosts"];
        assert_eq!(works, cell["obstacle"].is_null(), "{cell}");
    }
    assert!(output.status.success(), "{stderr}");
}

/// Whether the interface of h1 is told to let frames to this MAC in.
fn receives(lab: &Lab, mac: &str) -> bool {
    lab.shell("h1", "ip link show dev eth0; ip maddr show dev eth0; bridge fdb show dev eth0")
        .contains(mac)
}

#[test]
fn a_mac_that_another_program_removes_is_back() {
    let Some(lab) = Lab::up_with(1, &["--mac", "stealth"]) else { return };
    let mac = mac_text(cluster_mac(lab.vip(), "stealth"));
    lab.shell("h1", &format!("bridge fdb del {mac} dev eth0 self"));
    wait_until("frames to it are let in", || receives(&lab, &mac));
}

/// It goes with the daemon, however that ends, so that switches need not be told.
#[test]
fn the_membership_lasts_as_long_as_the_daemon() {
    for (vip, group) in [(IpAddr::from(VIP), "239.255.0.2"), (VIP6.into(), "ff15::9d8b:e76a")] {
        let Some(lab) = Lab::bare_for(vip) else { return };
        let groups = || lab.shell("h1", "ip maddr show dev eth0");
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let daemon = lab.start_daemon(1, vip, &["--mac", "igmp"]);
            assert!(groups().contains(group), "{}", groups());
            end(daemon, signal);
            assert!(!groups().contains(group), "{}", groups());
        }
        let kept = format!("{} static", mac_text(cluster_mac(vip, "igmp")));
        assert!(groups().contains(&kept), "for a plain switch: {}", groups());
    }
}

#[test]
fn the_rules_are_printed_by_mode() {
    for (vip, header) in [(IpAddr::from(VIP), "ip"), (VIP6.into(), "ip6")] {
        let Some(lab) = Lab::bare_for(vip) else { return };
        for (mode, _) in MAC_MODES {
            let address = vip.to_string();
            let output = lab.run("h1", &["clusterd", "rules", "eth0", &address, "--mac", mode]);
            assert!(output.status.success(), "{output:?}");
            let rules = String::from_utf8(output.stdout).expect("UTF-8");
            let mac = mac_text(cluster_mac(vip, mode));
            let accepts = format!("ether daddr {mac} {header} daddr {vip} meta pkttype set host");
            assert_eq!(rules.contains(&accepts), mode == "stealth", "{rules}");
            assert_eq!(rules.contains("fib daddr type unicast drop"), mode == "shared", "{rules}");
        }
    }
}
