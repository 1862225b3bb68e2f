//! The common time axis: times become half columns, and spans become bars on them.

use std::time::Duration;

use super::text;
use super::tree::Window;
use super::view::{Charset, Paint, View};
use crate::time::UnixNanos;

/// Columns that a tick's label needs at the least, with the gap to the next.
const TICK_COLUMNS: usize = 7;

/// What a stretch of a bar stands for, the weaker first: where two meet, the stronger is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ink {
    /// Somebody else is being waited for: the model's first token, a human's approval.
    Wait,
    /// A span that holds others.
    Frame,
    /// Work.
    Work,
}

/// Maps a stretch of time onto columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    window: Window,
    columns: usize,
}

impl Axis {
    pub(super) fn new(window: Window, columns: usize) -> Self {
        Self { window, columns }
    }

    /// The half column a time falls into; times outside the window fall onto its edges.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "the result lies between zero and a few hundred"
    )]
    fn half(self, time: UnixNanos) -> usize {
        let halves = self.columns * 2;
        let length = self.window.length().as_secs_f64();
        if length <= 0.0 {
            return 0;
        }
        let position = time.since(self.window.start).as_secs_f64() / length;
        ((position.min(1.0) * halves as f64).round() as usize).min(halves)
    }

    /// The labels above the bars, and the columns they mark.
    pub(super) fn ticks(self) -> (String, Vec<usize>) {
        let step = tick_step(self.window.length(), self.columns / TICK_COLUMNS);
        let mut labels = String::new();
        let mut columns = Vec::new();
        let mut at = Duration::ZERO;
        while at <= self.window.length() {
            let column = self.half(self.window.start.plus(at)) / 2;
            let label = tick_label(at);
            if column >= self.columns || column + label.len() > self.columns {
                break;
            }
            labels.extend(std::iter::repeat_n(
                ' ',
                column.saturating_sub(labels.len()),
            ));
            labels.push_str(&label);
            columns.push(column);
            at += step;
        }
        (labels, columns)
    }

    pub(super) fn bar(self) -> Bar {
        Bar {
            axis: self,
            halves: vec![None; self.columns * 2],
            arrow: false,
        }
    }
}

/// A row of the waterfall, in half columns.
#[derive(Debug)]
pub(super) struct Bar {
    axis: Axis,
    halves: Vec<Option<Ink>>,
    /// Whether the row goes on beyond the axis.
    arrow: bool,
}

impl Bar {
    /// Draws a span that has no end yet.
    pub(super) fn draw_open(&mut self, ink: Ink, start: UnixNanos) {
        self.draw(ink, start, self.axis.window.end);
        self.arrow = true;
    }

    /// Draws a stretch of time; however short, it takes half a column.
    pub(super) fn draw(&mut self, ink: Ink, start: UnixNanos, end: UnixNanos) {
        let last = self.halves.len().saturating_sub(1);
        let from = self.axis.half(start).min(last);
        let to = self.axis.half(end).clamp(from + 1, last + 1);
        for half in &mut self.halves[from..to] {
            *half = (*half).max(Some(ink));
        }
    }

    /// The bar as text of exactly the axis's columns, with the ticks' grid behind it.
    pub(super) fn render(&self, ticks: &[usize], paint: Paint, view: View) -> String {
        let mut text = String::new();
        let mut run = String::new();
        let mut run_paint = Paint::Plain;
        for (column, pair) in self.halves.chunks(2).enumerate() {
            let halves = (pair[0], pair[pair.len() - 1]);
            let (glyph, glyph_paint) = match halves {
                (None, None) if ticks.contains(&column) => {
                    (view.charset().pick('·', '.'), Paint::Dim)
                }
                (None, None) => (' ', Paint::Plain),
                _ if self.arrow && column + 1 == self.axis.columns => ('>', paint),
                halves => (glyph(halves, view.charset()), paint),
            };
            if glyph_paint != run_paint {
                text.push_str(&view.paint(run_paint, &run));
                run.clear();
                run_paint = glyph_paint;
            }
            run.push(glyph);
        }
        text.push_str(&view.paint(run_paint, &run));
        text
    }
}

fn glyph(halves: (Option<Ink>, Option<Ink>), charset: Charset) -> char {
    let strongest = halves.0.max(halves.1);
    let (unicode, ascii) = match (strongest, halves) {
        (Some(Ink::Work), (Some(Ink::Work), Some(Ink::Work))) => ('█', '#'),
        (Some(Ink::Work), (Some(Ink::Work), _)) => ('▌', '#'),
        (Some(Ink::Work), _) => ('▐', '#'),
        (Some(Ink::Frame), (Some(Ink::Frame), Some(Ink::Frame))) => ('━', '-'),
        (Some(Ink::Frame), (Some(Ink::Frame), _)) => ('╸', '-'),
        (Some(Ink::Frame), _) => ('╺', '-'),
        (Some(Ink::Wait), _) => ('░', '~'),
        (None, _) => (' ', ' '),
    };
    charset.pick(unicode, ascii)
}

