//! The pgoutput decoder, against every message that a test encoder can write and every way to damage one.

#[cfg(test)]
mod tests {
    use pgflo_core::Lsn;
    use pgflo_core::envelope::{Messages, Reader};
    use pgflo_core::error::Reason;
    use pgflo_core::pgoutput::{Begin, Cell, Commit, Message, OldKind, Tuple};
    use pgflo_core::{Position, pgoutput};
    use proptest::prelude::*;

    /// A message that owns its bytes.
    #[derive(Debug, Clone, PartialEq)]
    enum Spec {
        Begin(u64, i64, u32),
        Commit(u64, u64, i64),
        Origin(u64, String),
        Relation(u32, String, String, u8, Vec<(bool, String, u32, i32)>),
        Type(u32, String, String),
        Insert(u32, Row),
        Update(u32, Option<(bool, Row)>, Row),
        Delete(u32, bool, Row),
        Truncate(bool, bool, Vec<u32>),
        Logical(bool, u64, String, Vec<u8>),
    }

    type Row = Vec<(u8, Vec<u8>)>;

    fn named(bytes: &mut Vec<u8>, name: &str) {
        bytes.extend(name.as_bytes());
        bytes.push(0);
    }

    fn row(bytes: &mut Vec<u8>, row: &Row) {
        bytes.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
        for (kind, content) in row {
            bytes.push(*kind);
            if matches!(kind, b't' | b'b') {
                bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
                bytes.extend(content);
            }
        }
    }

    impl Spec {
        fn encode(&self) -> Vec<u8> {
            let mut bytes = vec![];
            match self {
                Self::Begin(final_lsn, time, xid) => {
                    bytes.push(b'B');
                    bytes.extend(final_lsn.to_be_bytes());
                    bytes.extend(time.to_be_bytes());
                    bytes.extend(xid.to_be_bytes());
                }
                Self::Commit(commit_lsn, end_lsn, time) => {
                    bytes.extend(b"C\0");
                    bytes.extend(commit_lsn.to_be_bytes());
                    bytes.extend(end_lsn.to_be_bytes());
                    bytes.extend(time.to_be_bytes());
                }
                Self::Origin(lsn, name) => {
                    bytes.push(b'O');
                    bytes.extend(lsn.to_be_bytes());
                    named(&mut bytes, name);
                }
                Self::Relation(oid, schema, name, identity, columns) => {
                    bytes.push(b'R');
                    bytes.extend(oid.to_be_bytes());
                    named(&mut bytes, schema);
                    named(&mut bytes, name);
                    bytes.push(*identity);
                    bytes.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
                    for (key, name, type_oid, typmod) in columns {
                        bytes.push(u8::from(*key));
                        named(&mut bytes, name);
                        bytes.extend(type_oid.to_be_bytes());
                        bytes.extend(typmod.to_be_bytes());
                    }
                }
                Self::Type(oid, schema, name) => {
                    bytes.push(b'Y');
                    bytes.extend(oid.to_be_bytes());
                    named(&mut bytes, schema);
                    named(&mut bytes, name);
                }
                Self::Insert(oid, new) => {
                    bytes.push(b'I');
                    bytes.extend(oid.to_be_bytes());
                    bytes.push(b'N');
                    row(&mut bytes, new);
                }
                Self::Update(oid, old, new) => {
                    bytes.push(b'U');
                    bytes.extend(oid.to_be_bytes());
                    if let Some((is_key, old)) = old {
                        bytes.push(if *is_key { b'K' } else { b'O' });
                        row(&mut bytes, old);
                    }
                    bytes.push(b'N');
                    row(&mut bytes, new);
                }
                Self::Delete(oid, is_key, old) => {
                    bytes.push(b'D');
                    bytes.extend(oid.to_be_bytes());
                    bytes.push(if *is_key { b'K' } else { b'O' });
                    row(&mut bytes, old);
                }
                Self::Truncate(cascade, restart, oids) => {
                    bytes.push(b'T');
                    bytes.extend(u32::try_from(oids.len()).unwrap().to_be_bytes());
                    bytes.push(u8::from(*cascade) | u8::from(*restart) << 1);
                    bytes.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
                }
                Self::Logical(transactional, lsn, prefix, content) => {
                    bytes.extend([b'M', u8::from(*transactional)]);
                    bytes.extend(lsn.to_be_bytes());
                    named(&mut bytes, prefix);
                    bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
                    bytes.extend(content);
                }
            }
            bytes
        }

        fn of(message: &Message<'_>) -> Self {
            let is_key = |kind| kind == OldKind::Key;
            match message {
                Message::Begin(Begin {
                    final_lsn,
                    commit_time_us,
                    xid,
                }) => Self::Begin(final_lsn.0, *commit_time_us, *xid),
                Message::Commit(Commit {
                    commit_lsn,
                    end_lsn,
                    commit_time_us,
                }) => Self::Commit(commit_lsn.0, end_lsn.0, *commit_time_us),
                Message::Origin(origin) => {
                    Self::Origin(origin.origin_lsn.0, origin.name.to_owned())
                }
                Message::Relation(relation) => Self::Relation(
                    relation.oid,
                    relation.schema.to_owned(),
                    relation.name.to_owned(),
                    relation.replica_identity,
                    relation
                        .columns()
                        .map(|one| (one.key, one.name.to_owned(), one.type_oid, one.typmod))
                        .collect(),
                ),
                Message::Type(one) => {
                    Self::Type(one.oid, one.schema.to_owned(), one.name.to_owned())
                }
                Message::Insert(insert) => Self::Insert(insert.relation_oid, row_of(&insert.new)),
                Message::Update(update) => Self::Update(
                    update.relation_oid,
                    update.old.map(|(kind, old)| (is_key(kind), row_of(&old))),
                    row_of(&update.new),
                ),
                Message::Delete(delete) => Self::Delete(
                    delete.relation_oid,
                    is_key(delete.old_kind),
                    row_of(&delete.old),
                ),
                Message::Truncate(truncate) => Self::Truncate(
                    truncate.cascade,
                    truncate.restart_identity,
                    truncate.relation_oids().collect(),
                ),
                Message::Logical(logical) => Self::Logical(
                    logical.transactional,
                    logical.lsn.0,
                    logical.prefix.to_owned(),
                    logical.content.to_vec(),
                ),
            }
        }
    }

