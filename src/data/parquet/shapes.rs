//! What a page's header and the metadata of a Parquet file are made of (parquet.thrift, as version 60.1 of the crate reads it): of each struct the fields
//! that a reader knows, by number.

/// How a value is written.
pub(super) enum Shape {
    /// An integer of 16, 32 or 64 bits, or a name that stands for one.
    Number,
    /// Eight bits.
    Byte,
    /// A float of 64 bits.
    Double,
    /// Bytes or text.
    Bytes,
    /// True or false.
    Truth,
    /// A struct, or a union: one of its fields.
    Struct(Fields),
    /// A node of a tree, before its children.
    Node(Fields),
    /// How many children a node has.
    Children,
    /// A list.
    List(&'static Shape),
}

/// Number and shape of each field.
pub(super) type Fields = &'static [(i16, Shape)];

use Shape::{Byte, Bytes, Children, Double, List, Node, Number, Struct, Truth};

const EMPTY: Shape = Struct(&[]);

/// The header of a page.
pub(super) const PAGE_HEADER: Fields = &[
    (1, Number),                                                                                 // type
    (2, Number),                                                                                 // uncompressed_page_size
    (3, Number),                                                                                 // compressed_page_size
    (4, Number),                                                                                 // crc
    (5, Struct(&[(1, Number), (2, Number), (3, Number), (4, Number), (5, Struct(STATISTICS))])), // data_page_header
    (6, EMPTY),                                                                                  // index_page_header
    (7, Struct(&[(1, Number), (2, Number), (3, Truth)])),                                        // dictionary_page_header
    (
        8, // data_page_header_v2
        Struct(&[(1, Number), (2, Number), (3, Number), (4, Number), (5, Number), (6, Number), (7, Truth), (8, Struct(STATISTICS))]),
    ),
];

/// The metadata at a file's end.
pub(super) const FILE_META_DATA: Fields = &[
    (1, Number),                                   // version
    (2, List(&Node(SCHEMA_ELEMENT))),              // schema
    (3, Number),                                   // num_rows
    (4, List(&Struct(ROW_GROUP))),                 // row_groups
    (5, List(&Struct(KEY_VALUE))),                 // key_value_metadata
    (6, Bytes),                                    // created_by
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY)]))), // column_orders
];

const SCHEMA_ELEMENT: Fields = &[
    (1, Number),   // type
    (2, Number),   // type_length
    (3, Number),   // repetition_type
    (4, Bytes),    // name
    (5, Children), // num_children
    (6, Number),   // converted_type
    (7, Number),   // scale
    (8, Number),   // precision
    (9, Number),   // field_id
    (10, Struct(LOGICAL_TYPE)),
];

/// `TIME` and `TIMESTAMP`: isAdjustedToUTC, and one of milli-, micro- and nanoseconds.
const TIME: Shape = Struct(&[(1, Truth), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

const LOGICAL_TYPE: Fields = &[
    (1, EMPTY),                               // STRING
    (2, EMPTY),                               // MAP
    (3, EMPTY),                               // LIST
    (4, EMPTY),                               // ENUM
    (5, Struct(&[(1, Number), (2, Number)])), // DECIMAL
    (6, EMPTY),                               // DATE
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Truth)])),   // INTEGER
    (11, EMPTY),                              // UNKNOWN
    (12, EMPTY),                              // JSON
    (13, EMPTY),                              // BSON
    (14, EMPTY),                              // UUID
    (15, EMPTY),                              // FLOAT16
    (16, Struct(&[(1, Byte)])),               // VARIANT
    (17, Struct(&[(1, Bytes)])),              // GEOMETRY
    (18, Struct(&[(1, Bytes), (2, Number)])), // GEOGRAPHY
];

const ROW_GROUP: Fields = &[
    (1, List(&Struct(COLUMN_CHUNK))),                           // columns
    (2, Number),                                                // total_byte_size
    (3, Number),                                                // num_rows
    (4, List(&Struct(&[(1, Number), (2, Truth), (3, Truth)]))), // sorting_columns
    (5, Number),                                                // file_offset
    (6, Number),                                                // total_compressed_size
    (7, Number),                                                // ordinal
];

const COLUMN_CHUNK: Fields = &[
    (1, Bytes),  // file_path
    (2, Number), // file_offset
    (3, Struct(COLUMN_META_DATA)),
    (4, Number), // offset_index_offset
    (5, Number), // offset_index_length
    (6, Number), // column_index_offset
    (7, Number), // column_index_length
];

const COLUMN_META_DATA: Fields = &[
    (1, Number),                   // type
    (2, List(&Number)),            // encodings
    (3, List(&Bytes)),             // path_in_schema
    (4, Number),                   // codec
    (5, Number),                   // num_values
    (6, Number),                   // total_uncompressed_size
    (7, Number),                   // total_compressed_size
    (8, List(&Struct(KEY_VALUE))), // key_value_metadata
    (9, Number),                   // data_page_offset
    (10, Number),                  // index_page_offset
    (11, Number),                  // dictionary_page_offset
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Number), (2, Number), (3, Number)]))), // encoding_stats
    (14, Number),                                                  // bloom_filter_offset
    (15, Number),                                                  // bloom_filter_length
    (16, Struct(&[(1, Number), (2, List(&Number)), (3, List(&Number))])), // size_statistics
    (17, Struct(&[(1, Struct(BOUNDING_BOX)), (2, List(&Number))])), // geospatial_statistics
];

const BOUNDING_BOX: Fields = &[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)];

const KEY_VALUE: Fields = &[(1, Bytes), (2, Bytes)];

const STATISTICS: Fields = &[
    (1, Bytes),  // max
    (2, Bytes),  // min
    (3, Number), // null_count
    (4, Number), // distinct_count
    (5, Bytes),  // max_value
    (6, Bytes),  // min_value
    (7, Truth),  // is_max_value_exact
    (8, Truth),  // is_min_value_exact
    (9, Number), // nan_count
];
