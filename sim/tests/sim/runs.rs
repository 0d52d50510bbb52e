//! `clusterd-sim run`: the same inputs and seed give the same bytes.

use std::fs;
use std::process::Command;

use crate::common::{directory, fail, files, run};
use clusterd_sim::result::{ConnectionRow, HostRow, IntervalRow, Row};
use clusterd_sim::summary::FIGURES;
use serde_json::Value;

const RUN: [&str; 10] = [
    "run",
    "small.toml",
    "--seed",
    "11",
    "--runs",
    "3",
    "--compare",
    "cluster.pacing=race; cluster.settle=2ms",
    "--set",
    "host.wake=6us + 1% exp 300us",
];

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let at = directory("threads");
    let one = ["--jobs", "1", "--out", "out", "--trace", "--pcap"];
    let printed_1 = run(&at, &with(&RUN, &one));
    fs::rename(at.join("out"), at.join("one")).unwrap();
    let two = ["--jobs", "2", "--out", "out", "--trace", "--pcap"];
    let printed_2 = run(&at, &with(&RUN, &two));
    assert_eq!(printed_1, printed_2);
    let (one, two) = (files(&at.join("one")), files(&at.join("out")));
    let names: Vec<&str> = one.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "capture-11.pcap",
        "capture-13-variant1.pcap",
        "connections.csv",
        "hosts.csv",
        "runs.csv",
        "scenario.toml",
        "summary.json",
        "timeseries.csv",
        "trace-12.jsonl",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(one == two, "the files differ");
    assert!(one.iter().all(|(_, bytes)| !bytes.is_empty()));
}

