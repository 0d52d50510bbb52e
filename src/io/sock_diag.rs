//! Socket diagnostics: is there a listener, which connections are there, and
//! silent removal of a half-open one.
//!
//! One exact request (`inet_diag_find_one_icsk`) is the very lookup a SYN gets:
//! first a connection with these four numbers, then a listener on the address,
//! then one on any address, IPv6 sockets that also take IPv4 included. With
//! several listeners on one port (`SO_REUSEPORT`) it is always the same one.
//! The answer is made inside `send`, so no call here waits.
//!
//! *Overrun:* a lost answer is an error of that call, and the next works again.
//! *Restart and shutdown:* nothing is kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::attempt;
use super::message::{Builder, Message, Messages};
use super::netlink::NetlinkSocket;

/// Accept queue of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Established connections the program has not accepted yet
    /// (`sk_ack_backlog`).
    pub queued: u32,
    /// How many may wait (`sk_max_ack_backlog`). The kernel refuses when
    /// `queued > backlog`, so one more than this fits.
    pub backlog: u32,
}

/// What TCP has for a pair of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing.
    None,
    /// A request whose handshake is not complete.
    HalfOpen,
    /// A connection in any later state, `TIME_WAIT` among them.
    Open,
}

/// What [`SockDiag::destroy_request`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// A half-open request, and it is gone.
    Request,
    /// No socket for these addresses; nothing done.
    Absent,
    /// A connection past the handshake; nothing done.
    Established,
}

/// A socket for requests to `inet_diag`.
#[derive(Debug)]
pub struct SockDiag {
    socket: NetlinkSocket,
    request: Builder,
    reply: Box<[u8]>,
    sequence: u32,
    interface: u32,
}

