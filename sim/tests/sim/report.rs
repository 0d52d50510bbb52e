//! `clusterd-sim report`: one page, the same on any number of threads, whose commands give its numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{directory, fail, run};

const TINY: [&str; 6] = ["--share", "0.001", "--runs", "1", "--seed", "7"];

fn report(at: &Path, more: &[&str]) -> String {
    run(at, &[&["report", "report.html"], &TINY[..], more].concat());
    fs::read_to_string(at.join("report.html")).unwrap()
}

/// What stands between two texts, each time.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Vec<&'t str> {
    let parts = text.split(open).skip(1);
    parts.map(|part| part.split_once(close).unwrap().0).collect()
}

fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&amp;", "&")
}

/// The words of a command as a shell reads them: quotes as the program writes them, no others.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let mut words = vec![String::new()];
    for (number, part) in parts {
        if number % 2 == 1 {
            words.last_mut().unwrap().push_str(part);
            continue;
        }
        let mut pieces = part.split(' ');
        words.last_mut().unwrap().push_str(pieces.next().unwrap());
        words.extend(pieces.map(str::to_owned));
    }
    words
}

/// The file that is the address of a link.
fn file(page: &str, name: &str) -> String {
    let address =
        between(page, &format!("download=\"{name}\" href=\"data:text/csv;charset=utf-8,"), "\"");
    let mut bytes = Vec::new();
    let mut rest = address[0].bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// The rows of a table, each cell by its column.
fn rows(table: &str) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_reader(table.as_bytes()).deserialize().map(Result::unwrap).collect()
}

#[test]
fn a_report_is_the_same_on_any_number_of_threads() {
    let at = directory("report-threads");
    // One with figures of each kind.
    let some = ["--only", "latency,fate,failover,pauses", "--runs", "2"];
    let on = |jobs| {
        run(&at, &[&["report", "it.html", "--share", "0.001", "--jobs", jobs], &some[..]].concat())
    };
    let page = || fs::read_to_string(at.join("it.html")).unwrap();
    on("1");
    let one = page();
    on("3");
    assert!(one == page());
}

#[test]
fn every_printed_command_gives_the_numbers_of_the_page() {
    let at = directory("report-commands");
    let page = report(&at, &[]);
    let sections = between(&page, "<section>", "</section>");
    assert!(sections.len() >= 11);
    let mut compared = 0;
    for section in sections {
        let id = between(section, "<h2 id=\"", "\"")[0];
        let table = rows(&file(section, &format!("{id}-runs.csv")));
        let mut expected = table.iter();
        let commands = unescape(between(section, "<pre class=\"commands\">", "</pre>")[0]);
        for command in commands.trim().lines() {
            let words = words(command);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(words[0], "clusterd-sim");
            run(&at, &words[1..]);
            let out = words[words.iter().position(|&word| word == "--out").unwrap() + 1];
            let written = match words[1] {
                "sweep" => {
                    run(&at, &["merge", out, "--out", "merged.csv"]);
                    at.join("merged.csv")
                }
                _ => at.join(out).join("runs.csv"),
            };
            for row in rows(&fs::read_to_string(written).unwrap()) {
                let other = expected.next().unwrap();
                for (column, value) in &row {
                    match column.as_str() {
                        "point" | "variant" => {}
                        // A swept parameter.
                        key if key.contains('.') => {
                            assert_eq!(
                                (key, value),
                                (other["parameter"].as_str(), &other["value"])
                            );
                        }
                        figure => assert_eq!(value, &other[figure], "{command}: {figure}"),
                    }
                }
                compared += 1;
            }
        }
        assert_eq!(expected.next(), None, "{id}: a row that no command gives");
    }
    assert!(compared > 250, "{compared}");
}

#[test]
fn the_page_needs_nothing_else() {
    let at = directory("report-page");
    let page = report(&at, &["--only", "fate,failover,latency"]);
    assert_eq!(between(&page, "<section>", "</section>").len(), 3);
    for foreign in ["<script", "src=", "<link", "@import", "url(", "href=\"http"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // The namespace of SVG is a name, no address that anybody asks.
    assert_eq!(
        page.matches("http").count(),
        page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
    );
    for tag in ["section", "figure", "table", "svg", "p", "ul", "li", "pre", "h2", "h3", "td", "th"]
    {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let ids: Vec<&str> = between(&page, " id=\"", "\"");
    for link in between(&page, "href=\"#", "\"") {
        assert_eq!(ids.iter().filter(|&&id| id == link).count(), 1, "{link}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let at = directory("report-wrong");
    for (options, word) in [
        (["--share", "0"], "--share 0: wanted above 0"),
        (["--only", "weather"], "--only weather: wanted some of settling,"),
        (["--runs", "0"], "--runs 0: wanted at least 1"),
    ] {
        let error = fail(&at, &[&["report"], &options[..]].concat());
        assert!(error.contains(word), "{error}");
        assert!(!at.join("report.html").exists());
    }
}

#[test]
fn a_lab_is_compared_in_the_page() {
    let at = directory("report-lab");
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/rank");
    let with = ["--only", "media", "--lab", lab.to_str().unwrap()];
    let page = report(&at, &with);
    let caption = between(&page, "<caption><code>clusterd lab run", "</caption>");
    assert!(caption[0].contains("1500 connections on Linux"), "{caption:?}");
    let rows = between(&page, "<th scope=\"row\">claims_per_connection</th><td>", "</td>");
    assert_eq!(rows, ["1"]);
    assert!(!report(&at, &["--only", "media"]).contains("claims_per_connection</th><td>1<"));
    let error = fail(&at, &["report", "--only", "media", "--share", "0.001", "--lab", "nowhere"]);
    assert!(error.contains("nowhere"), "{error}");
}
