//! The control socket: `clusterd status` asks the daemons of this host.
//!
//! It is an abstract Unix socket named after the first virtual IP. Such names belong
//! to the network namespace and vanish with the process, so the name also
//! serves as the lock that keeps a second daemon for the same virtual IP out,
//! and no file is ever left behind. A daemon has the names of its further virtual IPs, too, and does
//! not listen there.

mod table;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use anyhow::{Context, Result};
use clusterd::protocol::Vips;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::cli::StatusArgs;
use crate::daemon::{Shared, Snapshot};
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::{kmod, nfqueue};
use table::Table;

/// Askers that may wait; there is one as a rule.
const BACKLOG: i32 = 16;
const NAME_PREFIX: &str = "clusterd/";
/// The flag in `/proc/net/unix` of a socket that is listened on (`__SO_ACCEPTCON`).
const LISTENING: &str = "00010000";
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
    /// What the kernel module does for the virtual IPs, if it does anything.
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

/// A stream socket with the name of a virtual IP; fails if a daemon of this host has that.
fn bind(vip: IpAddr) -> Result<Socket> {
    let socket =
        Socket::new(Domain::UNIX, Type::STREAM, None).context("open the control socket")?;
    // An abstract name begins with a zero (unix(7)).
    let name =
        SockAddr::unix(format!("\0{NAME_PREFIX}{vip}")).context("name the control socket")?;
    match socket.bind(&name) {
        Ok(()) => Ok(socket),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::in_use(&format!(
            "a clusterd for {vip} is running on this host already: see clusterd status"
        ))),
        Err(error) => Err(error).context("open the control socket"),
    }
}

/// The daemon's end.
pub struct Server {
    vips: Vips,
    mac_mode: MacMode,
    listener: tokio::net::UnixListener,
    /// Kept open: their names keep others out.
    _further: Vec<Socket>,
}

impl Server {
    /// Takes the names of the virtual IPs; fails if a daemon of this host has one of them.
    pub fn bind(vips: &Vips, mac_mode: MacMode) -> Result<Self> {
        let first = bind(vips.first())?;
        let listen = || {
            first.listen(BACKLOG)?;
            first.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(OwnedFd::from(first).into())
        };
        let listener = listen().context("open the control socket")?;
        let further = vips.all().skip(1).map(bind).collect::<Result<_>>()?;
        Ok(Self { vips: vips.clone(), mac_mode, listener, _further: further })
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
            kernel_module: kmod::status(&self.vips.all().collect()),
            flows,
        }
    }
}

/// Is a daemon of the cluster that `vip` names running in this network namespace?
pub fn is_running(vip: IpAddr) -> bool {
    running().is_ok_and(|vips| vips.contains(&vip))
}

/// The first virtual IPs of the daemons that run in this network namespace.
fn running() -> Result<Vec<IpAddr>> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").context("list Unix sockets")?;
    let mut vips: Vec<_> = table.lines().filter_map(listened_on).collect();
    vips.sort_unstable();
    Ok(vips)
}

/// The virtual IP of a line of `/proc/net/unix`, if it is a first one's control socket. The columns
/// are Num, RefCount, Protocol, Flags, Type, St, Inode and Path.
fn listened_on(line: &str) -> Option<IpAddr> {
    let mut columns = line.split_whitespace();
    let is_listening = columns.nth(3)? == LISTENING;
    let vip = columns.nth(3)?.strip_prefix('@')?.strip_prefix(NAME_PREFIX)?;
    is_listening.then(|| vip.parse().ok())?
}

/// `clusterd status`.
pub fn print_status(args: &StatusArgs) -> Result<()> {
    let running = running()?;
    let asked = match args.vip {
        Some(vip) if running.contains(&vip) => vec![vip],
        // It may be a further one of any of these.
        Some(_) | None => running,
    };
    let mut found = 0_usize;
    for first in asked {
        let answer = ask(first, &Request { flows: args.flows })?;
        let report: serde_json::Value =
            serde_json::from_str(&answer).context("read the daemon's answer")?;
        let mut vips = report["vips"].as_array().into_iter().flatten();
        let mut has = |vip: IpAddr| vips.any(|of| of.as_str() == Some(&vip.to_string()));
        // One of an older version says no list.
        if !args.vip.is_none_or(|vip| vip == first || has(vip)) {
            continue;
        }
        match (args.json, found) {
            (true, _) => print!("{answer}"),
            (false, 0) => print!("{}", Table(&report)),
            (false, 1..) => print!("\n{}", Table(&report)),
        }
        found += 1;
    }
    match (found, args.vip) {
        (1.., _) => Ok(()),
        (0, Some(vip)) => {
            Err(Failure::unavailable(&format!("no clusterd for {vip} is running here")))
        }
        (0, None) => Err(Failure::unavailable("no clusterd is running here")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;

    #[test]
    fn a_virtual_ip_has_one_daemon_whichever_place_it_has_on_a_list() {
        in_namespace(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let vip = |last: u8| IpAddr::from([10, 0, 0, last]);
            let bind = |first, further: &[u8]| {
                let vips = Vips::new(vip(first), further.iter().copied().map(vip)).unwrap();
                Server::bind(&vips, MacMode::Multicast)
            };
            let refused = |first, further: &[u8]| match bind(first, further) {
                Ok(_) => panic!("{first} {further:?}"),
                Err(error) => error.to_string(),
            };
            let server = bind(2, &[3, 4]).unwrap();
            assert_eq!(running().unwrap(), [vip(2)]);
            for (first, further, taken) in
                [(2, &[][..], 2), (3, &[], 3), (5, &[4], 4), (5, &[6, 2], 2)]
            {
                let expected = format!("a clusterd for 10.0.0.{taken} is running on this host");
                let said = refused(first, further);
                assert!(said.starts_with(&expected), "{said}");
            }
            let other = bind(5, &[6]).unwrap();
            assert_eq!(running().unwrap(), [vip(2), vip(5)]);
            drop(server);
            bind(3, &[2]).unwrap();
            drop(other);
            assert!(running().unwrap().is_empty());
        });
    }
}
