//! The benchmark's data set as files: people, their biographies, and the questions about them, as JSONL and as Parquet.
//!
//! Every person is computed when it is written, a block at a time, so that memory does not grow with the population, and the same seed gives the same
//! bytes wherever the same version runs.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Attribute, People, TEXT_STREAM, biography, questions};
use crate::checkpoint::atomic;
use crate::data::order::Random;
use crate::error::{Error, IoContext, Result};
use crate::files::hex;

/// Version of the data set's layout.
pub const FORMAT_VERSION: u32 = 1;
/// What describes a data set in its folder.
pub const DATASET_FILE: &str = "dataset.json";
/// People written at a time, and in a row group of a Parquet file.
const BLOCK: u64 = 8192;

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Parquet, compressed with Zstandard.
    Parquet,
}

impl Format {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Jsonl, Self::Parquet];

    /// The name on the command line, and the suffix.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// What a data set holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How many people.
    pub people: u64,
    /// Biographies of each.
    pub copies: u64,
    /// The seed of all of it.
    pub seed: u64,
    /// What was written.
    pub files: Vec<FileSummary>,
}

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSummary {
    /// Its name in the folder.
    pub name: String,
    /// Lines or rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in hexadecimal.
    pub sha256: String,
}

impl Dataset {
    /// What the data set in `folder` says about itself.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::File`] where it is none or of a newer version.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(DATASET_FILE);
        let text = std::fs::read_to_string(&path).at(&path)?;
        let found: Self = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("describes no data set: {e}")))?;
        if found.format_version != FORMAT_VERSION {
            let message = format!("format version {}, but this treering reads {FORMAT_VERSION}", found.format_version);
            return Err(Error::file(&path, message));
        }
        Ok(found)
    }
}

/// The three tables.
#[derive(Debug, Clone, Copy)]
enum Table {
    People,
    Biographies,
    Questions,
}

impl Table {
    const ALL: [Self; 3] = [Self::People, Self::Biographies, Self::Questions];

    fn name(self) -> &'static str {
        match self {
            Self::People => "people",
            Self::Biographies => "biographies",
            Self::Questions => "questions",
        }
    }

    /// Columns, and whether they hold whole numbers.
    fn columns(self) -> Vec<(&'static str, bool)> {
        match self {
            Self::People => [("person", true), ("name", false)].into_iter().chain(Attribute::ALL.map(|a| (a.as_str(), false))).collect(),
            Self::Biographies => vec![("person", true), ("copy", true), ("text", false)],
            Self::Questions => vec![("person", true), ("attribute", false), ("prompt", false), ("answer", false), ("text", false)],
        }
    }

    fn rows_a_person(self, copies: u64) -> u64 {
        match self {
            Self::People => 1,
            Self::Biographies => copies,
            Self::Questions => Attribute::ALL.len() as u64,
        }
    }

    /// The rows of a person.
    fn rows(self, people: &People, index: u64, copies: u64) -> Result<Vec<Vec<Cell>>> {
        let person = people.person(index)?;
        Ok(match self {
            Self::People => {
                let values = person.values.iter().map(|value| Cell::Text(value.clone()));
                vec![[Cell::Whole(index), Cell::Text(person.name.clone())].into_iter().chain(values).collect()]
            }
            Self::Biographies => (0..copies)
                .map(|copy| {
                    let text = biography(&person, &mut Random::new(people.seed.wrapping_add(copy), TEXT_STREAM + index));
                    vec![Cell::Whole(index), Cell::Whole(copy), Cell::Text(text)]
                })
                .collect(),
            Self::Questions => Attribute::ALL
                .into_iter()
                .zip(questions(&person))
                .map(|(attribute, (prompt, answer))| {
                    let text = format!("{prompt} {answer}");
                    let name = attribute.as_str().to_owned();
                    vec![Cell::Whole(index), Cell::Text(name), Cell::Text(prompt), Cell::Text(answer), Cell::Text(text)]
                })
                .collect(),
        })
    }
}

enum Cell {
    Whole(u64),
    Text(String),
}

