//! Netlink: messages built and parsed, and the socket they travel on.
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

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// `NLA_TYPE_MASK`: without the bits for "nested" and "network byte order".
const ATTRIBUTE_KIND: u16 = 0x3fff;
/// How long [`NetlinkSocket::request`] waits for an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Rounds up to the four bytes that messages and attributes are aligned to.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Builds messages one after the other into one reusable buffer.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    start: usize,
}

impl Builder {
    /// A buffer that takes `capacity` bytes without allocating again.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), start: 0 }
    }

    /// Forgets all messages, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Removes the first `count` bytes, which must be whole messages.
    pub fn discard(&mut self, count: usize) {
        self.bytes.drain(..count);
    }

    /// The finished messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts a message; [`Builder::end`] closes it.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        // Port 0 is the kernel.
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// Adds `struct nfgenmsg`, with which every nfnetlink message starts.
    /// `resource` is a queue, a log group or a subsystem.
    pub fn nfgenmsg(&mut self, family: i32, resource: u16) -> &mut Self {
        let resource = resource.to_be_bytes();
        self.raw(&[family as u8, 0, resource[0], resource[1]])
    }

    /// Adds a fixed structure, padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: i32, value: &[u8]) -> &mut Self {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.raw(value)
    }

    /// Adds an attribute that holds a C string.
    pub fn text(&mut self, kind: i32, value: &str) -> &mut Self {
        let length = (ATTRIBUTE + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.raw(&[0])
    }

    /// Adds an attribute that holds the attributes which `content` adds.
    pub fn nested(&mut self, kind: i32, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | libc::NLA_F_NESTED, &[]);
        content(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Closes the message that [`Builder::begin`] opened.
    pub fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The message type of message `message` in nfnetlink subsystem `subsystem`.
pub const fn nfnetlink(subsystem: i32, message: i32) -> u16 {
    ((subsystem << 8) | message) as u16
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_seq`: that of the request for an answer, else 0.
    pub sequence: u32,
    /// All after the header.
    pub payload: &'a [u8],
    /// The message with its header.
    pub whole: &'a [u8],
}

impl Message<'_> {
    /// What an `NLMSG_ERROR` message says: 0 for an acknowledgement, else a
    /// positive errno. `None` for any other message.
    pub fn error(&self) -> Option<i32> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let code =
            self.payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        Some(code.saturating_neg())
    }

    /// Is this the end of a dump?
    pub fn is_done(&self) -> bool {
        i32::from(self.kind) == libc::NLMSG_DONE
    }
}

/// The messages in a datagram. Ends early at one whose length makes no sense.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [a, b, c, d, kind_low, kind_high, _, _, e, f, g, h, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let whole = self.0.get(..length)?;
        let payload = whole.get(HEADER..)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([kind_low, kind_high]),
            sequence: u32::from_ne_bytes([e, f, g, h]),
            payload,
            whole,
        })
    }
}

/// The attributes in a message, as (type, value). Ends early at one whose
/// length makes no sense.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (i32, &'a [u8]);

    fn next(&mut self) -> Option<(i32, &'a [u8])> {
        let &[a, b, c, d] = self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((i32::from(u16::from_ne_bytes([c, d]) & ATTRIBUTE_KIND), value))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses_again() {
        let mut builder = Builder::default();
        builder.begin(nfnetlink(3, 1), 0, 7).nfgenmsg(2, 0x1234).attribute(5, &[1, 2, 3]);
        builder.nested(9, |inner| {
            inner.text(1, "abc").attribute(2, &[]);
        });
        builder.end();
        builder.begin(libc::NLMSG_DONE as u16, 0, 8).end();

        let messages: Vec<_> = Messages(builder.bytes()).collect();
        let [first, last] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((first.kind, first.sequence), (0x301, 7));
        assert_eq!(first.payload[..4], [2, 0, 0x12, 0x34]);
        let attributes: Vec<_> = Attributes(&first.payload[4..]).collect();
        assert_eq!(attributes[0], (5, &[1, 2, 3][..]));
        assert_eq!(attributes[1].0, 9);
        let inner: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(inner, [(1, &b"abc\0"[..]), (2, &[][..])]);
        assert!(last.is_done() && last.error().is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                let _ = (message.error(), message.is_done());
                Attributes(message.payload).for_each(drop);
            }
            Attributes(&bytes).for_each(drop);
        }
    }
}
