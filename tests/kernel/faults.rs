//! Hosts that die or stop for a while under load.

use std::time::Instant;

use crate::load::{Load, failures, share};
use crate::rig::{Lab, end, is_alive, note, signal, wait_until};
use crate::sockets::{download, hello, upload};

/// Connections answered before a fault, and after it.
const BEFORE: usize = 500;
const AFTER: usize = 2000;
const GUARDS: [&str; 2] = ["strict", "rst"];

/// Runs a load with a fault of h2 half way; nothing that starts after it may fail.
fn no_new_connection_fails(lab: &Lab, fault: impl FnOnce()) {
    let load = Load::start(lab);
    load.await_more(BEFORE);
    fault();
    let moment = Instant::now();
    load.await_more(AFTER);
    let attempts = load.finish();
    let (after, before) = failures(&attempts, moment);
    note(&format!("{} attempts; {before} failed of those before the fault", attempts.len()));
    assert!(after.is_empty(), "{} failed: {after:#?}", after.len());
    assert_eq!(share(&attempts, moment, 2), 0, "a dead host answers nobody");
    assert!(share(&attempts, moment, 1) > 0 && share(&attempts, moment, 3) > 0);
}

#[test]
fn a_killed_daemon_costs_no_new_connection() {
    for guard in GUARDS {
        let Some(lab) = Lab::up(3, guard) else { return };
        no_new_connection_fails(&lab, || end(lab.daemon(2), libc::SIGKILL));
    }
}

#[test]
fn a_dead_host_costs_no_new_connection() {
    for guard in GUARDS {
        let Some(lab) = Lab::up(3, guard) else { return };
        no_new_connection_fails(&lab, || {
            // The cable first: a dying kernel must not say goodbye.
            lab.shell("switch", "ip link set h2 down");
            signal(lab.daemon(2), libc::SIGKILL);
            signal(lab.service(2), libc::SIGKILL);
            wait_until("the host is dead", || {
                !is_alive(lab.daemon(2)) && !is_alive(lab.service(2))
            });
        });
    }
}

#[test]
fn a_paused_daemon_costs_no_connection_and_keeps_its_own() {
    GUARDS.into_iter().for_each(pause);
}

fn pause(guard: &str) {
    let Some(lab) = Lab::up(3, guard) else { return };
    let mut idle = lab.connect_to_host(2);
    let mut active = lab.connect_to_host(2);
    let load = Load::start(&lab);
    load.await_more(BEFORE);

    let begin = Instant::now();
    signal(lab.daemon(2), libc::SIGSTOP);
    // The fault itself lasts two seconds; nothing is awaited by it.
    while begin.elapsed() < std::time::Duration::from_secs(2) {
        download(&mut active, 1 << 20).expect("an active connection survives the pause");
        upload(&mut active, 1 << 20).expect("an active connection survives the pause");
        load.await_more(10);
    }
    signal(lab.daemon(2), libc::SIGCONT);

    load.await_more(AFTER);
    // Its peers forgot it meanwhile; it comes back and serves again.
    wait_until("the paused host answers again", || lab.who().expect("answered") == "h2");
    let attempts = load.finish();
    let (after, before) = failures(&attempts, begin);
    assert!(after.is_empty() && before == 0, "{before} before the pause, {after:#?}");
    for stream in [&mut idle, &mut active] {
        assert_eq!(hello(stream).expect("the paused host's connection survives"), "h2");
    }
}
