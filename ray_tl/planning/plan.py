"""From a search-space file and the names of domains to a study that may begin: checked, loaded, advised."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from ray_tl.components import catalogue
from ray_tl.config import Component, TrialConfig
from ray_tl.data.addresses import absolute
from ray_tl.data.domains import DomainPair, LabelledDomain
from ray_tl.data.load import LoadedData, load_data
from ray_tl.data.places import Places
from ray_tl.data.summary import DataSummary
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.files import write_atomically
from ray_tl.models.backbones import knows_words
from ray_tl.models.backbones.user import register_user_backbones
from ray_tl.neighbours import NEIGHBOURS_FILE, LabelledSpace
from ray_tl.planning.advisor import advise, examine
from ray_tl.planning.augmented import augmented_source_only
from ray_tl.planning.checks import configuration_problems, data_problems, row_problems, weight_problems
from ray_tl.planning.compatibility import Room, memory_problems, network_problems
from ray_tl.planning.fidelity import fidelity_note
from ray_tl.planning.recipes import Situation
from ray_tl.planning.robust import robust_fine_tunes
from ray_tl.requirements import requirement_problems
from ray_tl.search_space import DataOptions, SearchFile, SearchOptions, SearchSpace
from ray_tl.search_space.file import JUDGE
from ray_tl.search_space.target_classes import target_class_problems
from ray_tl.selection import SELECTION_RULES, SelectionContext, rule_of
from ray_tl.selection.fixed_space import FixedSpace
from ray_tl.selection.prior import stated_shares
from ray_tl.study.artifacts import RemoteArtifacts
from ray_tl.study.backend import SPEC_FILE
from ray_tl.study.records import DataSource, StudySpec
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import Studies, check_name, find_study, studies_at
from ray_tl.training.data import TrialData, num_recorded, recorded_rows
from ray_tl.training.files import CHOICE_LABELS_FILE
from ray_tl.training.network import expected_context
from ray_tl.training.untrained_features import find_fixed_space
from ray_tl.validation import VALIDATORS

ADVISED = 3  # of so many trials one is a recipe, and the sampler gets the others


@dataclass(frozen=True)
class Plan:
    """A search that has passed every check and has not begun."""

    store: StudyStore
    pair: DomainPair


def plan_search(
    file: SearchFile,
    data: DataSource,
    name: str,
    studies: Studies | Path,
    first: Sequence[TrialConfig] | None = None,
    room: Room | None = None,
    artifacts: str | None = None,
) -> Plan:
    """Check everything that can be checked without Ray, and create the study.

    Args:
        file: The search-space file.
        data: Where the domains come from.
        name: Of the new study.
        studies: All there are, or the folder of their folders.
        first: Configurations to run before the sampler is asked, instead of the source-only baseline alone.
        room: Memory for training; `None` if it is not known here.
        artifacts: Address of checkpoints and evidence, as `usable_address` gives it; by default, the study's folder.

    Raises:
        InvalidInput: With all mistakes that can be found without the data at once, else with all that the data show;
            nothing is written then.
    """
    check_name("study", name)
    studies = studies_at(studies) if isinstance(studies, Path) else studies
    backend = studies.backend(name)
    if backend.folder.exists() or backend.read_file(SPEC_FILE) is not None:
        raise InvalidInput(f"study={name!r} exists already in {studies}; resume it with --resume {name}, or rename.")
    if artifacts is not None:
        RemoteArtifacts(artifacts, name).require_none()
    register_user_backbones(file.backbones)
    space = _sound_space(file)
    corners = list(_corners(space))
    zero_shot = tuple(_zero_shot(corners, data))
    configs = [*corners, *zero_shot, *(first or [])]
    _require_none([*data_problems(configs, data), *_network_and_weight_problems(configs, data, room)])
    loaded = load_places(data, file.search.seed)
    pair = loaded.pair
    _require_none(row_problems(configs, pair))
    space = _with_shares(space, data, pair)
    baselines = tuple(first or _prepared(space, data, zero_shot, file.search.num_trials, room))
    reference = _reference(baselines[0], pair) if file.search.has_judge else None
    free = file.search.num_trials - len(baselines) if first is None and file.search.advice else 0
    is_advised = free >= ADVISED
    situation = _situation(baselines[0], pair, data.options) if is_advised or file.search.has_judge else None
    spec = StudySpec(
        name=name,
        data=_anywhere(data),
        data_summary=_with_fidelity(loaded.summary, space, data, pair),
        search=file.search if reference is not None and reference.can_be_trusted else _without_judge(file.search),
        trees=space.trees,
        backbones=file.backbones,
        first=baselines,
        advice=advise(space, situation, free // ADVISED) if is_advised and situation is not None else (),
        judge="" if reference is None else reference.in_words(),
        data_fingerprint=pair.fingerprint(),
        classes=pair.source.classes,
        source_histogram=tuple(_shares(pair)),
        source_weight=_source_weight(situation),
        num_target=num_recorded(len(pair.target), pair.num_classes),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        artifacts=artifacts,
    )
    rule_of(spec)  # it may need what these data don't give
    store = StudyStore.create(backend, spec)
    if artifacts is not None:
        store.keep_artifacts_at(artifacts)
    _keep_choice_labels(store, pair)
    return Plan(store, _with_neighbours(store, pair, reference))


def plan_resumption(
    name: str, studies: Studies | Path, settings: Mapping[str, object], artifacts: str | None = None
) -> Plan:
    """Open a study that was begun before.

    Args:
        name: Of the study.
        studies: All there are, or the folder of their folders.
        settings: New values for `num_trials` or `time_budget_s`.
        artifacts: Address of checkpoints and evidence from now on, as `usable_address` gives it; by default, where they
            are.

    Raises:
        InvalidInput: If its data have changed since, or a setting can't change.
    """
    store = StudyStore(find_study(studies, name))
    register_user_backbones(store.spec.backbones)
    pair = load_places(store.spec.data, store.spec.search.seed).pair
    if pair.fingerprint() != store.spec.data_fingerprint:
        raise InvalidInput(
            f"study={name!r} was begun on other data than {store.spec.data.source!r} and {store.spec.data.target!r} "
            "hold now; restore the folders, or begin a new study."
        )
    store.update_search(**settings)
    if artifacts is not None:
        store.keep_artifacts_at(artifacts)
    _keep_choice_labels(store, pair)
    return Plan(store, _with_neighbours(store, pair))


def _sound_space(file: SearchFile) -> SearchSpace:
    """The space of a file, resolved; of one with mistakes nothing can be sampled, so they come first."""
    space = file.space()
    _require_none([*requirement_problems(), *space.problems(catalogue()), *_selection_problems(file.search)])
    return space.resolved(catalogue())


def _selection_problems(search: SearchOptions) -> list[str]:
    """What is wrong with the rule of choice, and with the validators that are recorded each epoch."""
    found = [line for name in search.validators for line in VALIDATORS.key_problems(name, ())]
    known = [name for name in search.validators if name in VALIDATORS.names()]
    found += [
        f"search.validators: {name!r} looks at the end of a trial and can't be recorded each epoch; choose by it with "
        f"selection: {{validators: {{names: [{name}]}}}}, or leave it out."
        for name in known
        if VALIDATORS.create(name, {}).needs_end
    ]
    try:
        SELECTION_RULES.create(search.selection.name, search.selection.params, SelectionContext((), ()))
    except InvalidInput as error:
        found.append(f"search.selection: {error}")
    return found


def _with_shares(space: SearchSpace, data: DataSource, pair: DomainPair) -> SearchSpace:
    """The same space, in which trials know the shares of the target's classes if users have stated them."""
    _require_none(target_class_problems(data.options.target_classes, pair.source.classes))
    shares = stated_shares(data.options.target_classes, pair.source.classes, np.array(_shares(pair)))
    if shares is None or "target_shares" in space.trees:
        return space
    return space.with_field("target_shares", shares.tolist())


