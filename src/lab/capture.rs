//! The capture on the client's interface, which feeds the oracle.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcap::{Active, Capture, Savefile};

use super::netns::{Namespace, check};
use super::oracle::Oracle;

/// What the oracle needs: SYNs, SYN-ACKs, resets and claims.
/// libpcap finds TCP's flags behind an IPv4 header only; they are in byte 13 behind the 40 of IPv6.
const FILTER: &str = "tcp[tcpflags] & (tcp-syn|tcp-rst) != 0 or ip proto 150 \
                      or (ip6 proto 6 and ip6[53] & (tcp-syn|tcp-rst) != 0) or ip6 proto 150";
/// Ring buffer of the kernel; room for a second of the busiest run.
const BUFFER_BYTES: i32 = 64 << 20;
/// A whole frame: claims are batched up to one MTU.
const SNAPLEN: i32 = 1514;
/// How long the kernel may keep frames back before it hands them over.
const BATCH_MS: i32 = 50;
/// How long frames that are under way when the load ends are waited for.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// A running capture.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(Oracle, u64)>>,
}

impl Listener {
    /// Starts to capture in `namespace`; on return no later frame is missed.
    pub fn start(namespace: &Namespace, oracle: Oracle, savefile: Option<PathBuf>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, opening) = mpsc::channel();
        let (namespace, stopping) = (namespace.clone(), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let (capture, savefile) = namespace
                    .enter()
                    .context("enter the client's namespace")
                    .and_then(|()| open(savefile.as_deref()))?;
                // The other end waits for this message or, after an error, for its loss.
                opened.send(()).ok();
                listen(capture, savefile, oracle, &stopping)
            })
            .context("start the capture thread")?;
        match opening.recv() {
            Ok(()) => Ok(Self { stop, thread }),
            Err(_) => Err(join(thread).expect_err("a capture that opened says so")),
        }
    }

    /// Waits for stragglers and returns the oracle and the number of frames
    /// that the capture lost.
    pub fn finish(self) -> Result<(Oracle, u64)> {
        thread::sleep(STRAGGLERS);
        self.stop.store(true, Ordering::Release);
        join(self.thread)
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn open(savefile: Option<&Path>) -> Result<(Capture<Active>, Option<Savefile>)> {
    let mut capture = Capture::from_device("eth0")
        .and_then(|device| {
            device.snaplen(SNAPLEN).buffer_size(BUFFER_BYTES).timeout(BATCH_MS).promisc(true).open()
        })
        .and_then(Capture::setnonblock)
        .context("capture on the client's eth0")?;
    capture.filter(FILTER, true).with_context(|| format!("compile the filter {FILTER:?}"))?;
    let savefile = savefile
        .map(|path| capture.savefile(path).with_context(|| format!("write {}", path.display())))
        .transpose()?;
    Ok((capture, savefile))
}

fn listen(
    mut capture: Capture<Active>,
    mut savefile: Option<Savefile>,
    mut oracle: Oracle,
    stop: &AtomicBool,
) -> Result<(Oracle, u64)> {
    let socket = capture.as_raw_fd();
    loop {
        // Read first: what arrived before the stop still counts.
        let stopping = stop.load(Ordering::Acquire);
        let begin = Instant::now();
        loop {
            match capture.next_packet() {
                Ok(packet) => {
                    let time = packet.header.ts;
                    let at = Duration::from_secs(time.tv_sec as u64)
                        + Duration::from_micros(time.tv_usec as u64);
                    oracle.observe(packet.data, u64::from(packet.header.len), at);
                    if let Some(file) = &mut savefile {
                        file.write(&packet);
                    }
                }
                Err(pcap::Error::TimeoutExpired) => break,
                Err(error) => return Err(error).context("read from the capture"),
            }
            if stopping && begin.elapsed() > STRAGGLERS {
                break;
            }
        }
        if stopping {
            break;
        }
        wait_readable(socket, BATCH_MS)?;
    }
    if let Some(file) = &mut savefile {
        file.flush().context("write the capture file")?;
    }
    let statistics = capture.stats().context("read the capture's statistics")?;
    Ok((oracle, u64::from(statistics.dropped) + u64::from(statistics.if_dropped)))
}

/// Waits for frames. A blocking read of libpcap would not do: it sleeps until
/// there is traffic, so that a quiet capture could not be stopped.
fn wait_readable(socket: i32, timeout_ms: i32) -> Result<()> {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one local pollfd, as the count says.
    check(unsafe { libc::poll(&mut poll, 1, timeout_ms) }).context("wait for captured frames")
}
