//! A network of its own for each test that needs the kernel.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::nfqueue::{Packet, Queue, Ticket};
use super::poller::Poller;
use super::xt_queue;

/// Longer than anything here takes, shorter than a SYN's second repetition.
pub const PATIENCE: Duration = Duration::from_secs(2);

pub fn is_root() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `test` in a thread with a fresh network namespace, which ends with it.
/// Without root it only says so.
pub fn in_namespace(test: impl FnOnce() + Send) {
    if !is_root() {
        return println!("skipped: needs root for a network namespace");
    }
    let thread = |test: Box<dyn FnOnce() + Send + '_>| {
        // SAFETY: no pointers; affects the calling thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {}", io::Error::last_os_error());
        run("ip", &["link", "set", "lo", "up"]);
        test();
    };
    let result = thread::scope(|scope| scope.spawn(|| thread(Box::new(test))).join());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in the caller's network namespace; returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Loads an nft ruleset.
pub fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refused {rules}");
}

/// Binds `queue` and sends every SYN that arrives in this namespace to it.
pub fn queue_syns(queue: u16, max_length: u32) -> Queue {
    let bound = Queue::bind(&[queue], max_length).unwrap();
    syns_to(queue);
    bound
}

/// The rules of [`queue_syns`] alone.
pub fn syns_to(queue: u16) {
    nft("table inet held {
        chain selected {
        }
        chain in {
            type filter hook input priority 0;
            tcp flags & (syn|ack) == syn jump selected
        }
    }");
    xt_queue::insert("held", "selected", queue).unwrap();
}

/// Logs what `selector` matches in its way out, then applies `verdict` to it.
pub fn log_output(selector: &str, group: u16, verdict: &str) {
    nft(&format!(
        "table inet logged {{
            chain out {{
                type filter hook output priority 0;
                {selector} log group {group} {verdict}
            }}
        }}"
    ));
}

pub fn listen(address: IpAddr, backlog: i32) -> TcpListener {
    let address = SocketAddr::new(address, 0);
    let kind = socket2::Type::STREAM;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// The address in the answer of `local_addr` or `peer_addr`, that of IPv4 if it is a mapped one.
pub fn address(of: io::Result<SocketAddr>) -> SocketAddr {
    let address = of.unwrap();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Sends a SYN and does not wait for the answer.
pub fn start_connect(to: SocketAddr) -> TcpStream {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("connect: {error}"),
        _ => socket.into(),
    }
}

/// Waits until the handshake of `client` is done.
pub fn finish_connect(client: &TcpStream) {
    let mut entry = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid `pollfd`, and the count says one.
    let count = unsafe { libc::poll(&raw mut entry, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(count, 1, "no answer to the SYN");
    client.peer_addr().unwrap();
}

pub fn is_connected(client: &TcpStream) -> bool {
    client.peer_addr().is_ok()
}

/// Waits until `queue` has handed out `count` packets; returns their tickets
/// and the ports they came from.
pub fn held(queue: &mut Queue, count: usize) -> Vec<(Ticket, u16)> {
    let mut poller = Poller::new().unwrap();
    poller.add(queue, 0).unwrap();
    let mut held = Vec::new();
    while held.len() < count {
        let ready = poller.wait(Some(PATIENCE)).unwrap();
        assert!(ready.contains(0), "only {} of {count} packets came", held.len());
        let note = |packet: Packet<'_>| held.push((packet.ticket, ports(packet.payload).0));
        queue.recv(usize::MAX, note).unwrap();
    }
    held
}

/// Source and destination port of an IPv4 packet.
pub fn ports(packet: &[u8]) -> (u16, u16) {
    let tcp = &packet[usize::from(packet[0] & 15) * 4..];
    (u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]]))
}

/// The TCP flags of an IPv4 packet.
pub fn flags(packet: &[u8]) -> u8 {
    packet[usize::from(packet[0] & 15) * 4 + 13]
}
