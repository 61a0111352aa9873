"""Every adaptation method states the settings of its authors, and they are those of a trial that can be built."""

import pytest

from ray_tl.components import catalogue, describe
from ray_tl.config import TrialConfig

METHODS = catalogue()["method"]


@pytest.mark.parametrize("name", METHODS.names())
def test_method_names_where_its_settings_come_from(name):
    published = METHODS.published(name)
    assert published is not None
    assert "https://" in published.source or published.source.startswith("no paper: ")


@pytest.mark.parametrize("name", METHODS.names())
def test_published_parameters_are_those_of_the_method(name):
    assert METHODS.problems(name, METHODS.published(name).params) == []


@pytest.mark.parametrize("name", METHODS.names())
def test_a_trial_can_be_built_from_published_settings(name):
    published = METHODS.published(name)
    method = {name: dict(published.params)}
    config = TrialConfig.model_validate({"backbone": "efficientnet_lite0", "method": method, **published.trial})
    for field in set(published.trial) & set(catalogue()):
        component = getattr(config, field)
        assert catalogue()[field].problems(component.name, component.params) == []


def test_components_are_listed_with_their_published_settings():
    (row,) = [row for row in describe() if (row["field"], row["name"]) == ("method", "mcc")]
    assert row["published"]["params"] == {"temperature": 2.5}
    assert row["published"]["source"].startswith("Jin et al., 2020")


def test_every_method_states_with_which_others_it_errs_alike():
    families = {METHODS.family(name) for name in METHODS.names()}
    assert families == {
        "source", "confidence", "alignment", "adversarial", "zero_shot",
    }  # fmt: skip
