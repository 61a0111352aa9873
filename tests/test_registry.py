from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from ray_tl.adaptation import MethodContext
from ray_tl.components import catalogue, describe
from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.models.adaptors import AdaptorContext
from ray_tl.models.backbones import BACKBONES, BackboneContext
from ray_tl.models.features import FeaturesContext
from ray_tl.registry import Registry, did_you_mean
from ray_tl.search_space import SearchSpace
from ray_tl.tokens import load_tokenizer
from ray_tl.training.multi_task import MultiTaskContext
from ray_tl.training.transfer import TransferContext
from tests.models.smallest import TEXT, VECTORS_FILE, WORD_VECTORS
from tests.training.tiny_text import tiny_preprocessing

CONTEXTS = {
    "backbone": [BackboneContext(load_weights=False)],
    "features": [FeaturesContext(BACKBONES.create("small_cnn", {}, BackboneContext()))],
    "adaptor": [AdaptorContext(feature_dim=4)],
    "method": [MethodContext(64, 3, num_source=8, num_target=8, num_target_labelled=8)],
    "transfer": [TransferContext(num_intermediate=2)],
    "multi_task": [MultiTaskContext(feature_dim=4, num_classes=2)],
}
TEXTS = BackboneContext(vocabulary=tiny_preprocessing().vocabulary)
WORDS = BackboneContext(vocabulary=load_tokenizer(VECTORS_FILE)[1], load_weights=False)
CONTEXT_OF = {**{("backbone", name): [TEXTS] for name in TEXT}, ("backbone", WORD_VECTORS): [WORDS]}
SHAPES: Registry[object] = Registry("shape")


@SHAPES.register("circle", ranges={"radius": {"uniform": [1, 2]}})
@dataclass(frozen=True, kw_only=True)
class Circle:
    """Round.

    Attributes:
        radius: From the middle.
    """

    radius: float
    sides: int = 1
    filled: bool = False
    label: str | None = None
    style: Literal["solid", "dashed"] = "solid"
    points: list[float] = ()
    names: list[str] = ()


@SHAPES.register("moved", family="rigid")
def moved(where: str, *, by: int = 0) -> str:
    """A function does as well."""
    return f"{where}+{by}"


RANGES = [
    (field, name, parameter.name, parameter.range)
    for field, registry in catalogue().items()
    for name in registry.names()
    for parameter in registry.parameters(name).values()
    if parameter.range is not None
]


@pytest.mark.parametrize(
    "values",
    [
        {"sides": 3},
        {"filled": True},
        {"label": None},
        {"label": "a"},
        {"style": "dashed"},
        {"points": [1, 0.5]},
        {"names": ["a", "b"]},
    ],
)
def test_value_of_the_declared_type_is_taken(values):
    assert SHAPES.problems("circle", {"radius": 1, **values}) == []


@pytest.mark.parametrize(
    "values",
    [
        {"radius": "1"},
        {"radius": True},
        {"radius": None},
        {"sides": 1.0},
        {"sides": True},
        {"filled": 1},
        {"label": 3},
        {"style": "dotted"},
        {"points": 0.5},
        {"points": ["a"]},
        {"names": "a"},
        {"names": ["a", 1]},
    ],
)
def test_value_of_another_type_is_refused_by_name_and_value(values):
    ((key, value),) = values.items()
    (problem,) = SHAPES.problems("circle", {"radius": 1, **values})
    assert problem.startswith(f"circle.{key}={value!r} is not of type ")


def test_unknown_component_names_the_nearest_and_all_choices():
    with pytest.raises(
        UnknownName, match=r"shape 'circel' is not known; did you mean 'circle'\? choose from circle, m"
    ):
        SHAPES.create("circel", {})


def test_all_wrong_parameters_are_named_at_once():
    with pytest.raises(InvalidInput) as caught:
        SHAPES.create("circle", {"side": 3, "filled": "no"})
    assert "no parameter 'side'; did you mean 'sides'?" in str(caught.value)
    assert "needs 'radius' (float)" in str(caught.value)
    assert "circle.filled='no' is not of type bool" in str(caught.value)


