"""What a search over ways to fine-tune is refused for before anything runs; no Ray is started."""

import pytest

from ray_tl import api
from ray_tl.errors import InvalidInput
from ray_tl.search_space import SearchFile
from ray_tl.search_space.trees import Middle


def plan(folders, home, **fields):
    trees = {"backbone": {"tiny_cnn": {"width": 8}}, "method": "coral", **fields}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trees)
    return api.plan_search(file, *folders, name="planned", home=home)


def test_every_choice_of_how_to_fine_tune_may_be_searched(folders, tmp_path):
    trees = {
        "freeze_depth": {"choice": [0, 1]},
        "parameter_efficient": {
            "choice": {"none": None, "lora": {"rank": "auto"}, "bottleneck_adapter": {"width": "auto"}}
        },
        "regulariser": {"choice": {"none": None, "delta": {"alpha": "auto"}, "bss": {"eta": "auto"}}},
        "gradient_masking": {"choice": {"none": None, "project": {"scope": "auto"}}},
        "label_smoothing": {"uniform": [0.0, 0.2]},
        "dropout": {"uniform": [0.0, 0.5]},
    }
    sampled = plan(folders, tmp_path, **trees).store.space.sample(Middle())
    assert (sampled.label_smoothing, sampled.dropout) == (0.1, 0.25)


@pytest.mark.parametrize(
    ("trees", "said"),
    [
        ({"regulariser": "l2_sp", "parameter_efficient": {"choice": ["none", "lora"]}},
         "regulariser=l2_sp pulls the weights of the stages to their start, where parameter_efficient=lora keeps them"),
        ({"freeze_depth": {"choice": [1, 3]}, "parameter_efficient": "lora"},
         "lora finds no linear layer or convolution in the stages that train; lower freeze_depth"),
        ({"regulariser": {"bss": {"num_values": 0}}}, "bss.num_values=0 suppresses nothing; choose 1 or more"),
        ({"regulariser": "l2sp"}, "regulariser 'l2sp' is not known; did you mean 'l2_sp'"),
    ],
)  # fmt: skip
def test_choices_that_do_not_go_together_are_one_line(folders, tmp_path, trees, said):
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path / "home", **trees)
    (line,) = str(raised.value).splitlines()
    assert said in line
