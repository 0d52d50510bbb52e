//! A client that uses one port again at once.

use std::io::Read;
use std::time::Duration;

use crate::rig::{Lab, PORT};
use crate::sockets::{OTHER_PORT, accept, connect_from, hello};

const SOURCE_PORT: u16 = 40_000;
const TIMES: usize = 50;

/// The server closes first, so its kernel keeps TIME_WAIT and the client's none.
#[test]
fn a_port_is_used_again_while_its_server_is_in_time_wait() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let listeners = lab.listen_everywhere(OTHER_PORT);
    for time in 0..TIMES {
        let mut client = lab
            .within("client", || connect_from(SOURCE_PORT, OTHER_PORT))
            .unwrap_or_else(|error| panic!("connection {time}: {error}"));
        drop(accept(&listeners));
        assert_eq!(client.read(&mut [0; 8]).expect("the server closes first"), 0);
    }
}

/// The client gives up with a reset, which frees its port at once.
#[test]
fn a_port_is_used_again_after_an_abort_by_the_client() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    for time in 0..TIMES {
        let answer = lab.within("client", || {
            let mut stream = connect_from(SOURCE_PORT, PORT)?;
            let answer = hello(&mut stream);
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            answer
        });
        answer.unwrap_or_else(|error| panic!("connection {time}: {error}"));
    }
}