def test_positional_parameters_come_from_the_system_and_are_no_parameters():
    assert list(SHAPES.parameters("moved")) == ["by"]
    assert SHAPES.create("moved", {"by": 2}, "here") == "here+2"


def test_parameter_states_type_default_and_range():
    radius, style = (SHAPES.parameters("circle")[key] for key in ("radius", "style"))
    assert (radius.type, radius.required, radius.range) == ("float", True, {"uniform": [1, 2]})
    assert (style.type, style.required, style.default, style.range) == ("'solid' | 'dashed'", False, "solid", None)


def power(*, of: int) -> int:
    """Of two."""
    return 2**of


def test_joined_registries_give_the_components_of_both_under_the_first_kind():
    numbers: Registry[int] = Registry("number")
    numbers.register("power", ranges={"of": {"int": [1, 9]}})(power)
    both = SHAPES.joined(numbers)
    assert both.names() == ["circle", "moved", "power"]
    assert both.create("power", {"of": 3}) == 8
    assert both.parameters("power")["of"].range == {"int": [1, 9]}
    assert both.problems("x", {})[0].startswith("shape 'x' is not known")
    assert SHAPES.names() == ["circle", "moved"]


def test_a_component_is_its_own_family_unless_it_states_another():
    both = SHAPES.joined(Registry("number"))
    assert [registry.family(name) for registry in (SHAPES, both) for name in ("circle", "moved")] == [
        "circle",
        "rigid",
    ] * 2
    with pytest.raises(UnknownName, match="shape 'square' is not known"):
        SHAPES.family("square")


def test_summary_is_the_first_line_of_the_docstring():
    assert SHAPES.summary("circle") == "Round."


def test_component_without_parameters_says_so():
    assert did_you_mean("x", []) == "; it takes none."


@pytest.mark.parametrize("field", catalogue())
def test_declared_ranges_are_of_parameters_that_exist(field):
    registry = catalogue()[field]
    assert all(set(registry._ranges[name]) <= set(registry.parameters(name)) for name in registry.names())


@pytest.mark.parametrize(("field", "name", "key", "declared"), RANGES)
def test_component_can_be_built_at_both_ends_of_each_declared_range(field, name, key, declared):
    tree = {name: {**needed(field, name), key: declared}}
    space = SearchSpace({"backbone": "tiny_cnn", field: tree}, epochs=1, seed=0)
    assert space.problems(catalogue()) == []
    sampled = [getattr(config, field) for config in space.extremes(("backbone", field))]
    context = CONTEXT_OF.get((field, name), CONTEXTS.get(field, []))
    with torch.device("meta" if field == "backbone" else "cpu"):  # weights of the large ones would take a while
        built = [catalogue()[field].create(name, each.params, *context) for each in sampled]
    assert len(built) == len(sampled) >= 2


@pytest.mark.parametrize("row", describe(), ids=lambda row: f"{row['field']}-{row['name']}")
def test_component_says_what_it_is_in_one_sentence(row):
    assert row["summary"].endswith(".")


def needed(field: str, name: str) -> dict[str, object]:
    """Values for required parameters, and no weights."""
    samples = {"decay": 0.5, "multipliers": [0.1, 0.2, 1.0]}
    parameters = catalogue()[field].parameters(name)
    if (field, name) == ("backbone", WORD_VECTORS):
        return {"weights": VECTORS_FILE}
    untrained = {"weights": "none"} if field == "backbone" and "weights" in parameters else {}
    return untrained | {key: samples[key] for key, parameter in parameters.items() if parameter.required}


@pytest.mark.parametrize("word", ["no", "Yes", "on", "OFF", "y", "n"])
def test_word_that_was_a_truth_value_in_yaml_1_1_is_asked_about_where_one_may_be_meant(word):
    found = Registry("thing")
    found.register("loose")(lambda *, size=3, deep=False: (size, deep))
    assert found.problems("loose", {"size": word, "deep": "very"}) == []
    assert found.problems("loose", {"deep": word}) == [
        f"loose.deep={word!r} is a text, and its default is False; give true or false"
    ]
