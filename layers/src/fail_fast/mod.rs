//! fail_fast
