//! Flows of datagrams: one host answers each, and another one when that is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::Socket;

use crate::capture::packet_socket;
use crate::rig::{FAMILIES, Lab, PATIENCE, VIP, VIP6, end, note, signal, wait_until};
use crate::sockets::{download, hello};

const HOSTS: usize = 3;
pub const ECHO_PORT: u16 = 7000;
/// No service of a test is here.
const CLOSED_PORT: u16 = 7001;

/// A service on a host that says every datagram back; it ends with this value.
pub struct Echo {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(lab: &Lab, host: usize) -> Self {
        Self::start_at(lab, host, lab.vip())
    }

    /// Answers must come from the virtual IP, so it is bound to that.
    pub fn start_at(lab: &Lab, host: usize, vip: IpAddr) -> Self {
        let socket = lab.within(&format!("h{host}"), || UdpSocket::bind((vip, ECHO_PORT)));
        let socket = socket.expect("bind to the virtual IP");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a read timeout");
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let serve = move || {
            let mut buffer = vec![0; 1 << 16];
            while !ended.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((length, client)) => {
                        // Nobody but the client can tell whether it wants the answer.
                        drop(socket.send_to(&buffer[..length], client));
                    }
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
                }
            }
        };
        Self { done, thread: Some(thread::spawn(serve)) }
    }

    fn everywhere(lab: &Lab) -> Vec<Self> {
        (1..=lab.nodes()).map(|host| Self::start(lab, host)).collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|result| result.is_ok()), "the service");
    }
}

/// Hears all frames at the client from now on.
pub struct Tap(Socket);

/// An IP packet from the cluster, by the host whose MAC address it has.
pub struct Heard {
    pub host: usize,
    pub packet: Vec<u8>,
}

impl Heard {
    /// What is in it, and where that begins; nothing if it is a further fragment.
    fn content(&self) -> Option<(u8, usize)> {
        let word = |at: usize| u16::from_be_bytes([self.packet[at], self.packet[at + 1]]);
        match (self.packet[0] >> 4, self.packet[6]) {
            (4, _) => (word(6) & 0x1fff == 0).then_some((self.packet[9], 20)),
            // A header of its own says that it is a fragment.
            (_, 44) => (word(42) & 0xfff8 == 0).then_some((self.packet[40], 48)),
            (_, protocol) => Some((protocol, 40)),
        }
    }

    /// The client's port if this is a datagram from the virtual IP, or the first fragment of one.
    pub fn client_port(&self) -> Option<u16> {
        let from_vip = match self.packet[0] >> 4 {
            4 => self.packet[12..16] == VIP.octets(),
            _ => self.packet[8..24] == VIP6.octets(),
        };
        let (protocol, at) = self.content().filter(|_| from_vip)?;
        (protocol == libc::IPPROTO_UDP as u8)
            .then(|| u16::from_be_bytes([self.packet[at + 2], self.packet[at + 3]]))
    }
}

impl Tap {
    pub fn open(lab: &Lab) -> Self {
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = lab.within("client", || packet_socket(protocol));
        let bytes: libc::c_int = 16 << 20;
        // SAFETY: the pointer is to a local of the size given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                size_of_val(&bytes) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "a large buffer: {}", io::Error::last_os_error());
        Self(socket)
    }

    /// What has come from hosts since the last call.
    pub fn heard(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            // SAFETY: the pointer and length describe the local buffer.
            let got = unsafe {
                let pointer = (&raw mut buffer).cast();
                libc::recv(self.0.as_raw_fd(), pointer, buffer.len(), libc::MSG_DONTWAIT)
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                return heard;
            }
            let frame = &buffer[..got as usize];
            // Hosts have the addresses 02:00:00:00:00:01 and so on.
            // With room for the headers that are looked at.
            let is_ip = match frame.get(12..14) {
                Some([8, 0]) => frame.len() >= 38,
                Some([0x86, 0xdd]) => frame.len() >= 62,
                _ => false,
            };
            if is_ip && frame[6..11] == [2, 0, 0, 0, 0] {
                heard.push(Heard { host: frame[11].into(), packet: frame[14..].to_vec() });
            }
        }
    }

    /// The hosts of all answers, by client port.
    pub fn answers(&self) -> BTreeMap<u16, Vec<usize>> {
        let mut answers = BTreeMap::<_, Vec<_>>::new();
        for heard in self.heard() {
            if let Some(port) = heard.client_port() {
                answers.entry(port).or_default().push(heard.host);
            }
        }
        answers
    }
}

