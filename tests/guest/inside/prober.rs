//! Segments that no kernel would send, and what comes back.
//!
//! After each probe comes an echo request to the host's own address. Probe and request take
//! the same way through the same queues on the same processor, so what has not come back before the
//! echo reply does not come: nobody has to wait for something that must not happen.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::world::{CLIENT_MAC, Family, GROUP_MAC, HOST_MAC, World};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Only for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TCP segment between the ghost and the virtual IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The ghost's port.
    pub client: u16,
    /// The virtual IP's port.
    pub service: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    pub data: &'static [u8],
}

/// The ghost's end of the cable.
pub struct Prober {
    socket: Socket,
    pub family: Family,
    echoes: u16,
    port: u16,
}

impl Prober {
    pub fn open(world: &World, family: Family) -> Self {
        let socket = world.within("client", || {
            let every = i32::from((libc::ETH_P_ALL as u16).to_be());
            let kind = Type::RAW;
            let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(every)));
            let socket = socket.expect("open a packet socket");
            // SAFETY: all bytes zero is a valid sockaddr_ll, the name is a C string, and pointer and
            // length describe the address.
            let bound = unsafe {
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
                address.sll_ifindex = libc::if_nametoindex(c"c0".as_ptr()) as i32;
                let length = size_of_val(&address) as libc::socklen_t;
                libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
            };
            assert_eq!(bound, 0, "bind: {}", std::io::Error::last_os_error());
            socket
        });
        socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        Self { socket, family, echoes: 0, port: 10_000 }
    }

    /// A port of the ghost that has not been used; after ten thousands again the first.
    pub fn next_port(&mut self) -> u16 {
        self.port = if self.port == u16::MAX { 10_000 } else { self.port + 1 };
        self.port
    }

    /// Sends a frame.
    pub fn transmit(&self, frame: &[u8]) {
        let sent = self.socket.send(frame).expect("send a frame");
        assert_eq!(sent, frame.len());
    }

    /// A frame to the virtual IP and the group MAC.
    pub fn frame(&self, probe: Segment) -> Vec<u8> {
        let (vip, ghost) = (self.family.vip(), self.family.ghost());
        let mut bytes = tcp(&probe);
        let sum = checksum(libc::IPPROTO_TCP as u8, ghost, vip, &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        frame(GROUP_MAC, libc::IPPROTO_TCP as u8, ghost, vip, &bytes)
    }

    /// Sends a segment and returns what the virtual IP answers.
    pub fn ask(&mut self, probe: Segment) -> Vec<Segment> {
        let _pinned = Pinned::new();
        self.transmit(&self.frame(probe));
        self.answers()
    }

    /// What the virtual IP has said until the reply to an echo request that is sent now.
    pub fn answers(&mut self) -> Vec<Segment> {
        self.echoes += 1;
        let host = self.family.host();
        let (protocol, request, reply) = match self.family {
            Family::V4 => (libc::IPPROTO_ICMP as u8, 8, 0),
            Family::V6 => (libc::IPPROTO_ICMPV6 as u8, 128, 129),
        };
        let mut echo = vec![request, 0, 0, 0, 0xc1, 0xd0];
        echo.extend(self.echoes.to_be_bytes());
        let sum = checksum(protocol, self.family.ghost(), host, &echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        self.transmit(&frame(HOST_MAC, protocol, self.family.ghost(), host, &echo));
        let mut answers = Vec::new();
        loop {
            let mut buffer = [MaybeUninit::uninit(); 2048];
            let length = self.socket.recv(&mut buffer).expect("the echo reply comes");
            let bytes: Vec<u8> = buffer[..length]
                .iter()
                // SAFETY: the kernel has written so many bytes.
                .map(|byte| unsafe { byte.assume_init() })
                .collect();
            let Some((from, to, found, payload)) = parse(&bytes) else { continue };
            if to != self.family.ghost() {
                continue;
            }
            if from == host
                && found == protocol
                && payload[0] == reply
                && payload[4..8] == echo[4..8]
            {
                return answers;
            }
            if from == self.family.vip() && found == libc::IPPROTO_TCP as u8 {
                answers.push(segment(payload));
            }
        }
    }
}

/// Keeps this thread on one processor until dropped: only there frames go in order.
pub struct Pinned(libc::cpu_set_t);

impl Pinned {
    pub fn new() -> Self {
        // SAFETY: all bytes zero is a valid set; pointers and lengths describe it.
        unsafe {
            let mut before: libc::cpu_set_t = std::mem::zeroed();
            let result = libc::sched_getaffinity(0, size_of_val(&before), &raw mut before);
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            let mut first: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(0, &mut first);
            let result = libc::sched_setaffinity(0, size_of_val(&first), &raw const first);
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            Self(before)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: pointer and length describe the set.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) };
    }
}

fn tcp(segment: &Segment) -> Vec<u8> {
    let mut bytes = Vec::from(segment.client.to_be_bytes());
    bytes.extend(segment.service.to_be_bytes());
    bytes.extend(segment.sequence.to_be_bytes());
    bytes.extend(segment.acknowledgment.to_be_bytes());
    // Five words; flags; a window; checksum and urgent pointer.
    bytes.extend([5 << 4, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(segment.data);
    bytes
}

fn segment(tcp: &[u8]) -> Segment {
    let two = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let four = |at: usize| u32::from(two(at)) << 16 | u32::from(two(at + 2));
    Segment {
        client: two(2),
        service: two(0),
        sequence: four(4),
        acknowledgment: four(8),
        flags: tcp[13],
        data: &[],
    }
}

pub fn frame(mac: [u8; 6], protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = [mac, CLIENT_MAC].concat();
    let length = payload.len() as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            let sum = fold(words(&frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        mixed => panic!("two families: {mixed:?}"),
    }
    frame.extend(payload);
    frame
}

/// Source, destination, protocol and payload of an IP packet in a frame.
fn parse(frame: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let ip = frame.get(14..)?;
    match frame[12..14] {
        [8, 0] => {
            let address = |at: usize| Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into());
            let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            Some((address(12)?, address(16)?, ip[9], ip.get(20..length)?))
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into());
            Some((address(8)?, address(24)?, ip[6], ip.get(40..)?))
        }
        _ => None,
    }
}

/// Of ICMP, which has no pseudo header, or of the others.
pub fn checksum(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> u16 {
    if protocol == libc::IPPROTO_ICMP as u8 {
        return fold(words(payload));
    }
    let addresses = [from, to].map(|address| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    });
    let pseudo = u32::from(protocol) + payload.len() as u32;
    fold(words(payload) + addresses.iter().sum::<u32>() + pseudo)
}

fn words(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// The ones' complement of a ones' complement sum (RFC 1071).
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
