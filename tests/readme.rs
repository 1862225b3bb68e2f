//! What the README promises about the vocabulary.

use std::collections::BTreeSet;

use sandtrace_client::FailureKind;

const README: &str = include_str!("../README.md");

#[test]
fn the_readme_explains_every_failure_and_no_other() {
    let section = README
        .split("### Failures")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
    let explained: Vec<String> = rows
        .iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    let distinct: BTreeSet<&String> = explained.iter().collect();
    assert_eq!(distinct.len(), explained.len(), "a row stands twice");
    let known: Vec<String> = FailureKind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(distinct, known.iter().collect());
}

#[test]
fn the_readme_shows_the_application_that_the_tests_run() {
    let example = include_str!("../host-client/examples/e2b.rs");
    let (_, program) = example.split_once("use sandtrace_client").unwrap();
    assert!(README.contains(program), "README.md differs from {example}");
}