    fn row_of(tuple: &Tuple<'_>) -> Row {
        let cell = |cell| match cell {
            Cell::Null => (b'n', vec![]),
            Cell::Unchanged => (b'u', vec![]),
            Cell::Text(bytes) => (b't', bytes.to_vec()),
            Cell::Binary(bytes) => (b'b', bytes.to_vec()),
        };
        tuple.cells().map(cell).collect()
    }

    fn name() -> impl Strategy<Value = String> {
        "[^\\x00]{0,12}"
    }

    fn rows() -> impl Strategy<Value = Row> {
        let content = proptest::collection::vec(any::<u8>(), 0..40);
        let cell = (
            prop_oneof![Just(b'n'), Just(b'u'), Just(b't'), Just(b'b')],
            content,
        );
        let settled = cell.prop_map(|(kind, content)| match kind {
            b'n' | b'u' => (kind, vec![]),
            _ => (kind, content),
        });
        proptest::collection::vec(settled, 0..6)
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let column = (any::<bool>(), name(), any::<u32>(), any::<i32>());
        let columns = proptest::collection::vec(column, 0..5);
        let identity = prop_oneof![Just(b'd'), Just(b'n'), Just(b'f'), Just(b'i')];
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        let old = proptest::option::of((any::<bool>(), rows()));
        prop_oneof![
            any::<(u64, i64, u32)>().prop_map(|(lsn, time, xid)| Spec::Begin(lsn, time, xid)),
            any::<(u64, u64, i64)>().prop_map(|(lsn, end, time)| Spec::Commit(lsn, end, time)),
            (any::<u64>(), name()).prop_map(|(lsn, name)| Spec::Origin(lsn, name)),
            (any::<u32>(), name(), name(), identity, columns).prop_map(
                |(oid, schema, name, identity, columns)| {
                    Spec::Relation(oid, schema, name, identity, columns)
                }
            ),
            (any::<u32>(), name(), name()).prop_map(|(oid, ns, name)| Spec::Type(oid, ns, name)),
            (any::<u32>(), rows()).prop_map(|(oid, new)| Spec::Insert(oid, new)),
            (any::<u32>(), old, rows()).prop_map(|(oid, old, new)| Spec::Update(oid, old, new)),
            (any::<u32>(), any::<bool>(), rows())
                .prop_map(|(oid, key, old)| Spec::Delete(oid, key, old)),
            (
                any::<bool>(),
                any::<bool>(),
                proptest::collection::vec(any::<u32>(), 0..5)
            )
                .prop_map(|(cascade, restart, oids)| Spec::Truncate(cascade, restart, oids)),
            (any::<bool>(), any::<u64>(), name(), bytes)
                .prop_map(|(is_in, lsn, prefix, bytes)| Spec::Logical(is_in, lsn, prefix, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back_as_it_was_written(spec in spec()) {
            let bytes = spec.encode();
            prop_assert_eq!(Spec::of(&Message::decode(&bytes).unwrap()), spec);
        }

        #[test]
        fn a_message_cut_short_or_with_bytes_behind_is_refused(spec in spec(), tail in any::<u8>()) {
            let mut bytes = spec.encode();
            for length in 0..bytes.len() {
                prop_assert!(Message::decode(&bytes[..length]).is_err(), "{} bytes", length);
            }
            bytes.push(tail);
            let error = Message::decode(&bytes).unwrap_err();
            prop_assert_eq!(error.reason, Reason::TrailingBytes(1));
            prop_assert_eq!(error.offset, bytes.len() - 1);
        }

        #[test]
        fn damaged_bytes_are_refused_or_are_another_message(
            specs in proptest::collection::vec(spec(), 1..4),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut body = vec![];
            for spec in &specs {
                let bytes = spec.encode();
                body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend(bytes);
            }
            for (place, byte) in damage {
                let place = place.index(body.len());
                body[place] = byte;
            }
            // Whatever is still read is exactly what the bytes say: writing it gives them again.
            for (offset, message) in Messages::new(&body).map_while(Result::ok) {
                let bytes = Spec::of(&message).encode();
                prop_assert_eq!(&body[offset..offset + bytes.len()], &bytes[..]);
            }
            let read = Reader::new(&body, Position::new(Lsn(0), 0)).collect::<Vec<_>>();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok), "reading goes on behind an error");
        }

        #[test]
        fn noise_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Spec::of(&message).encode(), &bytes[..]);
            }
            let walked: usize = pgoutput::Frames::new(&bytes).flatten().map(|(_, one)| one.len()).sum();
            prop_assert!(walked <= bytes.len());
        }
    }
}
