//! Connections and nothing else, as fast as the machine makes them.
//!
//! The load of [`super::client`] holds a conversation on each connection, from
//! one thread for each, which costs several times what the cluster's part of a
//! connection costs. Here each CPU keeps many handshakes under way. The service
//! hangs up at once, and the client ends each connection by a reset, which
//! leaves nothing in TIME_WAIT on either side.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::client::bind_late;
use super::netns::Namespace;
use super::topology::{HANG_UP_PORT, VIP};

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Rush {
    /// How long each successful `connect` took.
    pub connects: Vec<Duration>,
    /// How many connections failed.
    pub failed: u64,
    /// Connections per second, while new ones were being started.
    pub rate: f64,
}

struct Shared<'a> {
    sources: &'a [IpAddr],
    connections: u64,
    epoch: Instant,
    started: AtomicU64,
    ended: AtomicU64,
    /// Set when the last connection is started. One SYN lost at the end and sent
    /// again after a second must not pass for a low rate: it shows in the times.
    rate: OnceLock<f64>,
}

/// Makes `connections` connections from the client's namespace, `concurrency` at a time.
pub fn rush(
    client: &Namespace,
    sources: &[IpAddr],
    connections: u64,
    concurrency: usize,
) -> Result<Rush> {
    let shared = Shared {
        sources,
        connections,
        epoch: Instant::now(),
        started: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        rate: OnceLock::new(),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(concurrency);
    let connects = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|first| {
                let shared = &shared;
                scope.spawn(move || {
                    client.enter().context("enter the client's namespace")?;
                    shared.generate((first..concurrency).step_by(threads))
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?
    .concat();
    Ok(Rush {
        failed: connections - connects.len() as u64,
        connects,
        rate: shared.rate.get().copied().unwrap_or_default(),
    })
}

impl Shared<'_> {
    /// Runs the loops with these numbers on the calling thread.
    fn generate(&self, loops: impl Iterator<Item = usize>) -> Result<Vec<Duration>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start the runtime of the load")?;
        let loops = loops.map(|index| self.connect_from(self.sources[index % self.sources.len()]));
        Ok(runtime.block_on(futures_util::future::join_all(loops)).concat())
    }

    async fn connect_from(&self, source: IpAddr) -> Vec<Duration> {
        let mut connects = Vec::new();
        loop {
            let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
            if number > self.connections {
                return connects;
            }
            if number == self.connections {
                let ended = self.ended.load(Ordering::Relaxed) as f64;
                // Only one connection is the last.
                self.rate.get_or_init(|| ended / self.epoch.elapsed().as_secs_f64());
            }
            connects.extend(connect(source).await);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Connects once, waits for the service to hang up, and returns how long
/// `connect` took.
async fn connect(source: IpAddr) -> io::Result<Duration> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    bind_late(&socket, source)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let begin = Instant::now();
    let mut stream = socket.connect(SocketAddr::from((VIP, HANG_UP_PORT))).await?;
    let took = begin.elapsed();
    match stream.read(&mut [0]).await? {
        0 => Ok(took),
        _ => Err(io::Error::other("the service said something")),
    }
}
