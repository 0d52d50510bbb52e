//! Connections and nothing else, as fast as one thread can make them.
//!
//! The load of [`super::client`] holds a conversation on each connection, from
//! many threads, which costs several times what the cluster's part of a
//! connection costs. Here one thread keeps many handshakes under way and ends
//! each connection by a reset, which leaves nothing in TIME_WAIT.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpSocket;
use tokio::task::LocalSet;

use super::client::new_socket;
use super::netns::Namespace;
use super::topology::{SERVICE_PORT, VIP};

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Rush {
    /// How long each successful `connect` took.
    pub connects: Vec<Duration>,
    /// How many connections failed.
    pub failed: u64,
    /// Connections per second while new ones were being started.
    pub rate: f64,
}

struct Shared {
    epoch: Instant,
    connections: u64,
    started: Cell<u64>,
    rush: RefCell<Rush>,
}

/// Makes `connections` connections from the client's namespace, `concurrency` at a time.
pub fn rush(
    client: &Namespace,
    sources: &[Ipv4Addr],
    connections: u64,
    concurrency: usize,
) -> Result<Rush> {
    client.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start the runtime of the load")?;
        let shared = Rc::new(Shared {
            epoch: Instant::now(),
            connections,
            started: Cell::new(0),
            rush: RefCell::default(),
        });
        let tasks = LocalSet::new();
        for index in 0..concurrency {
            let shared = Rc::clone(&shared);
            tasks.spawn_local(shared.connect_from(sources[index % sources.len()]));
        }
        runtime.block_on(tasks);
        Ok(shared.rush.take())
    })
}

impl Shared {
    async fn connect_from(self: Rc<Self>, source: Ipv4Addr) {
        while self.started.get() < self.connections {
            self.started.update(|started| started + 1);
            if self.started.get() == self.connections {
                // One SYN lost at the end and sent again after a second must not
                // pass for a low rate: it shows in the connect times.
                let mut rush = self.rush.borrow_mut();
                rush.rate = rush.connects.len() as f64 / self.epoch.elapsed().as_secs_f64();
            }
            let outcome = connect(source).await;
            let mut rush = self.rush.borrow_mut();
            match outcome {
                Ok(took) => rush.connects.push(took),
                Err(_) => rush.failed += 1,
            }
        }
    }
}

/// Connects once and returns how long `connect` took.
async fn connect(source: Ipv4Addr) -> io::Result<Duration> {
    let socket = new_socket(source)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_nonblocking(true)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let begin = Instant::now();
    socket.connect(SocketAddr::from((VIP, SERVICE_PORT))).await?;
    Ok(begin.elapsed())
}
