"""Parquet, with the names of classes that `datasets` writes into it."""

import json

import pyarrow as pa
import pyarrow.parquet

from ray_tl.data.tables.columns import Asked, Columns, class_names_of


def read_parquet(file: pa.NativeFile, asked: Asked) -> Columns:
    """Cells as Python values.

    Raises:
        InvalidInput: If a column is missing, or there twice.
        pyarrow.ArrowException: If it is no such file.
    """
    stored = pa.parquet.ParquetFile(file)
    names = asked.among(stored.schema_arrow.names)
    table = stored.read(columns=names)
    return Columns.whole({name: table[name].to_pylist() for name in names}, class_names_in(stored.schema_arrow))


def class_names_in(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """What `datasets` has noted of columns of classes, by column; nothing, where the note can't be read."""
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        content = json.loads(note)
    except ValueError:
        return {}
    info = content.get("info") if isinstance(content, dict) else None
    return class_names_of(info.get("features")) if isinstance(info, dict) else {}
