//! Building the kernel module, and what kernel developers' programs say about its source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::Kernel;
use crate::{Outcome, cache, program, source, succeed};

/// Builds the module against a kernel's headers. Warnings are errors, those of sparse, too.
pub fn module(kernel: &Kernel) -> Outcome<PathBuf> {
    for (name, package) in [("make", "make"), ("gcc", "gcc"), ("sparse", "sparse")] {
        program(name, package)?;
    }
    // Builds of several tests would meet in one directory. (The kernel's makefiles take no colon in it.)
    let thread = std::thread::current();
    let name = thread.name().and_then(|name| name.rsplit(':').next()).unwrap_or("test");
    let directory = cache().join("module").join(&kernel.release).join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory).expect("remove an earlier build");
    }
    fs::create_dir_all(&directory).expect("make a directory");
    for file in fs::read_dir(source().join("kmod")).expect("list the source").flatten() {
        fs::copy(file.path(), directory.join(file.file_name())).expect("copy the source");
    }
    succeed(
        Command::new("make")
            .arg("sparse")
            .arg("-C")
            .arg(&directory)
            .arg(format!("KDIR={}", kernel.headers().display()))
            // Newer headers hold a vmlinux, from which only pahole could take type information.
            .arg("CONFIG_DEBUG_INFO_BTF_MODULES="),
    );
    let module = directory.join("clusterd.ko");
    succeed(Command::new("strip").arg("--strip-debug").arg(&module));
    Ok(module)
}

/// Panics with what checkpatch complains about.
pub fn checkpatch(script: &Path) -> Outcome<()> {
    succeed(
        Command::new("make")
            .args(["checkpatch", "-C"])
            .arg(source().join("kmod"))
            .arg(format!("CHECKPATCH={}", script.display())),
    );
    Ok(())
}