fn client(lab: &Lab) -> UdpSocket {
    let any = lab.unspecified();
    let socket = lab.within("client", || UdpSocket::bind((any, 0)));
    let socket = socket.expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    socket.connect((lab.vip(), ECHO_PORT)).expect("connect");
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("bound").port()
}

/// Sends a datagram and takes its answer.
pub fn ask(socket: &UdpSocket, question: &[u8]) -> io::Result<()> {
    let mut answer = vec![0; 1 << 16];
    socket.send(question)?;
    loop {
        let length = socket.recv(&mut answer)?;
        if answer[..length] == *question {
            return Ok(());
        }
    }
}

fn total(lab: &Lab, group: &str, counter: &str) -> u64 {
    let value = |host| lab.status(host)[group][counter].as_u64().expect("a counter");
    (1..=lab.nodes()).map(value).sum()
}

#[test]
fn every_flow_is_answered_by_one_host() {
    FAMILIES.into_iter().for_each(every_flow_is_answered_by_one_host_with);
}

fn every_flow_is_answered_by_one_host_with(family: &[&str]) {
    const FLOWS: usize = 300;
    let Some(lab) = Lab::up_with(HOSTS, family) else { return };
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    let sockets: Vec<_> = (0..FLOWS).map(|_| client(&lab)).collect();
    let mut owners = BTreeMap::new();
    for round in 0..4u8 {
        for socket in &sockets {
            // Two at once, as a resolver sends A and AAAA.
            socket.send(&[round, 0]).expect("send");
            ask(socket, &[round, 1]).expect("answered");
        }
        let answers = tap.answers();
        assert_eq!(answers.len(), FLOWS);
        for (port, hosts) in answers {
            let owner = *owners.entry(port).or_insert(hosts[0]);
            assert_eq!(hosts, [owner; 2], "round {round}, port {port}");
        }
    }
    let share = |host| owners.values().filter(|&&owner| owner == host).count();
    let shares: Vec<_> = (1..=HOSTS).map(share).collect();
    note(&format!(
        "{FLOWS} flows, shares {shares:?}, {} claims",
        total(&lab, "protocol", "claims")
    ));
    assert!(shares.iter().all(|&share| share > FLOWS / 10), "{shares:?}");
    // The flows go on without the daemons of the others.
    wait_until("the kernels drop foreign flows by themselves", || {
        total(&lab, "datagrams", "blocked") >= (FLOWS * (HOSTS - 1)) as u64
    });
    let seen = total(&lab, "protocol", "datagrams");
    ask(&sockets[0], b"?").expect("answered");
    assert!(total(&lab, "protocol", "datagrams") <= seen + HOSTS as u64);
    let flows = lab.run("h1", &["clusterd", "status", "--flows", "--json"]).stdout;
    assert!(String::from_utf8_lossy(&flows).contains(r#""protocol":"udp""#));
}

#[test]
fn datagrams_in_fragments_are_answered() {
    FAMILIES.into_iter().for_each(datagrams_in_fragments_are_answered_with);
}

fn datagrams_in_fragments_are_answered_with(family: &[&str]) {
    let Some(lab) = Lab::up_with(HOSTS, family) else { return };
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    for length in [1473, 4000, 60_000] {
        for byte in 0..20 {
            let socket = client(&lab);
            ask(&socket, &vec![byte; length]).expect("answered");
            ask(&socket, &vec![byte + 1; length]).expect("answered");
            let answers = tap.answers();
            let hosts = &answers[&port(&socket)];
            assert_eq!(*hosts, [hosts[0]; 2]);
        }
    }
}

/// The host that answers a flow now, or `None` if not exactly one does.
fn sole_answer(tap: &Tap, socket: &UdpSocket) -> Option<usize> {
    tap.answers();
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a read timeout");
    let answered = ask(socket, &rand()).is_ok();
    // A second answer may be on its way.
    answered.then(|| ask(socket, &rand()).ok())??;
    match tap.answers().get(&port(socket)).map(Vec::as_slice) {
        Some(&[first, second]) if first == second => Some(first),
        _ => None,
    }
}

/// A question that no earlier answer answers.
fn rand() -> [u8; 8] {
    use std::sync::atomic::AtomicU64;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_ne_bytes()
}

/// Waits until the flows are each answered by one host, and by no other for a while.
fn settle(tap: &Tap, sockets: &[UdpSocket], is: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut owners = Vec::new();
    for socket in sockets {
        let mut run = (0, 0);
        wait_until("one host answers", || {
            let answer = sole_answer(tap, socket).filter(|&host| is(host));
            run = match answer {
                Some(host) if host == run.0 => (host, run.1 + 1),
                Some(host) => (host, 1),
                None => (0, 0),
            };
            run.1 == 10
        });
        owners.push(run.0);
    }
    owners
}

#[test]
fn another_host_goes_on_with_the_flows_of_a_dead_one() {
    FAMILIES.into_iter().for_each(another_host_goes_on_with);
}

fn another_host_goes_on_with(family: &[&str]) {
    let Some(lab) = Lab::up_with(HOSTS, family) else { return };
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    let sockets: Vec<_> = (0..12).map(|_| client(&lab)).collect();
    let owners = settle(&tap, &sockets, |_| true);
    let dead = owners[0];
    // Its kernel and its service live on, and must be silent when others go on.
    end(lab.daemon(dead), libc::SIGKILL);
    let after = settle(&tap, &sockets, |host| host != dead);
    for (before, after) in owners.iter().zip(&after) {
        assert!(before == after || *before == dead, "{owners:?} {after}");
    }
    lab.start_daemon(dead, lab.vip(), &[]);
    lab.settle();
    assert_eq!(settle(&tap, &sockets, |_| true), after);
}

#[test]
fn a_host_that_was_paused_leaves_its_flows_to_who_took_them() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    let sockets: Vec<_> = (0..8).map(|_| client(&lab)).collect();
    let paused = settle(&tap, &sockets, |_| true)[0];
    signal(lab.daemon(paused), libc::SIGSTOP);
    settle(&tap, &sockets, |host| host != paused);
    signal(lab.daemon(paused), libc::SIGCONT);
    lab.settle();
    settle(&tap, &sockets, |_| true);
}

/// A service may take its time, and its daemon be another one by then.
#[test]
fn a_late_answer_does_not_bring_a_flow_back() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    let services: Vec<_> = (1..=2)
        .map(|host| {
            let socket = lab.within(&format!("h{host}"), || UdpSocket::bind((VIP, ECHO_PORT)));
            let socket = socket.expect("bind to the virtual IP");
            socket.set_nonblocking(true).expect("a socket that does not wait");
            socket
        })
        .collect();
    let mut buffer = [0; 16];
    let mut asked = |host: usize| services[host - 1].recv_from(&mut buffer).ok();
    let client = client(&lab);
    client.send(b"slow").expect("send");
    let mut owner = None;
    wait_until("one service is asked", || {
        owner = (1..=2).find_map(|host| asked(host).map(|(_, from)| (host, from)));
        owner.is_some()
    });
    let (owner, from) = owner.expect("just found");
    let other = 3 - owner;
    end(lab.daemon(owner), libc::SIGKILL);
    wait_until("the other host goes on", || {
        client.send(b"again").expect("send");
        asked(other).is_some()
    });
    lab.start_daemon(owner, VIP, &[]);
    lab.settle();
    // Its kernel has gone on for a moment.
    while asked(owner).or(asked(other)).is_some() {}
    // The kernel says nothing of it to the service, or that it may not.
    drop(services[owner - 1].send_to(b"late", from));
    wait_until("the answer is held back", || {
        lab.status(owner)["protocol"]["late_answers"].as_u64() >= Some(1)
    });
    for _ in 0..20 {
        client.send(b"on").expect("send");
        wait_until("one service is asked", || asked(other).is_some());
    }
    assert_eq!(asked(owner), None);
    // What a host asks by itself from another port needs no daemon and finds its answer.
    let question = lab.within(&format!("h{owner}"), || UdpSocket::bind((VIP, 0))).expect("bind");
    let upstream = lab.within("client", || UdpSocket::bind("0.0.0.0:0")).expect("bind");
    upstream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    question.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    end(lab.daemon(owner), libc::SIGKILL);
    let port = upstream.local_addr().expect("bound").port();
    for _ in 0..5 {
        question.send_to(b"?", (crate::sender::CLIENT, port)).expect("send");
        let (_, asker) = upstream.recv_from(&mut [0; 4]).expect("asked");
        upstream.send_to(b"!", asker).expect("send");
        question.recv(&mut [0; 4]).expect("answered");
    }
}

