//! Scenario files: TOML with the keys of [`crate::scenario::PARAMETERS`], and faults.
//!
//! Whatever is wrong is named with file, line and key, the range, and the nearest valid key.
//! Files that a scenario names are looked for beside it first, and then where the program runs.

use std::fmt::Write as _;
use std::path::Path;

use toml_edit::{Document, Item, Value};

use crate::scenario::{FAULTS, PARAMETERS, Parameter, Scenario, parameter};

/// Reads a scenario file.
pub fn read(path: &Path) -> Result<Scenario, String> {
    let name = path.display();
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read the scenario {name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
        format!("{name}:{line}: no text in UTF-8")
    })?;
    parse(&text, &name.to_string())
}

/// Reads the text of a scenario file called `name`.
pub fn parse(text: &str, name: &str) -> Result<Scenario, String> {
    let line = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
    let document = Document::parse(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(span.start));
        let words = text.lines().nth(at - 1).unwrap_or_default().trim();
        format!("{name}:{at}: {}: `{words}`", error.message())
    })?;
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut scenario = Scenario::default();
    for (key, item) in document.iter() {
        let place = |item: &Item| {
            let at = item.span().map_or(0, |span| span.start);
            format!("{name}:{}", line(at))
        };
        match item {
            Item::Table(table) => {
                for (name, item) in table.iter() {
                    let key = format!("{key}.{name}");
                    let parameter =
                        parameter(&key).map_err(|error| format!("{}: {error}", place(item)))?;
                    if item.is_array() && !parameter.is_list {
                        return Err(format!(
                            "{}: {key}: a list, where one value is wanted: {}",
                            place(item),
                            parameter.kind
                        ));
                    }
                    let text = item
                        .as_value()
                        .and_then(plain)
                        .ok_or_else(|| format!("{}: {key} is not a single value", place(item)))?;
                    scenario
                        .set(&key, &beside(&text, base))
                        .map_err(|error| format!("{}: {error}", place(item)))?;
                }
            }
            Item::Value(Value::Array(faults)) if key == FAULTS => {
                for fault in faults {
                    let at = fault.span().map_or(0, |span| span.start);
                    let wrong = |error: String| format!("{name}:{}: faults: {error}", line(at));
                    let text = fault.as_str().ok_or_else(|| wrong("not a text".to_owned()))?;
                    scenario.faults.push(text.parse().map_err(wrong)?);
                }
            }
            item if key == FAULTS => {
                let wanted = "faults: wanted a list of texts, such as [\"2s kill h1\"]";
                return Err(format!("{}: {wanted}", place(item)));
            }
            item if PARAMETERS.iter().any(|it| it.key.split('.').next() == Some(key)) => {
                return Err(format!("{}: {key} is a table: write [{key}]", place(item)));
            }
            item => {
                let error = parameter(key).err();
                let error = error.unwrap_or_else(|| format!("{key}: write it without quotes"));
                return Err(format!("{}: {error}", place(item)));
            }
        }
    }
    Ok(scenario)
}

/// Where a file says what [`Scenario::check`] finds wrong: its line, or all of it if that was said elsewhere.
pub fn place(path: &Path, error: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let words = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        let is_fault = error.split('`').nth(1).is_some_and(|fault| line.contains(fault));
        let keys = error.split(": ").next().unwrap_or_default().split(", ");
        is_fault || keys.filter_map(|it| it.split('.').nth(1)).any(|it| it == key)
    };
    match text.lines().position(words) {
        Some(index) => format!("{}:{}", path.display(), index + 1),
        None => path.display().to_string(),
    }
}

/// A value in which the names of files are those of files beside the scenario, if these exist.
fn beside(text: &str, base: &Path) -> String {
    let terms = text.split('+').map(|term| {
        let named = ["measured ", "trace "].iter().find_map(|word| {
            let (before, name) = term.split_once(word)?;
            let path = base.join(name.trim());
            path.is_file().then(|| format!("{before}{word}{} ", path.display()))
        });
        named.unwrap_or_else(|| term.to_owned())
    });
    terms.collect::<Vec<_>>().join("+").trim_end().to_owned()
}

