use std::time::Instant;

use super::*;
use crate::io::nflog::Log;
use crate::io::testing::{
    address, finish_connect, flags, in_namespace, listen, log_output, nft, run, start_connect,
};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const RST: u8 = 4;

/// VIPs, each with an address on which a program may listen to be reached there.
fn kinds() -> [(IpAddr, IpAddr); 6] {
    let mapped = Ipv6Addr::from(0xffff_7f00_0009).into();
    let any = Ipv4Addr::UNSPECIFIED.into();
    let any6 = Ipv6Addr::UNSPECIFIED.into();
    [(VIP, VIP), (VIP, any), (VIP, any6), (VIP, mapped), (VIP6, VIP6), (VIP6, any6)]
}

fn drop_syn_acks() {
    nft("table inet t {
        chain in {
            type filter hook input priority 0;
            tcp flags & (syn|ack) == syn|ack drop
        }
    }");
}

#[test]
fn every_kind_of_listener_is_found() {
    in_namespace(|| {
        let mut diag = SockDiag::open().unwrap();
        for (vip, kind) in kinds() {
            let listener = listen(kind, 5);
            let port = listener.local_addr().unwrap().port();
            let empty = Listener { queued: 0, backlog: 5 };
            assert_eq!(diag.listener(vip, port).unwrap(), Some(empty), "{kind}");
            let client = start_connect(SocketAddr::new(vip, port));
            finish_connect(&client);
            let one = Listener { queued: 1, backlog: 5 };
            assert_eq!(diag.listener(vip, port).unwrap(), Some(one), "{kind}");
            let _connection = listener.accept().unwrap();
            assert_eq!(diag.listener(vip, port).unwrap(), Some(empty), "{kind}");
            // The connection outlives the listener and does not count as one.
            drop(listener);
            assert_eq!(diag.listener(vip, port).unwrap(), None, "{kind}");
        }
    });
}

