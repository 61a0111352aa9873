"""Domains between source and target, and another task, from folders; and what a study remembers of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.domains import LabelledDomain
from ray_tl.data.load import load_pair
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions
from tests.training.tiny import further, tiny_pair

OPTIONS = DataOptions(image_size=8, channels=1)


def folder(root: Path, names: list[str], seed: int = 0) -> str:
    """Images under these names, `a/0` for one of class a."""
    random = np.random.default_rng(seed)
    for name in names:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return str(root)


@pytest.fixture
def load(tmp_path):
    """Loads a pair of classes a, b and c with further domains."""
    source = folder(tmp_path / "source", [f"{name}/{number}" for name in "abc" for number in range(2)], seed=100)
    target = folder(tmp_path / "target", ["0", "1"], seed=101)
    test = folder(tmp_path / "test", ["0"], seed=102)

    def with_further(intermediate=(), auxiliary=None, target=target, test=test):
        return load_pair(source, target, test, OPTIONS, 0, None, intermediate, auxiliary)

    return with_further


def test_folders_named_as_classes_of_the_source_label_their_images(load, tmp_path):
    (domain,) = load([folder(tmp_path / "dusk", ["a/0", "c/0", "c/1"])]).intermediate
    assert isinstance(domain, LabelledDomain)
    assert domain.labels.tolist() == [0, 2, 2]
    assert domain.classes == ("a", "b", "c")


@pytest.mark.parametrize("names", [["0", "1"], ["monday/0", "friday/1"]])
def test_other_folders_are_unlabelled(names, load, tmp_path):
    (domain,) = load([folder(tmp_path / "dusk", names)]).intermediate
    assert not isinstance(domain, LabelledDomain)
    assert len(domain) == 2


def test_the_order_is_that_of_the_folders_given(load, tmp_path):
    names = [folder(tmp_path / name, ["0", "1"], seed) for seed, name in enumerate(["night", "dusk"])]
    assert [domain.name for domain in load(names).intermediate] == ["night", "dusk"]


def test_another_task_has_classes_of_its_own(load, tmp_path):
    name = folder(tmp_path / "weather", ["rain/0", "rain/1", "sun/0", "sun/1"])
    other = load(auxiliary=name).auxiliary
    assert (other.classes, other.labels.tolist()) == (("rain", "sun"), [0, 0, 1, 1])


def test_folders_of_both_kinds_are_refused(load, tmp_path):
    with pytest.raises(InvalidInput, match=r"classes of the source \(a\) and others \(aa\)"):
        load([folder(tmp_path / "dusk", ["a/0", "aa/0"])])


def test_a_folder_that_is_missing_is_named(load, tmp_path):
    with pytest.raises(InvalidInput, match=r"intermediate 1='.*dawn' does not exist"):
        load([str(tmp_path / "dawn")])


@pytest.mark.parametrize("field", ["target", "target_test"])
def test_labels_of_the_target_do_not_come_in_by_this_door(field, load, tmp_path):
    between = folder(tmp_path / "dusk", ["a/0", "b/0"])
    same = folder(tmp_path / "same", ["x", "y"])
    with pytest.raises(InvalidInput, match=rf"2 images of intermediate 1 are in {field} too, 2 exact copies"):
        load([between], **{field.removeprefix("target_"): same})


def test_the_fingerprint_holds_them_and_their_labels():
    pair = further(tiny_pair())
    between, other = pair.intermediate, pair.auxiliary
    flipped = replace(between[0], labels=2 - between[0].labels)
    others = [
        tiny_pair(),
        replace(pair, intermediate=between[::-1]),
        replace(pair, intermediate=(flipped, between[1])),
        replace(pair, auxiliary=None),
        replace(pair, auxiliary=replace(other, labels=1 - other.labels)),
    ]
    assert len({pair.fingerprint(), *(each.fingerprint() for each in others)}) == 6


def test_trials_are_given_no_names_of_unlabelled_examples():
    pair = further(tiny_pair())
    assert pair.for_trials().intermediate[1].ids == tuple(str(row) for row in range(24))
    assert pair.for_trials().intermediate[0].labels.tolist() == pair.intermediate[0].labels.tolist()
