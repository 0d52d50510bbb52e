//! Netlink sockets, and requests over them.
//!
//! The kernel handles a request inside `send`: when `send` returns, the answer
//! is already in the receive buffer. That is why nothing here needs a thread or
//! a future, and why a request in the hot loop costs two system calls and never
//! waits.
//!
//! *Overrun:* a full receive buffer makes the kernel drop messages **until the
//! buffer has been read empty** (`NETLINK_S_CONGESTED`), and report one
//! `ENOBUFS` from the next receive (`netlink_overrun`). The callers count it.
//! *Restart and shutdown:* all state behind a socket goes when it is closed.
//!
//! Only the kernel can send to these sockets: a message from another process
//! needs `CAP_NET_ADMIN` (`netlink_sendmsg`), so the sender is not checked.

use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::error::{attempt, checked};
use super::message::{Message, Messages};

/// How long [`NetlinkSocket::request`] waits for an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// A non-blocking netlink socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: socket2::Socket,
}

impl NetlinkSocket {
    /// Opens a socket for `protocol` (`NETLINK_NETFILTER`, ...) in the network
    /// namespace of the calling thread. `receive_buffer` is in bytes as the
    /// kernel counts them (about 900 for a queued SYN); 0 keeps the default.
    pub fn open(protocol: i32, receive_buffer: usize) -> io::Result<Self> {
        let open = || {
            let socket = socket2::Socket::new(
                socket2::Domain::from(libc::AF_NETLINK),
                socket2::Type::RAW,
                Some(socket2::Protocol::from(protocol)),
            )?;
            socket.set_nonblocking(true)?;
            let socket = Self { socket };
            // Errors need not bring the whole request back.
            socket.set_option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
            if receive_buffer > 0 {
                socket.set_receive_buffer(receive_buffer)?;
            }
            Ok(socket)
        };
        open().map_err(|error| {
            attempt(format!("open a netlink socket for protocol {protocol}"), error)
        })
    }