/// What one host asks from the virtual IP costs no other host the answers to its own questions.
#[test]
fn hosts_ask_in_turn_from_one_port() {
    const PORT: u16 = 5_353;
    let Some(lab) = Lab::up(2, "rst") else { return };
    let upstream = lab.within("client", || UdpSocket::bind("0.0.0.0:0")).expect("bind");
    upstream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    let port = upstream.local_addr().expect("bound").port();
    let ask_from = |role: &str| {
        let question = lab.within(role, || UdpSocket::bind((VIP, PORT))).expect("bind");
        question.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        question.send_to(b"?", (crate::sender::CLIENT, port)).expect("send");
        let (_, asker) = upstream.recv_from(&mut [0; 4]).expect("asked");
        upstream.send_to(b"!", asker).expect("send");
        question.recv(&mut [0; 4]).expect("answered");
    };
    ask_from("h1");
    let flow = format!("{} . {port} . {VIP} . {PORT}", crate::sender::CLIENT);
    wait_until("h2 has heard the answer, too", || {
        lab.shell("h2", "nft list ruleset").contains(&flow)
    });
    ask_from("h2");
}

#[test]
fn another_host_goes_on_when_the_service_ends() {
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    let mut services: Vec<_> = Echo::everywhere(&lab).into_iter().map(Some).collect();
    let tap = Tap::open(&lab);
    let sockets = [client(&lab)];
    let owner = settle(&tap, &sockets, |_| true)[0];
    services[owner - 1] = None;
    let next = settle(&tap, &sockets, |host| host != owner)[0];
    services[next - 1] = None;
    settle(&tap, &sockets, |host| host != owner && host != next);
}