#[test]
fn the_first_line_reproduces_the_rest() {
    let at = directory("reproduce");
    for more in [&[][..], &["--out", "a directory"], &["--json"]] {
        let printed = run(&at, &with(&RUN, more));
        let line = match more {
            ["--json"] => {
                let object: Value = serde_json::from_str(&printed).unwrap();
                object["command"].as_str().unwrap().to_owned()
            }
            _ => printed.lines().next().unwrap().to_owned(),
        };
        let words = line.strip_prefix("clusterd-sim ").unwrap();
        let program = env!("CARGO_BIN_EXE_clusterd-sim");
        let again = Command::new("sh")
            .current_dir(&at)
            .args(["-c", &format!("'{program}' {words}")])
            .output()
            .unwrap();
        assert!(again.status.success(), "{line}: {}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(String::from_utf8(again.stdout).unwrap(), printed, "{line}");
    }
}

#[test]
fn each_of_several_runs_can_be_repeated_alone_from_the_resolved_scenario() {
    let at = directory("alone");
    run(
        &at,
        &[
            "run",
            "small.toml",
            "--set",
            "cluster.hosts=4",
            "--seed",
            "5",
            "--runs",
            "3",
            "--out",
            "all",
        ],
    );
    run(&at, &["run", "all/scenario.toml", "--seed", "7", "--out", "alone"]);
    let rows = |directory: &str, name: &str, seed: &str| -> Vec<Vec<String>> {
        let mut reader = csv::Reader::from_path(at.join(directory).join(name)).unwrap();
        let records = reader.records().map(|record| record.unwrap());
        // Without variant and number of the run.
        let records = records.filter(|record| &record[2] == seed);
        records.map(|record| record.iter().skip(2).map(str::to_owned).collect()).collect()
    };
    for name in ["runs.csv", "connections.csv", "hosts.csv", "timeseries.csv"] {
        let (all, alone) = (rows("all", name, "7"), rows("alone", name, "7"));
        assert!(!alone.is_empty());
        assert_eq!(all, alone, "{name}");
    }
    let toml = |directory: &str| fs::read_to_string(at.join(directory).join("scenario.toml"));
    assert_eq!(toml("all").unwrap(), toml("alone").unwrap());
}

#[test]
fn differences_are_taken_run_by_run() {
    let at = directory("differences");
    let printed = run(&at, &with(&RUN, &["--json"]));
    let report: Value = serde_json::from_str(&printed).unwrap();
    let figures = |variant: &str, name: &str| -> Vec<f64> {
        let runs = report["runs"].as_array().unwrap().iter();
        let runs = runs.filter(|run| run["variant"] == variant);
        runs.map(|run| run["figures"][name].as_f64().unwrap()).collect()
    };
    let variant = RUN[7];
    // The same clients come at the same moments, and settling takes longer.
    assert_eq!(figures("base", "connections"), figures(variant, "connections"));
    let connect = report["differences"][variant]["connect_mean_us"].clone();
    let (base, race) = (figures("base", "connect_mean_us"), figures(variant, "connect_mean_us"));
    let mean: f64 = race.iter().zip(&base).map(|(race, base)| race - base).sum::<f64>() / 3.0;
    assert!((connect["mean"].as_f64().unwrap() - mean).abs() < 1e-6);
    let bound = |index: usize| connect["interval_95"][index].as_f64().unwrap();
    assert!(bound(0) < mean && mean < bound(1));
    assert!(mean > 0.0);
}

#[test]
fn one_run_has_no_intervals_and_says_so() {
    let at = directory("one");
    let printed = run(&at, &["run", "small.toml"]);
    assert!(printed.contains("no confidence intervals"), "{printed}");
    let report: Value = serde_json::from_str(&run(&at, &["run", "small.toml", "--json"])).unwrap();
    assert_eq!(report["means"]["base"]["served"]["interval_95"], Value::Null);
    assert!(report["means"]["base"]["served"]["mean"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let at = directory("wrong");
    fs::write(at.join("wrong.toml"), "[cluster]\nhosts = 3\nslots = \"1ms\"\n").unwrap();
    fs::write(at.join("speed.toml"), "[service]\nworkers = 3\nspeeds = \"8,0\"\n").unwrap();
    fs::write(at.join("part.toml"), "faults = [\n\"2s part h1 h3\",\n\"1s kill h1\"]\n").unwrap();
    for (words, error) in [
        (
            &["run", "wrong.toml"][..],
            "wrong.toml:3: there is no `cluster.slots`; did you mean `cluster.slot`?",
        ),
        (&["run", "speed.toml"], "speed.toml:3: service.speeds: a host without any speed"),
        (
            &["run", "part.toml", "--set", "cluster.hosts=2"],
            "part.toml:2: faults: `2s part h1 h3`: there are only 2 hosts",
        ),
        (&["run", "no.toml"], "cannot read the scenario no.toml"),
        (&["run", "--set", "cluster.hosts=65"], "--set cluster.hosts: 65 is not between 1 and 64"),
        (&["run", "--set", "hosts=5"], "--set there is no `hosts`; did you mean `cluster.hosts`?"),
        (&["run", "--set", "cluster.hosts"], "--set cluster.hosts: wanted KEY=VALUE"),
        (
            &["run", "--compare", "cluster.gard=rst"],
            "--compare there is no `cluster.gard`; did you mean `cluster.guard`?",
        ),
        (
            &["run", "small.toml", "--compare", "cluster.hosts=1"],
            "--compare faults: `1s600ms kill h2`: there are only 1 hosts",
        ),
        (&["run", "--runs", "0"], "--runs 0: wanted at least 1"),
    ] {
        let found = fail(&at, words);
        assert!(found.starts_with(&format!("clusterd-sim: {error}")), "{words:?}: {found}");
    }
}

#[test]
fn parameters_are_those_of_a_resolved_scenario() {
    let at = directory("parameters");
    run(&at, &["run", "small.toml", "--out", "out"]);
    let resolved = fs::read_to_string(at.join("out/scenario.toml")).unwrap();
    let listed = run(&at, &["parameters"]);
    let object: Value = serde_json::from_str(&run(&at, &["parameters", "--json"])).unwrap();
    let parameters = object["parameters"].as_array().unwrap();
    assert!(parameters.len() > 50);
    for parameter in parameters {
        let key = parameter["key"].as_str().unwrap();
        let default = parameter["default"].as_str().unwrap();
        assert!(listed.contains(&format!("{key} = {default}\n")), "{key}");
        let (_, name) = key.split_once('.').unwrap();
        assert!(resolved.contains(&format!("\n{name} = ")), "{key}");
        assert!(parameter["meaning"].as_str().is_some_and(|meaning| !meaning.is_empty()));
    }
}

/// The first cells of the rows of the table below a heading of the README.
fn documented(readme: &str, heading: &str) -> Vec<String> {
    let (_, section) = readme.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |"));
    let names = rows.flat_map(|(first, rest)| {
        // A row has a unit and a meaning, and may describe several columns.
        assert_eq!(rest.matches(" | ").count(), 1, "{heading}: {first}");
        first.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>()
    });
    names.collect()
}

#[test]
fn the_readme_describes_the_columns_of_every_table_in_their_order() {
    let readme = include_str!("../../README.md");
    let figures: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
    for (heading, columns) in [
        ("Columns of all tables of a run", &["variant", "run", "seed"][..]),
        ("runs.csv", &figures),
        ("connections.csv", ConnectionRow::COLUMNS),
        ("hosts.csv", HostRow::COLUMNS),
        ("timeseries.csv", IntervalRow::COLUMNS),
    ] {
        assert_eq!(documented(readme, heading), columns, "{heading}");
    }
    for (number, heading) in [(6, "The table of a sweep"), (5, "Tables of the report")] {
        assert!(documented(readme, heading).len() >= number, "{heading}");
    }
}
