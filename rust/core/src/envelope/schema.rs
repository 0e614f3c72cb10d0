//! Which Relation and Type messages a reader of the present envelope has not seen yet.
//!
//! The server describes a table once per connection; an envelope must be readable alone. So the messages
//! are kept as they came and written again before their first use in each envelope, a relation behind the
//! types of its columns. Holds one message per table and type of the group.

use std::collections::HashMap;

use super::body::{Body, framed_bytes};
use crate::error::Reason;
use crate::pgoutput::relation::FIRST_ANNOUNCED_TYPE_OID;
use crate::pgoutput::{Relation, Type};

struct Described {
    message: Vec<u8>,
    /// Number of the envelope that it was last written to; 0 = none.
    written_in: u64,
}

struct DescribedRelation {
    described: Described,
    /// Types of its columns that the server announces.
    type_oids: Vec<u32>,
}

pub(super) struct Schema {
    relations: HashMap<u32, DescribedRelation>,
    types: HashMap<u32, Described>,
    envelope_no: u64,
    /// The relation that was written last, known to be complete in this envelope.
    current_oid: Option<u32>,
}

impl Described {
    fn new(message: &[u8]) -> Self {
        Self {
            message: message.to_vec(),
            written_in: 0,
        }
    }

    fn missing_bytes(&self, envelope_no: u64) -> usize {
        if self.written_in == envelope_no {
            0
        } else {
            framed_bytes(&self.message)
        }
    }

    fn write(&mut self, envelope_no: u64, body: &mut Body) -> Result<(), Reason> {
        if self.written_in != envelope_no {
            body.push(&self.message)?;
            self.written_in = envelope_no;
        }
        Ok(())
    }
}

impl Schema {
    pub(super) fn new() -> Self {
        Self {
            relations: HashMap::new(),
            types: HashMap::new(),
            envelope_no: 1,
            current_oid: None,
        }
    }

    /// Forgets what was written: a new envelope starts.
    pub(super) const fn start_envelope(&mut self) {
        self.envelope_no += 1;
        self.current_oid = None;
    }

    /// Keeps a Relation. The server repeats it after every invalidation: an equal one changes nothing.
    pub(super) fn keep_relation(&mut self, relation: &Relation<'_>, message: &[u8]) {
        if self
            .relations
            .get(&relation.oid)
            .is_some_and(|known| known.described.message == message)
        {
            return;
        }
        let announced = relation.columns().map(|column| column.type_oid);
        let type_oids = announced
            .filter(|oid| *oid >= FIRST_ANNOUNCED_TYPE_OID)
            .collect();
        self.current_oid = None;
        self.relations.insert(
            relation.oid,
            DescribedRelation {
                described: Described::new(message),
                type_oids,
            },
        );
    }

    /// Keeps a Type. A changed one is written again together with the relations that use it.
    pub(super) fn keep_type(&mut self, announced: &Type<'_>, message: &[u8]) {
        if self
            .types
            .get(&announced.oid)
            .is_some_and(|known| known.message == message)
        {
            return;
        }
        self.current_oid = None;
        self.types.insert(announced.oid, Described::new(message));
        for relation in self
            .relations
            .values_mut()
            .filter(|known| known.type_oids.contains(&announced.oid))
        {
            relation.described.written_in = 0;
        }
    }

    /// Bytes that [`Schema::write`] would add for that relation, at most.
    #[inline]
    pub(super) fn missing_bytes(&self, relation_oid: u32) -> Result<usize, Reason> {
        if self.current_oid == Some(relation_oid) {
            return Ok(0);
        }
        let relation = self
            .relations
            .get(&relation_oid)
            .ok_or(Reason::UnknownRelation(relation_oid))?;
        if relation.described.written_in == self.envelope_no {
            return Ok(0);
        }
        let types = relation
            .type_oids
            .iter()
            .filter_map(|oid| self.types.get(oid));
        let types_bytes: usize = types
            .map(|known| known.missing_bytes(self.envelope_no))
            .sum();
        Ok(types_bytes + framed_bytes(&relation.described.message))
    }

