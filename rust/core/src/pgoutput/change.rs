//! Changes of one row.
//!
//! ```text
//! Insert: u32 relation_oid, 'N' tuple
//! Update: u32 relation_oid, optional 'K' or 'O' tuple, 'N' tuple
//! Delete: u32 relation_oid, 'K' or 'O' tuple
//! ```

use super::cursor::Cursor;
use super::tuple::Tuple;
use crate::error::Reason;

/// What an old tuple holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKind {
    /// The columns of the replica identity; the others are null.
    Key,
    /// The whole row (REPLICA IDENTITY FULL).
    Row,
}

impl OldKind {
    /// Its byte on the wire, `K` or `O`.
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::Key => b'K',
            Self::Row => b'O',
        }
    }

    const fn from_tag(tag: u8) -> Result<Self, Reason> {
        match tag {
            b'K' => Ok(Self::Key),
            b'O' => Ok(Self::Row),
            value => Err(Reason::UnknownTag {
                field: "tuple",
                value,
            }),
        }
    }
}

/// A new row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// Which table.
    pub relation_oid: u32,
    /// The row.
    pub new: Tuple<'a>,
}

/// A changed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// Which table.
    pub relation_oid: u32,
    /// The row before, if the key changed or is kept out of line (TOAST), or the identity is the whole row.
    pub old: Option<(OldKind, Tuple<'a>)>,
    /// The row after.
    pub new: Tuple<'a>,
}

/// A row that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// Which table.
    pub relation_oid: u32,
    /// What `old` holds.
    pub old_kind: OldKind,
    /// The row before.
    pub old: Tuple<'a>,
}

impl<'a> Insert<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let relation_oid = body.u32()?;
        let tag = body.u8()?;
        Ok(Self {
            relation_oid,
            new: new_tuple(tag, body)?,
        })
    }
}

impl<'a> Update<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let relation_oid = body.u32()?;
        let mut tag = body.u8()?;
        let mut old = None;
        if tag != b'N' {
            old = Some((OldKind::from_tag(tag)?, Tuple::decode(body)?));
            tag = body.u8()?;
        }
        Ok(Self {
            relation_oid,
            old,
            new: new_tuple(tag, body)?,
        })
    }
}

impl<'a> Delete<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let relation_oid = body.u32()?;
        let old_kind = OldKind::from_tag(body.u8()?)?;
        Ok(Self {
            relation_oid,
            old_kind,
            old: Tuple::decode(body)?,
        })
    }
}

fn new_tuple<'a>(tag: u8, body: &mut Cursor<'a>) -> Result<Tuple<'a>, Reason> {
    if tag != b'N' {
        return Err(Reason::UnknownTag {
            field: "tuple",
            value: tag,
        });
    }
    Tuple::decode(body)
}
