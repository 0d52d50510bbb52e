//! What the kernel decides by bucket, without the daemon: echo requests always,
//! SYNs while the overload form is on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use clusterd::bucket::{Bucket, bucket};
use clusterd::flow::ClusterKey;
use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{Lab, PORT, VIP, end, wait_until};
use crate::sockets::{connect_to, hello};

const HOSTS: usize = 3;

/// The host, from 1, to which the tests give a bucket.
fn host_of(Bucket(number): Bucket) -> usize {
    usize::from(number) % HOSTS + 1
}

/// The host that answers this port, or echo identifier, of the client.
pub fn host_for(lab: &Lab, port: u16) -> usize {
    let seed = ClusterKey::public(lab.vip()).bucket_seed();
    host_of(bucket(seed, (lab.client_address(), port).into()))
}

/// The host that answers the client's connection from this port, or from any.
fn connect(lab: &Lab, port: u16) -> String {
    let service = SocketAddr::new(lab.vip(), PORT);
    let answer = lab.within("client", || hello(&mut connect_to(service, port)?));
    answer.unwrap_or_else(|error| panic!("connect from port {port}: {error}"))
}

/// The table of the daemons' rules, as nft names it.
pub fn table(lab: &Lab) -> String {
    format!("inet clusterd_{}", lab.vip().to_string().replace(':', "_"))
}

/// Divides the buckets among the hosts, and says whether SYNs go by them.
pub fn divide(lab: &Lab, decide_syns: bool) {
    for host in 1..=HOSTS {
        let own = Bucket::all().filter(|&bucket| host_of(bucket) == host);
        let own: Vec<_> = own.map(|Bucket(number)| number.to_string()).collect();
        let table = table(lab);
        let mut lines = format!(
            "flush set {table} own_buckets\nflush set {table} by_bucket\n\
             add element {table} own_buckets {{ {} }}\n",
            own.join(", ")
        );
        if decide_syns {
            lines += &format!("add element {table} by_bucket {{ tcp }}\n");
        }
        lab.shell(&format!("h{host}"), &format!("nft -f - <<'END'\n{lines}END"));
    }
}

/// Each echo request gets one answer, from the host of its bucket. A request finds nobody while the
/// daemon of its host does not get to renew the lease, on a busy machine; it is sent again, as `ping` does.
#[test]
fn an_echo_request_is_answered_by_one_host() {
    const REQUESTS: u16 = 200;
    const TRIES: u16 = 10;
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    divide(&lab, false);
    // By identifier and sequence number.
    let replies = lab.within("client", || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a read timeout");
        let mut replies = BTreeMap::<(u16, u16), usize>::new();
        let mut open: BTreeSet<u16> = (0..REQUESTS).collect();
        for number in 0..TRIES {
            open.iter().for_each(|&id| request_echo(&socket, id, number));
            // What is too much has a second to come, after the last answer.
            while let Ok((id, number)) = echo_reply(&socket) {
                *replies.entry((id, number)).or_default() += 1;
                open.remove(&id);
            }
            if open.is_empty() {
                break;
            }
        }
        assert!(open.is_empty(), "nobody answers {open:?}");
        replies
    });
    assert!(replies.values().all(|&answers| answers == 1), "{replies:?}");
    for host in 1..=HOSTS {
        let expected = replies.keys().filter(|&&(id, _)| host_for(&lab, id) == host).count();
        let counts = lab.shell(&format!("h{host}"), "nstat -asz IcmpOutEchoReps");
        let mut words = counts.split_whitespace().skip_while(|&word| word != "IcmpOutEchoReps");
        assert_eq!(words.nth(1), Some(expected.to_string().as_str()), "h{host}: {counts}");
    }
}

fn request_echo(socket: &Socket, id: u16, number: u16) {
    let ([a, b], [c, d]) = (id.to_be_bytes(), number.to_be_bytes());
    let mut packet = [8, 0, 0, 0, a, b, c, d];
    // The ones' complement of the ones' complement sum of all words.
    let sum = 0x0800 + u32::from(id) + u32::from(number);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = SocketAddr::from((VIP, 0));
    socket.send_to(&packet, &to.into()).expect("send an echo request");
}

/// The identifier and the sequence number of the next echo reply.
fn echo_reply(socket: &Socket) -> io::Result<(u16, u16)> {
    loop {
        let mut buffer = [MaybeUninit::uninit(); 128];
        let length = socket.recv(&mut buffer)?;
        // SAFETY: recv has initialised that many bytes.
        let packet = unsafe { buffer[..length].assume_init_ref() };
        if let [0, _, _, _, a, b, c, d, ..] = packet[20..] {
            return Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        }
    }
}

#[test]
fn syns_are_divided_without_the_daemon_guard_rst() {
    syns_are_divided_without_the_daemon(&[]);
    syns_are_divided_without_the_daemon(&["--ipv6"]);
}

#[test]
fn syns_are_divided_without_the_daemon_guard_strict() {
    syns_are_divided_without_the_daemon(&["--guard", "strict"]);
}

fn syns_are_divided_without_the_daemon(options: &[&str]) {
    const CONNECTIONS: u16 = 60;
    let Some(lab) = Lab::up_with(HOSTS, options) else { return };
    divide(&lab, true);
    let syns_seen = || -> Vec<u64> {
        let count = |host| lab.status(host)["protocol"]["syns"].as_u64().expect("a count");
        (1..=HOSTS).map(count).collect()
    };
    let before = syns_seen();
    for port in 20_000..20_000 + CONNECTIONS {
        assert_eq!(connect(&lab, port), format!("h{}", host_for(&lab, port)));
    }
    for host in 1..=HOSTS {
        let list = format!("nft list counter {} divided", table(&lab));
        let counter = lab.shell(&format!("h{host}"), &list);
        assert!(counter.contains(&format!("packets {CONNECTIONS} ")), "h{host}: {counter}");
    }
    divide(&lab, false);
    for port in 30_000..30_000 + CONNECTIONS {
        connect(&lab, port);
    }
    // What the daemons publish is a moment old, so it is looked at only now.
    let more = || syns_seen().into_iter().zip(&before).map(|(now, before)| now - before);
    let wanted = u64::from(CONNECTIONS);
    wait_until("the daemons decide again", || more().all(|more| more >= wanted));
    assert!(more().all(|more| more < 2 * wanted), "only the second half: {:?}", syns_seen());
}

/// Divided by buckets alone, a third of the clients would find nobody.
#[test]
fn a_port_that_a_host_does_not_serve_is_not_divided() {
    const CONNECTIONS: u16 = 60;
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    divide(&lab, true);
    end(lab.service(2), libc::SIGTERM);
    // The kernel there refuses this one, unheard, and so the daemon learns of it. The client's
    // next SYN is answered by another host.
    let its = (20_000..).find(|&port| host_for(&lab, port) == 2).expect("a third of all");
    assert_ne!(connect(&lab, its), "h2");
    for host in 1..=HOSTS {
        wait_until("the kernel knows", || {
            let list = format!("nft list set {} undivided4", table(&lab));
            lab.shell(&format!("h{host}"), &list)
                .contains(&format!("elements = {{ {VIP} . {PORT} }}"))
        });
    }
    divide(&lab, true);
    for port in 30_000..30_000 + CONNECTIONS {
        assert_ne!(connect(&lab, port), "h2");
    }
    lab.start_service(2);
    wait_until("it is divided again", || connect(&lab, 0) == "h2");
}
