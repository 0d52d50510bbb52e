//! Resets that the guard must let through.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use crate::rig::{Lab, note, wait_until};
use crate::sockets::{OTHER_PORT, accept};

const CLOSED_PORT: u16 = 81;
const GUARDS: [&str; 2] = ["strict", "rst"];
/// Hosts differ in nothing, but which one owns a connection is the hash's choice.
const TIMES: usize = 10;

#[test]
fn a_closed_port_refuses_at_once() {
    for guard in GUARDS {
        let Some(lab) = Lab::up(3, guard) else { return };
        let before = lab.syn_retransmissions();
        for _ in 0..TIMES {
            let error = lab.connect(CLOSED_PORT).expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "guard {guard}: {error}");
        }
        let again = lab.syn_retransmissions() - before;
        note(&format!("guard {guard}: {TIMES} refused, {again} SYNs sent again"));
        assert!((again as usize) < TIMES, "guard {guard}: only retransmitted SYNs are refused");
    }
}

#[test]
fn data_for_a_closed_connection_is_reset() {
    for guard in GUARDS {
        let Some(lab) = Lab::up(3, guard) else { return };
        let listeners = lab.listen_everywhere(OTHER_PORT);
        for _ in 0..TIMES {
            let mut client = lab.connect(OTHER_PORT).expect("connect");
            client.write_all(b"request").expect("write");
            let mut server = accept(&listeners);
            server.read_exact(&mut [0; 7]).expect("the request arrives");
            drop(server);
            assert_eq!(client.read(&mut [0; 8]).expect("the end of the stream"), 0);
            wait_until("the reset arrives", || client.write_all(b"more").is_err());
            let error = client.write_all(b"more").expect_err("it stays reset");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "guard {guard}");
        }
    }
}

#[test]
fn an_abort_by_the_service_reaches_the_client() {
    for guard in GUARDS {
        let Some(lab) = Lab::up(3, guard) else { return };
        let listeners = lab.listen_everywhere(OTHER_PORT);
        for _ in 0..TIMES {
            let mut client = lab.connect(OTHER_PORT).expect("connect");
            let server = accept(&listeners);
            socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            drop(server);
            let error = client.read(&mut [0; 8]).expect_err("the service aborts");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "guard {guard}: {error}");
        }
    }
}
