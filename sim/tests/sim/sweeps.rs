//! `clusterd-sim sweep` and `merge`: interrupted, divided or whole, the same table.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{directory, fail, files, run};

const OVER: [&str; 10] = [
    "sweep",
    "small.toml",
    "--over",
    "cluster.settle=100us..300us:100us",
    "--over",
    "service.speeds=8;8,4",
    "--over",
    "service.time=exp 1ms,pareto 1ms 1.5",
    "--runs",
    "2",
];

fn sweep(at: &Path, more: &[&str]) -> String {
    run(at, &[&OVER, more].concat())
}

fn merge(at: &Path, directories: &[&str]) -> String {
    run(at, &[&["merge"], directories, &["--out", "merged.csv"]].concat());
    fs::read_to_string(at.join("merged.csv")).unwrap()
}

#[test]
fn any_number_of_threads_gives_the_same_files() {
    let at = directory("sweep-threads");
    sweep(&at, &["--out", "one", "--jobs", "1"]);
    sweep(&at, &["--out", "two", "--jobs", "2"]);
    assert_eq!(files(&at.join("one")).len(), 13);
    assert!(files(&at.join("one")) == files(&at.join("two")));
    let table = merge(&at, &["one"]);
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let columns: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let swept = [
        "point",
        "cluster.settle_us",
        "service.speeds",
        "service.time",
        "run",
        "seed",
        "connections",
    ];
    assert_eq!(columns[..7], swept);
    let rows: Vec<String> = reader
        .records()
        .map(|record| record.unwrap().iter().take(6).collect::<Vec<_>>().join("|"))
        .collect();
    assert_eq!(rows.len(), 24);
    assert_eq!(rows[0], "0|100|8|exp 1ms|0|1");
    assert_eq!(rows[23], "11|300|8,4|pareto 1ms 1.5|1|2");
}

#[test]
fn a_sweep_goes_on_where_it_was_interrupted() {
    let at = directory("resume");
    sweep(&at, &["--out", "out"]);
    let whole = files(&at.join("out"));
    let points: Vec<_> = whole.iter().filter(|(name, _)| name.starts_with("point-")).collect();
    for (name, _) in points.iter().step_by(2) {
        fs::remove_file(at.join("out").join(name)).unwrap();
    }
    // What is there is not touched, and what was cut off does not count.
    let kept = at.join("out").join(&points[1].0);
    fs::write(at.join("out/point-000000.csv.99.part"), "point,").unwrap();
    let written = fs::metadata(&kept).unwrap().modified().unwrap();
    let error = fail(&at, &["merge", "out", "--out", "merged.csv"]);
    assert!(error.contains("6 of 12 points are missing"), "{error}");
    assert!(
        error.contains(
            "\n  point 2 (cluster.settle=100us, service.speeds=8,4, service.time=exp 1ms)\n"
        ),
        "{error}"
    );
    assert!(!at.join("merged.csv").exists());

    let printed = sweep(&at, &["--out", "out"]);
    assert!(printed.contains("here 12, of which 6 are done"), "{printed}");
    fs::remove_file(at.join("out/point-000000.csv.99.part")).unwrap();
    assert!(files(&at.join("out")) == whole);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), written);
    let printed = sweep(&at, &["--out", "out"]);
    assert!(printed.contains("here 12, of which 12 are done"), "{printed}");
}

#[test]
fn shards_together_are_the_whole() {
    let at = directory("shards");
    sweep(&at, &["--out", "whole"]);
    let whole = merge(&at, &["whole"]);
    for shard in ["0/3", "1/3", "2/3"] {
        sweep(&at, &["--shard", shard, "--out", &format!("of-{}", &shard[..1])]);
        sweep(&at, &["--shard", shard, "--out", "shared"]);
    }
    assert_eq!(merge(&at, &["of-0", "of-1", "of-2"]), whole);
    assert_eq!(merge(&at, &["of-2", "of-0", "of-1"]), whole);
    assert_eq!(merge(&at, &["shared"]), whole);

    let error = fail(&at, &["merge", "of-0", "of-2", "--out", "x.csv"]);
    assert!(error.contains("4 of 12 points are missing"), "{error}");
    assert!(error.contains("point 1 (") && error.contains("point 10 ("), "{error}");
    let error = fail(&at, &["merge", "of-0", "of-1", "of-2", "of-1", "--out", "x.csv"]);
    assert!(error.contains("there twice:\n  point 1 ("), "{error}");
    assert!(error.contains("in of-1/point-000001.csv and of-1/point-000001.csv"), "{error}");
    assert!(!at.join("x.csv").exists());
}

