//! The core's errors as Python exceptions: `CoreError` and its two children, with place and reason.

use pgflo_core::CoreError as Refusal;
use pgflo_core::error::{DecodeError as DecodeRefusal, EnvelopeError as EnvelopeRefusal};
use pgflo_core::lsn::NotAnLsn;
use pgflo_core::rules::RuleError as RuleRefusal;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(pgflo._core, CoreError, PyException, "The core refused.");
create_exception!(
    pgflo._core,
    DecodeError,
    CoreError,
    "PostgreSQL sent what cannot be used."
);
create_exception!(
    pgflo._core,
    EnvelopeError,
    CoreError,
    "An envelope is damaged, or a call is out of order."
);
create_exception!(
    pgflo._core,
    RulesError,
    CoreError,
    "Rules do not fit the rows that come. `mistakes`: (where the rule was written, what is wrong)."
);

/// An error that knows its exception.
pub trait Raise {
    /// The exception to raise.
    fn raise(self, py: Python<'_>) -> PyErr;
}

impl Raise for Refusal {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Decode(error) => error.raise(py),
            Self::Envelope(error) => error.raise(py),
            Self::Rules(error) => error.raise(py),
        }
    }
}

impl Raise for DecodeRefusal {
    fn raise(self, py: Python<'_>) -> PyErr {
        let error = DecodeError::new_err(self.to_string());
        placed(
            py,
            error,
            self.offset,
            &self.message_kind.to_string(),
            &self.reason.to_string(),
        )
    }
}

impl Raise for EnvelopeRefusal {
    fn raise(self, py: Python<'_>) -> PyErr {
        let reason = self.to_string();
        placed(py, EnvelopeError::new_err(reason.clone()), 0, "", &reason)
    }
}

impl Raise for RuleRefusal {
    fn raise(self, py: Python<'_>) -> PyErr {
        let reason = self.to_string();
        let error = placed(py, RulesError::new_err(reason.clone()), 0, "", &reason);
        let mistakes: Vec<(String, String)> = self
            .mistakes
            .into_iter()
            .map(|mistake| (mistake.label, mistake.text))
            .collect();
        let position = self.position.map(|at| (at.commit_lsn.0, at.ordinal));
        let value = error.value(py);
        let set = value
            .setattr("table", self.table.to_string())
            .and_then(|()| value.setattr("mistakes", mistakes))
            .and_then(|()| value.setattr("position", position));
        set.err().unwrap_or(error)
    }
}

impl Raise for NotAnLsn {
    fn raise(self, py: Python<'_>) -> PyErr {
        raise_plain(py, &self.to_string())
    }
}

/// A `CoreError` that has no place in any input.
pub fn raise_plain(py: Python<'_>, reason: &str) -> PyErr {
    placed(py, CoreError::new_err(reason.to_owned()), 0, "", reason)
}

/// Sets the attributes that every `CoreError` has.
fn placed(py: Python<'_>, error: PyErr, offset: usize, message_kind: &str, reason: &str) -> PyErr {
    let value = error.value(py);
    let set = value
        .setattr("offset", offset)
        .and_then(|()| value.setattr("message_kind", message_kind))
        .and_then(|()| value.setattr("reason", reason));
    set.err().unwrap_or(error)
}
