//! A rolling upgrade from the last release of the minor version before.
//!
//! `make upgrade-test` builds that release from the repository's history and names its
//! binary in `CLUSTERD_BEFORE`; without it there is nothing to upgrade from.

use std::env;
use std::time::Instant;

use crate::answers::Answers;
use crate::load::{Load, failures};
use crate::rig::{Lab, VIP, end, note, wait_until};

#[test]
fn hosts_are_upgraded_and_downgraded_one_by_one_under_load() {
    let Ok(before) = env::var("CLUSTERD_BEFORE") else {
        note("skipped: CLUSTERD_BEFORE names no binary, see make upgrade-test");
        return;
    };
    // Two cores are too few for the load and three hosts: a long slot keeps that out of it.
    const SLOT: &str = "--slot=15ms";
    let Some(lab) = Lab::up_with(3, &["--daemon-arg", SLOT]) else { return };
    let begin = Instant::now();
    let (answers, load) = (Answers::listen(&lab), Load::start(&lab));
    // What `lab up` has started is the new one: down to the old one, and up again.
    for old in [true, false] {
        for host in 1..=3 {
            end(lab.daemon(host), libc::SIGTERM);
            match old {
                true => lab.start_program(&before, host, VIP, &[SLOT]),
                false => lab.start_daemon(host, VIP, &[SLOT]),
            };
            lab.settle();
            wait_until("it takes its share", || {
                lab.who().is_ok_and(|who| who == format!("h{host}"))
            });
            load.await_more(500);
            let causes: Vec<_> =
                (1..=3).map(|host| lab.status(host)["causes"].to_string()).collect();
            let version = if old { "old" } else { "new" };
            note(&format!("h{host} runs the {version} version, causes {causes:?}"));
        }
    }
    let attempts = load.finish();
    let (failed, _) = failures(&attempts, begin);
    let seen = answers.finish();
    note(&format!("{} connections, {} second SYN-ACKs", attempts.len(), seen.second_syn_acks()));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(seen.unanswered(), 0);
}