/// The smallest round step of which at most `most` fit.
fn tick_step(length: Duration, most: usize) -> Duration {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const ROUND: [u64; 18] = [
        1,
        2,
        5,
        10,
        15,
        20,
        30,
        MINUTE,
        2 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        15 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
        6 * HOUR,
        12 * HOUR,
        24 * HOUR,
    ];
    let most = u32::try_from(most.max(1)).unwrap_or(u32::MAX);
    let wanted = length / most;
    let short = (0..9).flat_map(|power| [1, 2, 5].map(|n| n * 10_u64.pow(power)));
    let short = short.map(Duration::from_nanos);
    let long = ROUND.map(Duration::from_secs).into_iter();
    let round = short.chain(long).find(|step| *step >= wanted);
    round.unwrap_or_else(|| {
        let day = 24 * HOUR;
        Duration::from_secs(wanted.as_secs().div_ceil(day).saturating_mul(day))
    })
}

fn tick_label(at: Duration) -> String {
    let (seconds, nanos) = (at.as_secs(), at.subsec_nanos());
    match (seconds, nanos) {
        (0, 0) => "0".to_owned(),
        (0, 1..=999) => format!("{nanos}ns"),
        (0, 1_000..=999_999) => format!("{}us", f64::from(nanos) / 1e3),
        (0, _) => format!("{}ms", f64::from(nanos) / 1e6),
        (1..60, 0) => format!("{seconds}s"),
        (1..60, _) => format!("{:.1}s", at.as_secs_f64()),
        (60..3_600, _) if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (3_600.., _) if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        (3_600.., _) if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ => text::duration(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::view::Colour;

    fn axis(length: Duration, columns: usize) -> Axis {
        let start = UnixNanos(1_000);
        let end = start.plus(length);
        Axis::new(Window { start, end }, columns)
    }

    fn drawn(columns: usize, charset: Charset, stretches: &[(Ink, u64, u64)]) -> String {
        let mut bar = axis(Duration::from_secs(10), columns).bar();
        for (ink, from, to) in stretches {
            let at = |millis: u64| UnixNanos(1_000).plus(Duration::from_millis(millis));
            bar.draw(*ink, at(*from), at(*to));
        }
        bar.render(&[0], Paint::Plain, View::new(80, charset, Colour::Off))
    }

    #[test]
    fn bars_have_a_resolution_of_half_a_column() {
        use Ink::{Frame, Wait, Work};
        type Case<'a> = (&'a [(Ink, u64, u64)], &'a str, &'a str);
        let table: [Case<'_>; 8] = [
            (&[(Frame, 0, 10_000)], "━━━━━━━━━━", "----------"),
            (&[(Work, 0, 5_000)], "█████     ", "#####     "),
            (&[(Work, 1_500, 3_500)], "·▐█▌      ", ".###      "),
            (&[(Work, 3_000, 3_000)], "·  ▌      ", ".  #      "),
            (&[(Work, 10_000, 10_000)], "·        ▐", ".        #"),
            (
                &[(Wait, 0, 2_000), (Work, 2_000, 4_000)],
                "░░██      ",
                "~~##      ",
            ),
            (&[(Frame, 2_500, 4_500)], "· ╺━╸     ", ". ---     "),
            (&[], "·         ", ".         "),
        ];
        for (stretches, unicode, ascii) in table {
            assert_eq!(drawn(10, Charset::Unicode, stretches), unicode);
            assert_eq!(drawn(10, Charset::Ascii, stretches), ascii);
        }
    }

    #[test]
    fn times_outside_the_window_stay_on_its_edges() {
        let mut bar = axis(Duration::from_secs(10), 5).bar();
        bar.draw(Ink::Work, UnixNanos(0), UnixNanos(5));
        bar.draw(Ink::Work, UnixNanos(u64::MAX), UnixNanos(u64::MAX));
        let view = View::new(80, Charset::Unicode, Colour::Off);
        assert_eq!(bar.render(&[], Paint::Plain, view), "▌   ▐");
    }

    #[test]
    fn ticks_are_round_and_keep_their_distance() {
        let table = [
            (0, 30, "0"),
            (41_200, 24, "0       15s      30s"),
            (41_200, 50, "0           10s         20s         30s"),
            (900, 40, "0        200ms    400ms   600ms    800ms"),
            (7_200_000, 40, "0         30m       1h        1h30m"),
            (3_000, 30, "0         1s        2s"),
        ];
        for (millis, columns, labels) in table {
            let shown = axis(Duration::from_millis(millis), columns).ticks().0;
            assert_eq!(shown, labels);
        }
    }

    #[test]
    fn any_length_gives_few_ticks() {
        let nanos = [
            0,
            1,
            7,
            999,
            123_456,
            5_000_000_000,
            86_400_000_000_000 * 400,
            u64::MAX,
        ];
        for length in nanos.map(Duration::from_nanos) {
            for columns in [10, 20, 200] {
                let (labels, ticks) = axis(length, columns).ticks();
                assert!(
                    (1..=columns / 4).contains(&ticks.len()),
                    "{length:?} {columns} {labels}"
                );
                assert!(labels.len() <= columns);
            }
        }
    }
}
