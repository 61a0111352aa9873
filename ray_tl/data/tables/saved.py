"""A data set of the library `datasets`, saved on disk: Arrow files beside a description, read without the library."""

import json

import pyarrow as pa
import pyarrow.ipc
from pyarrow.fs import FileType

from ray_tl.data.addresses import Address
from ray_tl.data.tables.columns import Asked, Columns, class_names_of
from ray_tl.errors import InvalidInput

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved_dataset(folder: Address) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written the folder."""
    return any(folder.below(name).kind() is FileType.File for name in (STATE, SPLITS))


def read_saved_dataset(folder: Address, asked: Asked) -> Columns:
    """Rows of one split.

    Raises:
        InvalidInput: If the folder holds several splits, its description can't be read, or a column is missing.
        pyarrow.ArrowException: If its Arrow files can't be read.
    """
    if folder.below(SPLITS).kind() is FileType.File:
        splits = _content(folder, SPLITS, asked).get("splits", [])
        raise InvalidInput(
            f"{asked.subject} holds the splits {', '.join(map(str, splits))}; give the path of one, "
            f"{folder.stated.rstrip('/')}/{splits[0] if splits else 'train'}."
        )
    state, info = _content(folder, STATE, asked), _content(folder, INFO, asked)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InvalidInput(f"{asked.subject} is a view of other rows; save it after flatten_indices().")
    if not state["_data_files"]:
        raise InvalidInput(f"{asked.subject} has no rows; save a data set that has some.")
    table = pa.concat_tables(_read(folder.below(each["filename"])) for each in state["_data_files"])
    names = asked.among(table.schema.names)
    return Columns.whole({name: table[name].to_pylist() for name in names}, class_names_of(info.get("features")))


def _content(folder: Address, name: str, asked: Asked) -> dict:
    try:
        content = json.loads(folder.below(name).read())
    except (InvalidInput, ValueError, RecursionError) as error:
        raise InvalidInput(f"{asked.subject}: its {name} can't be read ({error}); save it again.") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{asked.subject}: its {name} holds no object; save it again.")
    return content


def _read(file: Address) -> pa.Table:
    with file.files.open_input_file(file.path) as stream, pa.ipc.open_stream(stream) as reader:
        return reader.read_all()