/// Writes `people` with `copies` biographies of each into `folder`, each table in every one of `formats`, and a description at the end. `progress` is told
/// how many rows of how many are written, and ends the work with an error.
///
/// # Errors
/// [`Error::Usage`] where a data set is there already or nothing is asked for, [`Error::Io`], and whatever `progress` returns; no half file is left.
pub fn write(
    folder: &Path,
    people: &People,
    copies: u64,
    formats: &[Format],
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Dataset> {
    if people.is_empty() || copies == 0 || formats.is_empty() {
        return Err(Error::usage("a data set has at least one person, one biography of each and one format"));
    }
    let described = folder.join(DATASET_FILE);
    if described.exists() {
        return Err(Error::usage(format!(
            "{}: a data set is here already\n  hint: remove it, or choose another folder with --out",
            folder.display()
        )));
    }
    atomic::create_folders(folder)?;
    atomic::remove_leftovers(folder)?;
    let rows = |table: Table| people.len() * table.rows_a_person(copies);
    let total = Table::ALL.into_iter().map(rows).sum::<u64>() * formats.len() as u64;
    let (mut done, mut files) = (0, Vec::new());
    for table in Table::ALL {
        for &format in formats {
            let name = format!("{}.{}", table.name(), format.as_str());
            let path = folder.join(&name);
            let mut on_block = |written: u64| progress(done + written, total);
            let (bytes, sha256) = atomic::write_file(&path, |out| {
                let mut out = Hashed { out, hash: Sha256::new(), bytes: 0 };
                match format {
                    Format::Jsonl => jsonl(&path, table, people, copies, &mut out, &mut on_block)?,
                    Format::Parquet => parquet(&path, table, people, copies, &mut out, &mut on_block)?,
                }
                Ok((out.bytes, hex(out.hash.finalize())))
            })?;
            done += rows(table);
            files.push(FileSummary { name, rows: rows(table), bytes, sha256 });
        }
    }
    let dataset = Dataset { format_version: FORMAT_VERSION, people: people.len(), copies, seed: people.seed, files };
    let text = serde_json::to_string_pretty(&dataset).map_err(|e| Error::file(&described, e))? + "\n";
    atomic::write_file(&described, |out| out.write_all(text.as_bytes()).at(&described))?;
    Ok(dataset)
}

/// Counts and hashes what passes.
struct Hashed<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The first person of every block, and the one after its last.
fn blocks(people: &People) -> impl Iterator<Item = (u64, u64)> + use<> {
    let count = people.len();
    (0..count).step_by(BLOCK as usize).map(move |first| (first, count.min(first + BLOCK)))
}

fn jsonl(
    path: &Path,
    table: Table,
    people: &People,
    copies: u64,
    out: &mut impl Write,
    on_block: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let columns = table.columns();
    for (first, end) in blocks(people) {
        let lines = |index: u64| -> Result<String> {
            let mut lines = String::new();
            for row in table.rows(people, index, copies)? {
                let cells = columns.iter().zip(row).map(|((name, _), cell)| {
                    let value = match cell {
                        Cell::Whole(number) => Value::from(number),
                        Cell::Text(text) => Value::from(text),
                    };
                    format!("{}:{value}", Value::from(*name))
                });
                lines += &format!("{{{}}}\n", cells.collect::<Vec<_>>().join(","));
            }
            Ok(lines)
        };
        let block: Vec<String> = (first..end).into_par_iter().map(lines).collect::<Result<_>>()?;
        block.iter().try_for_each(|lines| out.write_all(lines.as_bytes())).at(path)?;
        on_block(end * table.rows_a_person(copies))?;
    }
    Ok(())
}

fn parquet(
    path: &Path,
    table: Table,
    people: &People,
    copies: u64,
    out: &mut (impl Write + Send),
    on_block: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let failed = |error: ParquetError| Error::file(path, format!("cannot be written as Parquet: {error}"));
    let columns = table.columns();
    let fields = columns
        .iter()
        .map(|&(name, whole)| {
            let physical = if whole { Physical::INT64 } else { Physical::BYTE_ARRAY };
            let logical = (!whole).then_some(parquet::basic::LogicalType::String);
            Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::REQUIRED)
                .with_logical_type(logical)
                .build()
                .map(Arc::new)
        })
        .collect::<std::result::Result<Vec<TypePtr>, ParquetError>>()
        .map_err(failed)?;
    let schema = Type::group_type_builder("schema").with_fields(fields).build().map_err(failed)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        // No text comes twice.
        .set_column_dictionary_enabled("text".into(), false)
        .set_column_dictionary_enabled("prompt".into(), false)
        .set_created_by(format!("treering {}", env!("CARGO_PKG_VERSION")))
        .build();
    let mut file = SerializedFileWriter::new(&mut *out, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
    for (first, end) in blocks(people) {
        let rows: Vec<Vec<Vec<Cell>>> =
            (first..end).into_par_iter().map(|index| table.rows(people, index, copies)).collect::<Result<_>>()?;
        let mut numbers: Vec<Vec<i64>> = columns.iter().map(|_| Vec::new()).collect();
        let mut texts: Vec<Vec<ByteArray>> = columns.iter().map(|_| Vec::new()).collect();
        for row in rows.into_iter().flatten() {
            for (column, cell) in row.into_iter().enumerate() {
                match cell {
                    Cell::Whole(number) => numbers[column].push(number as i64),
                    Cell::Text(text) => texts[column].push(text.into_bytes().into()),
                }
            }
        }
        let mut group = file.next_row_group().map_err(failed)?;
        let mut column = 0;
        while let Some(mut writer) = group.next_column().map_err(failed)? {
            if columns[column].1 {
                writer.typed::<Int64Type>().write_batch(&numbers[column], None, None).map_err(failed)?;
            } else {
                writer.typed::<ByteArrayType>().write_batch(&texts[column], None, None).map_err(failed)?;
            }
            writer.close().map_err(failed)?;
            column += 1;
        }
        group.close().map_err(failed)?;
        on_block(end * table.rows_a_person(copies))?;
    }
    file.close().map_err(failed)?;
    Ok(())
}
