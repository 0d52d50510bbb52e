//! Connections that outlive changes of the cluster.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::rig::{Lab, VIP, end, wait_until};
use crate::sockets::{download, hello, upload};

const TRANSFER: usize = 100_000_000;

/// Transfers go on both ways, and a connection idles, while `event` happens.
fn transfers_survive(lab: &Lab, event: impl FnOnce()) {
    let [mut down, mut up, mut idle] = [1, 2, 1].map(|host| lab.connect_to_host(host));
    let over = AtomicBool::new(false);
    // At least one transfer begins before the event and one ends after it.
    let repeat = |stream: &mut TcpStream, transfer: fn(&mut TcpStream, usize) -> io::Result<()>| {
        let mut last = false;
        while !last {
            last = over.load(Ordering::Relaxed);
            transfer(stream, TRANSFER).expect("the transfer survives");
        }
    };
    thread::scope(|scope| {
        let _over = SetWhenDropped(&over);
        scope.spawn(|| repeat(&mut down, download));
        scope.spawn(|| repeat(&mut up, upload));
        event();
    });
    assert_eq!(hello(&mut idle).expect("the idle connection survives"), "h1");
    assert_eq!(hello(&mut down).expect("as does this"), "h1");
    assert_eq!(hello(&mut up).expect("and this"), "h2");
}

/// A failed event must not keep the transfers going for ever.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn await_peers_of_h1(lab: &Lab, peers: usize) {
    wait_until("h1 sees the change", || {
        lab.status(1)["peers"].as_array().map(Vec::len) == Some(peers)
    });
}

#[test]
fn transfers_survive_a_host_that_leaves() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    transfers_survive(&lab, || {
        end(lab.daemon(3), libc::SIGTERM);
        await_peers_of_h1(&lab, 1);
    });
}

#[test]
fn transfers_survive_a_host_that_joins() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    end(lab.daemon(3), libc::SIGTERM);
    await_peers_of_h1(&lab, 1);
    transfers_survive(&lab, || {
        lab.start_daemon(3, VIP, &["--guard", "strict"]);
        await_peers_of_h1(&lab, 2);
    });
}

#[test]
fn transfers_survive_the_crash_of_another_hosts_daemon() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    transfers_survive(&lab, || {
        end(lab.daemon(3), libc::SIGKILL);
        await_peers_of_h1(&lab, 1);
    });
}

/// Connections of h1 live through the end of its daemon and the start of the next.
fn connections_survive_a_restart(guard: &str, signal: libc::c_int) {
    let Some(lab) = Lab::up(3, guard) else { return };
    let [mut idle, mut busy] = [1, 1].map(|host| lab.connect_to_host(host));
    for _ in 0..3 {
        download(&mut busy, 1 << 20).expect("data flows before");
        end(lab.daemon(1), signal);
        lab.start_daemon(1, VIP, &["--guard", guard]);
        download(&mut busy, 1 << 20).expect("data flows to the client afterwards");
        upload(&mut busy, 1 << 20).expect("data flows to the host afterwards");
    }
    assert_eq!(hello(&mut idle).expect("the idle connection survives"), "h1");
    // And the host takes part again.
    lab.settle();
    wait_until("the host answers again", || lab.who().is_ok_and(|host| host == "h1"));
}

#[test]
fn connections_survive_a_restart_of_their_own_daemon() {
    connections_survive_a_restart("strict", libc::SIGTERM);
}

#[test]
fn connections_survive_a_crash_and_restart_of_their_own_daemon() {
    connections_survive_a_restart("strict", libc::SIGKILL);
}

#[test]
fn connections_survive_a_restart_of_their_own_daemon_with_guard_rst() {
    connections_survive_a_restart("rst", libc::SIGTERM);
}

#[test]
fn connections_survive_a_crash_and_restart_of_their_own_daemon_with_guard_rst() {
    connections_survive_a_restart("rst", libc::SIGKILL);
}
