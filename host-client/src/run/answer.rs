//! What the model has written in a turn.

use crate::agent::Said;

/// What is kept of it, bytes: the end.
const LONGEST: usize = 64 * 1024;

/// The text of the agent itself, not of its subagents, growing.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    text: String,
    /// Behind it are pieces of a block that is yet to come whole.
    whole: usize,
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn hear(&mut self, said: &Said<'_>) {
        match said {
            Said::TextDelta(piece) => {
                if self.text.len() == self.whole {
                    self.separate();
                }
                self.text.push_str(piece);
            }
            Said::Text(block) => {
                // It replaces its pieces.
                self.text.truncate(self.whole);
                self.separate();
                self.text.push_str(block);
                self.whole = self.text.len();
            }
            // Agents that print nothing but the result.
            Said::Result(result) if self.text.is_empty() => {
                self.text.push_str(result.text.unwrap_or_default());
                self.whole = self.text.len();
            }
            _ => {}
        }
        self.shorten();
    }

    /// An empty line between two blocks. It belongs to the one that comes, so it goes with its pieces.
    fn separate(&mut self) {
        if !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
    }

    fn shorten(&mut self) {
        let Some(mut cut) = self.text.len().checked_sub(LONGEST) else {
            return;
        };
        if cut == 0 {
            return;
        }
        // More than must be, or each further piece would move everything again.
        cut += LONGEST / 4;
        while !self.text.is_char_boundary(cut) {
            cut += 1;
        }
        self.text.drain(..cut);
        self.whole = self.whole.saturating_sub(cut);
    }
}
