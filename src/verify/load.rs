//! Many short connections from blocking threads, each closed as a polite client does.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// How long a service that has been told goodbye may take to hang up. One that takes longer is
/// left alone: whoever waits for its word would wait for ever with some.
const GOODBYE: Duration = Duration::from_secs(1);
/// The most that is read from a service which talks unasked. Closing with more to read is a reset.
const CHATTER_MAX: usize = 256 << 10;
/// Stack of a thread, which holds a socket and a buffer.
const STACK_BYTES: usize = 128 << 10;

/// What connections to open.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub target: SocketAddr,
    /// Interface that they must go by; else as the routes say.
    pub interface: Option<String>,
    /// Their number.
    pub connections: u64,
    /// How many at a time.
    pub concurrency: u64,
    /// How long each may take from its first SYN on.
    pub timeout: Duration,
}

/// How one connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The handshake was complete.
    Answered,
    /// The SYN was answered by a reset.
    Refused,
    /// No answer in time.
    TimedOut,
    /// A reset after the handshake.
    Reset,
    /// Nobody says what MAC the address has, or a router says that there is no way.
    Unreachable,
    /// Anything else, which is this host's own trouble.
    Other(String),
}

/// What came of all connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Outcomes in no order.
    pub outcomes: Vec<Outcome>,
    /// How long each `connect` took that succeeded, but for the first: that waited for ARP.
    pub connects: Vec<Duration>,
    /// How long it took altogether.
    pub elapsed: Duration,
}

struct Shared<'a> {
    load: &'a Load,
    next: AtomicU64,
    /// Whether any connection was answered, or refused.
    heard: AtomicBool,
    silent: AtomicU64,
    tally: Mutex<Tally>,
}

impl Load {
    /// Opens the connections and waits until all have ended.
    ///
    /// Of a cluster that never answers only as many are tried as go at a time.
    pub fn run(&self) -> Result<Tally> {
        let begin = Instant::now();
        let shared = Shared {
            load: self,
            next: AtomicU64::new(1),
            heard: AtomicBool::new(false),
            silent: AtomicU64::new(0),
            tally: Mutex::default(),
        };
        // Alone: the others shall find the address resolved.
        let (outcome, _) = self.attempt();
        let pointless = matches!(outcome, Outcome::Unreachable | Outcome::Other(_));
        shared.note(outcome, None);
        let threads = if pointless { 0 } else { self.concurrency.min(self.connections - 1) };
        thread::scope(|scope| {
            for _ in 0..threads {
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                thread
                    .spawn_scoped(scope, || shared.work())
                    .context("start a thread for connections; try a smaller --concurrency")?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let mut tally = shared.tally.into_inner().unwrap_or_else(|poison| poison.into_inner());
        tally.elapsed = begin.elapsed();
        Ok(tally)
    }

    fn attempt(&self) -> (Outcome, Option<Duration>) {
        match self.connect() {
            Ok((socket, begin)) => {
                let now = Instant::now();
                let took = now.duration_since(begin);
                match say_goodbye(socket, now + self.goodbye(took)) {
                    Ok(()) => (Outcome::Answered, Some(took)),
                    Err(error) => (Outcome::of(&error), Some(took)),
                }
            }
            Err(error) => (Outcome::of(&error), None),
        }
    }

    /// How long the service may take to hang up on a connection that has taken so long already.
    fn goodbye(&self, took: Duration) -> Duration {
        GOODBYE.min(self.timeout.saturating_sub(took))
    }

    /// An open connection, and when its first SYN left.
    fn connect(&self) -> io::Result<(Socket, Instant)> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        let begin = Instant::now();
        socket.connect_timeout(&self.target.into(), self.timeout)?;
        Ok((socket, begin))
    }
}

impl Shared<'_> {
    fn work(&self) {
        while self.next.fetch_add(1, Ordering::Relaxed) < self.load.connections {
            let in_vain = self.silent.load(Ordering::Relaxed) >= self.load.concurrency;
            if in_vain && !self.heard.load(Ordering::Relaxed) {
                break;
            }
            let (outcome, took) = self.load.attempt();
            self.note(outcome, took);
        }
    }

    fn note(&self, outcome: Outcome, took: Option<Duration>) {
        match outcome {
            Outcome::Answered | Outcome::Refused | Outcome::Reset => {
                self.heard.store(true, Ordering::Relaxed);
            }
            Outcome::TimedOut | Outcome::Unreachable | Outcome::Other(_) => {
                self.silent.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut tally = self.tally.lock().unwrap_or_else(|poison| poison.into_inner());
        tally.outcomes.push(outcome);
        tally.connects.extend(took);
    }
}

/// Ends the sending side, and waits for the other side's end: no reset, and nothing left over.
fn say_goodbye(mut socket: Socket, deadline: Instant) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    let (mut buffer, mut left) = ([0; 4096], CHATTER_MAX);
    loop {
        let patience = deadline.saturating_duration_since(Instant::now());
        if patience.is_zero() || left == 0 {
            return Ok(());
        }
        socket.set_read_timeout(Some(patience))?;
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => left = left.saturating_sub(read),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(()),
                ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

impl Outcome {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::TimedOut,
            // A socket that was reset before it was told goodbye is not connected any more.
            ErrorKind::ConnectionReset | ErrorKind::NotConnected | ErrorKind::BrokenPipe => {
                Self::Reset
            }
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn load(target: SocketAddr) -> Load {
        Load {
            target,
            interface: None,
            connections: 20,
            concurrency: 4,
            timeout: Duration::from_secs(20),
        }
    }

    #[test]
    fn connections_are_counted_and_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let service = thread::spawn(move || {
            for stream in listener.incoming().take(20) {
                // It ends only when the other side has said goodbye, and no reset may be it.
                assert_eq!(stream.unwrap().read(&mut [0; 16]).unwrap(), 0);
            }
        });
        let tally = load(target).run().unwrap();
        service.join().unwrap();
        assert_eq!(tally.outcomes, vec![Outcome::Answered; 20]);
        assert_eq!(tally.connects.len(), 19, "the first is not timed");
    }

    #[test]
    fn the_timeout_is_that_of_the_whole_connection() {
        let load = Load { timeout: Duration::from_secs(5), ..load("10.0.0.2:80".parse().unwrap()) };
        for (took, left) in [(0, 1000), (3999, 1000), (4001, 999), (5000, 0), (5001, 0)] {
            assert_eq!(load.goodbye(Duration::from_millis(took)), Duration::from_millis(left));
        }
    }

    #[test]
    fn a_service_that_never_hangs_up_has_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        // The kernel takes the connection, and nobody ever closes it.
        let (socket, _) = load(target).connect().unwrap();
        say_goodbye(socket, Instant::now()).unwrap();
    }

    #[test]
    fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let tally = load(target).run().unwrap();
        assert_eq!(tally.outcomes, vec![Outcome::Refused; 20]);
        assert_eq!(tally.connects.len(), 0);
    }
}
