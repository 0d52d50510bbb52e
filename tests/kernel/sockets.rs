//! The client's sockets, and listeners on the hosts that do what the lab's service cannot.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::rig::{Lab, PATIENCE, PORT, VIP, wait_until};

/// A port for the tests' own listeners.
pub const OTHER_PORT: u16 = 8080;
/// Byte k of what the service sends is k modulo this.
const PATTERN_PERIOD: usize = 251;

/// Connects to the IPv4 VIP from the calling thread's namespace.
pub fn connect_from(source_port: u16, port: u16) -> io::Result<TcpStream> {
    connect_to(SocketAddr::new(VIP.into(), port), source_port)
}

/// Connects from the calling thread's namespace, from a port or, if that is 0, from any.
pub fn connect_to(service: SocketAddr, source_port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    if source_port != 0 {
        socket.set_reuse_address(true)?;
        let any: IpAddr = match service {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        socket.bind(&SocketAddr::new(any, source_port).into())?;
    }
    // Covers the SYN and its retransmissions after 1, 3 and 7 s.
    socket.set_write_timeout(Some(Duration::from_secs(8)))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.connect(&service.into())?;
    Ok(socket.into())
}

impl Lab {
    /// A connection from the client to the VIP.
    pub fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let service = SocketAddr::new(self.vip(), port);
        self.within("client", || connect_to(service, 0))
    }

    /// The host that answers a new connection.
    pub fn who(&self) -> io::Result<String> {
        hello(&mut self.connect(PORT)?)
    }

    /// A connection that this host answers.
    pub fn connect_to_host(&self, host: usize) -> TcpStream {
        let name = format!("h{host}");
        let mut found = None;
        wait_until("the wanted host answers a connection", || {
            let mut stream = self.connect(PORT).expect("the VIP answers");
            if hello(&mut stream).expect("the service answers") == name {
                found = Some(stream);
            }
            found.is_some()
        });
        found.expect("found above")
    }

    /// A listener of the test's own on a host.
    pub fn listen(&self, host: usize, port: u16, backlog: i32) -> TcpListener {
        self.within(&format!("h{host}"), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("SO_REUSEADDR");
            socket.set_nonblocking(true).expect("non-blocking");
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            socket.bind(&any.into()).expect("bind");
            socket.listen(backlog).expect("listen");
            socket.into()
        })
    }

    /// One listener of the test's own on each host.
    pub fn listen_everywhere(&self, port: u16) -> Vec<TcpListener> {
        (1..=self.nodes()).map(|host| self.listen(host, port, 64)).collect()
    }

    /// SYNs that the client's kernel has sent again.
    pub fn syn_retransmissions(&self) -> u64 {
        let text = self.shell("client", "cat /proc/net/netstat");
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let pairs = names.split(' ').zip(values.split(' '));
        let value = pairs.filter(|(name, _)| *name == "TCPSynRetrans").map(|(_, value)| value);
        value.last().expect("TCPSynRetrans").parse().expect("a number")
    }
}

/// The one connection that was made, at whichever listener it arrived.
pub fn accept(listeners: &[TcpListener]) -> TcpStream {
    let mut accepted = None;
    wait_until("a listener gets the connection", || {
        accepted = listeners.iter().find_map(|listener| match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("accept: {error}"),
        });
        accepted.is_some()
    });
    let stream = accepted.expect("accepted above");
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    stream
}

/// Asks who is there.
pub fn hello(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"hello\n")?;
    read_line(stream)
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    line.pop();
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Has the service send `count` bytes, and checks each.
pub fn download(stream: &mut TcpStream, count: usize) -> io::Result<()> {
    stream.write_all(format!("send {count}\n").as_bytes())?;
    let period = PATTERN_PERIOD;
    let pattern: Vec<u8> = (0..period as u8).cycle().take(period + (64 << 10)).collect();
    let mut buffer = vec![0; 64 << 10];
    let mut done = 0;
    while done < count {
        let want = buffer.len().min(count - done);
        stream.read_exact(&mut buffer[..want])?;
        let begin = done % period;
        if buffer[..want] != pattern[begin..begin + want] {
            return Err(io::Error::other(format!("wrong bytes after {done}")));
        }
        done += want;
    }
    Ok(())
}

/// Sends `count` bytes to the service, which must get all of them.
pub fn upload(stream: &mut TcpStream, count: usize) -> io::Result<()> {
    stream.write_all(format!("recv {count}\n").as_bytes())?;
    let block = vec![7; 64 << 10];
    let mut left = count;
    while left > 0 {
        let length = left.min(block.len());
        stream.write_all(&block[..length])?;
        left -= length;
    }
    match read_line(stream)?.as_str() {
        "ok" => Ok(()),
        other => Err(io::Error::other(format!("the service said {other}"))),
    }
}