    /// Asks for a receive buffer of `bytes`, beyond `net.core.rmem_max` where
    /// `CAP_NET_ADMIN` allows it, else up to it.
    fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        // The kernel doubles the value, to account for its own overhead.
        let half = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX);
        self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, half)
            .or_else(|_| self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, half))
    }

    /// Lets whole requests of `bytes` out, beyond `net.core.wmem_max` where `CAP_NET_ADMIN` allows
    /// it, else up to it.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        // As for the receive buffer; a request must fit in whole (`netlink_sendmsg`).
        let half = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX);
        self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, half)
            .or_else(|_| self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUF, half))
    }

    /// Receives the notifications of multicast groups (1 to 32) from now on.
    pub fn subscribe(&self, groups: &[u32]) -> io::Result<()> {
        let mut storage = socket2::SockAddrStorage::zeroed();
        // SAFETY: sockaddr_nl is one of the types that sockaddr_storage may hold.
        let address = unsafe { storage.view_as::<libc::sockaddr_nl>() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // Joined by binding: a socket without an address of its own is taken
        // for the sender of the kernel's notifications (`do_one_broadcast`).
        address.nl_groups = groups.iter().fold(0, |all, group| all | 1 << (group - 1));
        // SAFETY: a complete sockaddr_nl of that length.
        let address =
            unsafe { socket2::SockAddr::new(storage, size_of::<libc::sockaddr_nl>() as _) };
        self.socket
            .bind(&address)
            .map_err(|error| attempt(format!("subscribe to the netlink groups {groups:?}"), error))
    }

    fn set_option(&self, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
        let size = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: the pointer is to `value`, which lives through the call and
        // has the size given.
        let result = unsafe {
            libc::setsockopt(self.as_raw_fd(), level, name, (&raw const value).cast(), size)
        };
        checked(result).map(drop)
    }

    /// Sends whole messages as one datagram; the kernel has handled them when
    /// this returns.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        loop {
            match (&self.socket).write(messages) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Receives one datagram; `WouldBlock` if there is none.
    pub fn recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        loop {
            match (&self.socket).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(length) => return Ok(&buffer[..length]),
            }
        }
    }

    /// Receives up to `limit` datagrams with one system call; `WouldBlock` if
    /// there is none. Fewer than asked for: there were no more at that moment
    /// (or an error is pending, which the next call reports).
    pub fn recv_batch(&self, batch: &mut Batch, limit: usize) -> io::Result<usize> {
        // SAFETY: all-zero is a valid value of these C structures.
        let (mut parts, mut headers): ([libc::iovec; Batch::SLOTS], [libc::mmsghdr; Batch::SLOTS]) =
            unsafe { mem::zeroed() };
        let limit = limit.min(Batch::SLOTS);
        let slots = batch.bytes.chunks_exact_mut(Batch::SLOT);
        for ((slot, part), header) in slots.zip(&mut parts).zip(&mut headers).take(limit) {
            part.iov_base = slot.as_mut_ptr().cast();
            part.iov_len = slot.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = loop {
            // SAFETY: the first `limit` headers each point to one `iovec`, and
            // that to a slot of its own in `batch`; all live through the call.
            let result = unsafe {
                libc::recvmmsg(
                    self.as_raw_fd(),
                    headers.as_mut_ptr(),
                    limit as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            match checked(result) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => break count as usize,
            }
        };
        for (length, header) in batch.lengths.iter_mut().zip(&headers).take(count) {
            *length = (header.msg_len as usize).min(Batch::SLOT);
        }
        Ok(count)
    }

    /// Sends `messages` and waits for the acknowledgement that carries
    /// `sequence` (request it by `NLM_F_ACK`), at most one second; in practice
    /// it is there at once. Any other message, such as a packet that came in
    /// between, goes to `other`.
    pub fn request(
        &self,
        messages: &[u8],
        sequence: u32,
        mut other: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        let deadline = Instant::now() + ACK_TIMEOUT;
        let mut buffer = [0; 8192];
        self.send(messages)?;
        loop {
            let datagram = match self.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_readable(deadline)?;
                    continue;
                }
                // The overrun may have cost the acknowledgement; then the
                // deadline ends the wait.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                result => result?,
            };
            let mut answer = None;
            for message in Messages(datagram) {
                match message.error() {
                    Some(0) if message.sequence == sequence => answer = answer.or(Some(Ok(()))),
                    Some(code) if message.sequence == sequence => {
                        answer = Some(Err(io::Error::from_raw_os_error(code)));
                    }
                    _ => other(message),
                }
            }
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    fn wait_readable(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"));
        }
        let mut entry = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd`, and the count says one.
        match checked(unsafe { libc::poll(&raw mut entry, 1, left.as_millis() as libc::c_int + 1) })
        {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsRawFd for NetlinkSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Memory for a batch of small datagrams.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    lengths: [usize; Self::SLOTS],
}

impl Batch {
    /// The most datagrams in one batch.
    pub const SLOTS: usize = 32;
    /// Bytes per datagram: 128 of payload and a dozen attributes take under 500.
    const SLOT: usize = 1024;

    /// The memory, 32 KiB.
    pub fn new() -> Self {
        Self { bytes: vec![0; Self::SLOTS * Self::SLOT].into(), lengths: [0; Self::SLOTS] }
    }

    /// The first `count` datagrams.
    pub fn datagrams(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let slots = self.bytes.chunks_exact(Self::SLOT);
        slots.zip(self.lengths).take(count).map(|(slot, length)| &slot[..length])
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel says `EPERM` both to the unprivileged and for a queue or group
/// that another socket has (`nfqnl_recv_config`, `nfulnl_recv_config`); makes
/// the second case `EBUSY`. `table` is the file in which the first column of
/// each line is a number in use.
pub(super) fn busy_if_listed(table: &str, number: u16, error: io::Error) -> io::Error {
    let first = |line: &str| line.split_ascii_whitespace().next()?.parse::<u16>().ok();
    let listed = || {
        let lines = fs::read_to_string(table);
        lines.is_ok_and(|lines| lines.lines().filter_map(first).any(|taken| taken == number))
    };
    if error.raw_os_error() == Some(libc::EPERM) && listed() {
        return io::Error::from_raw_os_error(libc::EBUSY);
    }
    error
}
