"""What trials are held against on the target: neighbours that no trial can train, if they can be believed."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ray_tl import api
from ray_tl.config import Component
from ray_tl.neighbours import LEAST_TRUST
from ray_tl.planning import plan_resumption
from ray_tl.planning.reference import find_reference
from ray_tl.search_space import SearchFile
from ray_tl.validation import SourceEvidence, TargetEvidence, score_all
from tests.training.tiny import tiny_data, tiny_pair
from tests.training.tiny_text import tiny_text_pair

TINY_CNN = Component(name="tiny_cnn", params={"width": 4})
TINY_BERT = Component(name="tiny_bert")


def test_pixels_are_believed_where_they_tell_the_source_classes_apart():
    found = find_reference(TINY_CNN, tiny_data(tiny_pair(num_source=60)), seed=0)
    assert found.can_be_trusted
    assert found.trust > 0.9
    assert sorted(found.neighbours.rows) == list(range(30))


def test_words_stand_where_a_network_has_learned_nothing():
    found = find_reference(TINY_BERT, tiny_data(tiny_text_pair()), seed=0)
    assert found.neighbours.nearest.shape[1] == 5
    assert found.space in ("words", "features of tiny_bert as it comes")


def test_neighbours_that_hardly_share_a_source_label_are_not_believed():
    pair = tiny_pair(num_source=90)
    shuffled = np.random.default_rng(0).permutation(pair.source.labels)
    found = find_reference(TINY_CNN, tiny_data(replace(pair, source=replace(pair.source, labels=shuffled))), seed=0)
    assert found.trust < LEAST_TRUST
    assert "confidence and diversity alone" in found.in_words()


def test_target_examples_alone_decide_what_is_near_and_one_of_them_is_too_few():
    pair = tiny_pair(num_source=60)
    first, again = (find_reference(TINY_CNN, tiny_data(pair), seed=0) for _ in range(2))
    assert np.array_equal(first.neighbours.nearest, again.neighbours.nearest)
    assert find_reference(TINY_CNN, tiny_data(tiny_pair(num_target=1)), seed=0) is None


def test_confident_mistakes_score_below_hesitant_truth():
    # The classes of the target are drawn again as the pair draws them; only this test looks at them.
    labels = np.random.default_rng(2).choice(3, 300, p=[0.5, 0.3, 0.2])
    neighbours = find_reference(TINY_CNN, tiny_data(tiny_pair(num_source=60, num_target=300)), seed=0).neighbours
    truth = 0.4 * np.eye(3, dtype=np.float32)[labels] + 0.2
    mistaken = np.where(np.random.default_rng(1).random(300) < 0.4, (labels + 1) % 3, labels)
    wrong = np.eye(3, dtype=np.float32)[mistaken]
    source = SourceEvidence(truth, labels)
    hesitant, sure = (
        score_all(["neighbours", "im"], source, TargetEvidence(found, neighbours)) for found in (truth, wrong)
    )
    assert sure["im"] > hesitant["im"]
    assert sure["neighbours"] < hesitant["neighbours"]


@pytest.fixture
def stripes(tmp_path):
    """Forty labelled images with a bright upper or lower half, and twenty darker ones without labels."""
    random = np.random.default_rng(0)
    for number in range(60):
        half = number % 2
        folder = tmp_path / ("target" if number >= 40 else f"source/{'ab'[half]}")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 40, (8, 8), dtype=np.uint8)
        pixels[4 * half : 4 * half + 4] += 60 if number >= 40 else 180
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(tmp_path / "source"), str(tmp_path / "target")


def plan(folders, home, **search):
    data = {"image_size": 8, "channels": 1, "holdout_fraction": 0.3}
    trial = {"backbone": {"tiny_cnn": {"width": 8}}, "method": "coral"}
    return api.plan_search(SearchFile(data=data, search=search, trial=trial), *folders, name="planned", home=home)


def test_a_study_keeps_its_neighbours_and_says_so(stripes, tmp_path):
    planned = plan(stripes, tmp_path)
    spec = planned.store.spec
    assert "neighbours" in spec.search.validators
    assert spec.judge.startswith("nearest neighbours in the ")
    assert planned.pair.for_trials().neighbours is planned.pair.neighbours
    file = planned.store.folder / "neighbours.npz"
    assert file.is_file()
    again = plan_resumption("planned", tmp_path / "studies", {}).pair.neighbours
    file.unlink()  # whoever loses it gets the same again
    anew = plan_resumption("planned", tmp_path / "studies", {}).pair.neighbours
    assert file.is_file()
    for found in (again, anew):
        assert np.array_equal(found.nearest, planned.pair.neighbours.nearest)


def test_noise_has_no_neighbours_to_believe(folders, tmp_path):
    planned = plan(folders, tmp_path)
    assert "neighbours" not in planned.store.spec.search.validators
    assert planned.store.spec.judge.startswith("confidence and diversity alone")
    assert planned.pair.neighbours is None


def test_whoever_leaves_the_validator_out_gets_no_neighbours(stripes, tmp_path):
    planned = plan(stripes, tmp_path, validators=["source_accuracy", "im", "bnm"])
    assert (planned.store.spec.judge, planned.pair.neighbours) == ("", None)
