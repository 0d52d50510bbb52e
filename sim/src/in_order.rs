//! A file of what happens, in the order of time.
//!
//! What a host sends is noted when it is given to the interface, ahead of the clock
//! (see [`crate::record`]). So a note waits until the clock has come to its time.

use std::io::{self, Write};

use clusterd::protocol::Instant;

use crate::engine::EventQueue;

/// Writes notes ordered by time, and those of one moment in the order in which they were taken.
pub struct InOrder<W> {
    waiting: EventQueue<Vec<u8>>,
    file: W,
    /// The first error; nothing is written after it.
    error: Option<io::Error>,
}

impl<W: Write> InOrder<W> {
    /// A file that begins with `head`.
    pub fn new(file: W, head: &[u8]) -> Self {
        let mut file = Self { waiting: EventQueue::default(), file, error: None };
        file.write(head);
        file
    }

    /// Takes a note of this time; `is_now` if that is what the clock says.
    pub fn put(&mut self, at: Instant, is_now: bool, note: Vec<u8>) {
        self.waiting.schedule(at, note);
        if is_now {
            self.write_until(at);
        }
    }

    /// Writes what is left, and says whether all could be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_until(Instant(u64::MAX));
        self.file.flush()?;
        self.error.map_or(Ok(self.file), Err)
    }

    fn write_until(&mut self, now: Instant) {
        while let Some((_, note)) = self.waiting.pop_until(now) {
            self.write(&note);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.file.write_all(bytes).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_ahead_of_the_clock_wait_for_it() {
        let mut file = InOrder::new(Vec::new(), b"head ");
        for (at, is_now, note) in [
            (1, true, "a"),
            (7, false, "f"),
            (4, false, "c"),
            (3, true, "b"),
            (4, true, "d"),
            (5, true, "e"),
        ] {
            file.put(Instant(at), is_now, note.into());
        }
        assert_eq!(file.file, b"head abcde");
        assert_eq!(file.finish().unwrap(), b"head abcdef");
    }

    #[test]
    fn a_full_disk_is_not_kept_secret() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut file = InOrder::new(Full, b"head");
        file.put(Instant(1), true, b"note".to_vec());
        assert!(file.finish().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull));
    }
}
