//! The kernel module and the daemon on kernels that Debian ships, booted under QEMU.
//!
//! The kernel of the machine at hand may have no loadable modules, and other parts of nftables. So
//! Debian's kernels are looked up, downloaded, unpacked (never installed) and kept in
//! `target/guest`; the module is built against their headers; and each guest boots from memory
//! with this very test binary in it, whose ignored tests ([`inside`]) are what runs there. All is
//! emulated, since a nested KVM may be there and yet hang these kernels: it shows what
//! happens and not how fast.
//!
//! Most tests need one guest with namespaces in it; those in [`separate`], [`directors`] and [`clusterip`] boot a
//! [`fleet`] of guests on one bridge.
//!
//! Where packages or programs cannot be had a test says so and passes, unless
//! `CLUSTERD_REQUIRE_KERNEL` is set.

mod build;
mod clusterip;
mod directors;
mod fleet;
mod image;
mod inside;
mod packages;
mod qemu;
mod separate;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::Image;
use packages::{BOOKWORM, BOOKWORM_BACKPORT, Kernel};
use qemu::Guest;

/// Why a test cannot run here.
#[derive(Debug)]
struct Unavailable(String);

type Outcome<T> = Result<T, Unavailable>;

#[test]
fn the_module_on_debian_6_1() {
    run(|| boot(&Kernel::get(BOOKWORM)?, "module"));
}

#[test]
fn the_module_on_debian_6_12() {
    run(|| boot(&Kernel::get(BOOKWORM_BACKPORT)?, "module"));
}

/// With the nft expression `queue`, which the kernel at hand may not have.
#[test]
fn a_cluster_on_debian_6_1() {
    run(|| boot(&Kernel::get(BOOKWORM)?, "cluster"));
}

#[test]
#[ignore = "a figure and not a test: make guest-figures"]
fn what_a_packet_costs() {
    run(|| {
        for kernel in [BOOKWORM, BOOKWORM_BACKPORT] {
            boot(&Kernel::get(kernel)?, "figures")?;
        }
        Ok(())
    });
}

/// As for a submission to the kernel.
#[test]
fn the_module_s_source_pleases_checkpatch() {
    run(|| build::checkpatch(&packages::checkpatch()?));
}

/// Boots a kernel and does there what `task` says, see `init.sh`.
fn boot(kernel: &Kernel, task: &str) -> Outcome<()> {
    program("qemu-system-x86_64", "qemu-system-x86")?;
    let module = build::module(kernel)?;
    let image = Image::make(kernel, &module, task)?;
    Guest::run(kernel, &image, task);
    Ok(())
}

fn run(test: impl FnOnce() -> Outcome<()>) {
    if let Err(Unavailable(reason)) = test() {
        assert!(std::env::var_os("CLUSTERD_REQUIRE_KERNEL").is_none(), "cannot run: {reason}");
        note(&format!("skipped: {reason}"));
    }
}

/// Prints also when the test passes: libtest captures what `eprintln!` says.
fn note(text: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test");
    drop(writeln!(std::io::stderr(), "{name}: {}", text.trim_end()));
}

/// Where kernels and what is made of them stay.
fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    target.join("guest")
}

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that a Debian package of `make packages` brings, or why it is not there.
fn program(name: &str, package: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // depmod and others, which are not on every user's path.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
        .ok_or_else(|| Unavailable(format!("needs the program {name} (package {package})")))
}

/// Runs a command that must succeed; what it says is in the panic if it does not.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}