impl SockDiag {
    /// Opens the socket. Only [`SockDiag::destroy_request`] needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: NetlinkSocket::open(libc::NETLINK_SOCK_DIAG, 0)?,
            request: Builder::with_capacity(128),
            reply: vec![0; 32 << 10].into(),
            sequence: 0,
            interface: 0,
        })
    }

    /// Looks up as for packets that arrive on the interface with index `index`:
    /// also finds sockets bound to it (`SO_BINDTODEVICE`). Without this only
    /// sockets bound to no interface are found.
    #[must_use]
    pub fn on_interface(mut self, index: u32) -> Self {
        self.interface = index;
        self
    }

    /// The listener that a SYN to `vip`:`port` would reach.
    pub fn listener(&mut self, vip: IpAddr, port: u16) -> io::Result<Option<Listener>> {
        // No connection has the remote address 0.0.0.0:0 or [::]:0 (the kernel drops
        // packets from these as martians), so only a listener can match.
        let local = SocketAddr::new(vip, port);
        let socket = self
            .find(nobody(vip), local)
            .map_err(|error| attempt(format!("look for a listener on {local}"), error))?;
        Ok(socket
            .filter(|socket| socket.state == TCP_LISTEN)
            .map(|socket| Listener { queued: socket.receive_queue, backlog: socket.send_queue }))
    }

    /// Is there a socket that a datagram to `vip`:`port` from anybody would reach?
    /// One connected to a peer does not count, nor does it hide another.
    pub fn takes_datagrams(&mut self, vip: IpAddr, port: u16) -> io::Result<bool> {
        let local = SocketAddr::new(vip, port);
        // The kernel wants the addresses of UDP as in the packet, the sender first (`udp_dump_one`).
        self.ask(libc::IPPROTO_UDP, local, nobody(vip))
            .map(|socket| socket.is_some())
            .map_err(|error| attempt(format!("look for a UDP socket on {local}"), error))
    }

    /// Removes the half-open request of `client` to `local`, without a packet
    /// to the client. A connection past the handshake is left alone.
    ///
    /// The removal names the cookie of what was found, so it cannot hit a
    /// listener or another attempt. It can hit the *same* attempt a moment
    /// later: a connection inherits the cookie of its request
    /// (`inet_csk_clone_lock`), and if the client's final ACK, with the right
    /// number, arrives in the microseconds between lookup and removal, the
    /// client gets a RST. Call this only when the client chose another host.
    pub fn destroy_request(
        &mut self,
        client: SocketAddr,
        local: SocketAddr,
    ) -> io::Result<Destroyed> {
        self.destroy(client, local).map_err(|error| {
            attempt(format!("destroy the half-open request {client} -> {local}"), error)
        })
    }

    fn destroy(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Destroyed> {
        let found = match self.find(client, local)? {
            // Without a connection the lookup falls through to the listener.
            Some(socket) if socket.client == Some(client) && socket.state != TCP_LISTEN => socket,
            _ => return Ok(Destroyed::Absent),
        };
        match found.state {
            TCP_SYN_RECV => {}
            TCP_TIME_WAIT => return Ok(Destroyed::Absent),
            _ => return Ok(Destroyed::Established),
        }
        let (flags, protocol) = (libc::NLM_F_ACK, libc::IPPROTO_TCP);
        self.begin(SOCK_DESTROY, flags, family(local), protocol, client, local, found.cookie, 0);
        self.request.end();
        match self.socket.request(self.request.bytes(), self.sequence, |_| ()) {
            Ok(()) => Ok(Destroyed::Request),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                Ok(Destroyed::Absent)
            }
            Err(error) => Err(error),
        }
    }

    /// What TCP has for the ports of `client` and `local`.
    pub fn connection(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Connection> {
        let found = self.find(client, local).map_err(|error| {
            attempt(format!("look for a connection {client} -> {local}"), error)
        })?;
        Ok(match found {
            Some(socket) if socket.client == Some(client) => match socket.state {
                TCP_LISTEN => Connection::None,
                TCP_SYN_RECV => Connection::HalfOpen,
                _ => Connection::Open,
            },
            _ => Connection::None,
        })
    }

    /// All TCP connections of these local addresses past the handshake, as
    /// (client, local), also those of IPv6 sockets that take IPv4. Half-open
    /// requests and `TIME_WAIT` are left out. Walks all sockets of the host, once for each
    /// family: not for the hot loop.
    pub fn established(&mut self, vips: &[IpAddr]) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
        let mut found = Vec::new();
        let families = match vips.iter().any(IpAddr::is_ipv4) {
            true => &[libc::AF_INET, libc::AF_INET6][..],
            false => &[libc::AF_INET6],
        };
        for family in families {
            self.dump(*family, vips, &mut found)
                .map_err(|error| attempt(format!("list the connections of {vips:?}"), error))?;
        }
        Ok(found)
    }

    fn dump(
        &mut self,
        family: i32,
        vips: &[IpAddr],
        found: &mut Vec<(SocketAddr, SocketAddr)>,
    ) -> io::Result<()> {
        let any = (Ipv6Addr::UNSPECIFIED, 0).into();
        let (flags, protocol) = (libc::NLM_F_DUMP, libc::IPPROTO_TCP);
        self.begin(SOCK_DIAG_BY_FAMILY, flags, family, protocol, any, any, NO_COOKIE, CONNECTED);
        if let [one] = *vips {
            self.request.attribute(INET_DIAG_REQ_BYTECODE, &source_is(one));
        }
        self.request.end();
        self.socket.send(self.request.bytes())?;
        loop {
            let datagram = self.socket.recv(&mut self.reply)?;
            for message in Messages(datagram).filter(|message| message.sequence == self.sequence) {
                match message.error() {
                    Some(0) | None => {}
                    Some(code) => return Err(io::Error::from_raw_os_error(code)),
                }
                if message.is_done() {
                    return Ok(());
                }
                let socket = socket(message).ok_or(io::ErrorKind::InvalidData)?;
                if let (Some(client), Some(local)) = (socket.client, socket.local)
                    && vips.contains(&local.ip())
                {
                    found.push((client, local));
                }
            }
        }
    }

    /// The one socket that a packet of TCP from `client` to `local` would reach.
    fn find(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Option<Socket>> {
        self.ask(libc::IPPROTO_TCP, client, local)
    }

    fn ask(
        &mut self,
        protocol: i32,
        client: SocketAddr,
        local: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let family = family(local);
        self.begin(SOCK_DIAG_BY_FAMILY, 0, family, protocol, client, local, NO_COOKIE, 0);
        self.request.end();
        self.socket.send(self.request.bytes())?;
        loop {
            let datagram = self.socket.recv(&mut self.reply)?;
            // An answer left over from a failed call has another number.
            let answer = Messages(datagram).find(|message| message.sequence == self.sequence);
            if let Some(message) = answer {
                return match message.error() {
                    Some(libc::ENOENT) => Ok(None),
                    Some(code) => Err(io::Error::from_raw_os_error(code)),
                    None => Ok(Some(socket(message).ok_or(io::ErrorKind::InvalidData)?)),
                };
            }
        }
    }

    /// Starts a message with `struct inet_diag_req_v2`.
    #[expect(clippy::too_many_arguments, reason = "the fields of one structure")]
    fn begin(
        &mut self,
        kind: u16,
        flags: i32,
        family: i32,
        protocol: i32,
        client: SocketAddr,
        local: SocketAddr,
        cookie: [u8; 8],
        states: u32,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        self.request.clear();
        self.request
            .begin(kind, flags as u16, self.sequence)
            .raw(&[family as u8, protocol as u8, 0, 0])
            .raw(&states.to_ne_bytes());
        // struct inet_diag_sockid
        let [a, b] = local.port().to_be_bytes();
        let [c, d] = client.port().to_be_bytes();
        self.request
            .raw(&[a, b, c, d])
            .raw(&field(local.ip()))
            .raw(&field(client.ip()))
            .raw(&self.interface.to_ne_bytes())
            .raw(&cookie);
    }
}

