//! Labelled lines, wrapped to the width of the page.

use super::text::{clean, columns, cut, wrap};
use super::view::{Charset, Paint, View};

/// Columns of the labels, gap included.
const LABEL: usize = 11;

/// The lines so far.
pub(super) struct Page {
    text: String,
    view: View,
}

impl Page {
    pub(super) fn new(view: View) -> Self {
        Self {
            text: String::new(),
            view,
        }
    }

    fn charset(&self) -> Charset {
        self.view.charset()
    }

    pub(super) fn pick(&self, unicode: &'static str, ascii: &'static str) -> &'static str {
        self.charset().pick(unicode, ascii)
    }

    pub(super) fn line(&mut self, label: &str, paint: Paint, text: &str) {
        let text = clean(text, self.charset());
        let lines = wrap(&text, self.view.width() - LABEL, self.charset());
        for (at, line) in lines.iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            self.put(label, paint, line);
        }
    }

    /// Short items, wrapped between them; nothing if there are none.
    pub(super) fn items(&mut self, label: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        let separator = self.pick(" · ", ", ");
        // A line that goes on ends with the separator, for which two columns are kept.
        let width = self.view.width() - LABEL - 2;
        let mut label = label;
        let mut line = String::new();
        for item in items {
            let item = cut(&clean(item, self.charset()), width, self.charset());
            if !line.is_empty() {
                line.push_str(separator);
                if columns(&line) + columns(&item) > width {
                    self.put(label, Paint::Plain, line.trim_end());
                    label = "";
                    line.clear();
                }
            }
            line.push_str(&item);
        }
        self.put(label, Paint::Plain, &line);
    }

    /// A path is for copying, so it is never cut.
    pub(super) fn uncut(&mut self, label: &str, text: &str) {
        let text = clean(text, self.charset());
        self.put(label, Paint::Plain, &text);
    }

    fn put(&mut self, label: &str, paint: Paint, text: &str) {
        let label = format!("{label:LABEL$}");
        let text = self.view.paint(paint, text);
        let line = format!("{}{text}", self.view.paint(Paint::Dim, &label));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}
