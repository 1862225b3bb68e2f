//! Text for a terminal: data made harmless, measured in columns, cut and wrapped; and numbers as people read them.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use super::view::Charset;

/// More than any terminal shows of one name.
const LONGEST_CHARS: usize = 2_000;
/// Marks that may stack on one character before the rest is dropped.
const MOST_MARKS: usize = 4;

/// Makes text from the journal harmless: nothing in it can move the cursor, change a colour, reverse the writing
/// direction or hide, and what the locale cannot show becomes `?`.
pub(super) fn clean(text: &str, charset: Charset) -> String {
    let mut clean = String::with_capacity(text.len().min(LONGEST_CHARS));
    let mut marks = 0;
    for c in text.chars().take(LONGEST_CHARS) {
        let c = match c {
            '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
            // The control pictures stand 0x2400 above what they depict.
            '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('?'),
            '\x7f' => '\u{2421}',
            _ if c.is_control() || is_bidi_control(c) => '\u{fffd}',
            _ if is_invisible(c) => continue,
            c => c,
        };
        match charset {
            Charset::Ascii if !c.is_ascii() => clean.push('?'),
            _ if columns_of(c) > 0 => {
                marks = 0;
                clean.push(c);
            }
            // A mark with nothing to stand on would join whatever is printed before it.
            _ if clean.is_empty() => {}
            _ => {
                marks += 1;
                if marks <= MOST_MARKS {
                    clean.push(c);
                }
            }
        }
    }
    clean
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Joiners, selectors and tags: terminals disagree about their width, so they would break the columns.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

fn columns_of(c: char) -> usize {
    UnicodeWidthChar::width(c).unwrap_or(0)
}

/// How many columns a clean text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Cuts a clean text to `width` columns; what was cut shows as an ellipsis.
pub(super) fn cut(text: &str, width: usize, charset: Charset) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let ellipsis = charset.ellipsis();
    let room = width.saturating_sub(columns(ellipsis));
    let mut taken = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        taken += columns_of(c);
        if taken > room {
            break;
        }
        end = at + c.len_utf8();
    }
    let mut short = text[..end].trim_end().to_owned();
    if width >= columns(ellipsis) {
        short.push_str(ellipsis);
    }
    short
}

