//! The programs on the pages for users of E2B's own SDKs: docs/python.md and docs/javascript.md.

use std::fs;
use std::path::Path;

pub(crate) const PYTHON: &str = include_str!("../../docs/python.md");
pub(crate) const JAVASCRIPT: &str = include_str!("../../docs/javascript.md");

/// A program on a page, under the name in its first line.
pub(crate) struct Program<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: String,
}

/// What a page shows in one language. Every block says in a comment in its first line what it is called.
pub(crate) fn programs<'a>(page: &'a str, language: &str, comment: &str) -> Vec<Program<'a>> {
    let fence = format!("```{language}\n");
    let mut programs = Vec::new();
    for block in page.split(fence.as_str()).skip(1) {
        let (text, _) = block.split_once("\n```\n").unwrap();
        let name = text.lines().next().unwrap().strip_prefix(comment);
        let name = name.unwrap_or_else(|| panic!("a program without a name:\n{text}"));
        programs.push(Program {
            name,
            text: format!("{text}\n"),
        });
    }
    programs
}

/// Lays the programs of a page out as files. `prefix` stands for the template's `/opt/sandtrace`.
pub(crate) fn lay_out(programs: &[Program<'_>], prefix: &str, directory: &Path) {
    for program in programs {
        let text = program.text.replace("/opt/sandtrace", prefix);
        fs::write(directory.join(program.name), text).unwrap();
    }
}

fn names<'a>(programs: &[Program<'a>]) -> Vec<&'a str> {
    programs.iter().map(|program| program.name).collect()
}

#[test]
fn every_program_on_the_pages_is_one_that_the_tests_run() {
    let python = programs(PYTHON, "python", "# ");
    let expected = [
        "sandtrace_events.py",
        "run_agent.py",
        "follow_agent.py",
        "approve.py",
    ];
    assert_eq!(names(&python), expected);
    let javascript = programs(JAVASCRIPT, "ts", "// ");
    let expected = [
        "sandtrace-events.ts",
        "run-agent.ts",
        "main.ts",
        "follow-agent.ts",
        "approve.ts",
    ];
    assert_eq!(names(&javascript), expected);
    for (page, programs) in [(PYTHON, python.len()), (JAVASCRIPT, javascript.len())] {
        let fences = page.lines().filter(|line| line.starts_with("```")).count();
        // Two fences each, and those of the one block for a shell.
        assert_eq!(fences, 2 * (programs + 1), "a block in another language");
        let shell = page.split("```console\n").nth(1).unwrap();
        assert!(shell.starts_with("$ "), "{shell}");
    }
}

#[test]
fn no_line_of_the_pages_is_longer_than_a_screen_is_wide() {
    for page in [PYTHON, JAVASCRIPT] {
        for line in page.lines().filter(|line| !line.starts_with('|')) {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }
}
