//! What stands in a line, change by change.

use std::collections::HashMap;

use pgflo_core::error::Reason;
use pgflo_core::json::{CopiedTable, Lines, RowScribe, Scribe};
use pgflo_core::{Lsn, Position};

use crate::bodies::{Body, NO_POSITION, OID, at};

const INCARNATION: [u8; 16] = [0x5f, 0x0c, 0x9a, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn scribe() -> Scribe {
    Scribe::new("shop", INCARNATION, HashMap::new())
}

/// The lines of a body, without what all of them have.
fn lines_after(scribe: &mut Scribe, body: &Body, prev: Position, after: Position) -> Vec<String> {
    let mut lines = Lines::new();
    scribe.write(&body.0, prev, after, &mut lines).unwrap();
    let text = String::from_utf8(lines.data).unwrap();
    let found: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(found.len() as u64, lines.count);
    found
}

fn lines(body: &Body) -> Vec<String> {
    lines_after(&mut scribe(), body, NO_POSITION, NO_POSITION)
}

/// The middle of the only line: from `op` on, up to the position.
fn told(body: &Body) -> String {
    let lines = lines(body);
    assert_eq!(lines.len(), 1);
    let line = lines.first().unwrap();
    let start = line.find("\"op\"").unwrap();
    let end = line.find(",\"commit_lsn\"").unwrap();
    line.get(start..end).unwrap().to_owned()
}

fn begun() -> Body {
    Body::default()
        .begin(100)
        .relation(OID, "t", &["body", "doc"])
}

#[test]
fn a_line_names_the_change_and_its_transaction() {
    let expected = concat!(
        r#"{"id":"shop:5f0c9a12:0/64:1","op":"insert","schema":"public","table":"t","#,
        r#""key":{"id":"1"},"new":{"id":"1","body":"a","doc":null},"commit_lsn":"0/64","ordinal":1,"#,
        r#""xid":0,"commit_time":"2000-01-01T00:00:00.000000+00:00","group":"shop"}"#
    );
    assert_eq!(lines(&begun().insert(OID, "1 a -")), [expected]);
}

#[test]
fn columns_that_were_not_sent_are_named_and_not_null() {
    assert_eq!(
        told(&begun().update(OID, None, "1 - ?")),
        r#""op":"update","schema":"public","table":"t","key":{"id":"1"},"new":{"id":"1","body":null},"unchanged":["doc"]"#
    );
}

#[test]
fn an_old_key_holds_the_key_alone_and_the_new_key_is_the_rows() {
    assert_eq!(
        told(&begun().update(OID, Some(("K", "1 - -")), "2 b c")),
        r#""op":"update","schema":"public","table":"t","key":{"id":"2"},"new":{"id":"2","body":"b","doc":"c"},"old":{"id":"1"}"#
    );
    assert_eq!(
        told(&begun().delete(OID, "1 - -")),
        r#""op":"delete","schema":"public","table":"t","key":{"id":"1"},"old":{"id":"1"}"#
    );
}

#[test]
fn a_key_kept_out_of_line_comes_from_the_old_row() {
    assert_eq!(
        told(&begun().update(OID, Some(("K", "1 - -")), "? b c")),
        r#""op":"update","schema":"public","table":"t","key":{"id":"1"},"new":{"id":"1","body":"b","doc":"c"},"old":{"id":"1"}"#
    );
}

#[test]
fn whole_old_rows_fill_what_was_not_sent_and_keys_are_the_primary_ones() {
    // REPLICA IDENTITY FULL: every column is marked as a key.
    let columns = b"\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF\x01doc\0\0\0\0\x19\xFF\xFF\xFF\xFF";
    let relation = [
        b"R",
        &OID.to_be_bytes()[..],
        b"public\0t\0f\0\x02",
        columns.as_slice(),
    ]
    .concat();
    let body = Body::default()
        .begin(100)
        .message(&relation)
        .update(OID, Some(("O", "1 x")), "1 ?");
    let new = r#""new":{"id":1,"doc":"x"},"old":{"id":1,"doc":"x"}"#;
    let bare = told(&body);
    assert!(bare.ends_with(&format!(r#""table":"t",{new}"#)), "{bare}");
    let keys = HashMap::from([(OID, vec!["id".to_owned()])]);
    let mut scribe = Scribe::new("shop", INCARNATION, keys);
    let found = lines_after(&mut scribe, &body, NO_POSITION, NO_POSITION);
    assert!(
        found
            .concat()
            .contains(&format!(r#""key":{{"id":1}},{new}"#)),
        "{found:?}"
    );
}

#[test]
fn a_truncate_of_several_tables_is_a_line_for_each_with_an_id_of_its_own() {
    let body = begun()
        .relation(OID + 1, "u", &[])
        .truncate(&[OID, OID + 1]);
    let found = lines(&body);
    let start = |id: &str, table: &str| {
        format!(
            r#"{{"id":"shop:5f0c9a12:0/64:1{id}","op":"truncate","schema":"public","table":"{table}","commit_lsn""#
        )
    };
    for (line, start) in found
        .iter()
        .zip([start(":public.t", "t"), start(":public.u", "u")])
    {
        assert!(line.starts_with(&start), "{line}");
    }
    assert_eq!(found.len(), 2);
    assert!(
        lines(&begun().truncate(&[OID]))
            .concat()
            .contains(r#":1","op":"truncate""#)
    );
}

#[test]
fn messages_are_no_lines_but_have_ordinals() {
    let found = lines(&begun().logical(true).logical(false).insert(OID, "1 a b"));
    assert!(
        found
            .concat()
            .starts_with(r#"{"id":"shop:5f0c9a12:0/64:2""#),
        "{found:?}"
    );
}

#[test]
fn changes_that_are_there_are_passed_over_and_ordinals_go_on_in_the_next_body() {
    let first = begun()
        .insert(OID, "1 a b")
        .insert(OID, "2 a b")
        .commit(100);
    let mut scribe = scribe();
    let found = lines_after(&mut scribe, &first, NO_POSITION, at(100, 1));
    assert!(
        found
            .concat()
            .starts_with(r#"{"id":"shop:5f0c9a12:0/64:2""#)
    );
    let rest = begun().insert(OID, "3 a b");
    let found = lines_after(&mut scribe, &rest, at(100, 2), at(100, 1));
    assert!(
        found
            .concat()
            .starts_with(r#"{"id":"shop:5f0c9a12:0/64:3""#)
    );
}

#[test]
fn what_cannot_be_printed_is_refused_with_its_place() {
    let refused = |body: Body| {
        let mut lines = Lines::new();
        scribe()
            .write(&body.0, NO_POSITION, NO_POSITION, &mut lines)
            .unwrap_err()
    };
    let unknown = refused(Body::default().begin(100).insert(OID, "1"));
    assert_eq!(unknown.reason, Reason::UnknownRelation(OID));
    let short = refused(begun().insert(OID, "1 a"));
    assert!(matches!(short.reason, Reason::OtherColumns { .. }));
    let binary = refused(begun().insert(OID, "1 #a b"));
    assert!(matches!(binary.reason, Reason::UnknownTag { .. }));
    assert!(binary.offset > 0);
}

fn copied() -> RowScribe {
    let table = CopiedTable {
        oid: OID,
        schema: "a b".to_owned(),
        name: "t".to_owned(),
        columns: vec![("id".to_owned(), 23), ("body".to_owned(), 25)],
        key: vec!["id".to_owned()],
        ..CopiedTable::default()
    };
    RowScribe::new(&scribe(), &table, Lsn(26), 3)
}

#[test]
fn copied_rows_are_inserts_of_a_snapshot_wherever_they_are_cut() {
    let rows = b"1\ta\\tb\\\\\\n\n2\t\\N\n3\t\\\\N\n";
    let line = |number: u8, body: &str| {
        format!(
            concat!(
                r#"{{"id":"shop:5f0c9a12:s:a%20b.t:0/1A:3:{0}","op":"insert","schema":"a b","table":"t","#,
                r#""key":{{"id":{0}}},"new":{{"id":{0},"body":{1}}},"snapshot":true,"#,
                r#""commit_lsn":"0/1A","ordinal":0,"group":"shop"}}"#
            ),
            number, body
        )
    };
    let expected = [
        line(1, r#""a\tb\\\n""#),
        line(2, "null"),
        line(3, r#""\\N""#),
    ]
    .join("\n");
    for size in 1..=rows.len() {
        let (mut scribe, mut lines) = (copied(), Lines::new());
        for piece in rows.chunks(size) {
            scribe.feed(piece, &mut lines).unwrap();
        }
        assert_eq!((scribe.finish(), scribe.rows()), (Ok(()), 3));
        assert_eq!(
            String::from_utf8(lines.data).unwrap(),
            format!("{expected}\n")
        );
    }
}

#[test]
fn rows_that_do_not_fit_their_table_or_do_not_end_are_refused() {
    let mut lines = Lines::new();
    let refused = copied().feed(b"1\n", &mut lines).unwrap_err();
    assert_eq!(
        refused.reason,
        Reason::OtherColumns {
            columns: 2,
            found: 1
        }
    );
    let mut open = copied();
    open.feed(b"1\ta", &mut lines).unwrap();
    assert!(open.finish().is_err());
}

#[test]
fn what_routes_make_of_one_change_have_ids_of_their_own() {
    let body = begun()
        .insert(OID, "1 a b")
        .message(b"=")
        .insert(OID, "1 a b")
        .insert(OID, "2 a b");
    let ids: Vec<String> = lines(&body)
        .iter()
        .filter_map(|line| line.get(7..)?.split('"').next().map(str::to_owned))
        .collect();
    let expected = ["0/64:1", "0/64:1:2", "0/64:2"].map(|id| format!("shop:5f0c9a12:{id}"));
    assert_eq!(ids, expected);
}
