//! Services that stop, come back, or do not accept.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::load::{Load, failures, share};
use crate::rig::{Lab, PORT, end, note, wait_until};
use crate::sockets::OTHER_PORT;

#[test]
fn a_service_that_stops_costs_no_new_connection_and_gets_its_share_again() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let load = Load::start(&lab);
    load.await_more(500);
    end(lab.service(2), libc::SIGTERM);
    let stopped = Instant::now();
    load.await_more(1000);
    let restarted = Instant::now();
    lab.start_service(2);
    wait_until("the new service is used", || lab.who().expect("answered") == "h2");
    let used = Instant::now();
    load.await_more(1000);

    let attempts = load.finish();
    let (after, before) = failures(&attempts, stopped);
    note(&format!("{before} connections of the stopped service itself ended with it"));
    assert!(after.is_empty(), "{after:#?}");
    let while_down = share(&attempts, stopped, 2) - share(&attempts, restarted, 2);
    assert_eq!(while_down, 0, "nobody listened there");
    // A third is its due; ten in a thousand say that it has not been given up.
    assert!(share(&attempts, used, 2) >= 10);
}

#[test]
fn without_any_service_a_connection_is_refused() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    (1..=3).for_each(|host| end(lab.service(host), libc::SIGTERM));
    for _ in 0..20 {
        let error = lab.connect(PORT).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    lab.start_service(3);
    wait_until("the one service is used", || lab.who().is_ok_and(|host| host == "h3"));
}

#[test]
fn a_service_with_a_full_accept_queue_leaves_connections_to_the_others() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let stuck = lab.listen(1, OTHER_PORT, 1);
    let others = [lab.listen(2, OTHER_PORT, 64), lab.listen(3, OTHER_PORT, 64)];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&others, &done));
        let mut served = 0;
        let mut waiting = Vec::new();
        // The stuck one takes what fits its queue; those connections stand, unanswered.
        while served < 50 {
            let mut stream = lab.connect(OTHER_PORT).expect("a host with room answers");
            stream.write_all(b"?").expect("the connection stands");
            stream.set_nonblocking(false).expect("blocking");
            if is_stuck(&lab, &stream) {
                waiting.push(stream);
                assert!(waiting.len() <= 4, "the full queue keeps getting connections");
                continue;
            }
            let mut answer = [0];
            stream.read_exact(&mut answer).expect("an answer");
            served += 1;
        }
        done.store(true, Ordering::Relaxed);
        note(&format!("{} connections wait at the stuck service, {served} served", waiting.len()));
        server.join().expect("the server")
    });
    drop(stuck);
}

/// Whether h1's kernel has this connection.
fn is_stuck(lab: &Lab, stream: &std::net::TcpStream) -> bool {
    let port = stream.local_addr().expect("a local address").port();
    let line = format!("ss -Htn state connected dst :{port}");
    !lab.shell("h1", &line).trim().is_empty()
}

fn serve(listeners: &[TcpListener], done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        for listener in listeners {
            let Ok((mut stream, _)) = listener.accept() else { continue };
            stream.set_nonblocking(false).expect("blocking");
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).expect("the client reads");
            }
        }
        thread::yield_now();
    }
}
