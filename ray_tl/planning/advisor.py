"""The first trials of a search: recipes, as points of the space that users allow, of which the sampler learns."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from ray_tl.components import catalogue
from ray_tl.config import Component, TrialConfig
from ray_tl.models.backbones import is_pretrained
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.transfer_model import TransferModel
from ray_tl.planning.recipes import Recipe, Situation, recipes
from ray_tl.randomness import some_rows
from ray_tl.registry import Published, Scalar
from ray_tl.search_space import Preference, Preferring, SearchSpace
from ray_tl.study.records import Advice
from ray_tl.training.data import TrialData
from ray_tl.training.doctor import domain_accuracy
from ray_tl.training.evaluation import predict_features
from ray_tl.training.network import build_model

__all__ = ["Situation", "advise", "examine"]

ROWS = 192  # of each domain that are looked at: a few seconds on a processor
SAID: dict[tuple[str, Scalar], str] = {
    ("domain_norm", "separate"): "domains this far apart with statistics of their own",
    ("unfreezing", "probe_then_fine_tune"): "the head first",
    ("unfreezing", "gradual"): "one stage after the other from the head on",
    ("lr_multipliers", "layer_decay"): "shallow stages slowest",
}


def examine(config: TrialConfig, data: TrialData) -> Situation:
    """Look at the domains through the backbone of a configuration, before anything is trained.

    Raises:
        InvalidInput: If the backbone can't be built, or its weights can't be had.
    """
    model, pair = build_model(config, data), data.pair
    features = {name: _features(model, data, name, config.seed) for name in ("source", "target")}
    labels = data.labels[some_rows(len(data.labels), ROWS, config.seed, "advisor", "source")]
    few = data.target_labels
    return Situation(
        num_source=len(pair.source),
        num_target=len(pair.target),
        num_classes=pair.num_classes,
        num_target_labelled=0 if few is None else len(few),
        stage_sizes=model.backbone.stage_sizes,
        is_pretrained=is_pretrained(config.backbone),
        domain_accuracy=domain_accuracy(features["source"], features["target"]),
        probe_accuracy=_probe_accuracy(features["source"], labels),
    )


def advise(space: SearchSpace, situation: Situation, limit: int) -> tuple[Advice, ...]:
    """At most `limit` points of the space to try first, each with its reason.

    A recipe gives way to the space: what a user has fixed stays, a range that does not hold a value of it gives its
    nearer end, a choice what comes nearest, and the reason says so. What the space lacks is skipped.
    """
    defaults = _defaults()
    found: dict[str, Advice] = {}
    for recipe in recipes(situation):
        if len(found) == limit:
            break
        if (advice := _point(space, recipe, situation, defaults)) is not None:
            found.setdefault(repr(sorted(advice.params.items())), advice)
    return tuple(found.values())


def _point(space: SearchSpace, recipe: Recipe, situation: Situation, defaults: Mapping[str, Scalar]) -> Advice | None:
    """The point of the space that comes nearest to a recipe; `None` if it would be another recipe."""
    preferred = {"method": _in_order(recipe.methods), **recipe.preferred}
    method = space.sample(Preferring(preferred)).method.name
    if method not in recipe.methods:
        return None
    stated = _stated(recipe, method)
    names = {field: _in_order(list(value)) for field, value in stated.items() if isinstance(value, Mapping)}
    wanted = {**(defaults if recipe.is_published else {}), **_values(stated)}
    trial = Preferring({**names, **preferred}, wanted)
    config = space.sample(trial)
    trained = stages_that_train(config.freeze_depth, config.trained_stages, situation.stage_sizes, config.backbone.name)
    if recipe.trains == "stages" and not trained:
        return None
    departures = list(_departures(config, stated)) if recipe.is_published else []
    if recipe.trains == "head" and trained:
        departures.append(f"freeze_depth {config.freeze_depth}, and nothing that freezes more")
    return Advice(params=trial.taken, reason=f"{recipe.reason}{_in_words(recipe, trial.taken, method, departures)}.")


def _stated(recipe: Recipe, method: str) -> dict[str, object]:
    """What a trial should be: as the recipe has it, and for the rest as the method's authors have it."""
    published = catalogue()["method"].published(method) or Published("")
    own = {"method": {method: {**published.params, **_stated_of(recipe, method)}}}
    if not recipe.is_published:
        return {**recipe.stated, **own}
    theirs = {field: _options(value) for field, value in published.trial.items() if field not in recipe.preferred}
    return {**theirs, **recipe.stated, **own}


