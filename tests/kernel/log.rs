//! What the daemon says, and what it does not.

use crate::load::{Load, failures};
use crate::rig::Lab;

#[test]
fn the_log_has_a_line_per_state_change_and_none_per_connection() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let lines = |lab: &Lab| (1..=3).map(|host| lab.log(host).lines().count()).sum::<usize>();
    let before = lines(&lab);
    let load = Load::start(&lab);
    load.await_more(1000);
    let attempts = load.finish();
    let moment = attempts.iter().map(|attempt| attempt.started).min().expect("attempts");
    assert_eq!(failures(&attempts, moment).0, [""; 0]);
    let more = lines(&lab) - before;
    // A peer may fall silent and come back on a busy machine: two lines on each of two hosts.
    assert!(more < 50, "{more} lines for {} connections: {}", attempts.len(), lab.log(1));
    for host in 1..=3 {
        let log = lab.log(host);
        let ready = log.lines().filter(|line| line.ends_with("ready vip=10.77.0.2")).count();
        assert_eq!(ready, 1, "h{host}: {log}");
    }
}
