//! The copy packer, against any rows in any blocks.

#[cfg(test)]
mod tests {
    use pgflo_core::Lsn;
    use pgflo_core::copy::CopyPacker;
    use pgflo_core::envelope::{CopyFields, Header, Kind, Sizes, body_of};
    use pgflo_core::error::EnvelopeError;
    use proptest::prelude::*;

    const INCARNATION: [u8; 16] = [7; 16];

    fn attempt() -> CopyFields {
        CopyFields {
            relation_oid: 1,
            range_no: 2,
            attempt: 3,
            snapshot_lsn: Lsn(4),
            ..CopyFields::default()
        }
    }

    fn packer(target_body_bytes: usize) -> CopyPacker {
        CopyPacker::new(
            INCARNATION,
            attempt(),
            Sizes::new(target_body_bytes, 4096).unwrap(),
        )
    }

    proptest! {
        #[test]
        fn bodies_concatenate_to_the_rows_and_row_counts_add_up(
            target in 1..300_usize,
            blocks in proptest::collection::vec((1..700_usize, 1..9_u64), 0..12),
        ) {
            let mut packer = packer(target);
            let (mut rows, mut row_count, mut envelopes) = (vec![], 0, vec![]);
            for (byte, (bytes, count)) in (0..).zip(blocks) {
                let block = vec![byte; bytes];
                envelopes.extend(packer.feed(&block, count).unwrap());
                rows.extend(block);
                row_count += count;
            }
            prop_assert!(envelopes.iter().all(|envelope| body_of(envelope).len() == target));
            envelopes.push(packer.finish().unwrap());
            prop_assert_eq!((packer.rows(), packer.bytes()), (row_count, rows.len() as u64));
            let bodies: Vec<u8> = envelopes.iter().flat_map(|envelope| body_of(envelope)).copied().collect();
            prop_assert_eq!(bodies, rows);
            let mut rows_left = row_count;
            let last = u32::try_from(envelopes.len()).unwrap() - 1;
            for (part_no, envelope) in (0..).zip(&envelopes) {
                let header = Header::read(envelope, true).unwrap();
                rows_left -= header.copy.rows;
                let is_final = part_no == last;
                let copy = CopyFields {
                    part_no,
                    is_final,
                    rows: header.copy.rows,
                    total_rows: if is_final { row_count } else { 0 },
                    ..attempt()
                };
                prop_assert_eq!((header.kind, header.copy), (Kind::Copy, copy));
            }
            prop_assert_eq!(rows_left, 0);
        }
    }

    #[test]
    fn an_empty_range_has_one_final_part_without_rows() {
        let envelope = packer(100).finish().unwrap();
        let header = Header::read(&envelope, true).unwrap();
        assert!(header.copy.is_final && body_of(&envelope).is_empty());
        assert_eq!((header.copy.rows, header.copy.total_rows), (0, 0));
    }

    #[test]
    fn nothing_is_taken_after_the_final_part() {
        let mut packer = packer(100);
        packer.finish().unwrap();
        assert!(matches!(
            packer.feed(b"row\n", 1),
            Err(EnvelopeError::Finished(_))
        ));
        assert!(matches!(packer.finish(), Err(EnvelopeError::Finished(_))));
    }

    #[test]
    fn rows_without_bytes_are_refused_and_a_trailer_without_rows_is_taken() {
        let mut packer = packer(100);
        assert!(matches!(
            packer.feed(b"", 1),
            Err(EnvelopeError::BadSetting(_))
        ));
        assert_eq!(packer.feed(b"\xFF\xFF", 0), Ok(vec![]));
        assert_eq!(body_of(&packer.finish().unwrap()), b"\xFF\xFF");
    }
}
