//! The file with the cluster's secret (`--key-file`).
//!
//! One line per secret, 64 hexadecimal digits; the first signs, a second one is
//! only believed, so that a secret can be replaced one host at a time. Empty
//! lines and lines that begin with `#` are skipped.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Result;
use clusterd::wire::{SECRETS_MAX, Secret};

use crate::failure::Failure;

/// Longest file that is read.
const FILE_MAX: u64 = 4096;

/// The secrets in the file at `path`.
///
/// # Errors
/// If others than its owner may read or write the file, if its owner is
/// neither this user nor root, or if it does not hold one or two secrets.
pub fn load(path: &Path) -> Result<Vec<Secret>> {
    let refuse = |why: &str| Failure::config(&format!("key file {}: {why}", path.display()));
    // A FIFO would keep the daemon waiting; so it is opened at once, and refused below.
    let mut options = File::options();
    let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| refuse(&error.to_string()))?;
    // Of the open file, so that nobody can put another in its place meanwhile.
    let metadata = file.metadata().map_err(|error| refuse(&error.to_string()))?;
    check_access(&metadata).map_err(|why| refuse(&why))?;
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| refuse(&error.to_string()))?;
    parse(&text).map_err(|why| refuse(&why))
}

fn check_access(metadata: &Metadata) -> Result<(), String> {
    // SAFETY: geteuid has no preconditions.
    let me = unsafe { libc::geteuid() };
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.uid() != me && metadata.uid() != 0 {
        return Err(format!(
            "belongs to user {}; chown it to the user of the daemon",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(format!("others may use it (mode {mode:04o}); make it private: chmod 0600"));
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Secret>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let secrets: Vec<Secret> = lines
        .map(|(index, line)| {
            // The line itself is secret: say only where it is.
            let wrong = || format!("line {} is not 64 hexadecimal digits", index + 1);
            unhex(line).map(|bytes| Secret::new(&bytes)).ok_or_else(wrong)
        })
        .collect::<Result<_, _>>()?;
    match secrets.len() {
        0 => Err("no secret in it; make one with: openssl rand -hex 32".to_owned()),
        1..=SECRETS_MAX => Ok(secrets),
        more => {
            Err(format!("{more} secrets, at most {SECRETS_MAX}: one that signs, one that follows"))
        }
    }
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_or_two_secrets() {
        let (a, b) = ("ab".repeat(32), "CD".repeat(32));
        let ids = |text: &str| parse(text).map(|s| s.iter().map(Secret::id).collect::<Vec<_>>());
        let (id_a, id_b) = (Secret::new(&[0xab; 32]).id(), Secret::new(&[0xcd; 32]).id());
        assert_eq!(ids(&format!("# of 2026\n{a}\n\n")), Ok(vec![id_a]));
        assert_eq!(ids(&format!("{b}\n{a}\n")), Ok(vec![id_b, id_a]));
        for text in ["", "# only words\n", &a[1..], &format!("{a}0"), &"xy".repeat(32)] {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse(&format!("{a}\n\n{b}x")).unwrap_err();
        assert_eq!(error, "line 3 is not 64 hexadecimal digits");
        assert!(parse(&format!("{a}\n{a}\n{a}")).is_err());
    }
}
