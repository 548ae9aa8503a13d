//! Whole rows of a Parquet file that is small enough to be in memory.

use std::sync::Arc;

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{AsBytes, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::record::Row;
use parquet::record::reader::RowIter;

use super::file::ParquetFile;
use super::group::CheckedGroup;
use super::thrift::damaged;
use super::{guarded, open};

/// The most values in all columns, a null and every part of a list among them.
const MAX_VALUES: u64 = 1 << 23;
/// The most bytes of all texts together, each as often as it stands in a row.
const MAX_TEXT_BYTES: u64 = 1 << 30;
/// Records taken at a time where only their length counts.
const RECORDS: usize = 1024;

/// The first `limit` rows of a file that has `most` at most.
///
/// # Errors
/// [`ParquetError`] where the file is damaged, or claims more rows, values or longer texts than can be kept: a few bytes can stand for any number of rows that
/// are alike.
pub fn rows(bytes: Vec<u8>, limit: usize, most: usize) -> Result<Vec<Row>, ParquetError> {
    let file = ParquetFile::of_bytes(Bytes::from(bytes))?;
    let reader = open(&file)?;
    let groups = reader.metadata().row_groups();
    let claimed = groups.iter().try_fold(0usize, |sum, group| sum.checked_add(usize::try_from(group.num_rows()).ok()?));
    if claimed.is_none_or(|claimed| claimed > most) {
        return Err(damaged(format!("it claims to have more than {most} rows")));
    }
    let (mut found, mut text_bytes) = (Vec::new(), 0);
    let [weighed, read] = [(); 2].map(|()| Arc::new(MAX_VALUES.into()));
    for metadata in groups {
        if found.len() >= limit {
            break;
        }
        let group = |left: &Arc<_>| CheckedGroup { file: &file, metadata, left: Arc::clone(left) };
        guarded(|| weigh(&group(&weighed), &mut text_bytes))?;
        let left = limit - found.len();
        found.extend(guarded(|| RowIter::from_row_group(None, &group(&read))?.take(left).collect::<Result<Vec<_>, _>>())?);
    }
    Ok(found)
}

/// Adds the bytes of a group's texts to `sum`, before any is copied: many rows may have one text of the file, which the parquet crate copies for each.
fn weigh(group: &CheckedGroup<'_>, sum: &mut u64) -> Result<(), ParquetError> {
    for column in 0..group.num_columns() {
        match group.get_column_reader(column)? {
            ColumnReader::ByteArrayColumnReader(reader) => weigh_column(reader, sum)?,
            ColumnReader::FixedLenByteArrayColumnReader(reader) => weigh_column(reader, sum)?,
            // Every other value has the same small size.
            _ => {}
        }
    }
    Ok(())
}

fn weigh_column<T: DataType>(mut reader: ColumnReaderImpl<T>, sum: &mut u64) -> Result<(), ParquetError> {
    let (mut defined, mut repeated, mut values): (Vec<i16>, Vec<i16>, Vec<T::T>) = Default::default();
    loop {
        defined.clear();
        repeated.clear();
        values.clear();
        let (records, _, levels) = reader.read_records(RECORDS, Some(&mut defined), Some(&mut repeated), &mut values)?;
        if records == 0 && levels == 0 {
            return Ok(());
        }
        *sum += values.iter().map(|value| value.as_bytes().len() as u64).sum::<u64>();
        if *sum > MAX_TEXT_BYTES {
            return Err(damaged(format!("its rows have more than {MAX_TEXT_BYTES} bytes of text")));
        }
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::{Compression, Encoding};
    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
    use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A file of these columns, in a group for each of `groups`.
    fn file(
        columns: &str,
        properties: WriterPropertiesBuilder,
        groups: usize,
        write: impl Fn(usize, &mut SerializedColumnWriter<'_>),
    ) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(&format!("message rows {{ {columns} }}")).unwrap());
        let mut out = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(properties.build())).unwrap();
        for _ in 0..groups {
            let mut group = writer.next_row_group().unwrap();
            let mut index = 0;
            while let Some(mut column) = group.next_column().unwrap() {
                write(index, &mut column);
                column.close().unwrap();
                index += 1;
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
        out
    }

    fn texts(of: &[&str]) -> Vec<ByteArray> {
        of.iter().map(|&text| ByteArray::from(text)).collect()
    }

    const COLUMNS: &str = "REQUIRED INT64 id; OPTIONAL BYTE_ARRAY question (UTF8); REQUIRED BOOLEAN fair; OPTIONAL DOUBLE share;
        OPTIONAL group choices (LIST) { REPEATED group list { OPTIONAL BYTE_ARRAY element (UTF8); } }";

    /// Two groups of three rows, with nulls and a list of none, one and two texts.
    fn table(properties: WriterPropertiesBuilder) -> Vec<u8> {
        file(COLUMNS, properties, 2, |index, column| {
            drop(match index {
                0 => column.typed::<Int64Type>().write_batch(&[1, -2, 3], None, None),
                1 => column.typed::<ByteArrayType>().write_batch(&texts(&["which?", "which one?"]), Some(&[1, 0, 1]), None),
                2 => column.typed::<BoolType>().write_batch(&[true, false, true], None, None),
                3 => column.typed::<DoubleType>().write_batch(&[0.5], Some(&[0, 1, 0]), None),
                _ => {
                    column.typed::<ByteArrayType>().write_batch(&texts(&["this", "that", "this"]), Some(&[0, 3, 3, 3]), Some(&[0, 0, 0, 1]))
                }
            });
        })
    }

    fn packings() -> impl Iterator<Item = WriterPropertiesBuilder> {
        let by = [
            Compression::UNCOMPRESSED,
            Compression::GZIP(Default::default()),
            Compression::BROTLI(Default::default()),
            Compression::SNAPPY,
        ];
        let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
        let each = by.into_iter().flat_map(move |by| versions.map(|version| (by, version)));
        each.flat_map(|(by, version)| {
            [true, false].map(|dictionary| {
                // Small pages, so that a column has some.
                let properties = WriterProperties::builder().set_data_page_row_count_limit(1).set_write_batch_size(1);
                properties.set_compression(by).set_writer_version(version).set_dictionary_enabled(dictionary)
            })
        })
    }

    #[test]
    fn rows_are_the_same_however_they_are_packed() {
        let one = [
            r#"{id: 1, question: "which?", fair: true, share: null, choices: null}"#,
            r#"{id: -2, question: null, fair: false, share: 0.5, choices: ["this"]}"#,
            r#"{id: 3, question: "which one?", fair: true, share: null, choices: ["that", "this"]}"#,
        ];
        let expected = [one, one].concat();
        for (index, properties) in packings().enumerate() {
            let bytes = table(properties);
            for limit in [0, 2, 3, 5, 6, 100] {
                let found: Vec<String> = rows(bytes.clone(), limit, 6).unwrap().iter().map(ToString::to_string).collect();
                assert_eq!(found, expected[..limit.min(6)], "{index}");
            }
            assert!(rows(bytes, 1, 5).unwrap_err().to_string().contains("more than 5 rows"));
        }
    }

    #[test]
    fn damage_is_an_error_or_goes_unnoticed() {
        for properties in packings() {
            let whole = table(properties);
            for at in 0..whole.len() {
                assert!(rows(whole[..at].to_vec(), 9, 9).is_err(), "cut at {at}");
                let mut flipped = whole.clone();
                flipped[at] ^= [0x01, 0x80, 0xff][at % 3];
                let _ = rows(flipped, 9, 9);
            }
        }
    }

    #[test]
    fn a_few_bytes_are_not_believed_to_be_any_number_of_rows() {
        let nulls = |count: usize| {
            let properties = WriterProperties::builder();
            file("OPTIONAL BYTE_ARRAY text (UTF8);", properties, 1, |_, column| {
                column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; count]), None).unwrap();
            })
        };
        assert_eq!(rows(nulls(2000), 1 << 20, 1 << 20).unwrap().len(), 2000);
        let many = nulls((1 << 20) + 1);
        assert!(many.len() < 4000, "{}", many.len());
        assert!(rows(many, usize::MAX, 1 << 20).unwrap_err().to_string().contains("more than 1048576 rows"));
    }

    #[test]
    fn one_row_does_not_hold_any_number_of_values() {
        let count = MAX_VALUES as usize + 1;
        let mut repeated = vec![1; count];
        repeated[0] = 0;
        let bytes = file("REPEATED BYTE_ARRAY text (UTF8);", WriterProperties::builder(), 1, |_, column| {
            let texts = vec![ByteArray::from("x"); count];
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&vec![1; count]), Some(&repeated)).unwrap();
        });
        assert!(bytes.len() < 20_000, "{}", bytes.len());
        assert!(rows(bytes, 9, 9).unwrap_err().to_string().contains("more are read at most"));
    }

    #[test]
    fn one_text_is_not_copied_for_any_number_of_rows() {
        let text = "x".repeat(1 << 20);
        let alike = |properties: WriterPropertiesBuilder, count: usize| {
            let properties = properties.set_compression(Compression::SNAPPY).set_dictionary_page_size_limit(1 << 22);
            file("REQUIRED BYTE_ARRAY text (UTF8);", properties, 1, |_, column| {
                column.typed::<ByteArrayType>().write_batch(&texts(&vec![text.as_str(); count]), None, None).unwrap();
            })
        };
        let dictionary = || WriterProperties::builder().set_dictionary_enabled(true);
        assert_eq!(rows(alike(dictionary(), 8), 9, 9).unwrap().len(), 8);
        let many = alike(dictionary(), 1025);
        assert!(many.len() < 200_000, "{}", many.len());
        assert!(rows(many, 9, 2000).unwrap_err().to_string().contains("more than 1073741824 bytes of text"));
        // Each says how much of it is as in the one before it: all.
        let deltas = || WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY);
        assert_eq!(rows(alike(deltas(), 8), 9, 9).unwrap().len(), 8);
        let properties = deltas().set_data_page_size_limit(1 << 30);
        assert!(rows(alike(properties, 300), 9, 2000).unwrap_err().to_string().contains("more are those of the texts before"));
    }
}