/// What is used of `struct inet_diag_msg`.
#[derive(Debug, Clone, Copy)]
struct Socket {
    state: u8,
    local: Option<SocketAddr>,
    client: Option<SocketAddr>,
    cookie: [u8; 8],
    receive_queue: u32,
    send_queue: u32,
}

fn socket(message: Message<'_>) -> Option<Socket> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let bytes: &[u8; 72] = message.payload.first_chunk()?;
    let word = |at: usize| bytes[at..].first_chunk().map(|word| u32::from_ne_bytes(*word));
    let port = |at: usize| bytes[at..].first_chunk().map(|port| u16::from_be_bytes(*port));
    let address = |at: usize| address(bytes[0], bytes[at..].first_chunk()?);
    Some(Socket {
        state: bytes[1],
        local: address(8).zip(port(4)).map(SocketAddr::from),
        client: address(24).zip(port(6)).map(SocketAddr::from),
        cookie: *bytes[44..].first_chunk()?,
        receive_queue: word(56)?,
        send_queue: word(60)?,
    })
}

/// The address in an address field; one of IPv4 that is mapped into IPv6 is one of IPv4.
fn address(family: u8, field: &[u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => field.first_chunk::<4>().copied().map(IpAddr::from),
        libc::AF_INET6 => Some(IpAddr::from(*field).to_canonical()),
        _ => None,
    }
}

/// An address field.
fn field(address: IpAddr) -> [u8; 16] {
    let mut field = [0; 16];
    match address {
        IpAddr::V4(ip) => field[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => field = ip.octets(),
    }
    field
}

fn family(address: SocketAddr) -> i32 {
    match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

/// The other end that no connection of `vip` has.
fn nobody(vip: IpAddr) -> SocketAddr {
    match vip {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Bytecode for "the local address is `address`": one `inet_diag_bc_op` with an
/// `inet_diag_hostcond`, which also matches mapped addresses.
fn source_is(address: IpAddr) -> Vec<u8> {
    let (family, ip) = match address {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    // Offsets to the next operation: that of the length is the end, beyond it means no match.
    let length = 12 + ip.len() as u8;
    let no = (u16::from(length) + 4).to_ne_bytes();
    let mut bytecode = vec![INET_DIAG_BC_S_COND, length, no[0], no[1]];
    bytecode.extend([family as u8, 8 * ip.len() as u8, 0, 0]);
    bytecode.extend((-1i32).to_ne_bytes()); // any port
    bytecode.extend(ip);
    bytecode
}

// linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_BYTECODE: i32 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
/// `INET_DIAG_NOCOOKIE` twice: any.
const NO_COOKIE: [u8; 8] = [0xff; 8];
const TCP_SYN_RECV: u8 = 3;
const TCP_TIME_WAIT: u8 = 6;
const TCP_LISTEN: u8 = 10;
/// `ESTABLISHED`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, `CLOSING`.
const CONNECTED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

#[cfg(test)]
mod tests;
