"""What a search with closed-form methods, or with mixing, is refused for before anything runs; no Ray is started."""

import numpy as np
import pytest
from PIL import Image

from ray_tl import api
from ray_tl.errors import InvalidInput
from ray_tl.search_space import SearchFile
from ray_tl.search_space.trees import Middle


@pytest.fixture
def folders(tmp_path):
    """Twelve labelled images, of which two a class are held out, and six without labels."""
    for number in range(18):
        folder = tmp_path / ("target" if number >= 12 else f"source/{'ab'[number % 2]}")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(tmp_path / "source"), str(tmp_path / "target")


def plan(folders, home, method, width=8, **fields):
    trees = {"backbone": {"tiny_cnn": {"width": width}}, "method": method, **fields}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trees)
    return api.plan_search(file, *folders, name="planned", home=home)


def test_closed_form_methods_are_chosen_and_sampled_like_others(folders, tmp_path):
    methods = {"logistic": "auto", "knn": {"k": {"int": [1, 8]}}, "coral_closed": {"C": "auto"}, "mcc": "auto"}
    trees = {"choice": {name: None if params == "auto" else params for name, params in methods.items()}}
    trees["choice"]["logistic"] = {"C": "auto"}
    space = plan(folders, tmp_path, trees).store.space
    assert space.sample(Middle()).method.params == {"C": pytest.approx(1.0)}
    assert space.baseline().method.name == "source_only"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"logistic": {"c": 1.0}}, "trial.method: adaptation method 'logistic' has no parameter 'c'; choose from C."),
        ({"knn": {"k": 2.5}}, "knn.k=2.5 is not of type int"),
        ({"logistic": {"C": {"uniform": [0, 1]}}}, "logistic.C=0.0 must be a finite number above 0"),
        ({"knn": {"k": {"int": [1, 9]}}}, "knn.k=9 is more than the 8 source rows; choose 1..8"),
        ({"pca_alignment": {"num_components": {"int": [2, 40]}}}, "num_components=40 must lie in 1..16, the width"),
        ({"subspace_alignment": {"num_components": 6}}, "num_components=6 is more than the 5 axes that so few rows"),
        ({"logistik": None}, "adaptation method 'logistik' is not known; did you mean 'logistic'?"),
    ],
)
def test_a_mistake_in_a_parameter_is_one_line_and_nothing_is_written(folders, tmp_path, method, said):
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path / "home", method)
    (line,) = str(raised.value).splitlines()
    assert said in line
    assert not (tmp_path / "home" / "studies" / "planned").exists()


METHODS = {"choice": ["source_only", "dann", "deepjdot", "knn"]}


def test_every_method_that_mixing_may_meet_is_asked(folders, tmp_path):
    with pytest.raises(InvalidInput, match=r"mixing='mixup' does not go with method 'deepjdot'") as raised:
        plan(folders, tmp_path, METHODS, mixing={"choice": ["none", "mixup"]})
    assert len(str(raised.value).splitlines()) == 1


def test_mixing_by_method_is_sound(folders, tmp_path):
    mixed = {"choice": ["none", "mixup"]}
    cases = {"source_only": mixed, "dann": mixed, "deepjdot": "none", "knn": "none"}
    space = plan(folders, tmp_path, METHODS, mixing={"by": "method", "cases": cases}).store.space
    assert space.baseline().mixing.name == "none"