    /// Writes what a reader of this envelope needs before a change of that relation.
    #[inline]
    pub(super) fn write(&mut self, relation_oid: u32, body: &mut Body) -> Result<(), Reason> {
        if self.current_oid == Some(relation_oid) {
            return Ok(());
        }
        let relation = self
            .relations
            .get_mut(&relation_oid)
            .ok_or(Reason::UnknownRelation(relation_oid))?;
        if relation.described.written_in != self.envelope_no {
            for oid in &relation.type_oids {
                // The server announces every type from the first announced OID on, but for a dropped one.
                if let Some(known) = self.types.get_mut(oid) {
                    known.write(self.envelope_no, body)?;
                }
            }
            relation.described.write(self.envelope_no, body)?;
        }
        self.current_oid = Some(relation_oid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Message;

    const OID: u32 = 7;
    const TYPE_OID: u32 = 20_000;

    fn relation(name: &str) -> Vec<u8> {
        let mut message = vec![b'R'];
        message.extend(OID.to_be_bytes());
        message.extend(format!("public\0{name}\0d").into_bytes());
        message.extend([0, 2]);
        for type_oid in [25, TYPE_OID] {
            message.extend(b"\0column\0");
            message.extend(type_oid.to_be_bytes());
            message.extend([0; 4]);
        }
        message
    }

    fn announced_type(name: &str) -> Vec<u8> {
        let mut message = vec![b'Y'];
        message.extend(TYPE_OID.to_be_bytes());
        message.extend(format!("public\0{name}\0").into_bytes());
        message
    }

    fn keep(schema: &mut Schema, message: &[u8]) {
        match Message::decode(message).unwrap() {
            Message::Relation(relation) => schema.keep_relation(&relation, message),
            Message::Type(announced) => schema.keep_type(&announced, message),
            other => panic!("{other:?}"),
        }
    }

    fn keep_all(schema: &mut Schema, messages: &[Vec<u8>]) {
        for message in messages {
            keep(schema, message);
        }
    }

    /// What one change adds to a body, which must be what was told before.
    fn written(schema: &mut Schema) -> Vec<Vec<u8>> {
        let mut body = Body::new(10_000);
        let told = schema.missing_bytes(OID).unwrap();
        schema.write(OID, &mut body).unwrap();
        assert_eq!(body.len(), told);
        let pieces = body.take();
        let frames = crate::pgoutput::Frames::new(crate::envelope::body_of(&pieces[0]));
        frames.map(|frame| frame.unwrap().1.to_vec()).collect()
    }

    #[test]
    fn a_relation_follows_its_types_once_in_every_envelope() {
        let mut schema = Schema::new();
        let both = [announced_type("mood"), relation("t")];
        keep_all(&mut schema, &both);
        for _ in 0..2 {
            assert_eq!(written(&mut schema), both);
            assert!(written(&mut schema).is_empty());
            schema.start_envelope();
        }
    }

    #[test]
    fn what_comes_again_unchanged_is_not_written_again() {
        let mut schema = Schema::new();
        let both = [announced_type("mood"), relation("t")];
        keep_all(&mut schema, &both);
        written(&mut schema);
        keep_all(&mut schema, &both);
        assert!(written(&mut schema).is_empty());
    }

    #[test]
    fn a_changed_relation_is_written_before_its_next_change() {
        let mut schema = Schema::new();
        keep(&mut schema, &relation("t"));
        written(&mut schema);
        keep(&mut schema, &relation("renamed"));
        assert_eq!(written(&mut schema), [relation("renamed")]);
    }

    #[test]
    fn a_renamed_type_is_written_again_with_the_relations_that_use_it() {
        let mut schema = Schema::new();
        keep(&mut schema, &announced_type("mood"));
        keep(&mut schema, &relation("t"));
        written(&mut schema);
        keep(&mut schema, &announced_type("temper"));
        assert_eq!(
            written(&mut schema),
            [announced_type("temper"), relation("t")]
        );
    }

    #[test]
    fn a_relation_that_was_never_described_is_refused() {
        let mut schema = Schema::new();
        let refused = Reason::UnknownRelation(OID);
        assert_eq!(schema.missing_bytes(OID), Err(refused));
        assert_eq!(schema.write(OID, &mut Body::new(10)), Err(refused));
    }
}
