//! Any bytes for an envelope. The checksum is looked at last, so that the fuzzer gets behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgflo_core::envelope::{HEADER_BYTES, Header, Reader, body_of};

fuzz_target!(|envelope: &[u8]| {
    let trusted = Header::read(envelope, true);
    match Header::read(envelope, false) {
        Err(error) => {
            assert!(trusted.is_err(), "with checksum it cannot be better");
            let _ = error.to_string();
        }
        Ok(mut header) => {
            assert!(envelope.len() >= HEADER_BYTES && header.part < header.parts);
            assert_eq!(body_of(envelope).len(), header.body_bytes as usize);
            let _ = Reader::check(&header, body_of(envelope));
            // What we write for the same header reads back, and differs in the checksum at most.
            let mut again = envelope.to_vec();
            assert!(header.seal(&mut again).is_ok());
            assert_eq!(Header::read(&again, true), Ok(header));
            assert_eq!(
                (&again[..12], &again[16..]),
                (&envelope[..12], &envelope[16..])
            );
            assert_eq!(trusted.is_ok(), again == envelope);
        }
    }
});
