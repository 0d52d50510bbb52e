use std::net::Ipv4Addr;
use std::time::Instant;

use super::*;
use crate::io::error::errno;
use crate::io::nfqueue::Verdict;
use crate::io::testing::{
    address, flags, held, in_namespace, listen, log_output, ports, queue_syns, start_connect,
};

const NF_INET_LOCAL_OUT: u8 = 3;
const SYN_ACK: u8 = 0x12;

/// As on a host of the cluster: the answer leaves, nothing comes back at once.
fn log_syn_acks(group: u16) -> Log {
    let log = Log::bind(group).unwrap();
    log_output("tcp flags & (syn|ack) == syn|ack", group, "drop");
    log
}

#[test]
fn the_syn_ack_is_there_when_the_verdict_returns() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let mut log = log_syn_acks(9);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 64);
        let local = address(listener.local_addr());
        for _ in 0..50 {
            let client = start_connect(local);
            let port = address(client.local_addr()).port();
            let tickets = held(&mut queue, 1);
            assert_eq!(log.recv(8, |_, _| panic!("no SYN-ACK yet")).unwrap(), 0);
            queue.verdict(tickets[0].0, Verdict::Accept);
            queue.flush().unwrap();
            // At once: no waiting.
            let mut seen = Vec::new();
            log.recv(8, |packet, hook| seen.push((ports(packet), flags(packet), hook))).unwrap();
            assert_eq!(seen, [((local.port(), port), SYN_ACK, NF_INET_LOCAL_OUT)]);
        }
        assert_eq!(log.enobufs, 0);
    });
}

#[test]
fn a_taken_group_is_busy_and_free_after_close() {
    in_namespace(|| {
        let log = Log::bind(9).unwrap();
        let error = Log::bind(9).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EBUSY), "{error}");
        drop(log);
        Log::bind(9).unwrap();
    });
}

proptest::proptest! {
    #[test]
    fn any_datagram_is_read_without_panic(bytes: Vec<u8>) {
        deliver(&bytes, &mut |_, _| ());
    }
}

/// Run by hand: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn time_from_verdict_to_syn_ack() {
    in_namespace(|| {
        let mut queue = queue_syns(7, 64);
        let mut log = log_syn_acks(9);
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 4096);
        let local = address(listener.local_addr());
        let (mut flushed, mut logged) = (Vec::new(), Vec::new());
        for _ in 0..2000 {
            let _client = start_connect(local);
            let tickets = held(&mut queue, 1);
            let before = Instant::now();
            queue.verdict(tickets[0].0, Verdict::Accept);
            queue.flush().unwrap();
            let between = Instant::now();
            assert_eq!(log.recv(8, |_, _| ()).unwrap(), 1);
            logged.push(between.elapsed());
            flushed.push(between - before);
        }
        for (what, mut times) in [("flush of an accept", flushed), ("recv of the SYN-ACK", logged)]
        {
            times.sort();
            println!("{what}: p50 {:?} p99 {:?} max {:?}", times[1000], times[1980], times[1999]);
        }
    });
}
