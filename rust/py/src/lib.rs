//! The Python face of pgflo-core and pgflo-pump: thin classes, one boundary.
#![forbid(unsafe_code)]

mod assembler;
mod boundary;
mod copy;
mod envelope;
mod error;
mod json;
mod lsn;
mod messages;
mod net;
mod pump;
mod replay;
mod rules;
mod split;
mod step;

use pyo3::prelude::*;

/// Native core of pgflo.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const PROFILE: &str = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    #[pymodule_export]
    use crate::error::{CoreError, DecodeError, EnvelopeError, RulesError};
    #[pymodule_export]
    use crate::json::{Events, JsonRows, JsonScribe};
    #[pymodule_export]
    use crate::lsn::{lsn_format, lsn_parse};

    #[pymodule_export]
    const KIND_CHANGES: u8 = crate::envelope::KIND_CHANGES;
    #[pymodule_export]
    const KIND_WATERMARK: u8 = crate::envelope::KIND_WATERMARK;
    #[pymodule_export]
    const KIND_COPY: u8 = crate::envelope::KIND_COPY;
    #[pymodule_export]
    const HEADER_BYTES: usize = pgflo_core::envelope::HEADER_BYTES;
    #[pymodule_export]
    use crate::assembler::Assembler;
    #[pymodule_export]
    use crate::copy::{BinaryToText, CopyPacker, has_binary_form};
    #[pymodule_export]
    use crate::envelope::{Envelope, Header, read_header};
    #[pymodule_export]
    use crate::messages::decode_messages;

    #[pymodule_export]
    use crate::pump::Pump;
    #[pymodule_export]
    const PUMP_MORE: u8 = crate::pump::PUMP_MORE;
    #[pymodule_export]
    const PUMP_IDLE: u8 = crate::pump::PUMP_IDLE;
    #[pymodule_export]
    const PUMP_END: u8 = crate::pump::PUMP_END;
    #[pymodule_export]
    const PUMP_FAILED: u8 = crate::pump::PUMP_FAILED;
    #[pymodule_export]
    use crate::net::{Group, NetEffect, Route};
    #[pymodule_export]
    use crate::replay::{Replay, Statement};
    #[pymodule_export]
    use crate::rules::{CopyRewriter, Program, Rewriter, Routed, RuleSet};
    #[pymodule_export]
    use crate::split::{Splitter, sift};
    #[pymodule_export]
    const HASH_VERSION: u32 = pgflo_core::apply::split::HASH_VERSION;
    #[pymodule_export]
    use crate::step::{Column, Relation, Shape, Step};
    #[pymodule_export]
    const STEP_DONE: u8 = crate::step::STEP_DONE;
    #[pymodule_export]
    const STEP_RELATION: u8 = crate::step::STEP_RELATION;
    #[pymodule_export]
    const STEP_STATEMENT: u8 = crate::step::STEP_STATEMENT;
    #[pymodule_export]
    const STEP_TRUNCATE: u8 = crate::step::STEP_TRUNCATE;
    #[pymodule_export]
    const STEP_MESSAGE: u8 = crate::step::STEP_MESSAGE;
    #[pymodule_export]
    const STEP_FAILED: u8 = crate::step::STEP_FAILED;
}
