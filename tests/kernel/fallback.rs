//! The hash rule on real kernels: no claim gets through, and each SYN has one answer.

use std::time::Instant;

use crate::answers::{Answers, Seen};
use crate::load::{Load, failures};
use crate::rig::{Lab, VIP, end, note, wait_until};

const HASH: [&str; 2] = ["--mode", "hash"];

fn lab_by_hash() -> Option<Lab> {
    let lab = Lab::up_with(3, &["--daemon-arg=--mode=hash"])?;
    lab.lose_claims(true);
    Some(lab)
}

/// Connections that must all be good, and what the wire saw of them.
fn load(lab: &Lab, count: usize, event: impl FnOnce()) -> Seen {
    let begin = Instant::now();
    let (answers, load) = (Answers::listen(lab), Load::start(lab));
    event();
    load.await_more(count);
    let (failed, _) = failures(&load.finish(), begin);
    assert!(failed.is_empty(), "{failed:#?}");
    let seen = answers.finish();
    note(&format!(
        "{} attempts, {} with one SYN, {} with two, {} second SYN-ACKs",
        seen.attempts.len(),
        seen.with_syns(1),
        seen.with_syns(2),
        seen.second_syn_acks()
    ));
    assert_eq!(seen.unanswered(), 0);
    seen
}

/// Every attempt has exactly one SYN and one SYN-ACK.
fn is_exact(lab: &Lab, seen: &Seen) {
    let exact = (seen.with_syns(1), seen.second_syn_acks()) == (seen.attempts.len(), 0);
    // What kept a host from answering is among its counters.
    let statuses = || [1, 2, 3].map(|host| lab.status(host).to_string()).join("\n");
    assert!(exact, "{} of {}\n{}", seen.with_syns(1), seen.attempts.len(), statuses());
}

#[test]
fn by_hash_each_syn_has_one_answer_although_no_claim_gets_through() {
    let Some(lab) = lab_by_hash() else { return };
    is_exact(&lab, &load(&lab, 3_000, || {}));
    let said = |name: &str| lab.status(1)["protocol"][name].clone();
    assert!(["claims", "owns", "releases"].iter().all(|name| said(name) == 0));

    // One host dead: its share waits for the client's next SYN.
    let seen = load(&lab, 200, || end(lab.daemon(2), libc::SIGKILL));
    assert_eq!(seen.second_syn_acks(), 0);
    assert!(seen.with_syns(2) > 0);
    assert_eq!(seen.with_syns(1) + seen.with_syns(2), seen.attempts.len());
}

/// All daemons are killed and started again while no claim gets through: the roster that
/// they have kept is all that they know of each other.
#[test]
fn what_is_kept_of_the_cluster_is_enough_after_a_crash_of_all() {
    let Some(lab) = lab_by_hash() else { return };
    wait_until("the roster is kept", || lab.kept_rosters() == [2, 2, 2]);
    (1..=3).for_each(|host| end(lab.daemon(host), libc::SIGKILL));
    for host in 1..=3 {
        lab.start_daemon(host, VIP, &HASH);
    }
    for host in 1..=3 {
        let status = lab.status(host);
        assert_eq!(status["peers"].as_array().map(Vec::len), Some(0), "it hears nobody");
        assert_eq!(status["roster"].as_object().map(|roster| roster.len()), Some(2));
    }
    is_exact(&lab, &load(&lab, 2_000, || {}));
}

/// In automatic mode the loss is noticed by the first clients, and its end by the hosts.
#[test]
fn the_loss_of_all_claims_leads_into_the_hash_rule() {
    let Some(lab) = Lab::up(3, "rst") else { return };
    lab.lose_claims(true);
    let first = load(&lab, 500, || {});
    let (second, all) = (first.second_syn_acks(), first.attempts.len());
    note(&format!("{second} second SYN-ACKs for {all} connections until the hosts noticed"));
    // Without the hash rule it would be two for each.
    assert!(second < all, "{second} of {all}");
    wait_until("all decide by hash", || {
        lab.who().expect("connections go on");
        (1..=3).all(|host| lab.status(host)["by_hash"] == true)
    });
    is_exact(&lab, &load(&lab, 2_000, || {}));
}
