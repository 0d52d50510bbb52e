//! `--record`: a file of all that went into the core and came out of it.
//!
//! The hot loop only serialises, into memory, and hands full pieces to a thread that writes
//! them; it never waits for a disk. What is in the file is complete from its beginning: at the
//! limit of size, or if the disk cannot keep up, the recording ends, and what comes later is
//! counted as unrecorded.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::{self, Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clusterd::protocol::{Config, Instant};
use clusterd::recording::{self, Header, Record};
use tracing::{info, warn};

use crate::failure::Failure;

/// A piece is handed over when it has so many bytes, or is this old.
const PIECE: usize = 64 * 1024;
const PIECE_AGE_MAX: Duration = Duration::from_millis(100);
/// Pieces that wait for the disk: 16 MiB.
const PIECES_MAX: usize = 256;

/// The end of a recording that the hot loop holds.
#[derive(Debug)]
pub struct Recorder {
    piece: Vec<u8>,
    begun: Instant,
    /// Bytes that may still follow.
    room: u64,
    /// None once the recording has ended.
    pieces: Option<SyncSender<Vec<u8>>>,
    full: Arc<AtomicBool>,
    /// Records for which there was no room.
    pub unrecorded: u64,
    /// When it was [`Instant`] 0, for who tells the times of records.
    pub started: time::Instant,
}

/// The thread that writes the file.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

/// A recording about to begin.
#[derive(Debug)]
pub struct Recording {
    file: File,
    path: PathBuf,
    limit: u64,
}

impl Recording {
    /// Creates the file, which only its owner may read: it says who has connected.
    pub fn create(path: &Path, limit: u64) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| {
            Failure::config(&format!("--record: create {}: {error}", path.display()))
        })?;
        Ok(Self { file, path: path.to_owned(), limit })
    }

    /// Begins with a node of this configuration, made now.
    pub fn start(self, config: &Config) -> Result<(Recorder, Writer)> {
        // Both clocks at once: the times of several hosts are compared by the second one.
        let begun = time::Instant::now();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let header = Header { version, config: config.clone(), started };
        let mut piece = Vec::with_capacity(2 * PIECE);
        recording::write_header(&header, &mut piece);
        let (pieces, written) = mpsc::sync_channel(PIECES_MAX);
        let full = Arc::new(AtomicBool::new(false));
        let room = self.limit.saturating_sub(piece.len() as u64);
        let recorder = Recorder {
            piece,
            begun: Instant::default(),
            room,
            pieces: Some(pieces),
            full: Arc::clone(&full),
            unrecorded: 0,
            started: begun,
        };
        let writer = thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || self.write(&written, &full))
            .context("start the thread that writes the recording")?;
        Ok((recorder, Writer(writer)))
    }

    fn write(mut self, pieces: &Receiver<Vec<u8>>, full: &AtomicBool) {
        let path = self.path.display();
        let mut bytes = 0;
        for piece in pieces {
            if let Err(error) = self.file.write_all(&piece) {
                warn!(%path, %error, "the recording ends here");
                return;
            }
            bytes += piece.len();
        }
        if full.load(Ordering::Relaxed) {
            warn!(%path, bytes, "the recording ends here: at its limit, or the disk is too slow");
        } else {
            info!(%path, bytes, "recorded");
        }
    }
}

impl Recorder {
    /// Adds a record.
    pub fn record(&mut self, record: &Record<'_>) {
        if self.pieces.is_none() {
            self.unrecorded += 1;
            return;
        }
        let before = self.piece.len();
        recording::write_record(record, &mut self.piece);
        let length = (self.piece.len() - before) as u64;
        match self.room.checked_sub(length) {
            Some(room) => self.room = room,
            None => {
                self.piece.truncate(before);
                self.unrecorded += 1;
                self.full.store(true, Ordering::Relaxed);
                self.hand_over();
                self.pieces = None;
            }
        }
    }

    /// A turn has ended: a piece that is old or large goes to the disk.
    pub fn turn_ended(&mut self, now: Instant) {
        if self.piece.len() >= PIECE || now.since(self.begun) >= PIECE_AGE_MAX {
            self.begun = now;
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let Some(pieces) = &self.pieces else { return };
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(2 * PIECE));
        match pieces.try_send(piece) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.full.store(true, Ordering::Relaxed);
                self.pieces = None;
            }
            // The thread has said why.
            Err(TrySendError::Disconnected(_)) => self.pieces = None,
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl Writer {
    /// Waits until all is written. The [`Recorder`] must be gone.
    pub fn finish(self) {
        // A panic there costs the recording and nothing else.
        drop(self.0.join());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clusterd::flow::NodeId;
    use clusterd::recording::Reader;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn record(limit: u64, records: u64) -> (Header, Vec<Record<'static>>, u64) {
        let name = format!("clusterd-recorder-{}-{limit}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = Config::new(NodeId(7), 3, [10, 0, 0, 2]);
        let (mut recorder, writer) =
            Recording::create(&path, limit).unwrap().start(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Recording::create(&path, limit).unwrap_err();
        assert_eq!(Failure::exit_code(&again), 78, "it does not replace a file");
        for number in 0..records {
            recorder.record(&Record::Wait(Instant(number)));
            recorder.turn_ended(Instant(number));
        }
        let unrecorded = recorder.unrecorded;
        drop(recorder);
        writer.finish();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(bytes.len() as u64 <= limit);
        let (header, mut reader) = Reader::open(&bytes[..]).unwrap();
        assert_eq!(header.config, config);
        let records = std::iter::from_fn(|| reader.record().unwrap()).collect();
        assert!(!reader.cut_off);
        (header, records, unrecorded)
    }

    #[test]
    fn what_is_recorded_is_read_in_order() {
        let (header, records, unrecorded) = record(u64::MAX, 100_000);
        assert_eq!(header.version, env!("CARGO_PKG_VERSION"));
        assert_eq!((records.len(), unrecorded), (100_000, 0));
        assert!(records.iter().zip(0..).all(|(it, number)| *it == Record::Wait(Instant(number))));
    }

    #[test]
    fn a_full_recording_is_complete_as_far_as_it_goes() {
        let (_, records, unrecorded) = record(4096, 100_000);
        assert!(records.len() > 100);
        assert_eq!(records.len() as u64 + unrecorded, 100_000);
        assert!(records.iter().zip(0..).all(|(it, number)| *it == Record::Wait(Instant(number))));
    }
}
