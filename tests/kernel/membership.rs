//! Hosts that stop for long, and hosts of a version to come.

use std::time::{Duration, Instant};

use clusterd::flow::{ClusterKey, NodeId};
use clusterd::wire::{self, Frame, Header, TTL};

use crate::answers::Answers;
use crate::load::{Load, failures};
use crate::rig::{Lab, VIP, note, signal, wait_until};
use crate::sender::Sender;

/// Bytes of the trailer of a frame.
const TAG: usize = 16;

/// Longer than it takes the others to forget a host.
#[test]
fn a_daemon_that_stops_for_five_seconds_costs_no_connection() {
    // Two cores are too few for the load and three hosts: a long slot keeps that out of it.
    let Some(lab) = Lab::up_with(3, &["--daemon-arg=--slot=15ms"]) else { return };
    let begin = Instant::now();
    let (answers, load) = (Answers::listen(&lab), Load::start(&lab));
    load.await_more(500);
    signal(lab.daemon(2), libc::SIGSTOP);
    let stopped = Instant::now();
    // The fault itself lasts that long; nothing is awaited by it.
    while stopped.elapsed() < Duration::from_secs(5) {
        load.await_more(10);
    }
    assert_eq!(lab.status(1)["peers"].as_array().map(Vec::len), Some(1));
    signal(lab.daemon(2), libc::SIGCONT);
    lab.settle();
    load.await_more(2_000);
    wait_until("the host answers again", || lab.who().is_ok_and(|host| host == "h2"));
    let attempts = load.finish();
    let (failed, _) = failures(&attempts, begin);
    let seen = answers.finish();
    note(&format!("h2 found {} old SYNs", lab.status(2)["queue"]["slept"]));
    note(&format!("{} connections, {} second SYN-ACKs", attempts.len(), seen.second_syn_acks()));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(seen.unanswered(), 0);
}

/// A frame of major version 2: the same header and trailer, and nothing else that is known.
fn of_the_next_major(sequence: u64) -> Vec<u8> {
    let key = ClusterKey::public(VIP.into());
    let header = Header::new(NodeId(9), 1, sequence);
    let mut bytes = wire::encode(&Frame { header, entries: vec![] }, &key.into());
    bytes[2] = 2;
    bytes.truncate(bytes.len() - TAG);
    bytes.extend([0xee; 40]);
    let tag = key.tag(&bytes);
    bytes.extend(tag);
    bytes
}

#[test]
fn beside_a_host_of_another_major_version_all_decide_by_hash() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    let sender = Sender::open(&lab);
    let mut sequence = 0;
    wait_until("all decide by hash", || {
        sequence += 1;
        sender.send(TTL, &of_the_next_major(sequence));
        (1..=3).all(|host| lab.status(host)["by_hash"] == true)
    });
    for host in 1..=3 {
        let status = lab.status(host);
        assert_eq!(status["causes"], serde_json::json!(["version"]));
        let heard = |list: &str| status[list].as_array().map(Vec::len);
        assert_eq!(heard("hearing"), Some(3));
        assert_eq!(heard("peers"), Some(2), "it cannot be ranked");
        let kept = status["roster"].as_object().map(|roster| roster.len());
        assert_eq!(kept, Some(2), "it counts while it is heard, and no longer");
    }
    // It has gone; its share waits for the client's next SYN, and it is waited for no more.
    (0..10).for_each(|_| drop(lab.who().expect("connections go on")));
    wait_until("all claim again", || (1..=3).all(|host| lab.status(host)["by_hash"] == false));
    let owns = || -> u64 {
        (1..=3).map(|host| lab.status(host)["protocol"]["owns"].as_u64().expect("a counter")).sum()
    };
    let before = owns();
    (0..20).for_each(|_| drop(lab.who().expect("connections go on")));
    wait_until("each was announced", || owns() >= before + 20);
}
