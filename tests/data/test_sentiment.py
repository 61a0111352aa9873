"""Sentences from an archive that is built here like the published one."""

import csv
import hashlib
import io
import tarfile

import pytest

from ray_tl.data import sentiment
from ray_tl.data.sentiment import FILM, INNER, PRODUCT, read_sentences, write_sample_tables
from ray_tl.errors import InvalidInput

FILMS = [(f"{number}", score, f"film {number} \xe9") for number, score in enumerate([3.1, -2.0, 0.4, -0.4, 0.5, -0.5])]
PRODUCTS = [(f"{number}", (-1) ** number * 2.0, f"box {number}") for number in range(12)]


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, data in ({name: content} if name == INNER else content).items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def lines(rows) -> bytes:
    return "\n".join(f"{id_}\t{score}\t{text}" for id_, score, text in rows).encode("latin-1")


@pytest.fixture
def archive(tmp_path, monkeypatch):
    files = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": lines(rows) for name, rows in [(FILM, FILMS), (PRODUCT, PRODUCTS)]
    }
    content = tar_of(INNER, tar_of("inner", files))
    monkeypatch.setattr(sentiment, "SHA256", hashlib.sha256(content).hexdigest())
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(content)
    return path


def column(path, name: str) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_sentences_that_are_rated_near_zero_are_left_out(archive):
    found = read_sentences(archive.read_bytes(), FILM)
    expected = {
        "film 0 \xe9": "positive",
        "film 1 \xe9": "negative",
        "film 4 \xe9": "positive",
        "film 5 \xe9": "negative",
    }
    assert dict(found) == expected


def test_targets_hold_no_labels_and_share_no_sentence(archive, tmp_path):
    source, target, test, labels = write_sample_tables(tmp_path / "reviews", 2, archive)
    assert set(column(source, "label")) == {"negative", "positive"}
    assert target.read_text().splitlines()[0] == test.read_text().splitlines()[0] == "text"
    assert not set(column(target, "text")) & set(column(test, "text"))
    truth = {text: "positive" if score > 0 else "negative" for _, score, text in PRODUCTS}
    assert column(labels, "label") == [truth[text] for text in column(test, "text")]
    assert column(labels, "id") == [str(row) for row in range(1, len(column(test, "text")) + 1)]


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "other.tar.gz").write_bytes(b"another")
    with pytest.raises(InvalidInput, match=r"the archive is not that of vaderSentiment==3\.3\.2"):
        write_sample_tables(tmp_path / "reviews", 2, tmp_path / "other.tar.gz")
    assert not (tmp_path / "reviews").exists()


def test_tables_that_exist_are_not_replaced(archive, tmp_path):
    write_sample_tables(tmp_path / "reviews", 2, archive)
    with pytest.raises(InvalidInput, match=r"holds source\.csv, target\.csv, .* already; name another"):
        write_sample_tables(tmp_path / "reviews", 2, archive)
