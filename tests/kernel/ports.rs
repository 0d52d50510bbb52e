//! A client that uses one port again at once.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use crate::rig::{Lab, PORT, wait_until};
use crate::sender::Sender;
use crate::sockets::{OTHER_PORT, accept, connect_from, hello};

const SOURCE_PORT: u16 = 40_000;
const TIMES: usize = 50;

/// The server closes first, so its kernel keeps TIME_WAIT and the client's none.
#[test]
fn a_port_is_used_again_while_its_server_is_in_time_wait() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let listeners = lab.listen_everywhere(OTHER_PORT);
    for time in 0..TIMES {
        let mut client = connect_once_free(&lab, OTHER_PORT, time);
        drop(accept(&listeners));
        assert_eq!(client.read(&mut [0; 8]).expect("the server closes first"), 0);
    }
}

/// Connects as soon as the client's kernel has seen the end of the last connection: the last words may be
/// on their way, and a child that another test is just forking may still have its socket.
fn connect_once_free(lab: &Lab, port: u16, time: usize) -> TcpStream {
    let mut connected = None;
    wait_until("the client's kernel has seen the end of the last one", || {
        match lab.within("client", || connect_from(SOURCE_PORT, port)) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
            Err(error) => panic!("connection {time}: {error}"),
            Ok(client) => connected = Some(client),
        }
        connected.is_some()
    });
    connected.expect("waited for")
}

/// The client gives up with a reset, which frees its port at once.
#[test]
fn a_port_is_used_again_after_an_abort_by_the_client() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    for time in 0..TIMES {
        let mut stream = connect_once_free(&lab, PORT, time);
        hello(&mut stream).unwrap_or_else(|error| panic!("connection {time}: {error}"));
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

/// A host that has not learnt that the client is gone holds its half of a connection for a
/// minute. It must not answer for that when the port is used again.
#[test]
fn a_port_is_used_again_while_an_earlier_attempt_is_half_open() {
    const PORTS: u16 = 50;
    let Some(lab) = Lab::up(3, "rst") else { return };
    // The client's kernel knows nothing of these, and would say so.
    lab.shell(
        "client",
        "nft 'add table inet t; add chain inet t c { type filter hook output priority 0; }; \
         add rule inet t c tcp flags & rst == rst counter drop'",
    );
    let sender = Sender::open(&lab);
    (0..PORTS).for_each(|number| sender.send_syn(SOURCE_PORT + number, 1_000_000_000));
    let half_open = || -> usize {
        let list = "ss -Htn state syn-recv '( sport = :80 )' | wc -l";
        (1..=3).map(|host| lab.shell(&format!("h{host}"), list)).map(|text| count(&text)).sum()
    };
    wait_until("each has been answered", || half_open() >= usize::from(PORTS));
    for number in 0..PORTS {
        let port = SOURCE_PORT + number;
        let answer = lab.within("client", || hello(&mut connect_from(port, PORT)?));
        answer.unwrap_or_else(|error| panic!("connect from port {port}: {error}"));
    }
    let leftovers = || -> u64 {
        (1..=3).map(|host| lab.status(host)["leftovers"].as_u64().expect("a counter")).sum()
    };
    wait_until("each was found", || leftovers() >= u64::from(PORTS));
    assert_eq!(half_open(), 0);
}

fn count(text: &str) -> usize {
    text.trim().parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
}
