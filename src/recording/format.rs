//! The bytes of a recording.

use std::io::{self, Read};

use bincode::config::{Configuration, Limit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{Header, Record};

/// The first line of a recording. The number is that of the format.
pub const MAGIC: &[u8] = b"clusterd recording 2\n";

/// No record is longer: the longest has a frame of the greatest length.
const RECORD_MAX: usize = 1 << 20;
/// No node has room for more: a damaged number must not claim all memory.
const ATTEMPTS_MAX: usize = 1 << 22;

const CONFIG: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<RECORD_MAX>,
> = bincode::config::standard().with_limit::<RECORD_MAX>();

/// Appends the beginning of a recording.
pub fn write_header(header: &Header, bytes: &mut Vec<u8>) {
    bytes.extend(MAGIC);
    write(header, bytes);
}

/// Appends a record.
pub fn write_record(record: &Record<'_>, bytes: &mut Vec<u8>) {
    write(record, bytes);
}

fn write(value: &impl Serialize, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bincode::serde::encode_into_std_write(value, bytes, CONFIG)
        .expect("a vector takes all, and all types of a record can be serialised");
    let length = (bytes.len() - start - 4) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Why a recording cannot be read on.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("read the recording: {0}")]
    Io(#[from] io::Error),
    /// The first line is not [`MAGIC`].
    #[error("not a recording of this format: it does not begin with `clusterd recording 2`")]
    Magic,
    /// A record is not what it should be.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Where the record begins.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

/// Reads a recording.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    at: u64,
    bytes: Vec<u8>,
    /// The recording ends within a record: its daemon was killed, or its disk was full.
    pub cut_off: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    pub fn open(mut source: R) -> Result<(Header, Self), ReadError> {
        let mut magic = [0; MAGIC.len()];
        match source.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) | Err(_) => return Err(ReadError::Magic),
        }
        let mut reader = Self { source, at: MAGIC.len() as u64, bytes: Vec::new(), cut_off: false };
        let missing = ReadError::Damaged { at: reader.at, what: "there is no header".to_owned() };
        let at = reader.at;
        let header: Header = reader.next()?.ok_or(missing)?;
        let attempts = header.config.limits.attempts;
        if attempts > ATTEMPTS_MAX {
            let what = format!("room for {attempts} attempts, more than {ATTEMPTS_MAX}");
            return Err(ReadError::Damaged { at, what });
        }
        Ok((header, reader))
    }

    /// The next record; `None` at the end.
    pub fn record(&mut self) -> Result<Option<Record<'static>>, ReadError> {
        self.next()
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        let at = self.at;
        let damaged = |what: String| ReadError::Damaged { at, what };
        if !self.fill(4)? {
            return Ok(None);
        }
        let length =
            self.bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
        if length > RECORD_MAX {
            return Err(damaged(format!("a record of {length} bytes")));
        }
        if !self.fill(length)? {
            self.cut_off = true;
            return Ok(None);
        }
        let (value, used) = bincode::serde::decode_from_slice(&self.bytes, CONFIG)
            .map_err(|error| damaged(error.to_string()))?;
        if used != length {
            return Err(damaged(format!("a record of {used} bytes has {length}")));
        }
        Ok(Some(value))
    }

    /// Reads exactly so many bytes. False at the end of the file.
    fn fill(&mut self, length: usize) -> Result<bool, ReadError> {
        self.bytes.clear();
        let read = self.source.by_ref().take(length as u64).read_to_end(&mut self.bytes)?;
        self.at += read as u64;
        self.cut_off |= read > 0 && read < length;
        Ok(read == length)
    }
}
