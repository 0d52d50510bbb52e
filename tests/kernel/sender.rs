//! Packets that no honest program would send, from the client's interface.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use clusterd::wire::IP_PROTOCOL;
use socket2::Socket;

use crate::capture::packet_socket;
use crate::rig::{GROUP_MAC, Lab, PORT, VIP};

/// The lab's client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

/// Sends frames from the client to the group MAC.
pub struct Sender {
    socket: Socket,
    address: libc::sockaddr_ll,
}

impl Sender {
    pub fn open(lab: &Lab) -> Self {
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

    /// Sends a claim frame.
    pub fn send(&self, ttl: u8, payload: &[u8]) {
        self.send_raw(&ethernet_and_ip(ttl, IP_PROTOCOL, payload));
    }

    /// Sends one SYN; the client's kernel knows nothing of it and resets what is answered.
    pub fn send_syn(&self, client_port: u16, isn: u32) {
        let mut segment = Vec::from(client_port.to_be_bytes());
        segment.extend(PORT.to_be_bytes());
        segment.extend(isn.to_be_bytes());
        // No acknowledgement; five words, SYN; a window; checksum and urgent pointer.
        segment.extend([0, 0, 0, 0, 5 << 4, 2, 255, 255, 0, 0, 0, 0]);
        let mut summed = [CLIENT.octets(), VIP.octets()].concat();
        summed.extend([0, libc::IPPROTO_TCP as u8, 0, segment.len() as u8]);
        summed.extend(&segment);
        segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
        self.send_raw(&ethernet_and_ip(64, libc::IPPROTO_TCP as u8, &segment));
    }

    /// Says to all that the VIP is at `mac`.
    pub fn announce(&self, mac: [u8; 6]) {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 1, 0]);
        // ARP; Ethernet and IPv4 with addresses of 6 and 4 bytes; a request.
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([&mac[..], &VIP.octets(), &[0; 6], &VIP.octets()].concat());
        self.send_raw(&frame);
    }

    /// Broadcasts a frame of some type.
    pub fn send_ethertype(&self, ethertype: u16, payload: &[u8]) {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 1, 0]);
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        self.send_raw(&frame);
    }

    fn send_raw(&self, frame: &[u8]) {
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

fn ethernet_and_ip(ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(34 + payload.len());
    frame.extend(GROUP_MAC);
    frame.extend([2, 0, 0, 0, 1, 0]);
    frame.extend([8, 0]);
    let length = (20 + payload.len()) as u16;
    frame.extend([0x45, 0xc0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
    frame.extend(CLIENT.octets());
    frame.extend(VIP.octets());
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The ones' complement of the ones' complement sum of all words (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
