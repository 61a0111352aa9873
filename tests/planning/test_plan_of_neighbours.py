"""Which neighbours a study keeps for its trials to be judged by, and what it says of them."""

import numpy as np
import pytest
from PIL import Image

from ray_tl import api
from ray_tl.planning import plan_resumption
from ray_tl.search_space import SearchFile


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
    assert {"neighbours", "nearest_labels"} <= set(spec.search.validators)
    assert spec.judge.startswith("nearest neighbours in the ")
    assert planned.pair.for_trials().reference is planned.pair.reference
    file = planned.store.folder / "neighbours.npz"
    assert file.is_file()
    again = plan_resumption("planned", tmp_path / "studies", {}).pair.reference
    file.unlink()  # whoever loses it gets the same again
    anew = plan_resumption("planned", tmp_path / "studies", {}).pair.reference
    assert file.is_file()
    for found in (again, anew):
        assert np.array_equal(found.neighbours.nearest, planned.pair.reference.neighbours.nearest)
        assert np.array_equal(found.votes, planned.pair.reference.votes)


def test_noise_has_no_neighbours_to_believe(folders, tmp_path):
    planned = plan(folders, tmp_path)
    assert {"neighbours", "nearest_labels"}.isdisjoint(planned.store.spec.search.validators)
    assert planned.store.spec.judge.startswith("confidence and diversity alone")
    assert planned.pair.reference is None


def test_whoever_leaves_the_validator_out_gets_no_neighbours(stripes, tmp_path):
    planned = plan(stripes, tmp_path, validators=["source_accuracy", "im", "bnm"])
    assert (planned.store.spec.judge, planned.pair.reference) == ("", None)
