//! Reads `rules.txt`; its head explains the format.

use std::path::Path;

/// A rule of the race catalogue.
#[derive(Debug, Default)]
pub struct Rule {
    /// What goes wrong without it, and what it says.
    pub title: String,
    /// Its numbers in the catalogue.
    pub races: Vec<u32>,
    /// Ways to break it.
    pub mutants: Vec<Mutant>,
    /// Tests of parts that are not the core's.
    pub guards: Vec<Guard>,
    /// Why nothing is to be broken, or nothing here breaks it.
    pub none: Option<String>,
}

/// An edit that breaks a rule.
#[derive(Debug, Default)]
pub struct Mutant {
    pub name: String,
    /// Relative to the root of the repository.
    pub file: String,
    pub old: String,
    pub new: String,
    /// The test crate, and the test in it that notices.
    pub suite: String,
    pub test: String,
}

/// A test of something that is no part of the core.
#[derive(Debug)]
pub struct Guard {
    pub file: String,
    pub test: String,
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Rule {
    /// The rules in the order of the file.
    pub fn all() -> Vec<Self> {
        let mut rules: Vec<Self> = Vec::new();
        for line in include_str!("rules.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            if word == "race" {
                rules.push(Self::new(rest));
                continue;
            }
            let rule = rules.last_mut().expect("the first line names a race");
            rule.read(word, rest, line);
        }
        rules
    }

    fn new(rest: &str) -> Self {
        let (numbers, title) = rest.split_once(": ").expect("numbers and a title");
        let races = numbers.split(", ").map(|number| number.parse().expect("a number")).collect();
        Self { title: title.into(), races, ..Self::default() }
    }

    fn read(&mut self, word: &str, rest: &str, line: &str) {
        let pair = || {
            let (first, second) = rest.split_once(' ').expect("two words");
            (first.to_owned(), second.to_owned())
        };
        if word == "mutant" {
            return self.mutants.push(Mutant { name: rest.into(), ..Mutant::default() });
        }
        if word == "guard" {
            let (file, test) = pair();
            return self.guards.push(Guard { file, test });
        }
        if word == "none" {
            self.none = Some(rest.into());
            return;
        }
        let mutant = self.mutants.last_mut().unwrap_or_else(|| panic!("no mutant before: {line}"));
        match word {
            "in" => mutant.file = rest.into(),
            "test" => (mutant.suite, mutant.test) = pair(),
            "-" => add_line(&mut mutant.old, rest),
            "+" => add_line(&mut mutant.new, rest),
            _ => panic!("not a line of rules.txt: {line}"),
        }
    }
}

fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}
