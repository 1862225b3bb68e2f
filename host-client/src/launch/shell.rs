//! Words for `sh`, as POSIX defines it.

/// Words that mean something to a shell where a command's name stands.
const RESERVED: [&str; 21] = [
    "case",
    "coproc",
    "do",
    "done",
    "elif",
    "else",
    "esac",
    "fi",
    "for",
    "function",
    "if",
    "in",
    "namespace",
    "repeat",
    "select",
    "then",
    "time",
    "typeset",
    "until",
    "while",
    "alias",
];

/// A command line of these words.
pub(super) fn line(argv: &[String]) -> String {
    let mut line = String::new();
    for (position, word) in argv.iter().enumerate() {
        if position > 0 {
            line.push(' ');
        }
        // A first word with `=` in it would set a variable.
        let is_name = position == 0;
        let is_plain =
            is_plain(word) && !(is_name && (word.contains('=') || RESERVED.contains(&&**word)));
        if is_plain {
            line.push_str(word);
        } else {
            line.push('\'');
            line.push_str(&word.replace('\'', r"'\''"));
            line.push('\'');
        }
    }
    line
}

fn is_plain(word: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=@%+,".contains(char);
    !word.is_empty() && word.chars().all(plain)
}
