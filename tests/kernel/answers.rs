//! Who answered which SYN, as the client's interface sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clusterd::wire::IP_PROTOCOL;
use socket2::Socket;

use crate::capture::packet_socket;
use crate::rig::Lab;

/// Room for what comes while the reader does not run.
const RECEIVE_BUFFER: i32 = 64 << 20;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A connection attempt on the wire.
#[derive(Debug, Default)]
pub struct Answered {
    pub syns: usize,
    /// MAC addresses of the hosts that sent SYN-ACKs.
    pub hosts: BTreeSet<[u8; 6]>,
}

/// What passed the client's interface.
#[derive(Debug, Default)]
pub struct Seen {
    /// By client port and initial sequence number.
    pub attempts: BTreeMap<(u16, u32), Answered>,
    /// The payload of each claim frame, in order.
    pub claims: Vec<Vec<u8>>,
}

impl Seen {
    /// SYN-ACKs of hosts beyond the first of each attempt.
    pub fn second_syn_acks(&self) -> usize {
        self.attempts.values().map(|attempt| attempt.hosts.len().saturating_sub(1)).sum()
    }

    pub fn unanswered(&self) -> usize {
        self.attempts.values().filter(|attempt| attempt.hosts.is_empty()).count()
    }

    /// Attempts with this many SYNs.
    pub fn with_syns(&self, syns: usize) -> usize {
        self.attempts.values().filter(|attempt| attempt.syns == syns).count()
    }

    fn take(&mut self, frame: &[u8]) -> Option<()> {
        let ip = frame.get(14..)?;
        let payload = ip.get(usize::from(ip.first()? & 15) * 4..)?;
        let protocol = *ip.get(9)?;
        if frame[12..14] != [8, 0] {
            return None;
        }
        if protocol == IP_PROTOCOL {
            self.claims.push(payload.to_vec());
        }
        if protocol != libc::IPPROTO_TCP as u8 {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
        let number =
            |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
        match payload.get(13)? & (SYN | ACK) {
            SYN => self.attempts.entry((port(0)?, number(4)?)).or_default().syns += 1,
            both if both == SYN | ACK => {
                // Late ones to SYNs of before are none of these attempts.
                let attempt = self.attempts.get_mut(&(port(2)?, number(8)?.wrapping_sub(1)))?;
                attempt.hosts.insert(frame[6..12].try_into().ok()?);
            }
            _ => {}
        }
        Some(())
    }
}

/// Listens at the client's interface until it is asked what it has seen.
pub struct Answers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Answers {
    pub fn listen(lab: &Lab) -> Self {
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = lab.within("client", || packet_socket(protocol));
        // The reader looks at the flag this often.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a read timeout");
        force_receive_buffer(&socket);
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || read(&socket, &stopped));
        Self { stop, thread: Some(thread) }
    }

    /// Everything that has passed until now.
    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined here only");
        thread.join().expect("the reader")
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(socket: &Socket, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = [MaybeUninit::uninit(); 2048];
    loop {
        // Before the read: what came until then is read first.
        let last = stop.load(Ordering::Relaxed);
        match socket.recv(&mut buffer) {
            Ok(length) => {
                // SAFETY: recv has initialised that many bytes.
                seen.take(unsafe { buffer[..length].assume_init_ref() });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if last {
                    return seen;
                }
            }
            Err(error) => panic!("read the client's interface: {error}"),
        }
    }
}

fn force_receive_buffer(socket: &Socket) {
    // SAFETY: the option takes one integer, which outlives the call.
    let result = unsafe {
        let value = std::ptr::from_ref(&RECEIVE_BUFFER).cast();
        let length = size_of::<i32>() as libc::socklen_t;
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length)
    };
    assert_eq!(result, 0, "SO_RCVBUFFORCE: {}", io::Error::last_os_error());
}
