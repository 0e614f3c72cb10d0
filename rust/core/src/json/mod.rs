//! Changes and copied rows as JSON lines, for every sink that is not a database.
//!
//! Upstream: bodies of change envelopes, and COPY text rows, both as the source printed them.
//! Downstream: sinks, which get a block of whole lines for a whole body. Values are what `to_jsonb(row)`
//! of the server says, as JSON values; types that only the source knows, and of which nobody has told what
//! they are made of (enum, range, extension), are their text.
//!
//! Invariant: a line is one JSON object, in UTF-8, and holds no line feed but its last byte; the same
//! change gives the same line, whatever it came with. What routes make of one change is told apart by a
//! number behind its id.
//!
//! | file | what |
//! |---|---|
//! | `form` | built-in type → form of its values |
//! | `types` | domains, arrays and composite types of the source → those |
//! | `text`, `value`, `array`, `composite` | one value |
//! | `table` | what is the same for all lines of a table |
//! | `moment` | time of a commit |
//! | `lines` | a block of lines |
//! | `changes` | a body → lines |
//! | `rows` | COPY rows → lines |
//! | `requests` | lines → what goes out together |

mod array;
mod changes;
mod composite;
mod form;
mod lines;
mod moment;
mod requests;
mod rows;
mod table;
mod text;
mod types;
mod value;

pub use changes::Scribe;
pub use lines::{Lines, Mark};
pub use requests::{Request, requests};
pub use rows::{CopiedTable, RowScribe};
pub use types::{Shape, Types};
