use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use super::*;
use crate::io::error::errno;
use crate::io::testing::{
    PATIENCE, address, finish_connect, held, in_namespace, is_connected, listen, queue_syns,
    start_connect, syns_to,
};

const NF_INET_LOCAL_IN: u8 = 1;

fn connects(to: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| start_connect(to)).collect()
}

#[test]
fn verdicts_in_any_order() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let local = address(listener.local_addr());
        let clients = connects(local, 4);
        let tickets = held(&mut queue, 4);
        for (client, &(ticket, port)) in clients.iter().zip(&tickets) {
            assert_eq!((ticket.queue, port), (7, address(client.local_addr()).port()));
            assert!(!is_connected(client));
        }
        assert_eq!(overflows(&[7]).unwrap().held, 4);

        queue.verdict(tickets[2].0, Verdict::Accept);
        queue.verdict(tickets[0].0, Verdict::Accept);
        queue.verdict(tickets[1].0, Verdict::Drop);
        queue.flush().unwrap();
        finish_connect(&clients[2]);
        finish_connect(&clients[0]);
        assert!(!is_connected(&clients[1]) && !is_connected(&clients[3]));
        assert_eq!(overflows(&[7]).unwrap(), Overflows { held: 1, ..Default::default() });
        assert_eq!(queue.counters, Counters::default());

        // Closing the socket drops what is held, once no child that another test has just forked has a
        // copy of it.
        drop(queue);
        let deadline = Instant::now() + PATIENCE;
        while overflows(&[7]).unwrap() != Overflows::default() {
            assert!(Instant::now() < deadline, "the packet is still held");
            std::thread::yield_now();
        }
        assert!(!is_connected(&clients[3]));
    });
}

#[test]
fn a_packet_has_its_hook_and_headers() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let _client = start_connect(address(listener.local_addr()));
        let mut packets = 0;
        while packets == 0 {
            packets = queue
                .recv(1, |packet| {
                    assert_eq!(packet.hook, NF_INET_LOCAL_IN);
                    assert_eq!(packet.payload.len(), 60, "IP 20 + TCP 20 + options 20");
                    assert_eq!(packet.payload[0], 0x45);
                })
                .unwrap();
        }
    });
}

#[test]
fn a_budget_is_kept() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let _clients = connects(address(listener.local_addr()), 40);
        let mut seen = 0;
        while seen < 40 {
            let count = queue.recv(3, |_| ()).unwrap();
            assert!(count <= 3);
            seen += count;
        }
    });
}

#[test]
fn stale_and_foreign_verdicts_are_counted() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let client = start_connect(address(listener.local_addr()));
        let [(ticket, _)] = held(&mut queue, 1)[..] else { panic!() };
        queue.verdict(ticket, Verdict::Accept);
        queue.verdict(ticket, Verdict::Accept);
        queue.verdict(Ticket { queue: 8, id: 1 }, Verdict::Drop);
        queue.flush().unwrap();
        finish_connect(&client);
        assert_eq!(queue.recv(64, |_| panic!("no packet")).unwrap(), 0);
        let expected = Counters { stale_verdicts: 1, refused_verdicts: 1, ..Default::default() };
        assert_eq!(queue.counters, expected);
    });
}

#[test]
fn more_verdicts_than_fit_one_datagram() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let count = 20_000;
        for id in 0..count {
            queue.verdict(Ticket { queue: 7, id }, Verdict::Drop);
        }
        queue.flush().unwrap();
        queue.recv(usize::MAX, |_| panic!("no packet")).unwrap();
        // The answers themselves may overrun the buffer.
        assert!(queue.counters.stale_verdicts == u64::from(count) || queue.counters.enobufs > 0);
        queue.flush().unwrap();
    });
}

#[test]
fn a_full_queue_drops_and_counts() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 4);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let clients = connects(address(listener.local_addr()), 10);
        let tickets = held(&mut queue, 4);
        let overflows = overflows(&[7]).unwrap();
        assert_eq!((overflows.held, overflows.user_dropped), (4, 0));
        assert!(overflows.queue_dropped >= 6);
        assert!(!clients.iter().any(is_connected), "fail-open is off");
        assert_eq!(tickets.len(), 4);
    });
}

#[test]
fn a_full_receive_buffer_drops_and_counts() {
    in_namespace(|| {
        let mut queue = Queue::bind_with(&[7], 1024, 8192).unwrap();
        syns_to(7);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
        let clients = connects(address(listener.local_addr()), 60);
        let dropped = overflows(&[7]).unwrap().user_dropped;
        assert!(dropped > 0);
        let received = queue.recv(usize::MAX, |_| ()).unwrap() as u64;
        assert_eq!(queue.counters.enobufs, 1);
        assert!(received + dropped >= 60);
        assert!(!clients.iter().any(is_connected), "fail-open is off");
        // Read empty, the socket takes packets again.
        let _client = start_connect(address(listener.local_addr()));
        assert_eq!(held(&mut queue, 1).len(), 1);
    });
}

#[test]
fn a_taken_queue_is_busy_and_free_after_close() {
    in_namespace(|| {
        let queue = Queue::bind(&[3, 4], 8).unwrap();
        let error = Queue::bind(&[5, 4], 8).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EBUSY), "{error}");
        assert!(error.to_string().starts_with("bind NFQUEUE 4: "), "{error}");
        drop(queue);
        Queue::bind(&[3, 4, 5], 8).unwrap();
    });
}

#[test]
fn a_row_of_proc_is_read() {
    assert_eq!(
        row("    7   1234     5 2   128     6     7        9  1"),
        Some([7, 1234, 5, 2, 128, 6, 7])
    );
    assert_eq!(row("7 1234 5"), None);
    assert_eq!(row("7 1234 5 2 128 6 x"), None);
}

proptest::proptest! {
    #[test]
    fn any_datagram_is_read_without_panic(bytes: Vec<u8>) {
        deliver(&bytes, &mut Counters::default(), &mut |_| ());
    }
}

/// Cost of the hot path. Run by hand: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn cost_per_packet() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 4096);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 4096);
        let local = address(listener.local_addr());
        let mut tickets = Vec::with_capacity(4096);
        for count in [1, 2, 8, 32, 512] {
            let (mut received, mut dropped) = (0, 0);
            let rounds = 4096 / count;
            for _ in 0..rounds {
                let _clients = connects(local, count);
                tickets.clear();
                let before = Instant::now();
                queue.recv(count + 1, |packet| tickets.push(packet.ticket)).unwrap();
                received += before.elapsed().as_nanos();
                assert_eq!(tickets.len(), count);
                let before = Instant::now();
                tickets.iter().for_each(|&ticket| queue.verdict(ticket, Verdict::Drop));
                queue.flush().unwrap();
                dropped += before.elapsed().as_nanos();
            }
            let packets = (rounds * count) as u128;
            println!(
                "{count} at once: recv {} ns, verdict drop {} ns per packet",
                received / packets,
                dropped / packets
            );
        }
    });
}
