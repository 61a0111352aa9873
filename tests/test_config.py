import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_tl.config import Component, TrialConfig

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), NUMBERS, st.text(), st.lists(NUMBERS))
COMPONENTS = st.builds(Component, name=st.text(), params=st.dictionaries(st.text(), VALUES, max_size=3))
CONFIGS = st.builds(
    TrialConfig, backbone=COMPONENTS, method=COMPONENTS, freeze_depth=st.integers(0, 99), seed=st.integers(0, 2**64)
)


@given(CONFIGS)
def test_trial_comes_back_from_json_exactly_and_with_the_same_types(config):
    again = TrialConfig.model_validate_json(config.model_dump_json())
    assert repr(again) == repr(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_number_that_json_can_not_say_is_refused(value):
    with pytest.raises(ValidationError, match="finite number"):
        Component(name="mcc", params={"temperature": value})


@pytest.mark.parametrize(
    ("short", "params"),
    [("mcc", {}), ({"mcc": None}, {}), ({"mcc": {"t": 2}}, {"t": 2}), ({"name": "mcc", "params": {"t": 2}}, {"t": 2})],
)
def test_component_reads_every_short_form(short, params):
    assert Component.model_validate(short) == Component(name="mcc", params=params)


@pytest.mark.parametrize("wrong", [3, {"mcc": 0}, {"mcc": []}, {"mcc": ""}, ["mcc"], {"mcc": {}, "dann": {}}, None])
def test_component_of_another_shape_is_refused(wrong):
    with pytest.raises(ValidationError):
        Component.model_validate(wrong)


def test_trial_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TrialConfig(backbone="tiny_cnn").epochs = 3


def test_extra_field_is_refused():
    with pytest.raises(ValidationError, match="freeze_dept"):
        TrialConfig.model_validate({"backbone": "tiny_cnn", "freeze_dept": 3})


@pytest.mark.parametrize("field", [{"freeze_depth": -1}, {"batch_size": 1}, {"epochs": 0}, {"seed": -1}])
def test_number_out_of_range_is_refused(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        TrialConfig.model_validate({"backbone": "tiny_cnn", **field})
