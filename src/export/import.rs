//! The way back: the rings of an exported model, perhaps trained further with other tools, as expansions on the base they grew around.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::widened::Widened;
use crate::checkpoint::{BaseCheckpoint, Dtype, atomic};
use crate::error::{Error, Result};
use crate::grow::file::{self, BaseReference, Expansion, Manifest};
use crate::grow::layout;
use crate::grow::ring::{Ring, RingReference, Standing};
use crate::hub;
use crate::model::Head;

/// The folder of a base that was taken along, in the folder of the newest ring.
pub const BASE_FOLDER: &str = "base";

/// What was imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Imported {
    /// The base that the rings stand on.
    pub base: BaseReference,
    /// Whether the folder's values of the base or of a ring had been rounded to bf16.
    pub rounded: bool,
    /// From the innermost out.
    pub rings: Vec<ImportedRing>,
}

/// A ring that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportedRing {
    /// Its number, from 1.
    pub ring: usize,
    /// The head that speaks for it.
    pub head: Head,
    /// Its folder.
    pub path: PathBuf,
    /// Its hash.
    pub sha256: String,
    /// Its hash when it was exported.
    pub exported_sha256: String,
    /// Whether it is what it was then, bit for bit.
    pub unchanged: bool,
    /// Values in it.
    pub parameter_count: u64,
}

/// What the rings shall stand on.
pub enum Ground<'a> {
    /// The base that they grew around.
    Base(&'a BaseCheckpoint),
    /// The exported folder's own base, written beside the newest ring.
    Own,
}

/// The folder of ring `ring` of `count`, in the folder of the newest.
fn ring_folder(ring: usize, count: usize) -> String {
    if ring == count { String::new() } else { format!("ring-{ring}") }
}

/// Writes the rings of `widened` to the new folder `out`, whole or not at all: the newest is `out` itself, those within are folders in it.
///
/// # Errors
/// [`Error::File`] where the base is another one than the model was exported with, where it or an inner ring was trained since then, by tensor or ring;
/// [`Error::Io`] where `out` is there already or cannot be written.
pub fn import(source: &Path, widened: &Widened, ground: &Ground<'_>, out: &Path) -> Result<Imported> {
    let base_rounded = match ground {
        Ground::Base(base) => check_base(source, widened, base)?,
        Ground::Own => false,
    };
    let count = widened.rings.len();
    let heads = Head::of_rings(count);
    let mut rounded = base_rounded;
    let mut rings = Vec::with_capacity(count);
    for (index, (ring, made)) in widened.rings.iter().zip(&widened.provenance.rings).enumerate() {
        let (number, sha256) = (index + 1, ring.reference.sha256.clone());
        let is_bf16 = is_rounded(ring);
        rounded |= is_bf16;
        if sha256 != made.sha256 && number < count && !is_bf16 {
            return Err(Error::file(
                source,
                format!(
                    "ring {number} was changed since it was exported: its SHA-256 is {sha256}, and was {}\n  hint: the rings around it were taught on what it \
                     was; only the newest ring may be trained further, as it is when the model has just been loaded",
                    made.sha256
                ),
            ));
        }
        let parameter_count = ring.parameters.iter().map(|p| p.value.len() as u64).sum();
        let path = if number == count { out.to_path_buf() } else { out.join(ring_folder(number, count)) };
        let exported_sha256 = made.sha256.clone();
        let unchanged = exported_sha256 == sha256;
        rings.push(ImportedRing { ring: number, head: heads[number], path, sha256, exported_sha256, unchanged, parameter_count });
    }
    let base = atomic::write_dir(out, |folder| {
        let (reference, shown) = match ground {
            Ground::Base(base) => {
                let path = hub::absolute(base.path()).map_err(|error| Error::io(base.path(), error))?;
                let reference = BaseReference { path, sha256: base.sha256()? };
                (reference.clone(), reference)
            }
            Ground::Own => {
                let path = folder.join(BASE_FOLDER);
                widened.base.save_hf(&path, Dtype::F32)?;
                let sha256 = BaseCheckpoint::open(&path)?.sha256()?;
                (BaseReference { path: BASE_FOLDER.into(), sha256: sha256.clone() }, BaseReference { path: out.join(BASE_FOLDER), sha256 })
            }
        };
        for (index, ring) in widened.rings.iter().enumerate() {
            let newest = index + 1 == count;
            // Relative paths start at the folder that names them, so that all of it can be moved.
            let up = |path: PathBuf| if newest { path } else { Path::new("..").join(path) };
            let base = BaseReference {
                path: if reference.path.is_relative() { up(reference.path.clone()) } else { reference.path.clone() },
                ..reference.clone()
            };
            let inner = (0..index).map(|inner| RingReference {
                path: up(ring_folder(inner + 1, count).into()),
                sha256: widened.rings[inner].reference.sha256.clone(),
            });
            let made = &widened.provenance.rings[index];
            let standing = Standing { base, rings: inner.collect() };
            let manifest = Manifest::new(ring.growth.clone(), made.init, made.seed, standing, &ring.parameters);
            let expansion = Expansion { manifest, parameters: ring.parameters.clone() };
            if newest {
                file::write_into(folder, &expansion)?;
            } else {
                file::save(folder.join(ring_folder(index + 1, count)), &expansion)?;
            }
        }
        Ok(shown)
    })?;
    Ok(Imported { base, rounded, rings })
}

/// Checks that `base` is the one that the model was exported with and that the folder still has its values; returns whether it has them rounded.
fn check_base(source: &Path, widened: &Widened, base: &BaseCheckpoint) -> Result<bool> {
    let (exported, sha256) = (&widened.provenance.base, base.sha256()?);
    if exported.sha256 != sha256 {
        return Err(Error::file(
            base.path(),
            format!(
                "has the SHA-256 {sha256}, and {} was exported with a base of {} (then at {}): it is another model\n  hint: --base says where the right one \
                 is; --with-base takes the base from the folder instead",
                source.display(),
                exported.sha256,
                exported.path.display()
            ),
        ));
    }
    let mut rounded = false;
    for e in layout::base_parameters(base.config()) {
        let (ours, theirs) = (base.tensor(&e.name, &e.shape)?, widened.base.tensor(&e.name, &e.shape)?);
        let differs = |value: fn(f32) -> f32| ours.iter().zip(&theirs).any(|(a, b)| value(*a).to_bits() != b.to_bits());
        if differs(|v| v) {
            if differs(|v| half::bf16::from_f32(v).to_f32()) {
                return Err(Error::file(
                    source,
                    format!(
                        "the base's tensor `{}` was changed since it was exported, so the rings no longer stand on {}\n  hint: the base is frozen when the \
                         model has just been loaded; --with-base takes the changed base as a base of its own",
                        e.name,
                        base.path().display()
                    ),
                ));
            }
            rounded = true;
        }
    }
    Ok(rounded)
}

/// Whether every value is one of bf16's.
fn is_rounded(ring: &Ring) -> bool {
    ring.parameters.iter().flat_map(|p| &p.value).all(|v| v.to_bits() & 0xffff == 0)
}