#[test]
fn by_hash_no_frame_is_about_a_datagram() {
    FAMILIES.into_iter().for_each(by_hash_no_frame_is_about_a_datagram_with);
}

fn by_hash_no_frame_is_about_a_datagram_with(family: &[&str]) {
    const FLOWS: u64 = 100;
    let options = [&["--daemon-arg=--udp=hash"], family].concat();
    let Some(lab) = Lab::up_with(HOSTS, &options) else { return };
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    let mut hosts = BTreeSet::new();
    for _ in 0..FLOWS {
        let socket = client(&lab);
        (0..3).for_each(|_| ask(&socket, &rand()).expect("answered"));
        let answers = tap.answers();
        let answers = &answers[&port(&socket)];
        assert_eq!(*answers, [answers[0]; 3]);
        hosts.insert(answers[0]);
    }
    assert_eq!(hosts.len(), HOSTS);
    for counter in ["datagrams", "claims", "owns", "releases"] {
        assert_eq!(total(&lab, "protocol", counter), 0, "{counter}");
    }
    // Whoever is dead has its share served by the others.
    end(lab.daemon(1), libc::SIGKILL);
    let sockets: Vec<_> = (0..20).map(|_| client(&lab)).collect();
    settle(&tap, &sockets, |host| host != 1);
}

