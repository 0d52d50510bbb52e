//! Captures: the lab's file of TCP segments, and frames as they pass the switch.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use socket2::Socket;

use crate::rig::{Lab, VIP, VIP6};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: usize = 14;
/// Sequence numbers that a host uses for the lab's load: SYN, `h1` and a newline, FIN.
const CONVERSATION: u32 = 5;

/// The resets in a capture file that broke, or could have broken, a connection.
///
/// Harmless is one with which a host answers for its *own* connection after the
/// end of it: the sequence number is one between those after its own SYN and after its FIN.
/// It comes about when a second SYN-ACK arrives late, and the client repeats
/// its last acknowledgment to a host that is through with it, or when a busy kernel overtakes the
/// client's first one. A reset by a host that was not chosen would continue the sequence
/// numbers of another; and one that broke its connection shows at the client.
pub fn harmful_resets(capture: &[u8]) -> Vec<String> {
    // By client port, then by host. The lab's first connection, made before the
    // capture began, may still have frames under way; without its SYN it is not here.
    let mut attempts: BTreeMap<u16, BTreeMap<[u8; 6], u32>> = BTreeMap::new();
    let mut resets = Vec::new();
    let mut rest = &capture[FILE_HEADER..];
    while let Some((header, data)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_ne_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        let (frame, next) = data.split_at(length);
        rest = next;
        let Some(segment) = Segment::parse(frame) else { continue };
        let flags = segment.flags & (SYN | RST | ACK);
        if flags == SYN {
            attempts.insert(segment.client, BTreeMap::new());
            continue;
        }
        let Some(isns) = attempts.get_mut(&segment.client) else { continue };
        if flags == SYN | ACK {
            isns.insert(segment.source, segment.sequence);
        } else if flags & RST != 0 && segment.from_vip {
            let own = isns.get(&segment.source);
            let said = own.map(|isn| segment.sequence.wrapping_sub(*isn));
            if !said.is_some_and(|said| (1..=CONVERSATION).contains(&said)) {
                resets.push(format!("{segment:?}, SYN-ACKs {isns:?}"));
            }
        }
    }
    resets
}

#[derive(Debug)]
struct Segment {
    source: [u8; 6],
    from_vip: bool,
    client: u16,
    sequence: u32,
    flags: u8,
}

impl Segment {
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        let (from_vip, protocol, header) = match ip.first()? >> 4 {
            4 => (ip.get(12..16)? == VIP.octets(), ip[9], usize::from(ip[0] & 15) * 4),
            6 => (ip.get(8..24)? == VIP6.octets(), ip[6], 40),
            _ => return None,
        };
        let tcp = ip.get(header..)?;
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        (protocol == libc::IPPROTO_TCP as u8).then_some(())?;
        Some(Self {
            source: frame[6..12].try_into().ok()?,
            from_vip,
            client: if from_vip { port(2)? } else { port(0)? },
            sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
            flags: *tcp.get(13)?,
        })
    }
}

/// One ARP frame, as it passed a port of the switch.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArpFrame {
    pub source: [u8; 6],
    pub operation: u8,
    pub sender_mac: [u8; 6],
    pub sender: [u8; 4],
    pub target: [u8; 4],
}

/// Hears all ARP frames on all ports of the lab's switch from now on.
pub struct ArpTap(Socket);

impl ArpTap {
    pub fn open(lab: &Lab) -> Self {
        // Only taps for all protocols see what passes a port of a bridge.
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        Self(lab.within("switch", || packet_socket(protocol)))
    }

    /// What has been heard since the last call. To be called often: the buffer is small.
    pub fn frames(&self) -> Vec<ArpFrame> {
        let mut frames = Vec::new();
        let mut buffer = [0; 128];
        loop {
            // SAFETY: the pointer and length describe the local buffer.
            let got = unsafe {
                let buffer = (&raw mut buffer).cast();
                libc::recv(self.0.as_raw_fd(), buffer, 128, libc::MSG_DONTWAIT)
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                return frames;
            }
            if got < 42 || buffer[12..14] != [8, 6] {
                continue;
            }
            let bytes = |at: usize| <[u8; 6]>::try_from(&buffer[at..at + 6]).expect("six bytes");
            let address = |at: usize| <[u8; 4]>::try_from(&buffer[at..at + 4]).expect("four");
            frames.push(ArpFrame {
                source: bytes(6),
                operation: buffer[21],
                sender_mac: bytes(22),
                sender: address(28),
                target: address(38),
            });
        }
    }
}

/// A packet socket of the calling thread's namespace, on all its interfaces.
pub fn packet_socket(protocol: i32) -> Socket {
    // SAFETY: the descriptor is checked and belongs to nobody else.
    unsafe {
        let descriptor =
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        assert!(descriptor >= 0, "a packet socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(descriptor).into()
    }
}
