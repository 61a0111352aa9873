"""A study that keeps its files at an address: checked before the data are read, remembered, and taken by one study."""

import pytest

from ray_tl import api
from ray_tl.errors import InvalidInput, StorageFailed
from ray_tl.search_space import SearchFile

DATA = {"image_size": 8, "channels": 1, "holdout_fraction": 0.3}
FILE = SearchFile(data=DATA, trial={"backbone": "tiny_cnn", "method": "source_only"})


def plan(folders, home, artifacts):
    return api.plan_search(FILE, *folders, name="planned", home=home, artifacts=artifacts)


def test_the_address_is_remembered_and_need_not_be_said_again(folders, tmp_path):
    far = f"file://{tmp_path}/far"
    assert plan(folders, tmp_path, far).store.spec.artifacts == far
    assert api.plan_resumption("planned", home=tmp_path).store.spec.artifacts == far
    assert api.plan_resumption("planned", home=tmp_path, artifacts=far).store.spec.artifacts == far
    assert api.status("planned", home=tmp_path).spec.artifacts == far


def test_a_study_of_the_same_name_elsewhere_is_refused_before_its_data_are_read(folders, tmp_path):
    far = f"file://{tmp_path}/far"
    plan(folders, tmp_path / "one", far)
    with pytest.raises(InvalidInput, match="has files of a study 'planned' already; choose another --name or address"):
        plan(("nowhere", "nowhere"), tmp_path / "other", far)
    assert not (tmp_path / "other" / "studies" / "planned").exists()


def test_an_address_that_can_not_be_written_is_refused_before_anything_else(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"artifacts=.* can't be written"):
        plan(("nowhere", "nowhere"), tmp_path, str(tmp_path / "file" / "below"))


def test_a_study_that_was_begun_in_its_folder_can_go_on_at_an_address(folders, tmp_path):
    assert plan(folders, tmp_path, None).store.spec.artifacts is None
    resumed = api.plan_resumption("planned", home=tmp_path, artifacts=str(tmp_path / "far"))
    assert str(resumed.store.artifacts) == f"{tmp_path}/far/planned"
