//! A capture (libpcap) on one interface, which shows each frame to an observer.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pcap::{Active, Capture, Savefile};

/// Ring buffer of the kernel; room for a second of the busiest run.
const BUFFER_BYTES: i32 = 64 << 20;
/// A whole frame: claims are batched up to one MTU.
const SNAPLEN: i32 = 1514;
/// How long the kernel may keep frames back before it hands them over.
const BATCH_MS: i32 = 50;
/// How long frames that are under way when the capture is to end are waited for.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// Whoever wants to see the frames.
pub trait Observer: Send + 'static {
    /// Takes one frame as it was captured at a time since 1970, with its length on the wire.
    fn observe(&mut self, frame: &[u8], wire_length: u64, at: Duration);
}

/// A capture that nobody reads yet.
pub struct Opened<O> {
    /// See [`open`].
    pub capture: Capture<Active>,
    /// Where to write the frames, too.
    pub savefile: Option<Savefile>,
    /// Whom to show them.
    pub observer: O,
}

/// A running capture.
#[derive(Debug)]
pub struct Listener<O> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(O, u64)>>,
}

/// Which frames an interface is to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that this host gets anyway, and those it sends.
    Own,
    /// All that are on the cable.
    Promiscuous,
}

/// Opens a capture in the namespace of the calling thread; from now on no frame that passes `filter`
/// (pcap-filter(7)) is missed.
pub fn open(interface: &str, scope: Scope, filter: &str) -> Result<Capture<Active>> {
    let mut capture = Capture::from_device(interface)
        .and_then(|device| {
            let device = device.snaplen(SNAPLEN).buffer_size(BUFFER_BYTES).timeout(BATCH_MS);
            device.promisc(scope == Scope::Promiscuous).open()
        })
        .and_then(Capture::setnonblock)
        .with_context(|| format!("capture on {interface}"))?;
    capture.filter(filter, true).with_context(|| format!("compile the filter {filter:?}"))?;
    Ok(capture)
}

impl<O: Observer> Listener<O> {
    /// Starts a thread for the capture that `open` opens there; on return it is open.
    pub fn spawn(open: impl FnOnce() -> Result<Opened<O>> + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let (opened, opening) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let capture = open()?;
                // The other end waits for this message or, after an error, for its loss.
                opened.send(()).ok();
                listen(capture, &stopping)
            })
            .context("start the capture thread")?;
        match opening.recv() {
            Ok(()) => Ok(Self { stop, thread }),
            Err(_) => match join(thread) {
                Err(error) => Err(error),
                Ok(_) => unreachable!("a capture that opened says so"),
            },
        }
    }

    /// Waits for stragglers and returns the observer and the number of frames
    /// that the capture lost.
    pub fn finish(self) -> Result<(O, u64)> {
        thread::sleep(STRAGGLERS);
        self.stop.store(true, Ordering::Release);
        join(self.thread)
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn listen<O: Observer>(opened: Opened<O>, stop: &AtomicBool) -> Result<(O, u64)> {
    let Opened { mut capture, mut savefile, mut observer } = opened;
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
                    observer.observe(packet.data, u64::from(packet.header.len), at);
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
    Ok((observer, u64::from(statistics.dropped) + u64::from(statistics.if_dropped)))
}

/// Waits for frames. A blocking read of libpcap would not do: it sleeps until
/// there is traffic, so that a quiet capture could not be stopped.
fn wait_readable(socket: i32, timeout_ms: i32) -> Result<()> {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one local pollfd, as the count says.
    let result = unsafe { libc::poll(&mut poll, 1, timeout_ms) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("wait for captured frames");
    }
    Ok(())
}
