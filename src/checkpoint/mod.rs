//! To be written.

/// Stub: see the module's author.
pub struct Config;
/// Stub: see the module's author.
pub struct BaseCheckpoint;