/// A clean text cut or filled with spaces to exactly `width` columns.
pub(super) fn left(text: &str, width: usize, charset: Charset) -> String {
    let mut text = cut(text, width, charset);
    let missing = width.saturating_sub(columns(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// As [`left`], but the spaces come first.
pub(super) fn right(text: &str, width: usize, charset: Charset) -> String {
    let text = cut(text, width, charset);
    let missing = width.saturating_sub(columns(&text));
    format!("{}{text}", " ".repeat(missing))
}

/// Breaks a clean text at spaces into lines of at most `width` columns; a longer word is cut.
pub(super) fn wrap(text: &str, width: usize, charset: Charset) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let word = cut(word, width, charset);
        if !line.is_empty() && columns(&line) + 1 + columns(&word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

/// A length of time in at most six columns: `0.41ms`, `412ms`, `4.12s`, `41.2s`, `1m02s`, `1h02m`, `5d03h`.
pub(super) fn duration(length: Duration) -> String {
    let millis = length.as_secs_f64() * 1_000.0;
    let seconds = length.as_secs();
    // The limits stand where rounding would reach the next unit: 999.6 ms is 1.00 s.
    if length.is_zero() {
        "0ms".to_owned()
    } else if millis < 9.995 {
        format!("{millis:.2}ms")
    } else if millis < 999.5 {
        format!("{millis:.0}ms")
    } else if millis < 9_995.0 {
        format!("{:.2}s", millis / 1_000.0)
    } else if millis < 59_950.0 {
        format!("{:.1}s", millis / 1_000.0)
    } else if seconds < 3_600 {
        let seconds = length.as_secs_f64().round();
        format!("{:.0}m{:02.0}s", (seconds / 60.0).floor(), seconds % 60.0)
    } else if seconds < 100 * 3_600 {
        format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60)
    } else if seconds < 100 * 86_400 {
        format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24)
    } else {
        format!("{}d", seconds / 86_400)
    }
}

/// A count in at most five columns: `999`, `9.99k`, `12.3k`, `123k`, `1.23M`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn count(count: u64) -> String {
    let mut value = count as f64;
    if count < 1_000 {
        return count.to_string();
    }
    for unit in ["k", "M", "G", "T", "P", "E"] {
        value /= 1_000.0;
        if value < 9.995 {
            return format!("{value:.2}{unit}");
        } else if value < 99.95 {
            return format!("{value:.1}{unit}");
        } else if value < 999.5 {
            return format!("{value:.0}{unit}");
        }
    }
    format!("{value:.0}E")
}

/// US dollars: four decimals below one dollar, two above.
pub(super) fn usd(usd: f64) -> String {
    if !usd.is_finite() || usd < 0.0 {
        "?".to_owned()
    } else if usd == 0.0 {
        "$0".to_owned()
    } else if usd < 0.000_05 {
        "<$.0001".to_owned()
    } else if usd < 0.999_95 {
        format!("${usd:.4}")
    } else if usd < 9_999.5 {
        format!("${usd:.2}")
    } else if usd < 999_999.5 {
        format!("${usd:.0}")
    } else {
        ">$1M".to_owned()
    }
}

/// A fraction as whole percents.
pub(super) fn percent(fraction: f64) -> String {
    if fraction.is_finite() {
        format!("{:.0} %", fraction * 100.0)
    } else {
        "? %".to_owned()
    }
}

/// Bytes in the units that memory is counted in.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_023.5 {
            let digits = usize::from(unit != "B" && value < 10.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1_024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_data_can_command_the_terminal() {
        let table = [
            ("plain", "plain"),
            ("a\x1b[31mred\x1b[0m", "a␛[31mred␛[0m"),
            ("a\x07\x08\0\x7fb", "a␇␈␀␡b"),
            ("tab\tline\r\nend", "tab line  end"),
            ("c1\u{9b}31m", "c1\u{fffd}31m"),
            ("abc\u{202e}fed\u{2066}", "abc\u{fffd}fed\u{fffd}"),
            ("a\u{200b}b\u{feff}c\u{e0041}", "abc"),
            ("\u{301}\u{301}x", "x"),
            (
                "e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
                "e\u{301}\u{301}\u{301}\u{301}",
            ),
            ("漢字", "漢字"),
        ];
        for (text, shown) in table {
            assert_eq!(clean(text, Charset::Unicode), shown, "{text:?}");
        }
        assert_eq!(clean("é\x1b漢", Charset::Ascii), "???");
    }

    #[test]
    fn text_is_cut_by_columns_and_not_by_characters() {
        let table = [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("abc def", 5, "abc…"),
            ("漢字漢字", 8, "漢字漢字"),
            ("漢字漢字", 7, "漢字漢…"),
            ("漢字漢字", 6, "漢字…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ];
        for (text, width, shown) in table {
            assert_eq!(cut(text, width, Charset::Unicode), shown, "{text} {width}");
            assert_eq!(columns(&left(text, width, Charset::Unicode)), width);
            assert_eq!(columns(&right(text, width, Charset::Unicode)), width);
        }
        assert_eq!(cut("abcdef", 5, Charset::Ascii), "abc..");
    }

    #[test]
    fn durations_take_six_columns_at_most() {
        let table = [
            (0, "0ms"),
            (1, "0.00ms"),
            (410_000, "0.41ms"),
            (9_994_999, "9.99ms"),
            (9_996_000, "10ms"),
            (412_000_000, "412ms"),
            (999_600_000, "1.00s"),
            (4_123_000_000, "4.12s"),
            (41_230_000_000, "41.2s"),
            (59_960_000_000, "1m00s"),
            (62_000_000_000, "1m02s"),
            (3_599_400_000_000, "59m59s"),
            (3_720_000_000_000, "1h02m"),
            (183_600_000_000_000, "51h00m"),
            (446_400_000_000_000, "5d04h"),
            (86_400_000_000_000 * 400, "400d"),
        ];
        for (nanos, shown) in table {
            assert_eq!(duration(Duration::from_nanos(nanos)), shown);
            assert!(shown.len() <= 6);
        }
    }

    #[test]
    fn counts_dollars_and_bytes_stay_short() {
        let counts = [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00k"),
            (9_996, "10.0k"),
            (123_456, "123k"),
        ];
        for (value, shown) in counts {
            assert_eq!(count(value), shown);
        }
        assert_eq!(count(999_600), "1.00M");
        assert_eq!(count(u64::MAX), "18.4E");
        let dollars = [
            (0.0, "$0"),
            (0.000_01, "<$.0001"),
            (0.0421, "$0.0421"),
            (0.99996, "$1.00"),
            (1234.5, "$1234.50"),
            (f64::MAX, ">$1M"),
            (f64::NAN, "?"),
            (-1.0, "?"),
        ];
        for (value, shown) in dollars {
            assert_eq!(usd(value), shown);
        }
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_288_490_189), "1.2 GiB");
        assert_eq!(percent(0.823), "82 %");
    }

    #[test]
    fn text_wraps_at_spaces() {
        let lines = wrap("one two  three fourteencolumns", 8, Charset::Unicode);
        assert_eq!(lines, ["one two", "three", "fourtee…"]);
    }
}
