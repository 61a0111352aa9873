"""Columns of tables, whatever the format, here or at any address that `pyarrow.fs` knows."""

from ray_tl.data.tables.columns import Columns
from ray_tl.data.tables.read import SUFFIXES, is_table, is_table_at, read_columns

__all__ = ["SUFFIXES", "Columns", "is_table", "is_table_at", "read_columns"]
