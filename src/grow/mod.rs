//! To be written.
pub mod sizes;
