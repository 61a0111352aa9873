from concurrent.futures import ThreadPoolExecutor

import pytest

from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.promotion.bundle import load_bundle
from ray_tl.promotion.versions import add_version, models, next_version, resolve, versions


@pytest.fixture
def root(tmp_path):
    for name in ("pets/v1", "pets/v2", "pets/v10", "pets/.v11.ab12", "pets/vx", "office-31/v1", "empty"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_versions_are_sorted_by_number_and_half_written_ones_are_not_seen(root):
    assert versions("pets", root) == ["v1", "v2", "v10"]


def test_models_are_names_with_a_version(root):
    assert models(root) == ["office-31", "pets"]


def test_next_version_follows_the_newest(root):
    assert next_version("pets", root) == root / "pets" / "v11"
    assert next_version("new", root) == root / "new" / "v1"


@pytest.mark.parametrize(
    ("model", "folder"), [("pets", "pets/v10"), ("pets@v2", "pets/v2"), ("office-31", "office-31/v1")]
)
def test_a_name_means_its_newest_version_or_the_one_it_states(root, model, folder):
    assert resolve(model, root) == root / folder


def test_a_path_means_itself(root, tmp_path_factory):
    assert resolve(str(root / "pets" / "v1"), tmp_path_factory.mktemp("elsewhere")) == root / "pets" / "v1"


def test_unknown_model_lists_the_models(root):
    with pytest.raises(UnknownName, match=r"did you mean 'pets'.*choose from office-31, pets"):
        resolve("pest", root)


def test_unknown_version_lists_the_versions(root):
    with pytest.raises(UnknownName, match=r"'pets' has no version 'v3'.*choose from v1, v10, v2"):
        resolve("pets@v3", root)


def test_a_path_to_nothing_says_so(root):
    with pytest.raises(UnknownName, match="is no folder"):
        resolve(str(root / "pets" / "v7"), root)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a b", "a@b", "ü", "x" * 101, "a\n"])
def test_names_are_letters_digits_and_three_signs(tmp_path, name):
    with pytest.raises(InvalidInput, match="rename it"):
        next_version(name, tmp_path)


def test_promotions_at_the_same_time_get_versions_of_their_own(tmp_path, model, spec, lineage):
    lineages = [lineage.model_copy(update={"trial": trial}) for trial in range(12)]
    with ThreadPoolExecutor(12) as pool:
        folders = list(pool.map(lambda each: add_version("pets", tmp_path, model, spec, each), lineages))
    assert sorted(folders) == sorted(tmp_path / "pets" / f"v{number}" for number in range(1, 13))
    assert [load_bundle(folder).lineage.trial for folder in folders] == list(range(12))