/// A value as it would be written on the command line.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Integer(number) => Some(number.value().to_string()),
        Value::Float(number) => Some(number.value().to_string()),
        Value::Boolean(is) => Some(is.value().to_string()),
        Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(plain).collect();
            values.map(|values| values.join(","))
        }
        Value::Datetime(_) | Value::InlineTable(_) => None,
    }
}

/// Writes a scenario with every parameter, so that it says all about a run but its seed.
pub fn write(scenario: &Scenario) -> String {
    write_those(scenario, |_| true)
}

/// Writes only what is not at its default.
pub fn write_changes(scenario: &Scenario) -> String {
    let default = Scenario::default();
    write_those(scenario, |parameter| (parameter.show)(scenario) != (parameter.show)(&default))
}

fn write_those(scenario: &Scenario, wanted: impl Fn(&Parameter) -> bool) -> String {
    let mut text = String::new();
    if !scenario.faults.is_empty() {
        text += "faults = [\n";
        for fault in &scenario.faults {
            writeln!(text, "  \"{fault}\",").expect("writing to a string cannot fail");
        }
        text += "]\n\n";
    }
    let mut section = "";
    for parameter in PARAMETERS.iter().filter(|parameter| wanted(parameter)) {
        let (table, key) = parameter.key.split_once('.').unwrap_or(("", parameter.key));
        if table != section {
            if !section.is_empty() {
                text.push('\n');
            }
            writeln!(text, "[{table}]").expect("writing to a string cannot fail");
            section = table;
        }
        let value = (parameter.show)(scenario);
        let bare = value.parse::<f64>().is_ok() || value == "true" || value == "false";
        let quote = if bare { "" } else { "\"" };
        writeln!(text, "{key} = {quote}{value}{quote}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    #[test]
    fn a_file_sets_what_it_names() {
        let text = "faults = [\"2s kill h1\"]\n[cluster]\nhosts = 5\npacing = \"race\"\n\
                    [network]\nclaim_loss = \"1%\"\nrate = \"10Mbit\"\n[service]\nspeeds = [1, 2.5]\n";
        let scenario = parse(text, "x.toml").unwrap();
        assert_eq!((scenario.hosts, scenario.claim_loss.0), (5, 0.01));
        assert_eq!(scenario.speeds, [1.0, 2.5]);
        assert_eq!(scenario.faults[0].kind, FaultKind::Kill(0));
        assert_eq!(parse(&write(&scenario), "y.toml").unwrap(), scenario);
        assert_eq!(parse(&write_changes(&scenario), "y.toml").unwrap(), scenario);
        assert_eq!(write_changes(&Scenario::default()), "");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, error) in [
            (
                "[cluster]\nhost = 3\n",
                "x:2: there is no `cluster.host`; did you mean `cluster.hosts`?",
            ),
            ("\n[cluster]\nhosts = 65\n", "x:3: cluster.hosts: 65 is not between 1 and 64"),
            ("[cluster]\nhosts = \"three\"\n", "x:2: cluster.hosts: `three` is not a whole number"),
            ("[cluster]\nguard = \"wall\"\n", "x:2: cluster.guard: `wall` is not one of rst"),
            ("[clusters]\nhosts = 3\n", "x:2: there is no `clusters.hosts`"),
            ("faults = [\n\"2s kill h1\",\n\"now\"]\n", "x:3: faults: `now` is no fault"),
            ("faults = \"2s kill h1\"\n", "x:1: faults: wanted a list of texts"),
            ("[run]\n[load]\nflood_per_second = nan\n", "x:3: load.flood_per_second: NaN is not"),
            ("cluster = 3\n", "x:1: cluster is a table"),
            ("[cluster\n", "x:1: "),
            ("hosts = 3\n", "x:1: there is no `hosts`; did you mean `cluster.hosts`"),
            (
                "[network]\nsettle = \"1ms\"\n",
                "x:2: there is no `network.settle`; did you mean `cluster.settle`",
            ),
            (
                "[run]\nfaults = []\n",
                "x:2: there is no `run.faults`; `faults` is a list of its own",
            ),
            ("[cluster]\nhosts = [1]\n", "x:2: cluster.hosts: a list, where one value is wanted"),
            ("[cluster]\nhosts = 1\nhosts = 2\n", "x:3: duplicate key: `hosts = 2`"),
        ] {
            let found = parse(text, "x").unwrap_err();
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }
}
