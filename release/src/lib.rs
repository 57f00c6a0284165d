//! What do we promise? Measure, assemble, sign, log, verify.
