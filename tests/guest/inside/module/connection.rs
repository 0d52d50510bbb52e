//! Connections of the ghost, segment by segment, to a listener on the host.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::inside::prober::{ACK, Prober, RST, SYN, Segment};
use crate::inside::world::{Family, World};

pub const PORT: u16 = 80;
pub const CLOSED_PORT: u16 = 81;

/// Only for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service of the virtual IP.
pub struct Service(TcpListener);

impl Service {
    pub fn listen(world: &World, family: Family) -> Self {
        let listener = world.within("host", || TcpListener::bind((family.vip(), PORT)));
        Self(listener.expect("listen on the virtual IP"))
    }

    /// The connection that must have been completed.
    pub fn accept(&self) -> TcpStream {
        SockRef::from(&self.0).set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let (stream, _) = self.0.accept().expect("accept a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        stream
    }

    /// No connection has been completed.
    pub fn is_idle(&self) -> bool {
        self.0.set_nonblocking(true).expect("set the listener's mode");
        let outcome = self.0.accept();
        self.0.set_nonblocking(false).expect("set the listener's mode");
        matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// The ghost's half of a connection to [`PORT`], of which the host has sent its SYN-ACK.
#[derive(Clone, Copy, Debug)]
pub struct HalfOpen {
    port: u16,
    isn: u32,
    /// The host's initial sequence number.
    pub answered: u32,
}

impl HalfOpen {
    /// Sends a SYN. None if nothing comes back.
    pub fn open(prober: &mut Prober) -> Option<Self> {
        let syn = Self::syn(prober);
        let Segment { client: port, sequence: isn, .. } = syn;
        match prober.ask(syn)[..] {
            [] => None,
            [answer] if answer.flags == SYN | ACK && answer.acknowledgment == isn + 1 => {
                Some(Self { port, isn, answered: answer.sequence })
            }
            ref others => panic!("a SYN is answered with {others:?}"),
        }
    }

    /// A SYN from a port that nobody has used.
    pub fn syn(prober: &mut Prober) -> Segment {
        let client = prober.next_port();
        let sequence = 0x1000_0000 + u32::from(client);
        Segment { client, service: PORT, sequence, flags: SYN, ..Segment::default() }
    }

    /// A segment of this connection, so many bytes after the SYN, that acknowledges `number`.
    pub fn segment(&self, offset: u32, number: u32, flags: u8, data: &'static [u8]) -> Segment {
        Segment {
            client: self.port,
            service: PORT,
            sequence: self.isn + 1 + offset,
            acknowledgment: number,
            flags: flags | ACK,
            data,
        }
    }
}

/// The RST with which TCP answers a segment that acknowledges what was never sent (RFC 9293 3.10.7).
pub fn is_reset_of(answers: &[Segment], probe: &Segment) -> bool {
    matches!(answers, [answer] if answer.flags == RST && answer.sequence == probe.acknowledgment)
}
