//! The built program, and directories of its own for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A cluster that is simulated in no time.
pub const SMALL: &str = "\
faults = [\"1600ms kill h2\"]
[run]
duration = \"300ms\"
warm_up = \"1500ms\"
[load]
connections_per_second = 300
";

/// An empty directory with `small.toml` in it.
pub fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("small.toml"), SMALL).unwrap();
    path
}

/// Runs the program in a directory.
pub fn start(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterd-sim"));
    command.current_dir(directory).args(words).output().unwrap()
}

/// Runs it successfully; what it prints.
pub fn run(directory: &Path, words: &[&str]) -> String {
    let output = start(directory, words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it in vain; its error.
pub fn fail(directory: &Path, words: &[&str]) -> String {
    let output = start(directory, words);
    assert_eq!(output.status.code(), Some(78), "{words:?}");
    assert!(output.stdout.is_empty(), "{words:?} printed something");
    String::from_utf8(output.stderr).unwrap()
}

/// All files in a directory, by name.
pub fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}
