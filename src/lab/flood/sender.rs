//! SYNs from addresses that nobody has, as fast as a CPU can make them.
//!
//! A sender has a CPU and runs before the daemons, as an interrupt of the network
//! card would: a host that is busy does not slow its attacker down. It writes whole frames to the client's interface, so they leave the
//! lab's namespaces as little as anything else in it does: the cables end there.
//! Receiving is done by the same CPU inside the same system call (veth has no
//! queue of its own), so the rate says what a SYN costs all hosts together.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags, TcpOption};
use socket2::{Domain, Protocol, Socket, Type};

use crate::io::cluster_mac::MacMode;
use crate::io::{packet_socket, realtime};
use crate::lab::netns::{Namespace, check};
use crate::lab::topology::{CLIENT_MAC, SERVICE_PORT, VIP};

/// The spoofed addresses: a range that is set aside for such tests (RFC 2544).
pub const SPOOFED: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// Frames per system call.
const BATCH: usize = 64;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// With the option MSS, as any client's SYN has it.
const TCP: usize = 24;
const FRAME: usize = ETHERNET + IPV4 + TCP;
/// How long a sender that is ahead of its rate sleeps.
const PAUSE: Duration = Duration::from_micros(200);

/// A running flood. It ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Floods the VIP from the client's namespace with `rate` SYNs per second
    /// altogether, or with as many as `senders` threads can make.
    pub fn start(client: &Namespace, senders: usize, rate: Option<u64>) -> Result<Self> {
        let (sent, stopped) = (Arc::default(), Arc::default());
        let mut flood = Self { sent, stopped, threads: Vec::new() };
        for sender in 0..senders {
            // The first CPU is left to everybody else.
            let cpu = sender + 1;
            let (client, sent) = (client.clone(), Arc::clone(&flood.sent));
            let stopped = Arc::clone(&flood.stopped);
            let rate = rate.map(|rate| rate as f64 / senders as f64);
            let thread = thread::Builder::new()
                .name(format!("flood {sender}"))
                .spawn(move || {
                    client.enter().context("enter the client's namespace")?;
                    pin(cpu).context("take a CPU")?;
                    realtime::outrank()?;
                    send(&sent, &stopped, rate).context("send spoofed SYNs")
                })
                .context("start a thread of the flood")?;
            flood.threads.push(thread);
        }
        Ok(flood)
    }

    /// SYNs sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the flood; fails if a sender did.
    pub fn stop(mut self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        self.threads.drain(..).try_for_each(join)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn send(sent: &AtomicU64, stopped: &AtomicBool, rate: Option<f64>) -> Result<()> {
    let socket = open().context("open a packet socket")?;
    let mut frames = [syn()?; BATCH];
    let begin = Instant::now();
    let mut own = 0u64;
    while !stopped.load(Ordering::Relaxed) {
        if rate.is_some_and(|rate| own as f64 > rate * begin.elapsed().as_secs_f64()) {
            thread::sleep(PAUSE);
            continue;
        }
        frames.iter_mut().for_each(randomize);
        let count = send_batch(&socket, &mut frames)?;
        own += count;
        sent.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}

/// Keeps the calling thread on one CPU, if there is one of this number.
fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= thread::available_parallelism().map_or(1, usize::from) {
        return Ok(());
    }
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is a local, and `cpu` is far below its size on any machine
    // (CPU_SET ignores what is not).
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and size describe the local set; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set) })
}

fn open() -> io::Result<Socket> {
    // Protocol 0 receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    // SAFETY: a C string that outlives the call.
    let interface = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    if interface == 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&packet_socket::address(0, interface, MacMode::Multicast.address(VIP.into())))?;
    packet_socket::set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
    Ok(socket)
}

/// A SYN from the client's MAC address to the group, in which only source,
/// sequence number and checksums are missing.
fn syn() -> Result<[u8; FRAME]> {
    let mut frame = [0; FRAME];
    let (ethernet, rest) = frame.split_at_mut(ETHERNET);
    let (ip, tcp) = rest.split_at_mut(IPV4);
    let mut ethernet = MutableEthernetPacket::new(ethernet).context("an Ethernet header fits")?;
    ethernet.set_destination(MacMode::Multicast.address(VIP.into()));
    ethernet.set_source(CLIENT_MAC);
    ethernet.set_ethertype(EtherTypes::Ipv4);
    let mut ip = MutableIpv4Packet::new(ip).context("an IPv4 header fits")?;
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length((IPV4 + TCP) as u16);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
    ip.set_destination(VIP);
    let mut tcp = MutableTcpPacket::new(tcp).context("a TCP header fits")?;
    tcp.set_destination(SERVICE_PORT);
    tcp.set_data_offset(6);
    tcp.set_flags(TcpFlags::SYN);
    tcp.set_window(64_240);
    tcp.set_options(&[TcpOption::mss(1460)]);
    Ok(frame)
}

/// Gives a SYN another source and sequence number.
fn randomize(frame: &mut [u8; FRAME]) {
    let (network, bits) = SPOOFED;
    let source = Ipv4Addr::from(u32::from(network) | rand::random::<u32>() >> bits);
    let (_, rest) = frame.split_at_mut(ETHERNET);
    let (ip, tcp) = rest.split_at_mut(IPV4);
    let (Some(mut ip), Some(mut tcp)) = (MutableIpv4Packet::new(ip), MutableTcpPacket::new(tcp))
    else {
        unreachable!("the headers have their sizes");
    };
    ip.set_source(source);
    ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
    tcp.set_source(rand::random_range(1024..=u16::MAX));
    tcp.set_sequence(rand::random());
    tcp.set_checksum(tcp::ipv4_checksum(&tcp.to_immutable(), &source, &VIP));
}

/// Sends the frames; returns how many the interface took.
fn send_batch(socket: &Socket, frames: &mut [[u8; FRAME]; BATCH]) -> Result<u64> {
    // SAFETY: all-zero is a valid value of these C structures.
    let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { mem::zeroed() };
    for ((frame, part), header) in frames.iter_mut().zip(&mut parts).zip(&mut headers) {
        part.iov_base = frame.as_mut_ptr().cast();
        part.iov_len = FRAME;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each header points to one `iovec`, and that to one frame; all
    // live through the call.
    let count =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, 0) };
    match check(count) {
        Ok(()) => Ok(count as u64),
        // The receiving CPU's backlog is full: the flood is as fast as it gets.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoofed_addresses_stay_in_their_range() {
        let mut frame = syn().unwrap();
        for _ in 0..1000 {
            randomize(&mut frame);
            assert!(matches!(frame[26..28], [198, 18 | 19]), "{:?}", &frame[26..30]);
        }
    }
}