/// Root may have said `--out /dev/stdout`.
#[test]
fn a_table_does_not_take_the_place_of_a_link_or_a_pipe() {
    let at = directory("merge-to");
    sweep(&at, &["--out", "out"]);
    let table = merge(&at, &["out"]);
    std::os::unix::fs::symlink("linked.csv", at.join("link.csv")).unwrap();
    run(&at, &["merge", "out", "--out", "link.csv"]);
    assert!(fs::symlink_metadata(at.join("link.csv")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(at.join("linked.csv")).unwrap(), table);
    // Standard output is a pipe here, and has nothing but the table.
    std::os::unix::fs::symlink("/proc/self/fd/1", at.join("stdout")).unwrap();
    assert_eq!(run(&at, &["merge", "out", "--out", "stdout"]), table);
}

#[test]
fn a_directory_holds_one_sweep() {
    let at = directory("other");
    let short = ["sweep", "small.toml", "--over", "cluster.hosts=2,3"];
    let with = |more: &[&'static str]| [&short[..], &["--out", "out"], more].concat();
    run(&at, &with(&[]));
    // The same written otherwise.
    run(&at, &["sweep", "small.toml", "--over", "cluster.hosts=2..3:1", "--out", "out"]);
    for (more, difference) in [
        (&["--seed", "2"][..], "--seed 2 instead of 1"),
        (&["--runs", "3"], "--runs 3 instead of 1"),
        (&["--set", "network.loss=1%"], "`loss = 0.01` instead of `loss = 0`"),
        (
            &["--over", "network.loss=1%"],
            "`cluster.hosts=2,3 network.loss=0.01` instead of `cluster.hosts=2,3`",
        ),
    ] {
        let error = fail(&at, &with(more));
        assert!(error.contains("out holds another sweep"), "{error}");
        assert!(error.contains(difference), "{error}");
    }
    // A file that the scenario names, with other contents.
    let measured = ["--set", "host.wake=measured wake.hist", "--out", "measured"];
    let measured = [&short[..], &measured].concat();
    fs::write(at.join("wake.hist"), "delay_us,count\n10,1\n").unwrap();
    run(&at, &measured);
    fs::write(at.join("wake.hist"), "delay_us,count\n20,1\n").unwrap();
    let error = fail(&at, &measured);
    assert!(error.contains("other contents of the files"), "{error}");
    run(&at, &[&short[..], &["--seed", "2", "--out", "second"]].concat());
    let error = fail(&at, &["merge", "out", "second", "--out", "x.csv"]);
    assert!(error.contains("second is of another sweep than out: it has --seed 2"), "{error}");
    let error = fail(&at, &["merge", "nothing", "--out", "x.csv"]);
    assert!(error.contains("is this a directory that `sweep --out` has made?"), "{error}");
}

#[test]
fn what_is_wrong_is_named_before_anything_is_written() {
    let at = directory("sweep-wrong");
    for (more, error) in [
        (
            &["--over", "cluster.host=2"][..],
            "--over there is no `cluster.host`; did you mean `cluster.hosts`?",
        ),
        (&["--over", "cluster.hosts=2,65"], "--over cluster.hosts: 65 is not between 1 and 64"),
        (&["--over", "cluster.hosts=2,1"], "point 1 (cluster.hosts=1): faults: `1s600ms kill h2`"),
        (&["--over", "cluster.hosts=2,3", "--shard", "2/2"], "--shard `2/2` is no shard"),
    ] {
        let found = fail(&at, &[&["sweep", "small.toml", "--out", "out"], more].concat());
        assert!(found.starts_with(&format!("clusterd-sim: {error}")), "{more:?}: {found}");
    }
    assert!(!at.join("out").exists());
}

/// The value after an option in a text.
fn after<'a>(text: &'a str, option: &str) -> &'a str {
    let rest = text.split_once(option).unwrap_or_else(|| panic!("{option} is not there")).1;
    rest.split_whitespace().next().unwrap()
}

#[test]
fn job_files_start_every_shard_once() {
    let slurm = include_str!("../../jobs/slurm.sh");
    let shards = after(slurm, "\nSHARDS=");
    let last = shards.parse::<usize>().unwrap() - 1;
    assert_eq!(after(slurm, "\n#SBATCH --array="), format!("0-{last}"));
    let kubernetes = include_str!("../../jobs/kubernetes.yaml");
    let shards = after(kubernetes, "\n  completions: ");
    assert_eq!(
        after(kubernetes, "\n              --shard "),
        format!("\"$JOB_COMPLETION_INDEX/{shards}\"")
    );

    // What Slurm's task 3 starts, up to the end of its sweep.
    let at = directory("slurm");
    fs::rename(at.join("small.toml"), at.join("base.toml")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_clusterd-sim"));
    let path =
        std::env::join_paths([program.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")]);
    let short = slurm.replace("2..16*2", "2..4*2").replace("--runs 20", "--runs 1");
    let output = Command::new("bash")
        .current_dir(&at)
        .env("PATH", path.unwrap())
        .env("SLURM_ARRAY_TASK_ID", "3")
        .args(["-c", &short])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("--seed 1 --runs 1 --shard 3/16 --out points\n10 points"),
        "{printed}"
    );
    assert!(at.join("points/point-000003.csv").exists());
}
