//! Debian's kernels and their headers: looked up, downloaded, unpacked, kept.
//!
//! Versions are those of the day, since old ones vanish from the suite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, Unavailable, cache, program, succeed};

/// The kernel of Debian 12. The flavour for virtual machines, since it is a third of the size.
pub const BOOKWORM: &str = "linux-image-cloud-amd64";
/// The newer one that Debian 12 offers.
pub const BOOKWORM_BACKPORT: &str = "linux-image-6.12-cloud-amd64";

/// The kernel source with `scripts/checkpatch.pl`, which is in no smaller package.
const SOURCE: &str = "linux-source-6.1";
const CHECKPATCH: [&str; 3] = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"];

/// An unpacked kernel with its headers.
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// What the packages hold lies below it.
    pub root: PathBuf,
}

impl Kernel {
    /// The kernel on which the package `meta` depends now.
    pub fn get(meta: &str) -> Outcome<Self> {
        let _turn = take_turn();
        let images = dependencies(meta)?;
        let release = images
            .iter()
            .find_map(|package| package.strip_prefix("linux-image-"))
            .ok_or_else(|| Unavailable(format!("{meta} depends on no kernel")))?
            .to_owned();
        let root = cache().join(&release);
        let headers = format!("linux-headers-{release}");
        // Unpacked earlier, when it was not needed yet, or cut off.
        if !root.join("complete").exists() {
            let mut packages = vec![format!("linux-image-{release}"), headers.clone()];
            packages.extend(
                dependencies(&headers)?
                    .into_iter()
                    .filter(|name| name.ends_with("-common") || name.starts_with("linux-kbuild-")),
            );
            unpack(&packages, &root)?;
            relocate(&root, &headers);
            File::create(root.join("complete")).expect("mark the kernel as complete");
        }
        Ok(Self { release, root })
    }

    /// The directory to build modules against.
    pub fn headers(&self) -> PathBuf {
        self.root.join(format!("usr/src/linux-headers-{}", self.release))
    }

    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }
}

/// The headers' Makefile has the only absolute path.
fn relocate(root: &Path, headers: &str) {
    let makefile = root.join("usr/src").join(headers).join("Makefile");
    let text = fs::read_to_string(&makefile).expect("read the headers' Makefile");
    let here = format!("{}/usr/src/", root.display());
    fs::write(&makefile, text.replace("/usr/src/", &here)).expect("write the headers' Makefile");
}

/// The kernel's checkpatch.pl.
pub fn checkpatch() -> Outcome<PathBuf> {
    let _turn = take_turn();
    program("perl", "perl")?;
    let scripts = cache().join("checkpatch");
    if !scripts.join("complete").exists() {
        let unpacked = cache().join("source");
        unpack(&[SOURCE.to_owned()], &unpacked)?;
        fs::create_dir_all(&scripts).expect("make a directory");
        let wanted = CHECKPATCH.map(|name| format!("{SOURCE}/scripts/{name}"));
        succeed(
            Command::new("tar")
                .args(["--strip-components=2", "-xJf"])
                .arg(unpacked.join(format!("usr/src/{SOURCE}.tar.xz")))
                .arg("-C")
                .arg(&scripts)
                .args(wanted),
        );
        fs::remove_dir_all(&unpacked).expect("remove the kernel source");
        File::create(scripts.join("complete")).expect("mark checkpatch as complete");
    }
    Ok(scripts.join(CHECKPATCH[0]))
}

/// One at a time, also among processes.
fn take_turn() -> File {
    fs::create_dir_all(cache()).expect("make the cache");
    let turn = File::create(cache().join("lock")).expect("create the lock file");
    turn.lock().expect("lock the lock file");
    turn
}

/// Names of the packages on which `package` depends, looked up once more with new lists if there are
/// none.
fn dependencies(package: &str) -> Outcome<Vec<String>> {
    program("apt-get", "apt")?;
    for _ in 0..2 {
        let output = Command::new("apt-cache").args(["depends", package]).output();
        let output = output.map_err(|error| Unavailable(format!("apt-cache: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let names: Vec<_> = names.map(str::to_owned).collect();
        if !names.is_empty() {
            return Ok(names);
        }
        apt_get(&["update"], Path::new("/"))?;
    }
    Err(Unavailable(format!("there is no Debian package {package} here")))
}

/// Downloads packages and unpacks them below `root`, which they must not fill by half.
fn unpack(packages: &[String], root: &Path) -> Outcome<()> {
    let downloads = cache().join("downloads");
    for directory in [&downloads, root] {
        if directory.exists() {
            fs::remove_dir_all(directory).expect("remove what was cut off");
        }
        fs::create_dir_all(directory).expect("make a directory");
    }
    let mut words = vec!["download"];
    words.extend(packages.iter().map(String::as_str));
    apt_get(&words, &downloads)?;
    for file in fs::read_dir(&downloads).expect("list the downloads").flatten() {
        succeed(Command::new("dpkg").arg("-x").arg(file.path()).arg(root));
    }
    fs::remove_dir_all(&downloads).expect("remove the downloads");
    Ok(())
}

fn apt_get(words: &[&str], directory: &Path) -> Outcome<()> {
    let output = Command::new("apt-get")
        // Nobody but us needs to read what is downloaded.
        .args(["-o", "APT::Sandbox::User=root", "--quiet"])
        .args(words)
        .current_dir(directory)
        .output()
        .map_err(|error| Unavailable(format!("apt-get: {error}")))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Unavailable(format!("apt-get {}: {stderr}", words.join(" "))));
    }
    Ok(())
}