def _network_and_weight_problems(configs: Sequence[TrialConfig], data: DataSource, room: Room | None) -> list[str]:
    """Networks are built, and weights loaded, of components that break no rule of their own."""
    if found := configuration_problems(configs, data):
        return found
    found = [*network_problems(configs, data.options), *weight_problems(configs, data)]
    if not found and room is not None:
        found += memory_problems(configs, data.options, room)
    return found


def _require_none(problems: Sequence[str]) -> None:
    if problems:
        raise all_at_once("search space", problems)


def _baselines(space: SearchSpace, data: DataSource) -> tuple[TrialConfig, ...]:
    """Source-only, and training on the target labels alone where there are some."""
    source_only = space.baseline()
    if not data.trains_on_target_labels:
        return (source_only,)
    return source_only, source_only.model_copy(update={"method": Component(name="fine_tune")})


def _zero_shot(configs: Iterable[TrialConfig], data: DataSource) -> Iterator[TrialConfig]:
    """A trial without training for each backbone that knows words; none where a mistake is yet to be reported."""
    one_each = {str(config.backbone): config for config in configs}
    for config in one_each.values():
        with suppress(InvalidInput):
            if knows_words(config.backbone, expected_context(data.options)):
                rest = config.model_dump(include={"backbone", "batch_size", "epochs", "seed"})
                yield TrialConfig.model_validate({**rest, "method": "zero_shot"})


def _prepared(
    space: SearchSpace, data: DataSource, zero_shot: Sequence[TrialConfig], num_trials: int, room: Room | None
) -> Iterator[TrialConfig]:
    """What runs before any advice, source-only first."""
    yield from _baselines(space, data)
    yield from zero_shot
    yield from augmented_source_only(space, num_trials)
    yield from _robust(space, data, num_trials, room)


