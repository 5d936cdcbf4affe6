"""What may come in at once: limits hold for what is decompressed and opened, not for what is sent.

Together they keep what one record, batch or file adds to the memory of `ingest` while it is taken
in below INTAKE_BYTES_MAX; `libs/common/batches.py` has those of a Kafka batch.
"""

from __future__ import annotations

from libs.common import rowfile

MEBIBYTE = 1024 * 1024
INTAKE_BYTES_MAX = 256 * MEBIBYTE
# A record, or a cell of a file.
RECORD_BYTES_MAX = rowfile.RECORD_BYTES_MAX
# What is kept of a record that is over it: enough to see whose it is.
OVERSIZED_BYTES_KEPT = 64 * 1024
# A row has two levels: its columns, and a value with its unit.
JSON_DEPTH_MAX = 32
# Of an upload.
ROWS_MAX = 10_000_000
CHUNK_ROWS_MAX = 20_000
CHUNK_BYTES_MAX = 8 * MEBIBYTE
# Rows are opened so many at a time: as Python's objects they may take 25 times their bytes.
SLICE_BYTES_MAX = MEBIBYTE
SLICE_ROWS_MAX = 20_000
# A row group of a Parquet file, as its footer has it and as it is read.
ROW_GROUP_BYTES_MAX = 64 * MEBIBYTE
# Of the bodies that the records of a lot in quarantine were given: they are held together.
MENDED_BYTES_MAX = 32 * MEBIBYTE
