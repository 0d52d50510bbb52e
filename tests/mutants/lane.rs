//! A copy of the tree with a target directory of its own.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::rules::{Mutant, root};

/// Tests that a mutant may be caught by, if not by the one that is named for it; quick ones first.
const SUITES: [&str; 8] =
    ["cluster", "races", "fallback", "membership", "exchanges", "vectors", "lib", "properties"];
/// Seconds after which a build or a test hangs.
const PATIENCE: &str = "60";
/// The first build of a lane is of all dependencies, too.
const BUILD_PATIENCE: &str = "600";

/// Where mutants are built.
pub struct Lane {
    tree: PathBuf,
    target: PathBuf,
}

/// What became of a mutant.
pub enum Fate {
    /// The test named for it failed.
    Caught(String),
    /// That test passed; these failed, the first that were found.
    CaughtByOthers(Vec<String>),
    DoesNotApply(usize),
    DoesNotCompile(String),
}

impl Lane {
    /// A fresh copy of the tree; what was built before is kept.
    pub fn new(number: usize) -> Self {
        let lane = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutants-{number}"));
        let (tree, target) = (lane.join("tree"), lane.join("target"));
        if tree.exists() {
            fs::remove_dir_all(&tree).expect("the copy of an earlier run goes");
        }
        copy(root(), &tree);
        Self { tree, target }
    }

    /// Applies a mutant, runs its test and takes it back.
    pub fn try_out(&self, mutant: &Mutant) -> Fate {
        let path = self.tree.join(&mutant.file);
        let original = fs::read_to_string(&path).expect("a file of the tree");
        let times = original.matches(&mutant.old).count();
        if times != 1 {
            return Fate::DoesNotApply(times);
        }
        let mutated = original.replace(&mutant.old, &mutant.new);
        fs::write(&path, mutated).expect("the copy can be written");
        let fate = self.run(mutant);
        fs::write(&path, original).expect("the copy can be written");
        fate
    }

    fn run(&self, mutant: &Mutant) -> Fate {
        let build = self.cargo(&mutant.suite, &["--no-run"]);
        if !build.status.success() {
            return Fate::DoesNotCompile(String::from_utf8_lossy(&build.stderr).into());
        }
        let named = self.cargo(&mutant.suite, &["--", "--exact", &mutant.test]);
        if !named.status.success() {
            return Fate::Caught(format!("{} {}", mutant.suite, mutant.test));
        }
        let others = SUITES.iter().map(|suite| {
            let output = self.cargo(suite, &["--no-fail-fast"]);
            failures(&String::from_utf8_lossy(&output.stdout), suite)
        });
        let first = others.into_iter().find(|failed| !failed.is_empty());
        Fate::CaughtByOthers(first.unwrap_or_default())
    }

    fn cargo(&self, suite: &str, arguments: &[&str]) -> Output {
        let patience = if arguments == ["--no-run"] { BUILD_PATIENCE } else { PATIENCE };
        let mut cargo = Command::new("timeout");
        cargo
            .args([patience, env!("CARGO"), "test", "--offline", "--locked"])
            .args(["--no-default-features", "--target-dir"])
            .arg(&self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(&self.tree);
        match suite {
            "lib" => cargo.arg("--lib"),
            suite => cargo.args(["--test", suite]),
        };
        cargo.args(arguments).output().expect("cargo runs")
    }
}

/// Names of the tests that failed, by the harness's own lines.
fn failures(output: &str, suite: &str) -> Vec<String> {
    let failed = output.lines().filter_map(|line| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(format!("{suite} {name}"))
    });
    failed.collect()
}

/// Copies a directory, without what cargo has built or git keeps.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy can be made");
    for entry in fs::read_dir(from).expect("a directory that can be read") {
        let path = entry.expect("an entry that can be read").path();
        let name = path.file_name().expect("an entry has a name");
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if path.is_file() {
            fs::copy(&path, to.join(name)).expect("the copy can be written");
        } else if !hidden && !path.join("CACHEDIR.TAG").exists() {
            copy(&path, &to.join(name));
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Caught(test) => write!(f, "caught by {test}"),
            Fate::CaughtByOthers(tests) if tests.is_empty() => write!(f, "SURVIVES"),
            Fate::CaughtByOthers(tests) => {
                write!(f, "NOT CAUGHT by its test, but by {}", tests.join(", "))
            }
            Fate::DoesNotApply(times) => write!(f, "APPLIES {times} TIMES"),
            Fate::DoesNotCompile(why) => write!(f, "DOES NOT COMPILE\n{why}"),
        }
    }
}
