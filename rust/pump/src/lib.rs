//! Drains and feeds a libpq connection that somebody else opened: the only unsafe code of pgflo.
