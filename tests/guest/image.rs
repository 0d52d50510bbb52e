//! What a guest boots from: an initramfs with a few programs, the kernel's network modules,
//! the daemon, and this test binary.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages::Kernel;
use crate::{Outcome, cache, program, source, succeed};

const BUSYBOX: &str = "busybox";
/// Not `ip`, which knows no namespaces there.
const APPLETS: [&str; 22] = [
    "cat", "cp", "cut", "dmesg", "grep", "kill", "ls", "mkdir", "mount", "mv", "nc", "ping",
    "poweroff", "rm", "sed", "seq", "sleep", "sysctl", "tail", "timeout", "tr", "wc",
];
/// Programs with the packages that bring them.
const PROGRAMS: [(&str, &str); 7] = [
    (BUSYBOX, "busybox-static"),
    ("dash", "dash"),
    ("ip", "iproute2"),
    ("ipvsadm", "ipvsadm"),
    ("kmod", "kmod"),
    ("nft", "nftables"),
    // Not the one that speaks nftables, which does not take each target.
    (IPTABLES, "iptables"),
];
const IPTABLES: &str = "xtables-legacy-multi";
/// What iptables knows of targets and matches.
const XTABLES: &str = "usr/lib/x86_64-linux-gnu/xtables";

const KMOD_NAMES: [&str; 5] = ["depmod", "insmod", "lsmod", "modprobe", "rmmod"];
/// What the network may need, below `kernel/`; what is loaded is for modprobe to find.
const MODULES: [&str; 16] = [
    "crypto",
    "drivers/net/bonding",
    "drivers/net/net_failover.ko*",
    "drivers/net/veth.ko*",
    "drivers/net/virtio_net.ko*",
    "drivers/virtio",
    "lib",
    "net/802",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/sched",
    "net/tls",
];

/// An initramfs; not compressed, since the emulated processor would unpack it.
pub struct Image(pub PathBuf);

impl Image {
    /// With `module` beside the kernel's own modules. `name` tells the images of several tests apart.
    pub fn make(kernel: &Kernel, module: &Path, name: &str) -> Outcome<Self> {
        let directory = cache().join("image").join(&kernel.release).join(name);
        let root = directory.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).expect("remove an earlier image");
        }
        for sub in ["dev", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64"] {
            fs::create_dir_all(root.join(sub)).expect("make a directory");
        }
        // As on Debian, so that a library is found by either of its names, and modprobe by the kernel.
        for (link, to) in
            [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
        {
            symlink(to, root.join(link)).expect("make a link");
        }
        for (name, package) in PROGRAMS {
            add(&program(name, package)?, name, &root);
        }
        add(Path::new(env!("CARGO_BIN_EXE_clusterd")), "clusterd", &root);
        add(&std::env::current_exe().expect("this binary"), "guest-tests", &root);
        let bin = root.join("usr/bin");
        for applet in APPLETS {
            symlink(BUSYBOX, bin.join(applet)).expect("make a link");
        }
        for name in KMOD_NAMES {
            symlink("kmod", bin.join(name)).expect("make a link");
        }
        symlink(IPTABLES, bin.join("iptables")).expect("make a link");
        fs::create_dir_all(root.join(XTABLES)).expect("make a directory");
        for name in ["libipt_CLUSTERIP.so", "libxt_standard.so"] {
            let library = Path::new(XTABLES).join(name);
            fs::copy(Path::new("/").join(&library), root.join(library)).expect("copy a library");
        }
        // Not busybox's shell, which prefers its own programs.
        symlink("dash", bin.join("sh")).expect("make a link");
        for (script, to) in [("init.sh", "init"), ("cluster.sh", "cluster.sh")] {
            let file = root.join(to);
            fs::copy(source().join("tests/guest").join(script), &file).expect("copy a script");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("make it run");
        }
        add_modules(kernel, module, &root)?;
        let image = directory.join("initramfs");
        pack(&root, &image)?;
        Ok(Self(image))
    }
}

/// Adds a program, without what only a debugger needs, and the libraries that ldd names.
fn add(file: &Path, name: &str, root: &Path) {
    let copy = root.join("usr/bin").join(name);
    fs::copy(file, &copy).unwrap_or_else(|error| panic!("copy {}: {error}", file.display()));
    succeed(Command::new("strip").arg(&copy));
    // It fails for a program that needs none.
    let output = Command::new("ldd").arg(file).output().expect("run ldd");
    let text = String::from_utf8_lossy(&output.stdout);
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().expect("a directory")).expect("make a directory");
        fs::copy(library, &copy).unwrap_or_else(|error| panic!("copy {library}: {error}"));
    }
}

fn add_modules(kernel: &Kernel, module: &Path, root: &Path) -> Outcome<()> {
    let depmod = program("depmod", "kmod")?;
    let to = root.join("lib/modules").join(&kernel.release);
    fs::create_dir_all(to.join("kernel")).expect("make a directory");
    // The shell knows the star.
    let copy = r#"cd "$1" && to=$2 && shift 2 && cp -r --parents --target-directory="$to" $*"#;
    succeed(
        Command::new("sh")
            .args(["-c", copy, "sh"])
            .arg(kernel.modules().join("kernel"))
            .arg(to.join("kernel"))
            .args(MODULES),
    );
    for file in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(kernel.modules().join(file), to.join(file)).expect("copy a list of modules");
    }
    fs::create_dir(to.join("updates")).expect("make a directory");
    fs::copy(module, to.join("updates/clusterd.ko")).expect("copy our module");
    succeed(Command::new(depmod).arg("-b").arg(root).arg(&kernel.release));
    Ok(())
}

fn pack(root: &Path, image: &Path) -> Outcome<()> {
    let cpio = program("cpio", "cpio")?;
    let names = succeed(Command::new("find").current_dir(root).arg("."));
    let mut cpio = Command::new(cpio)
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(image).expect("create the image"))
        .spawn()
        .expect("start cpio");
    let list = cpio.stdin.take().expect("cpio takes names").write_all(names.as_bytes());
    list.expect("name the files");
    assert!(cpio.wait().expect("wait for cpio").success(), "pack the image");
    Ok(())
}