#[test]
fn unreachable_listeners_are_not_found() {
    in_namespace(|| {
        let mut diag = SockDiag::open().unwrap();
        let elsewhere = listen(Ipv4Addr::LOCALHOST.into(), 5);
        let port = elsewhere.local_addr().unwrap().port();
        assert_eq!(diag.listener(VIP, port).unwrap(), None);
        let ipv6_only =
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        ipv6_only.set_only_v6(true).unwrap();
        ipv6_only.bind(&std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        ipv6_only.listen(5).unwrap();
        let port = ipv6_only.local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(diag.listener(VIP, port).unwrap(), None);
    });
}

#[test]
fn a_listener_bound_to_an_interface_is_found_from_there() {
    in_namespace(|| {
        let listener = listen(VIP, 5);
        socket2::SockRef::from(&listener).bind_device(Some(b"lo")).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(SockDiag::open().unwrap().listener(VIP, port).unwrap(), None);
        let mut diag = SockDiag::open().unwrap().on_interface(1);
        assert!(diag.listener(VIP, port).unwrap().is_some());
    });
}

#[test]
fn a_half_open_request_is_destroyed_silently() {
    in_namespace(|| {
        drop_syn_acks();
        let mut resets = Log::bind(9).unwrap();
        log_output("tcp flags & rst == rst", 9, "accept");
        let mut diag = SockDiag::open().unwrap();
        for (vip, kind) in kinds() {
            let listener = listen(kind, 5);
            let local = SocketAddr::new(vip, listener.local_addr().unwrap().port());
            let socket = start_connect(local);
            let client = address(socket.local_addr());
            let found = diag.find(client, local).unwrap().unwrap();
            assert_eq!((found.state, found.client), (TCP_SYN_RECV, Some(client)), "{kind}");

            assert_eq!(diag.destroy_request(client, local).unwrap(), Destroyed::Request, "{kind}");
            assert_eq!(diag.destroy_request(client, local).unwrap(), Destroyed::Absent, "{kind}");
            // The kernel would have sent it inside the call.
            resets.recv(8, |_, _| panic!("a RST for {kind}")).unwrap();
            assert!(diag.listener(vip, local.port()).unwrap().is_some(), "the listener lives");
        }
    });
}

#[test]
fn a_connection_is_not_destroyed() {
    in_namespace(|| {
        let listener = listen(VIP, 5);
        let local = address(listener.local_addr());
        let socket = start_connect(local);
        finish_connect(&socket);
        let client = address(socket.local_addr());
        let mut diag = SockDiag::open().unwrap();
        assert_eq!(diag.destroy_request(client, local).unwrap(), Destroyed::Established);
        let (_accepted, from) = listener.accept().unwrap();
        assert_eq!(address(Ok(from)), client);
        assert_eq!(diag.destroy_request(client, local).unwrap(), Destroyed::Established);
        assert!(diag.find(client, local).unwrap().is_some());
    });
}

/// Documents the kernel: why [`SockDiag::destroy_request`] is not for a flow
/// whose client may still choose this host, and that RSTs are seen above.
#[test]
fn a_connection_has_the_cookie_of_its_request() {
    in_namespace(|| {
        drop_syn_acks();
        let mut resets = Log::bind(9).unwrap();
        log_output("tcp flags & rst == rst", 9, "accept");
        let listener = listen(VIP, 5);
        let local = address(listener.local_addr());
        let socket = start_connect(local);
        let client = address(socket.local_addr());
        let mut diag = SockDiag::open().unwrap();
        let request = diag.find(client, local).unwrap().unwrap();
        // The repeated SYN-ACK gets through.
        run("nft", &["flush", "chain", "inet", "t", "in"]);
        finish_connect(&socket);
        let connection = diag.find(client, local).unwrap().unwrap();
        assert_eq!(connection.state, 1, "established");
        assert_eq!(connection.cookie, request.cookie);

        let (ack, protocol) = (libc::NLM_F_ACK, libc::IPPROTO_TCP);
        diag.begin(SOCK_DESTROY, ack, libc::AF_INET, protocol, client, local, request.cookie, 0);
        diag.request.end();
        diag.socket.request(diag.request.bytes(), diag.sequence, |_| ()).unwrap();
        let mut seen = 0;
        resets.recv(8, |packet, _| seen += usize::from(flags(packet) & RST == RST)).unwrap();
        assert_eq!(seen, 1);
    });
}

#[test]
fn connections_are_listed() {
    in_namespace(|| {
        let mut diag = SockDiag::open().unwrap();
        assert_eq!(diag.established(&[VIP, VIP6]).unwrap(), []);
        let mut expected = Vec::new();
        let mut sockets = Vec::new();
        for (vip, kind) in kinds() {
            let listener = listen(kind, 100);
            let local = SocketAddr::new(vip, listener.local_addr().unwrap().port());
            for _ in 0..100 {
                let client = start_connect(local);
                finish_connect(&client);
                expected.push((address(client.local_addr()), local));
                sockets.push((client, listener.accept().unwrap().0));
            }
        }
        // The peer has closed: CLOSE_WAIT, still there.
        sockets[0].0.shutdown(std::net::Shutdown::Write).unwrap();
        let elsewhere = listen(Ipv4Addr::LOCALHOST.into(), 5);
        let other = start_connect(address(elsewhere.local_addr()));
        finish_connect(&other);
        // A half-open one is left out.
        drop_syn_acks();
        let listener = listen(VIP, 5);
        let local = address(listener.local_addr());
        let half = start_connect(local);
        let client = address(half.local_addr());
        let found = SockDiag::open().unwrap().find(client, local).unwrap().unwrap();
        assert_eq!(found.state, TCP_SYN_RECV);

        // On ::1 the clients' ends are local, too.
        expected.sort();
        let one_by_one = [VIP, VIP6].map(|vip| diag.established(&[vip]).unwrap()).concat();
        for mut found in [diag.established(&[VIP, VIP6]).unwrap(), one_by_one] {
            found.retain(|(_, local)| expected.iter().any(|(_, expected)| local == expected));
            found.sort();
            assert_eq!(found, expected);
        }
    });
}

proptest::proptest! {
    #[test]
    fn any_answer_is_read_without_panic(bytes: Vec<u8>) {
        let kind = SOCK_DIAG_BY_FAMILY;
        socket(Message { kind, sequence: 0, payload: &bytes, whole: &bytes });
    }
}

/// Run by hand: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn cost_of_a_lookup() {
    in_namespace(|| {
        let mut diag = SockDiag::open().unwrap();
        for (vip, kind) in kinds() {
            let listener = listen(kind, 5);
            let port = listener.local_addr().unwrap().port();
            let before = Instant::now();
            for _ in 0..50_000 {
                diag.listener(vip, port).unwrap().unwrap();
            }
            println!("listener on {kind}: {:?}", before.elapsed() / 50_000);
        }
        let before = Instant::now();
        for _ in 0..50_000 {
            assert_eq!(diag.listener(VIP, 9).unwrap(), None);
        }
        println!("no listener: {:?}", before.elapsed() / 50_000);
    });
}

#[test]
fn a_socket_for_datagrams_is_found_by_its_port() {
    in_namespace(|| {
        run("ip", &["addr", "add", &format!("{VIP}/32"), "dev", "lo"]);
        let mut diag = SockDiag::open().unwrap();
        for (vip, bound) in [
            (VIP, "0.0.0.0"),
            (VIP, &VIP.to_string()),
            (VIP, "[::]"),
            (VIP6, "[::]"),
            (VIP6, "[::1]"),
        ] {
            let socket = std::net::UdpSocket::bind(format!("{bound}:0")).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert!(diag.takes_datagrams(vip, port).unwrap(), "{bound}");
            drop(socket);
            assert!(!diag.takes_datagrams(vip, port).unwrap(), "{bound}");
        }
        // Whoever is connected hears its peer only.
        let client = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect((VIP, 9)).unwrap();
        let port = client.local_addr().unwrap().port();
        assert!(!diag.takes_datagrams(VIP, port).unwrap());
        let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        assert!(!diag.takes_datagrams(VIP, port).unwrap());
        assert_eq!(diag.listener(VIP, port).unwrap(), None);
    });
}
