"""The champion is packaged with its correction, and a trial by number as it was, as both are scored."""

from collections import Counter
from pathlib import Path

import pytest

from ray_tl import api
from ray_tl.training.files import TrialFiles
from tests.scoring.searched import METHODS, searched

CHAMPION = 2  # logistic regression
ALL_ARE_OF_THE_FIRST_CLASS = [50.0] + [0.0] * 9


@pytest.fixture
def study(tmp_path):
    """Trained trials, of which one that is sure of its predictions is the champion, corrected."""
    opened = searched(tmp_path, METHODS[:3])
    prior = {"trial": CHAMPION, "correction": ALL_ARE_OF_THE_FIRST_CLASS, "words": []}
    opened.write_json("champion.json", {"trial": CHAMPION, "reason": "", "candidates": [], "prior": prior})
    return opened


def predicted(version, study, home):
    """How often each class is predicted on the target by a promoted version."""
    found = api.predict(f"digits@{version.version}", [Path(study.spec.data.target)], home=home)
    return Counter(item.label for item in found)


def test_the_champion_is_packaged_with_its_correction(study, tmp_path):
    version = api.promote("digits", home=tmp_path)
    assert predicted(version, study, tmp_path) == {study.spec.classes[0]: study.spec.num_target}
    assert version.notes == ()


def test_the_champion_by_its_number_is_packaged_as_it_was(study, tmp_path):
    version = api.promote("digits", trial=CHAMPION, home=tmp_path)
    as_it_was = TrialFiles(study.folder, CHAMPION).load_evidence()["target"].argmax(axis=1)
    assert predicted(version, study, tmp_path) == Counter(study.spec.classes[label] for label in as_it_was)
    assert version.notes == (api.UNCORRECTED_TRIAL,)


@pytest.mark.parametrize(("trial", "is_corrected"), [(None, True), (CHAMPION, False)])
def test_both_are_scored_as_they_are_packaged(study, tmp_path, trial, is_corrected):
    labels, images = tmp_path / "labels.csv", sorted(Path(study.spec.data.target).glob("*.png"))
    labels.write_text("path,label\n" + "".join(f"{image.name},{study.spec.classes[1]}\n" for image in images))
    found = api.evaluate("digits", str(labels), trial, home=tmp_path)
    rows = [sum(column) for column in zip(*found.score.confusion, strict=True)]
    assert (rows[0] == study.spec.num_target) is is_corrected
