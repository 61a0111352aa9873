"""What a folder of images holds: decided by content, each real folder once, and what is left out by reason."""

import io
import os
import socket

import fsspec
import numpy as np
import pytest
from PIL import Image

from ray_tl.data.addresses import Address
from ray_tl.data.files import find_images
from ray_tl.data.images import list_images, read_labelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.promotion.predict import images_of

SMALL = Preprocessing(image_size=8)


def image(seed: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(folder, **files):
    for seed, (name, content) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(seed) if content is None else content)


def images(folder, *names):
    write(folder, **dict.fromkeys(names))


def find(folder):
    return find_images(Address.of(str(folder), "source"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.tif", "TIFF"), ("a.jfif", "JPEG"), ("a", "PNG"), ("a.jpg", "WEBP"), ("a.txt", "GIF"), ("a.ppm", "PPM")],
)
def test_an_image_is_told_by_its_content(tmp_path, name, kind):
    write(tmp_path, **{name: image(kind=kind)})
    assert find(tmp_path).images == [name]


@pytest.mark.parametrize(
    "content", [b"BMW owners say", b"P5 is a rapper", b"GIF8 is no header", b"RIFFlings", b"II", b""]
)
def test_a_text_that_begins_like_an_image_is_none(tmp_path, content):
    write(tmp_path, notes=content)
    assert (find(tmp_path).images, find(tmp_path).broken) == ([], {})
    assert find(tmp_path).left_out == {"other files without a suffix": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"not an image", "is not PNG, JPEG"),
        ("a.tiff", b"", "is empty"),
        ("a", b"\x00\x00\x00\x18ftypheic", "is HEIF, which is not read; convert it"),
    ],
)
def test_what_is_meant_to_be_an_image_and_is_none_is_broken(tmp_path, name, content, said):
    write(tmp_path, **{name: content})
    assert said in find(tmp_path).broken[name]


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    images(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "@eaDir/a.png")
    write(tmp_path, **{"b.txt": b"text", "c.txt": b"text", "d.csv": b"x,y"})
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        found = find(tmp_path)
    assert found.images == ["a.png"]
    assert found.left_out == {
        "hidden files": 1,
        "hidden folders": 1,
        "folders of the system": 2,
        "links to nothing": 1,
        "pipes, sockets and devices": 2,
        "other files .txt": 2,
        "other files .csv": 1,
    }


def test_a_hidden_link_to_itself_is_a_link_to_nothing(tmp_path):
    images(tmp_path, "a.png")
    (tmp_path / ".l").symlink_to(".l")
    assert find(tmp_path).left_out == {"links to nothing": 1}


@pytest.mark.parametrize("target", ["..", "../..", "../cat", "."])
def test_a_link_that_leads_back_adds_nothing(tmp_path, target):
    images(tmp_path / "source", "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    images(tmp_path, "elsewhere/3.png")
    (tmp_path / "source" / "dog" / "link").symlink_to(target)
    domain = read_labelled_folder(tmp_path / "source", SMALL)
    assert domain.ids == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    assert domain.labels.tolist() == [0, 0, 1, 1]


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path):
    images(tmp_path / "store", "cats/1.png", "cats/2.png", "3.png")
    images(tmp_path / "source", "dog/1.png", "dog/2.png")
    (tmp_path / "source" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "source" / "dog" / "3.png").symlink_to(tmp_path / "store" / "3.png")
    assert find(tmp_path / "source").images == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]


def test_a_folder_counts_where_it_is_and_not_where_a_link_to_it_is(tmp_path):
    images(tmp_path, "z/deep/1.png")
    (tmp_path / "a").symlink_to(tmp_path / "z" / "deep")
    assert find(tmp_path).images == ["z/deep/1.png"]


def test_names_that_are_not_utf8_are_named(tmp_path):
    images(tmp_path, "dog/1.png")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InvalidInput, match=r"the name of 'caf\\\\xe9' is not UTF-8; rename it"):
        read_labelled_folder(tmp_path, SMALL)


def test_a_search_and_a_prediction_read_the_same_files(tmp_path):
    images(tmp_path, "b.png", "deep/a", ".hidden/c.png", "._b.png")
    write(tmp_path, **{"notes.txt": b"text"})
    (tmp_path / "deep" / "back").symlink_to(tmp_path)
    predicted = [str(path.relative_to(tmp_path)) for path in images_of([tmp_path])]
    assert predicted == list_images(tmp_path) == ["b.png", "deep/a"]


def test_a_folder_at_an_address_is_read_as_one_on_this_machine(tmp_path):
    names = ["cat/1.png", "cat/.x.png", "cat/.hidden/2.png", "dog/deep/3", "dog/notes.txt"]
    store = fsspec.filesystem("memory")
    for seed, name in enumerate(names):
        content = b"text" if name.endswith(".txt") else image(seed)
        write(tmp_path, **{name: content})
        store.pipe(f"/walk/{name}", content)
    here, there = find(tmp_path), find_images(Address.of("fsspec+memory://walk", "source"))
    assert there.images == here.images == ["cat/1.png", "dog/deep/3"]
    assert (there.folders, dict(there.left_out)) == (here.folders, dict(here.left_out))
