//! Claims that are none: from the future, cut short, flipped, routed, or noise.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use clusterd::flow::{ClusterKey, NodeId};
use clusterd::wire::{self, Entry, Flags, Frame, Header, IP_PROTOCOL};
use socket2::Socket;

use crate::capture::packet_socket;
use crate::rig::{GROUP_MAC, Lab, VIP, is_alive, note, wait_until};

/// Frames of each malformed kind.
const COUNT: u64 = 20;
const NOISE: usize = 1_000_000;
/// Growth in memory that noise may cause: allocator slack, far below one byte per frame.
const GROWTH_KB: u64 = 1024;

/// Sends frames from the client to the group MAC.
struct Sender {
    socket: Socket,
    address: libc::sockaddr_ll,
}

impl Sender {
    fn open(lab: &Lab) -> Self {
        let (socket, index) = lab.within("client", || {
            // SAFETY: the name is a C string.
            let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
            (packet_socket(0), index)
        });
        // SAFETY: all bytes zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        Self { socket, address }
    }

    fn send(&self, ttl: u8, payload: &[u8]) {
        let frame = ethernet_and_ip(ttl, payload);
        // SAFETY: pointers and lengths describe the buffer and the address.
        let sent = unsafe {
            let address = (&raw const self.address).cast();
            let length = size_of_val(&self.address) as libc::socklen_t;
            let descriptor = self.socket.as_raw_fd();
            libc::sendto(descriptor, frame.as_ptr().cast(), frame.len(), 0, address, length)
        };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }
}

fn ethernet_and_ip(ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(34 + payload.len());
    frame.extend(GROUP_MAC);
    frame.extend([2, 0, 0, 0, 1, 0]);
    frame.extend([8, 0]);
    let length = (20 + payload.len()) as u16;
    frame.extend([0x45, 0xc0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, ttl, IP_PROTOCOL, 0, 0]);
    frame.extend([10, 77, 0, 200]);
    frame.extend(VIP.octets());
    let words = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame that any daemon of the cluster would take.
fn valid(sequence: u64) -> Vec<u8> {
    let header = Header {
        flags: Flags { joining: true, ..Flags::default() },
        ..Header::new(NodeId(7), 1, sequence)
    };
    let entries = vec![Entry::Hello { unavailable: vec![1, 2, 3] }];
    wire::encode(&Frame { header, entries }, &ClusterKey::public(VIP.into()).into())
}

/// A small generator (SplitMix64): the same noise in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn wire_counter(lab: &Lab, host: usize, name: &str) -> u64 {
    lab.status(host)["wire"][name].as_u64().expect("a counter")
}

#[test]
fn malformed_claims_are_counted_by_kind_and_ignored() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let sender = Sender::open(&lab);
    let frames = lab.status(1)["protocol"]["too_many_peers"].clone();
    for sequence in 0..COUNT {
        let good = valid(sequence + 1);
        let changed = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        sender.send(254, &good);
        sender.send(1, &good);
        sender.send(255, &changed(0, 0));
        sender.send(255, &changed(4, !good[4]));
        sender.send(255, &good[..good.len().min(40)]);
        sender.send(255, &[]);
        // One bit of the major version, of the node id, of an entry, and of the trailer.
        for at in [2, 9, 35, good.len() - 1] {
            sender.send(255, &changed(at, good[at] ^ 4));
        }
        sender.send(255, &[&good[..], &[0; 4]].concat());
        sender.send(255, &vec![0; 1400]);
    }
    for host in 1..=3 {
        for (name, kinds) in [
            ("ttl", 2),
            ("magic", 1),
            ("cluster", 1),
            ("truncated", 2),
            ("tag", 5),
            ("too_long", 1),
            ("malformed", 0),
        ] {
            wait_until(&format!("h{host} has counted {name}"), || {
                let count = wire_counter(&lab, host, name);
                assert!(count <= kinds * COUNT, "{name}: {}", lab.status(host));
                count == kinds * COUNT
            });
        }
        let status = lab.status(host);
        assert_eq!(status["peers"].as_array().map(Vec::len), Some(2), "no peer was made up");
        assert_eq!(status["protocol"]["too_many_peers"], frames);
    }
    for _ in 0..20 {
        lab.who().expect("connections go on");
    }
}

#[test]
fn a_million_random_frames_change_nothing() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let sender = Sender::open(&lab);
    let mut noise = Noise(1);
    let (key, mut refusals) = (ClusterKey::public(VIP.into()), 0);
    let mut blast = |count| {
        for _ in 0..count {
            let ttl = if noise.below(8) == 0 { 64 } else { 255 };
            let frame = random_frame(&mut noise);
            // Two changes to one byte may have made a good frame of it again.
            refusals += u64::from(ttl != wire::TTL || wire::decode(&frame, &key.into()).is_err());
            sender.send(ttl, &frame);
        }
    };
    // Buffers that grow once and stay are no leak: they have grown after this.
    blast(NOISE / 10);
    let hosts = [1, 2, 3];
    let memory = hosts.map(|host| resident_kb(lab.daemon(host)));
    // In turns, since a load beside it would leave the sender little of two cores.
    for _ in 0..90 {
        blast(NOISE / 100);
        lab.who().expect("connections go on amid the noise");
    }
    for (host, before) in hosts.into_iter().zip(memory) {
        assert!(is_alive(lab.daemon(host)), "{}", lab.log(host));
        // Every single frame has been heard and refused.
        let refused = || {
            let wire = lab.status(host)["wire"].clone();
            let counters = wire.as_object().expect("counters").clone();
            counters.values().map(|count| count.as_u64().expect("a count")).sum::<u64>()
        };
        note(&format!("{refusals} to be refused, {} refused", refused()));
        wait_until("all noise is counted", || refused() == refusals);
        let wire = lab.status(host)["wire"].clone();
        for name in ["ttl", "truncated", "magic", "cluster", "tag", "too_long"] {
            assert!(wire[name].as_u64() > Some(0), "{name}: {wire}");
        }
        let after = resident_kb(lab.daemon(host));
        note(&format!("h{host}: {before} kB before, {after} kB after, {wire}"));
        assert!(after < before + GROWTH_KB, "h{host} has grown from {before} to {after} kB");
    }
}

/// Noise, or a good frame with a few bytes changed, so that every check is reached.
fn random_frame(noise: &mut Noise) -> Vec<u8> {
    let mut frame = if noise.below(2) == 0 {
        let length = noise.below(1420);
        (0..length.div_ceil(8)).flat_map(|_| noise.next().to_ne_bytes()).take(length).collect()
    } else {
        valid(noise.next())
    };
    for _ in 0..1 + noise.below(3) {
        if !frame.is_empty() {
            let at = noise.below(frame.len());
            frame[at] ^= 1 + noise.below(255) as u8;
        }
    }
    if noise.below(4) == 0 {
        frame.truncate(noise.below(frame.len() + 1));
    }
    frame
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
