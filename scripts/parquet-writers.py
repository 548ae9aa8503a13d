#!/usr/bin/env python3
"""Reads Parquet files as four programs write them (versions, page versions, compressions, encodings, column kinds of all sorts beside the text), and checks
that a model says the same of each as of the same texts in JSONL. Needs a release build, a model with a tokenizer (the quickstart's does), and

    pip install pyarrow polars duckdb fastparquet pandas
    target/release/treering quickstart --out /tmp/quickstart
    python3 scripts/parquet-writers.py /tmp/quickstart/base

Prints one JSON object; exit status 1 where a file is read otherwise.
"""

import datetime
import decimal
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import duckdb
import fastparquet
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 600


def table(texts):
    """The texts beside columns of every kind that has a shape of its own in the metadata."""
    numbers = list(range(ROWS))
    start = datetime.datetime(2020, 1, 1)
    return pa.table(
        {
            "id": numbers,
            "text": texts,
            "float": [float(n) for n in numbers],
            "half": pa.array([1.5] * ROWS, pa.float16()),
            "truth": [n % 2 == 0 for n in numbers],
            "byte": pa.array([1] * ROWS, pa.uint8()),
            "bytes": [b"x"] * ROWS,
            "timestamp": pa.array([start + datetime.timedelta(seconds=n) for n in numbers], pa.timestamp("us", tz="UTC")),
            "date": [start.date()] * ROWS,
            "time": pa.array([datetime.time(1, 2, 3)] * ROWS, pa.time64("us")),
            "decimal": [decimal.Decimal("1.23")] * ROWS,
            "list": [[1, 2], [3]] * (ROWS // 2),
            "struct": [{"a": 1, "b": "x"}] * ROWS,
            "map": pa.array([[("k", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
        }
    )


def write(folder, texts):
    """All files."""
    whole = table(texts)
    plain = whole.select(["id", "text"])
    choices = itertools.product(["1.0", "2.4", "2.6"], ["1.0", "2.0"], ["none", "snappy", "gzip", "zstd", "lz4", "brotli"], [True, False])
    for number, (version, pages, compression, dictionary) in enumerate(choices):
        pq.write_table(
            whole,
            folder / f"pyarrow-{version}-{pages}-{compression}-{'dictionary' if dictionary else 'plain'}.parquet",
            version=version,
            data_page_version=pages,
            compression=compression,
            use_dictionary=dictionary,
            row_group_size=250,
            data_page_size=4096,
            write_page_index=number % 4 < 2,
            write_page_checksum=number % 3 == 0,
            sorting_columns=[pq.SortingColumn(0)] if number % 4 < 2 else None,
        )
    for encoding, pages in itertools.product(["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"], ["1.0", "2.0"]):
        kinds = [("nullable", plain)]
        if None not in texts:
            kinds.append(("required", plain.cast(pa.schema([field.with_nullable(False) for field in plain.schema]))))
        for kind, what in kinds:
            path = folder / f"pyarrow-{encoding}-{pages}-{kind}.parquet"
            pq.write_table(what, path, use_dictionary=False, column_encoding={"text": encoding}, data_page_version=pages, data_page_size=4096)
    polars.from_arrow(plain).write_parquet(folder / "polars.parquet")
    database = duckdb.connect()
    database.register("plain", plain)
    for version in ["v1", "v2"]:
        database.execute(f"copy plain to '{folder}/duckdb-{version}.parquet' (format parquet, parquet_version {version})")
    fastparquet.write(str(folder / "fastparquet.parquet"), pandas.DataFrame({"id": range(ROWS), "text": texts}), compression="SNAPPY")


def differing(model, texts):
    """How many files there are, and the names of those that a model does not read as it reads the texts in JSONL; those that are null are left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lines = folder / "texts.jsonl"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text is not None))
        write(folder, texts)
        files = sorted(folder.glob("*.parquet"))
        corpora = [part for file in [lines, *files] for part in ("--corpus", f"{file.name}={file}")]
        command = ["target/release/treering", "eval", model, *corpora, "--window", "16", "--skip-bad-records", "--json"]
        corpora = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["corpora"]
    expected = corpora[0]["heads"][0]["nll"]
    return len(files), [file.name for file, corpus in zip(files, corpora[1:], strict=True) if corpus["heads"][0]["nll"] != expected]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    random.seed(1)
    texts = [f"ring {n} of many 나이테 {random.random()}" for n in range(ROWS)]
    found = [differing(sys.argv[1], texts), differing(sys.argv[1], [None if n % 7 == 3 else text for n, text in enumerate(texts)])]
    files, differ = sum(count for count, _ in found), [name for _, names in found for name in names]
    print(json.dumps({"files": files, "as_jsonl": files - len(differ), "differ": differ}))
    sys.exit(bool(differ))


main()
