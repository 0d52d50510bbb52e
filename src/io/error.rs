//! What was attempted when the kernel said no.
//!
//! A bare `ENOENT` in a log helps nobody, and [`io::Error`] with a text of its
//! own forgets the number. [`Attempt`] keeps both: it prints as
//! `bind queue 7: Operation not permitted (os error 1)`, and [`errno`] still
//! finds the 1.

use std::borrow::Cow;
use std::io;

/// An operating system error together with what was being attempted.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
struct Attempt {
    what: Cow<'static, str>,
    source: io::Error,
}

/// Adds to `source` what was attempted. The error kind stays.
pub fn attempt(what: impl Into<Cow<'static, str>>, source: io::Error) -> io::Error {
    let what = what.into();
    io::Error::new(source.kind(), Attempt { what, source })
}

/// The errno inside `error`, whether or not [`attempt`] was applied to it.
///
/// Use this instead of [`io::Error::raw_os_error`], which sees only bare errors.
pub fn errno(error: &io::Error) -> Option<i32> {
    if let Some(number) = error.raw_os_error() {
        return Some(number);
    }
    errno(&error.get_ref()?.downcast_ref::<Attempt>()?.source)
}

/// Turns the result of a system call into a `Result`: negative means errno.
pub(super) fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_number() {
        let bare = io::Error::from_raw_os_error(libc::EBUSY);
        let kind = bare.kind();
        let error = attempt("outer", attempt("bind queue 7", bare));
        assert_eq!(error.kind(), kind);
        assert_eq!(errno(&error), Some(libc::EBUSY));
        assert!(error.to_string().starts_with("outer: bind queue 7: "));
        assert_eq!(errno(&io::Error::other("no number")), None);
    }
}
