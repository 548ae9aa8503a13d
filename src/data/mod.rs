//! To be written.
pub mod batch;
