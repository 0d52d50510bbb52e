//! What the packet sockets for claims, ARP and neighbour discovery have in common (packet(7)).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use pnet::util::MacAddr;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;

use super::error::errno;

/// What to wait for: an interface that goes down is an error and nothing to read.
pub const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Sends a frame, which is lost where there is no room for it: whoever needs it asks again.
pub fn send(socket: &Socket, frame: &[u8], address: &SockAddr) -> io::Result<()> {
    match socket.send_to(frame, address) {
        Err(error) if matches!(errno(&error), Some(libc::ENOBUFS | libc::EAGAIN)) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Filter step: load a byte of the packet, counted from its network header.
pub fn load_byte(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Filter step: load a big-endian 32-bit word of the packet.
pub fn load_word(offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Filter step: skip `skip` steps unless the loaded value equals `value`.
pub fn unless_equal(value: u32, skip: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, skip, value)
}

/// Filter steps, eight of them: skip `skip` further steps unless the packet has `address` at `offset`.
pub fn unless_address(offset: u32, address: Ipv6Addr, skip: u8) -> Vec<SockFilter> {
    let mut steps = Vec::with_capacity(8);
    let octets = address.octets();
    for (index, word) in (0..).zip(octets.as_chunks::<4>().0) {
        steps.push(load_word(offset + 4 * u32::from(index)));
        steps.push(unless_equal(u32::from_be_bytes(*word), skip + 2 * (3 - index)));
    }
    steps
}

/// Filter step: skip `skip` steps if the loaded value equals `value`.
pub fn if_equal(value: u32, skip: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, skip, 0, value)
}

/// Filter end: take the whole packet.
pub fn accept() -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX)
}

/// Filter end: ignore the packet.
pub fn reject() -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)
}

/// A non-blocking packet socket without link-layer headers that hears only
/// what comes in on one interface and passes `filter`.
pub fn open(ethertype: i32, interface: u32, filter: &[SockFilter]) -> io::Result<Socket> {
    // Without a protocol it hears nothing before the filter is in place.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.attach_filter(filter)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
    socket.bind(&address(ethertype, interface, MacAddr::zero()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The link-layer address for `bind` and `send_to`.
pub fn address(ethertype: i32, interface: u32, mac: MacAddr) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the types that sockaddr_storage may hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (ethertype as u16).to_be();
    address.sll_ifindex = interface as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac.octets());
    // SAFETY: the fields above make it a complete sockaddr_ll of that length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Lets the interface receive frames to a MAC as long as the socket is open.
pub fn join(socket: &Socket, interface: u32, mac: MacAddr) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac.octets());
    let kind = if mac.is_multicast() { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_UNICAST };
    let request = libc::packet_mreq {
        mr_ifindex: interface as i32,
        mr_type: kind as u16,
        mr_alen: 6,
        mr_address: address,
    };
    set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Sets the receive buffer beyond net.core.rmem_max (needs CAP_NET_ADMIN).
pub fn force_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(bytes as i32))
}

/// The next packet, or `None` when there is no more.
pub fn receive<'b>(
    socket: &Socket,
    buffer: &'b mut [MaybeUninit<u8>],
) -> io::Result<Option<&'b [u8]>> {
    match socket.recv(buffer) {
        // SAFETY: recv has initialised the first `len` bytes.
        Ok(len) => Ok(Some(unsafe { buffer[..len].assume_init_ref() })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// The next packet and the source MAC of its frame, or `None` when there is no more.
pub fn receive_from<'b>(
    socket: &Socket,
    buffer: &'b mut [MaybeUninit<u8>],
) -> io::Result<Option<(&'b [u8], MacAddr)>> {
    match socket.recv_from(buffer) {
        Ok((len, from)) => {
            // SAFETY: of a packet socket it is a sockaddr_ll.
            let from = unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() };
            let [a, b, c, d, e, f, ..] = from.sll_addr;
            // SAFETY: recv_from has initialised the first `len` bytes.
            let bytes = unsafe { buffer[..len].assume_init_ref() };
            Ok(Some((bytes, MacAddr::new(a, b, c, d, e, f))))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// `SIOCGSTAMPNS` of linux/sockios.h, where time has 64 bits by nature.
const SIOCGSTAMPNS: libc::Ioctl = 0x8907;

/// When the kernel got the packet received last, since 1970.
pub fn arrived(socket: &Socket) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the request writes one timespec, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).ok().filter(|_| result == 0)?;
    Some(Duration::new(seconds, time.tv_nsec as u32))
}

/// Sets a socket option.
pub fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a plain C structure that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
