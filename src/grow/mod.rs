//! Growing a base: how much, where, from which values, and what it will cost.
//!
//! [`sizes`] says how much wider, [`placement`] where the base stream is added to, [`layout`] which parameters that makes, [`init`] their first values
//! (with [`spectrum`] for the directions of the base's own weights), [`mod@file`] how they are kept, [`ring`] what a further ring stands on, [`plan`] what training them takes,
//! [`verify`] whether the base is still what it was.

pub mod file;
pub mod init;
pub mod initialisation;
pub mod layout;
pub mod placement;
pub mod plan;
pub mod ring;
pub mod sizes;
pub mod spectrum;
pub mod verify;

pub use init::{initialise, initialise_ring};
pub use initialisation::{Initial, Initialisation};
pub use placement::{Module, Placement};
pub use ring::Ring;
pub use sizes::{Given, Growth, Sizes};