def _stated_of(recipe: Recipe, method: str) -> Mapping[str, object]:
    by_method = recipe.stated.get("method", {})
    assert isinstance(by_method, Mapping)
    return by_method.get(method, {})


def _options(value: object) -> object:
    """A component as a mapping of its name to its parameters; any other value as it is."""
    if not isinstance(value, str | dict):
        return value
    component = Component.model_validate(value)
    return {component.name: component.params}


def _in_order(names: Sequence[str]) -> Preference:
    """The first of these that there is; others come after them all."""
    return lambda value: names.index(str(value)) if value in names else len(names)


def _defaults() -> dict[str, Scalar]:
    """What a trial has where nobody says anything, by path."""
    values = {name: field.default for name, field in TrialConfig.model_fields.items()}
    found = {name: value.name if isinstance(value, Component) else value for name, value in values.items()}
    for field, registry in catalogue().items():
        for name in registry.names() if field != "backbone" else ():
            for key, parameter in registry.parameters(name).items():
                if not parameter.required:
                    found[f"{field}.{name}.{key}"] = parameter.default
    return {path: value for path, value in found.items() if isinstance(value, Scalar)}


def _values(stated: Mapping[str, object]) -> dict[str, Scalar]:
    """By path: fields that are no components, and parameters of all components that would do."""
    found: dict[str, Scalar] = {}
    for field, value in stated.items():
        if isinstance(value, Mapping):
            found |= {f"{field}.{name}.{key}": one for name, each in value.items() for key, one in each.items()}
        elif isinstance(value, Scalar):
            found[field] = value
    return found


def _departures(config: TrialConfig, stated: Mapping[str, object]) -> Iterator[str]:
    """Where a point is not what a recipe states, in words."""
    registries = catalogue()
    for field, wanted in stated.items():
        got = getattr(config, field)
        if not isinstance(wanted, Mapping):
            if got != wanted:
                yield f"{field} {got} and not {wanted}"
            continue
        first = next(iter(wanted))
        if got.name != first:
            yield f"{field} {got.name} and not {first}"
        usual = registries[field].parameters(got.name)
        for key, value in wanted.get(got.name, {}).items():
            if (one := got.params.get(key, usual[key].default)) != value:
                yield f"{field}.{got.name}.{key} {_short(one)} and not {_short(value)}"


def _in_words(recipe: Recipe, taken: Mapping[str, Scalar], method: str, departures: Sequence[str]) -> str:
    """What else a point does that its reason rests on, whose settings it has, and where the space has others."""
    said = "".join(f", {SAID[field, value]}" for field, value in taken.items() if (field, value) in SAID)
    published = catalogue()["method"].published(method)
    if recipe.is_published and published is not None and "https://" in published.source:
        said += f"; method as in {published.source.partition(', https://')[0]}"
    return f"{said}; in this space with {', '.join(departures)}" if departures else said


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _features(model: TransferModel, data: TrialData, domain: str, seed: int) -> torch.Tensor:
    rows = data.rows[domain]
    chosen = rows[some_rows(len(rows), ROWS, seed, "advisor", domain)]
    return predict_features(model.to(data.device), chosen, 0, data.device, domain_of(domain))


def _probe_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Of logistic regression fitted to two rows in three, on the third."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, classes, third = features.double().numpy(), labels.numpy(), np.arange(len(labels)) % 3 == 2
    if len(np.unique(classes[~third])) < 2:
        return 1.0
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(rows[~third], classes[~third]).score(rows[third], classes[third]))
