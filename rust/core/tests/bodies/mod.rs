//! Bodies written by hand, message by message, for the tests of replay and of net effects.

use pgflo_core::{Lsn, Position};

pub const OID: u32 = 70_000;
pub const NO_POSITION: Position = Position::new(Lsn(0), 0);

pub fn at(commit_lsn: u64, ordinal: u64) -> Position {
    Position::new(Lsn(commit_lsn), ordinal)
}

/// A body that grows message by message.
#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn message(mut self, bytes: &[u8]) -> Self {
        self.0
            .extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn begin(self, commit_lsn: u64) -> Self {
        self.message(&[b"B", &commit_lsn.to_be_bytes()[..], &[0; 12]].concat())
    }

    pub fn commit(self, commit_lsn: u64) -> Self {
        let lsns = [commit_lsn.to_be_bytes(), (commit_lsn + 8).to_be_bytes()].concat();
        self.message(&[b"C\0", &lsns[..], &[0; 8]].concat())
    }

    /// A relation with one key column `id` and further columns of these names.
    pub fn relation(self, oid: u32, name: &str, further: &[&str]) -> Self {
        let mut bytes = [
            b"R",
            &oid.to_be_bytes()[..],
            b"public\0",
            name.as_bytes(),
            b"\0d",
        ]
        .concat();
        bytes.extend(u16::try_from(further.len() + 1).unwrap().to_be_bytes());
        for (number, column) in ["id"].iter().chain(further).enumerate() {
            bytes.push(u8::from(number == 0));
            bytes.extend([column.as_bytes(), b"\0"].concat());
            bytes.extend([25_u32.to_be_bytes(), (-1_i32).to_be_bytes()].concat());
        }
        self.message(&bytes)
    }

    pub fn insert(self, oid: u32, new: &str) -> Self {
        self.message(&[b"I", &oid.to_be_bytes()[..], b"N", &tuple(new)].concat())
    }

    pub fn update(self, oid: u32, old: Option<(&str, &str)>, new: &str) -> Self {
        let old = old.map_or(Vec::new(), |(kind, old)| {
            [kind.as_bytes(), &tuple(old)].concat()
        });
        self.message(&[b"U", &oid.to_be_bytes()[..], &old, b"N", &tuple(new)].concat())
    }

    pub fn delete(self, oid: u32, old: &str) -> Self {
        self.message(&[b"D", &oid.to_be_bytes()[..], b"K", &tuple(old)].concat())
    }

    /// What the worker notes in bodies: `~` and a count, `=`, `?` and a tag.
    pub fn note(self, note: &str) -> Self {
        match note.strip_prefix('~') {
            Some(count) => {
                let count: u32 = count.parse().unwrap();
                self.message(&[b"~", &count.to_be_bytes()[..]].concat())
            }
            None => self.message(note.as_bytes()),
        }
    }

    pub fn truncate(self, oids: &[u32]) -> Self {
        let count = u32::try_from(oids.len()).unwrap().to_be_bytes();
        let oids: Vec<u8> = oids.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        self.message(&[b"T", &count[..], &[2], &oids].concat())
    }

    pub fn logical(self, transactional: bool) -> Self {
        let flags = u8::from(transactional);
        self.message(
            &[
                b"M",
                &[flags][..],
                &[0; 8],
                b"note\0",
                &2_u32.to_be_bytes(),
                b"hi",
            ]
            .concat(),
        )
    }
}

/// Cells by letters: `-` null, `?` unchanged, `#x` binary x, anything else text.
fn tuple(cells: &str) -> Vec<u8> {
    let cells: Vec<&str> = cells.split(' ').collect();
    let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        let (kind, value) = match cell {
            "-" => (b'n', None),
            "?" => (b'u', None),
            _ => cell
                .strip_prefix('#')
                .map_or((b't', Some(cell)), |value| (b'b', Some(value))),
        };
        bytes.push(kind);
        if let Some(value) = value {
            bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(value.as_bytes());
        }
    }
    bytes
}
