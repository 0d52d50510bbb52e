//! `clusterd-sim explain`: one connection, by the number that it has elsewhere.

use crate::common::{directory, run};

#[test]
fn a_connection_has_the_number_of_its_row() {
    let at = directory("explain");
    run(&at, &["run", "small.toml", "--seed", "3", "--out", "out"]);
    let rows = csv::Reader::from_path(at.join("out/connections.csv")).unwrap().into_records();
    let row = rows.last().unwrap().unwrap();
    let (number, started) = (&row[3], row[4].parse::<f64>().unwrap());
    let told = run(&at, &["explain", "small.toml", "--seed", "3", "--flow", number]);
    let title = told.lines().next().unwrap();
    assert!(title.starts_with(&format!("connection {number}, tcp ")), "{title}");
    assert!(title.ends_with(&format!("SYN at {:.6} s", started / 1e6)), "{title}");
    // The first one is 0.
    let first = run(&at, &["explain", "small.toml", "--flow", "0"]);
    assert!(first.starts_with("connection 0, "), "{first}");
}
