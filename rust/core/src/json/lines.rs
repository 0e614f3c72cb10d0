//! A block of whole JSON lines, and where each of them stands in it.
//!
//! Upstream: `changes` and `rows` append. Downstream: sinks take the block; `requests` cuts it by the marks.

/// Lines that grow.
#[derive(Debug, Default)]
pub struct Lines {
    /// All lines, each with its line feed.
    pub data: Vec<u8>,
    /// Number of lines.
    pub count: u64,
    /// A mark for each line, if they are wanted.
    pub marks: Vec<Mark>,
    is_marked: bool,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Behind its line feed.
    pub end: usize,
    /// Length of its id, which needs no escapes.
    pub id_bytes: usize,
    /// Lines with the same number keep their order; one without stands alone, behind all before it.
    pub order: Option<u64>,
}

/// In front of every id.
pub(super) const ID_START: &[u8] = b"{\"id\":\"";

impl Lines {
    /// No lines yet, and no marks wanted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No lines yet; they are marked.
    #[must_use]
    pub fn marked() -> Self {
        Self {
            is_marked: true,
            ..Self::default()
        }
    }

    pub(super) const fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// Books the line that was appended last.
    pub(super) fn end_line(&mut self, id_bytes: usize, order: Option<u64>) {
        self.count += 1;
        if self.is_marked {
            self.marks.push(Mark {
                end: self.data.len(),
                id_bytes,
                order,
            });
        }
    }
}