#[test]
fn nobody_says_that_a_port_is_closed_or_a_fragment_missing() {
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    for host in 1..=HOSTS {
        lab.shell(&format!("h{host}"), "sysctl -qw net.ipv4.ipfrag_time=1");
    }
    let _services = Echo::everywhere(&lab);
    let tap = Tap::open(&lab);
    for _ in 0..10 {
        let socket = client(&lab);
        socket.connect((VIP, CLOSED_PORT)).expect("connect");
        socket.send(b"?").expect("send");
    }
    // Half of a datagram: the ICMP message about it comes when the other half does not.
    lab.within("client", || {
        let udp = socket2::Protocol::UDP;
        let raw = Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(udp)).expect("raw");
        raw.set_header_included_v4(true).expect("own headers");
        let mut packet = vec![0x45, 0, 0, 44, 1, 2, 0x20, 0, 64, 17, 0, 0, 10, 77, 0, 200];
        packet.extend(VIP.octets());
        packet.extend([4, 0, 27, 88, 0, 100, 0, 0]);
        packet.resize(44, 0);
        raw.send_to(&packet, &SocketAddr::from((VIP, 0)).into()).expect("send half");
    });
    for host in 1..=HOSTS {
        wait_until("the fragment is given up", || nstat(&lab, host, "IpReasmTimeout") > 0);
    }
    ask(&client(&lab), b"?").expect("answered");
    let icmp = libc::IPPROTO_ICMP as u8;
    assert!(tap.heard().iter().all(|heard| heard.content().is_none_or(|(it, _)| it != icmp)));
}

fn nstat(lab: &Lab, host: usize, counter: &str) -> u64 {
    let text = lab.shell(&format!("h{host}"), &format!("nstat -asz {counter}"));
    let mut words = text.split_whitespace().skip_while(|&word| word != counter);
    words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// Behind the client is another one, and between them a cable for 1300 bytes. Its own
/// announcement of segment sizes does not say so; only ICMP messages to the virtual IP do.
#[test]
fn a_message_about_too_long_packets_reaches_the_owner() {
    let [v4, v6] = FAMILIES;
    too_long_packets(v4, ["10.78.0", "/24"], "ipv4.ip_forward", "IcmpInDestUnreachs");
    too_long_packets(v6, ["fd00:78::", "/64"], "ipv6.conf.all.forwarding", "Icmp6InPktTooBigs");
}

fn too_long_packets(family: &[&str], network: [&str; 2], forwarding: &str, message: &str) {
    // The lab's own way to make sequence numbers differ leaves those within ICMP messages
    // as they are, and TCP would not believe them.
    let options = [&["--isn", "shared"], family].concat();
    let Some(lab) = Lab::up_with(HOSTS, &options) else { return };
    let [prefix, length] = network;
    let dot = if lab.vip().is_ipv4() { "." } else { "" };
    let address = |last: u8| format!("{prefix}{dot}{last}");
    // One more host by its name, so that it goes with the lab.
    let (far, near) = (lab.namespace("h9"), lab.namespace("client"));
    let ip = |line: &str| {
        let output = Command::new("ip").args(line.split(' ')).output().expect("run ip");
        assert!(output.status.success(), "ip {line}: {output:?}");
    };
    ip(&format!("netns add {far}"));
    lab.shell("h9", "sysctl -qw net.ipv6.conf.default.accept_dad=0");
    ip(&format!("-n {near} link add far mtu 1300 type veth peer name eth0 mtu 1500 netns {far}"));
    ip(&format!("-n {near} addr add {}{length} dev far", address(1)));
    ip(&format!("-n {near} link set far up"));
    ip(&format!("-n {far} addr add {}{length} dev eth0", address(2)));
    ip(&format!("-n {far} link set eth0 up"));
    ip(&format!("-n {far} route add default via {}", address(1)));
    lab.shell("client", &format!("sysctl -qw net.{forwarding}=1"));
    for host in 1..=HOSTS {
        let network = format!("{}{length}", address(0));
        lab.shell(
            &format!("h{host}"),
            &format!("ip route add {network} via {}", lab.client_address()),
        );
    }
    let told = |host| nstat(&lab, host, message);
    let before: Vec<_> = (1..=HOSTS).map(told).collect();
    let service = SocketAddr::new(lab.vip(), crate::rig::PORT);
    let owner = lab.within("h9", || {
        let mut stream = crate::sockets::connect_to(service, 0).expect("connect");
        let owner = hello(&mut stream).expect("the service answers");
        download(&mut stream, 300_000).expect("every byte");
        owner
    });
    for host in 1..=HOSTS {
        let is_owner = owner == format!("h{host}");
        assert_eq!(told(host) > before[host - 1], is_owner, "h{host}, the owner is {owner}");
    }
}
