"""Files of a study at an address: whole or not there, read by other machines, and never another study's."""

from collections.abc import Iterator
from threading import Timer

import pytest

from ray_tl.errors import InvalidInput, StorageFailed, StudyBusy
from ray_tl.study.artifacts import FolderArtifacts, RemoteArtifacts, artifacts_of, usable_address
from ray_tl.study.store import StudyStore
from tests.examples import spec, store
from tests.object_store import CREDENTIALS, object_store, s3_address
from tests.on_ray.clusters import free_port

NAME = "evidence/0003.npz"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with object_store() as port:
        yield port


@pytest.fixture(params=["file", "s3"])
def address(request, tmp_path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/far"
    return s3_address(request.getfixturevalue("server"), tmp_path.name)


def put(kept, content: bytes, name: str = NAME) -> None:
    kept.write(name, lambda file: file.write(content))


def got(kept, name: str = NAME) -> bytes:
    with kept.open(name) as file:
        return file.read()


def test_what_one_machine_writes_another_reads(address, tmp_path):
    place = usable_address(address)
    put(RemoteArtifacts(place, "office"), b"x" * 20_000_000)
    assert got(RemoteArtifacts(place, "office")) == b"x" * 20_000_000
    assert got(RemoteArtifacts(place, "office", tmp_path / "copies")) == b"x" * 20_000_000


def test_a_file_that_is_not_there_is_missed_as_one_on_a_disk(address, tmp_path):
    for kept in (RemoteArtifacts(address, "office"), RemoteArtifacts(address, "office", tmp_path)):
        kept.remove(NAME)
        with pytest.raises(FileNotFoundError):
            kept.open(NAME)


def test_a_file_whose_writing_breaks_down_stays_as_it_was(address):
    kept = RemoteArtifacts(address, "office")
    put(kept, b"old")

    def write_half(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept.write(NAME, write_half)
    assert got(kept) == b"old"


def test_a_copy_is_brought_up_to_date_by_who_opens_the_study_anew(address, tmp_path):
    far, copy = RemoteArtifacts(address, "office"), tmp_path / "copies" / NAME
    put(far, b"first")
    assert got(RemoteArtifacts(address, "office", tmp_path / "copies")) == b"first"
    first = copy.stat().st_ino
    assert got(RemoteArtifacts(address, "office", tmp_path / "copies")) == b"first"
    assert copy.stat().st_ino == first  # it was not fetched again
    put(far, b"the second")
    assert got(RemoteArtifacts(address, "office", tmp_path / "copies")) == b"the second"


def test_a_file_is_removed_with_its_copy(address, tmp_path):
    kept = RemoteArtifacts(address, "office", tmp_path)
    put(kept, b"old")
    got(kept)
    kept.remove(NAME)
    assert not (tmp_path / NAME).exists()
    with pytest.raises(FileNotFoundError):
        kept.open(NAME)


def test_two_studies_of_one_name_do_not_share_a_folder(address):
    own = spec()
    other = own.model_copy(update={"data_fingerprint": "other"})
    RemoteArtifacts(address, "office").claim(own)
    RemoteArtifacts(address, "office").claim(own)
    RemoteArtifacts(address, "home").require_none()
    with pytest.raises(InvalidInput, match="has files of a study 'office' already; choose another --name or address"):
        RemoteArtifacts(address, "office").claim(other)


def test_files_at_a_local_address_appear_whole(tmp_path):
    put(RemoteArtifacts(f"file://{tmp_path}/far", "office"), b"old")
    assert [path.name for path in (tmp_path / "far" / "office" / "evidence").iterdir()] == ["0003.npz"]


def test_a_path_is_an_address_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert usable_address("far") == str(tmp_path / "far")
    assert list((tmp_path / "far").iterdir()) == []


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(InvalidInput, match="password in the environment") as refused:
        usable_address("s3://key:swordfish@bucket/ray_tl")
    assert "swordfish" not in str(refused.value)


@pytest.mark.parametrize(("address", "rule"), [("", "is empty"), ("ftp2://host/a", "can't be reached")])
def test_what_is_no_address_is_refused(address, rule):
    with pytest.raises(InvalidInput, match=f"artifacts.*{rule}"):
        usable_address(address)


def test_an_address_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"artifacts='file://.*can't be written \(.*\); check the address"):
        usable_address(f"file://{tmp_path}/file/below")


def test_a_server_that_is_not_there_is_named(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageFailed, match=r"artifacts='s3://bucket/ray_tl.*can't be written"):
        usable_address(s3_address(free_port()))


def test_an_outage_is_waited_for(tmp_path):
    (tmp_path / "far").touch()
    outage = Timer(0.2, (tmp_path / "far").unlink)
    outage.start()
    kept = RemoteArtifacts(f"file://{tmp_path}/far", "office", patience_s=60)
    put(kept, b"late")
    outage.join()
    assert got(kept) == b"late"


def test_a_study_without_an_address_keeps_its_files_in_its_folder(tmp_path):
    kept = artifacts_of(spec(), tmp_path)
    assert isinstance(kept, FolderArtifacts)
    put(kept, b"here")
    assert (tmp_path / NAME).read_bytes() == b"here"


def test_a_study_can_move_its_files_to_an_address_once(address, tmp_path):
    opened = store(tmp_path / "studies")
    put(opened.artifacts, b"before")
    opened.keep_artifacts_at(address)
    again = StudyStore(opened.folder)
    assert again.spec.artifacts == address
    assert got(RemoteArtifacts(address, again.spec.name)) == got(again.artifacts) == b"before"
    again.keep_artifacts_at(address)
    with pytest.raises(InvalidInput, match=r"artifacts='/elsewhere': the study has its files at .*; leave it out"):
        again.keep_artifacts_at("/elsewhere")


def test_the_files_of_a_study_stay_where_they_are_while_it_is_searched(tmp_path):
    opened, far = store(tmp_path / "studies"), str(tmp_path / "far")
    with opened.exclusive(), pytest.raises(StudyBusy):
        StudyStore(opened.folder).keep_artifacts_at(far)
    assert StudyStore(opened.folder).spec.artifacts is None
