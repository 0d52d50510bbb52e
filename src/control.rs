//! The control socket: `clusterd status` asks the daemons of this host.
//!
//! It is an abstract Unix socket named after the first virtual IP. Such names belong
//! to the network namespace and vanish with the process, so the socket also
//! serves as the lock that keeps a second daemon for the same virtual IP out,
//! and no file is ever left behind.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use anyhow::{Context, Result};
use clusterd::protocol::Vips;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::cli::StatusArgs;
use crate::daemon::{Shared, Snapshot};
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::{kmod, nfqueue};

const NAME_PREFIX: &str = "clusterd/";
/// Longest request in bytes.
const REQUEST_MAX: u64 = 256;

/// A question to the daemon, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    flows: bool,
}

/// Its answer, as one line of JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// The first virtual IP, and all.
    vip: IpAddr,
    vips: Vec<IpAddr>,
    /// What kind of MAC it resolves to, and which.
    mac_mode: MacMode,
    mac: String,
    #[serde(flatten)]
    snapshot: Snapshot,
    /// What the kernel counts for the queues, if it says.
    kernel_queue: Option<nfqueue::Overflows>,
    /// What the kernel module does for the virtual IP, if it does anything.
    kernel_module: Option<kmod::Status>,
    /// Connections answered in the last seconds, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<Vec<Flow>>,
}

#[derive(Debug, Serialize)]
struct Flow {
    protocol: String,
    client: std::net::SocketAddr,
    vip: IpAddr,
    port: u16,
    age_ms: u64,
}

fn address(vip: IpAddr) -> Result<SocketAddr> {
    let name = format!("{NAME_PREFIX}{vip}");
    SocketAddr::from_abstract_name(&name).with_context(|| format!("name the socket {name}"))
}

/// The daemon's end.
pub struct Server {
    vips: Vips,
    mac_mode: MacMode,
    listener: tokio::net::UnixListener,
}

impl Server {
    /// Takes the name of the first virtual IP; fails if a daemon of this host has it.
    pub fn bind(vips: &Vips, mac_mode: MacMode) -> Result<Self> {
        let vip = vips.first();
        let listener = UnixListener::bind_addr(&address(vip)?).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AddrInUse {
                Failure::in_use(&format!(
                    "a clusterd for {vip} is running on this host already: see clusterd status"
                ))
            } else {
                anyhow::Error::new(error).context("open the control socket")
            }
        })?;
        listener.set_nonblocking(true).context("open the control socket")?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        Ok(Self { vips: vips.clone(), mac_mode, listener })
    }

    /// Answers one request after the other, for ever.
    pub async fn serve(&self, shared: &Shared) -> Result<()> {
        loop {
            let (stream, _) =
                self.listener.accept().await.context("accept on the control socket")?;
            // A client that goes away early concerns nobody else.
            drop(self.answer(stream, shared).await);
        }
    }

    async fn answer(&self, mut stream: tokio::net::UnixStream, shared: &Shared) -> Result<()> {
        // Abstract sockets have no file mode: only root and the daemon's own user may ask.
        let peer = stream.peer_cred()?.uid();
        // SAFETY: geteuid has no preconditions.
        if peer != 0 && peer != unsafe { libc::geteuid() } {
            return Ok(());
        }
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        let limited = tokio::io::BufReader::new(reader.take(REQUEST_MAX));
        let patience = std::time::Duration::from_secs(1);
        let mut lines = limited.lines();
        if let Some(request) = tokio::time::timeout(patience, lines.next_line()).await?? {
            line = request;
        }
        let request: Request = serde_json::from_str(&line)?;
        let mut answer = serde_json::to_vec(&self.report(&request, shared))?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
        Ok(())
    }

    fn report(&self, request: &Request, shared: &Shared) -> Report {
        let flows = request.flows.then(|| {
            let mut flows: Vec<_> = shared
                .answered
                .iter()
                .map(|entry| Flow {
                    protocol: entry.key().protocol.to_string(),
                    client: entry.key().client,
                    vip: entry.key().service.ip(),
                    port: entry.key().service.port(),
                    age_ms: entry.value().at.elapsed().map_or(0, |age| age.as_millis() as u64),
                })
                .collect();
            flows.sort_unstable_by_key(|flow| (std::cmp::Reverse(flow.age_ms), flow.client));
            flows
        });
        let vip = self.vips.first();
        Report {
            vip,
            vips: self.vips.all().collect(),
            mac_mode: self.mac_mode,
            mac: self.mac_mode.address(vip).to_string(),
            snapshot: shared.snapshot(),
            kernel_queue: nfqueue::overflows(&shared.queues).ok(),
            kernel_module: kmod::status(vip),
            flows,
        }
    }
}

/// Is a daemon for `vip` running in this network namespace?
pub fn is_running(vip: IpAddr) -> bool {
    running().is_ok_and(|vips| vips.contains(&vip))
}

/// The virtual IPs whose daemons run in this network namespace.
fn running() -> Result<Vec<IpAddr>> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").context("list Unix sockets")?;
    let mut vips: Vec<_> = table
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.strip_prefix('@')?.strip_prefix(NAME_PREFIX))
        .filter_map(|vip| vip.parse().ok())
        .collect();
    vips.sort_unstable();
    vips.dedup();
    Ok(vips)
}

/// `clusterd status`.
pub fn print_status(args: &StatusArgs) -> Result<()> {
    let vips = match args.vip {
        Some(vip) => vec![vip],
        None => running()?,
    };
    if vips.is_empty() {
        return Err(Failure::unavailable("no clusterd is running here"));
    }
    for vip in vips {
        let answer = ask(vip, &Request { flows: args.flows })?;
        if args.json {
            print!("{answer}");
        } else {
            let value: serde_json::Value =
                serde_json::from_str(&answer).context("read the daemon's answer")?;
            println!("{}", serde_json::to_string_pretty(&value)?);
        }
    }
    Ok(())
}

fn ask(vip: IpAddr, request: &Request) -> Result<String> {
    let mut stream = UnixStream::connect_addr(&address(vip)?)
        .map_err(|_| Failure::unavailable(&format!("no clusterd for {vip} is running here")))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut answer = String::new();
    // A daemon that does not trust the asker hangs up, at whatever moment.
    let heard =
        stream.write_all(&line).and_then(|()| BufReader::new(&stream).read_line(&mut answer));
    match heard {
        Ok(1..) => Ok(answer),
        Ok(0) | Err(_) => Err(Failure::privilege("the daemon answers only root and its own user")),
    }
}
