//! The daemon beside tools that can less than those of this machine.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::rig::{BINARY, scratch};

/// A `clusterd` whose `nft` refuses a feature, as on a kernel that lacks it.
pub struct Without {
    directory: PathBuf,
    path: String,
}

impl Without {
    /// The program to run.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// Makes one that refuses scripts with this text.
pub fn without(feature: &str) -> Without {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = scratch(&format!("without-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).expect("make a directory");
    let output = Command::new("sh").args(["-c", "command -v nft"]).output().expect("run sh");
    let nft = String::from_utf8(output.stdout).expect("a path");
    let refuse = format!(
        "#!/bin/sh\ninput=$(cat)\ncase \"$input\" in *'{feature}'*) echo 'No such file or directory' >&2; exit 1;; \
         esac\nprintf '%s\\n' \"$input\" | exec {} \"$@\"\n",
        nft.trim()
    );
    write_program(&directory.join("nft"), &refuse);
    let program = directory.join("clusterd-without");
    let search = format!("PATH={}:$PATH exec {BINARY} \"$@\"", directory.display());
    write_program(&program, &format!("#!/bin/sh\n{search}\n"));
    let path = program.to_str().expect("a path in UTF-8").to_owned();
    Without { directory, path }
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("write a program");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("make it one");
}