def _robust(space: SearchSpace, data: DataSource, num_trials: int, room: Room | None) -> Iterator[TrialConfig]:
    """Those that can be trained here: nobody asked for them, so nothing is refused for their sake."""
    for config in robust_fine_tunes(space, data.options, num_trials):
        if not _network_and_weight_problems([config], data, room):
            yield config


def _with_fidelity(summary: DataSummary, space: SearchSpace, data: DataSource, pair: DomainPair) -> DataSummary:
    fields = {"backbone", "freeze_depth", "trained_stages", "unfreezing", "augmentation"}
    corners = space.extremes(fields)
    note = fidelity_note(space.baseline(), corners, data.options, len(pair.source), len(pair.target))
    return summary if note is None else summary.model_copy(update={"notes": (*summary.notes, note)})


def _situation(baseline: TrialConfig, pair: DomainPair, options: DataOptions) -> Situation:
    measured = examine(baseline, TrialData(pair.for_trials(), torch.device("cpu")))
    said = options.target_classes
    return replace(measured, target_classes=said if isinstance(said, str) else "stated")


def _source_weight(situation: Situation | None) -> float:
    """See `ray_tl.selection.objective`; 1 where nobody has looked at the domains, or at single examples of them."""
    if situation is None or not math.isfinite(situation.domain_accuracy):
        return 1.0
    return min(1.0, max(0.0, 2 - 2 * situation.domain_accuracy))


def _reference(baseline: TrialConfig, pair: DomainPair) -> FixedSpace | None:
    return find_fixed_space(baseline.backbone, TrialData(pair.for_trials(), torch.device("cpu")), baseline.seed)


def _without_judge(search: SearchOptions) -> SearchOptions:
    return search.model_copy(update={"validators": tuple(name for name in search.validators if name not in JUDGE)})


def _with_neighbours(store: StudyStore, pair: DomainPair, reference: FixedSpace | None = None) -> DomainPair:
    """The same pair with the space that all trials of a study are judged in, once and for all."""
    if not store.spec.search.has_judge:
        return pair
    path = store.folder / NEIGHBOURS_FILE
    if not path.is_file():
        found = reference or _reference(store.spec.first[0], pair)
        assert found is not None
        write_atomically(path, found.save)
    return replace(pair, reference=LabelledSpace.load(path))


def _keep_choice_labels(store: StudyStore, pair: DomainPair) -> None:
    """Write the labels by which the champion is chosen beside the trials, none of which opens them."""
    few, path = pair.target_choice, store.folder / CHOICE_LABELS_FILE
    if isinstance(few, LabelledDomain) and not path.is_file():
        rows = recorded_rows("target_choice", len(few), pair.num_classes)
        labels = few.labels if rows is None else few.labels[rows.numpy()]
        write_atomically(path, lambda file: np.save(file, labels, allow_pickle=False))


def _corners(space: SearchSpace) -> Iterator[TrialConfig]:
    """Every choice and both ends of every range, of fields together that constrain one another."""
    bound = {"backbone", "freeze_depth", "trained_stages", "lr_multipliers", "domain_norm"}
    isolated = {"freeze_depth", "parameter_efficient"}
    pairs = [
        isolated,
        {*isolated, "trained_stages"},
        {"parameter_efficient", "regulariser"},
        {"method", "mixing"},
        {"method", "class_balance"},
        {"batch_size", "accumulation"},
        {"averaging", "freeze_depth"},
    ]
    together = [bound, *(pair for pair in pairs if pair <= space.trees.keys())]
    alone = ({field} for field in space.trees if not any(field in fields for fields in together))
    for fields in (*together, *alone):
        yield from space.extremes({"backbone", *fields})


def _shares(pair: DomainPair) -> list[float]:
    counts = np.bincount(pair.source.labels, minlength=pair.num_classes)
    return [float(share) for share in counts / counts.sum()]


def load_places(data: DataSource, seed: int) -> LoadedData:
    """The domains of a study; raises `InvalidInput` as `load_data`."""
    return load_data(places_of(data), data.options, seed)


def places_of(data: DataSource) -> Places:
    return Places(data.source, data.target, data.target_test, data.target_labelled, data.intermediate, data.auxiliary)


def _anywhere(data: DataSource) -> DataSource:
    """With absolute paths: a study may go on, or be promoted, from another folder than it was begun in."""
    keys = ("source", "target", "target_test", "target_labelled", "auxiliary")
    names = {key: name for key in keys if (name := getattr(data, key)) is not None}
    folders = {key: absolute(name) for key, name in names.items() if not name.startswith("digits:")}
    return data.model_copy(update={**folders, "intermediate": tuple(map(absolute, data.intermediate))})
