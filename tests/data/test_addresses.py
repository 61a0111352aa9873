"""Where data are: one type of address for tables and folders, kept as it was given."""

import io
import os
import threading

import fsspec
import numpy as np
import pytest
from PIL import Image

from ray_tl.data.addresses import Address, absolute
from ray_tl.data.load import load_data
from ray_tl.data.places import Places
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

OPTIONS = DataOptions(image_size=8)


@pytest.fixture
def store():
    """A store at `fsspec+memory://shop`: labelled images, a table of their paths, and images without labels."""
    files = fsspec.filesystem("memory")
    random = np.random.default_rng(0)
    names = [f"source/{name}/{number}.png" for name in "ab" for number in range(4)]
    for name in [*names, "target/0", "target/1"]:
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        files.pipe(f"/shop/{name}", buffer.getvalue())
    rows = [f"{name},{name.split('/')[1]}" for name in names]
    files.pipe("/shop/source.csv", "\n".join(["image,label", *rows]).encode())
    yield "fsspec+memory://shop"
    files.rm("/shop", recursive=True)


@pytest.mark.parametrize("source", ["source", "source.csv"])
def test_folders_and_tables_are_read_at_an_address(store, source):
    pair = load_data(Places(f"{store}/{source}", f"{store}/target"), OPTIONS, 0).pair
    assert (pair.source.classes, len(pair.source) + len(pair.source_holdout), len(pair.target)) == (("a", "b"), 8, 2)


def test_a_file_address_is_the_folder_on_this_machine(tmp_path):
    assert Address.of(f"file://{tmp_path}", "source").local == tmp_path


@pytest.mark.parametrize("stated", ["s3://bucket/photos", "file:///data/photos", "fsspec+memory://a/b"])
def test_an_address_stays_as_it_was_given(stated):
    assert absolute(stated) == stated


@pytest.mark.parametrize("stated", ["~nobody/x", "~x.png"])
def test_a_tilde_within_a_name_is_a_letter(stated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(stated) == str(tmp_path / stated)


def test_an_empty_path_is_no_place():
    with pytest.raises(InvalidInput, match="source is empty; give a path"):
        Address.of("", "source")


def test_a_path_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("photos") == absolute("~/photos") == str(tmp_path / "photos")


@pytest.mark.parametrize("stated", ["ftp9://host/x", "file://host/x", "fsspec+nothing://x", "s3://"])
def test_an_address_that_nothing_answers_to_is_one_message(stated, store):
    with pytest.raises(InvalidInput, match=r"^source='.*' (can't be reached|names no folder).*check the address\.$"):
        load_data(Places(stated, f"{store}/target"), OPTIONS, 0)


def test_a_password_in_an_address_is_not_shown():
    assert str(Address.of("s3://key:secret@bucket/photos?region=eu-west-1", "source")) == (
        "source='s3://***@bucket/photos?region=eu-west-1'"
    )


def test_a_pipe_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = threading.Thread(target=Address.of(str(tmp_path / "pipe"), "source").read, daemon=True)
    reading.start()
    reading.join(5)
    assert not reading.is_alive()
