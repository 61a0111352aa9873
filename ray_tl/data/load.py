"""From the places of the domains of a study to a pair in memory: listed, read, compared with one another, split."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.copies import SHOWN, groups_of_copies, joined_groups, overlap
from ray_tl.data.digits import load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, OracleLabels, UnlabelledDomain
from ray_tl.data.places import (
    AUXILIARY,
    FOLDER,
    GROUP,
    SOURCE,
    TARGET,
    TARGET_LABELLED,
    TARGET_TEST,
    Places,
    is_between,
)
from ray_tl.data.preprocessing import AnyPreprocessing, Preprocessing
from ray_tl.data.reading import Reading, counted
from ray_tl.data.splits import few_shots, grouped_split, stratified_split, temporal_split
from ray_tl.data.summary import ClassSize, DataSummary, DomainSummary
from ray_tl.data.survey import Readings, compare_domains, list_domains, read_domains
from ray_tl.data.text import TextPreprocessing, load_text_preprocessing
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.search_space import DataOptions
from ray_tl.tokens import PAD

Domain = TypeVar("Domain", bound=UnlabelledDomain)

DOMAINS = ("source", "source_holdout", "target", "target_test", "target_labelled")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedData:
    """The domains of a study, and what was read in words."""

    pair: DomainPair
    summary: DataSummary


def load_data(places: Places, options: DataOptions, seed: int) -> LoadedData:
    """Read, compare and split all domains of a study.

    Args:
        places: Where they are.
        options: How files become arrays, and what is held out.
        seed: Of the split of the source, and of the choice of labelled target examples.

    Raises:
        InvalidInput: With everything that is wrong after each step: what is there, what is in it, what is in two
            domains at a time; if a tokenizer can't be had.
    """
    _require_shots_to_choose(places, options)
    preprocessing = preprocessing_of(options)
    readings = read_domains(list_domains(places, preprocessing, options, _raise), _raise)
    readings, sentences = compare_domains(readings, options, _raise)
    sentences += _in_two_classes(readings[SOURCE])
    training, holdout = split_source(readings[SOURCE], options, seed)
    few = readings.get(TARGET_LABELLED)
    pair = DomainPair(
        training,
        holdout,
        readings[TARGET].domain,
        preprocessing,
        readings[TARGET_TEST].domain if TARGET_TEST in readings else None,
        None if few is None else _chosen(few.domain, options, seed),
        tuple(reading.domain for field, reading in readings.items() if is_between(field)),
        readings[AUXILIARY].domain if AUXILIARY in readings else None,
    )
    sentences += _across_the_split(readings[SOURCE], training, holdout, options)
    summary = summary_of(readings, sentences, len(holdout))
    for line in summary.lines():
        _log.info(line)
    return LoadedData(_trimmed(pair) if isinstance(preprocessing, TextPreprocessing) else pair, summary)


def load_pair(
    source: str,
    target: str,
    target_test: str | None,
    options: DataOptions,
    seed: int,
    target_labelled: str | None = None,
    intermediate: Sequence[str] = (),
    auxiliary: str | None = None,
) -> DomainPair:
    """The pair of `load_data`; each argument as in `Places`."""
    places = Places(source, target, target_test, target_labelled, tuple(intermediate), auxiliary)
    return load_data(places, options, seed).pair


def check_data(places: Places, options: DataOptions, seed: int) -> tuple[DataSummary, list[str]]:
    """What `load_data` would read, and everything that would end it, found in one go.

    Raises:
        InvalidInput: If a tokenizer can't be had.
    """
    problems: list[str] = []
    with _collected(problems):
        _require_shots_to_choose(places, options)
    preprocessing = preprocessing_of(options)
    readings = read_domains(list_domains(places, preprocessing, options, problems.extend), problems.extend)
    readings, sentences = compare_domains(readings, options, problems.extend)
    num_held_out: int | None = None
    if SOURCE in readings:
        sentences += _in_two_classes(readings[SOURCE])
    if SOURCE in readings and not problems:
        with _collected(problems):
            training, holdout = split_source(readings[SOURCE], options, seed)
            sentences += _across_the_split(readings[SOURCE], training, holdout, options)
            num_held_out = len(holdout)
    if TARGET_LABELLED in readings and not problems:
        with _collected(problems):
            _chosen(readings[TARGET_LABELLED].domain, options, seed)
    return summary_of(readings, sentences, num_held_out), problems


def split_source(
    reading: Reading[LabelledDomain], options: DataOptions, seed: int
) -> tuple[LabelledDomain, LabelledDomain]:
    """The part of the source that is trained on, and the part that is held out.

    Raises:
        InvalidInput: If groups or times leave nothing to hold out.
    """
    fraction = options.holdout_fraction
    if options.reader_version == 1:
        return stratified_split(reading.domain, fraction, seed)
    if options.split_by_time is not None:
        return temporal_split(reading.domain, reading.columns[options.split_by_time], fraction)
    return grouped_split(reading.domain, _groups(reading, options), fraction, seed)


def summary_of(readings: Readings, overlaps: Sequence[str], num_held_out: int | None) -> DataSummary:
    """What was read, in numbers."""
    return DataSummary(
        domains=tuple(_domain_summary(field, each, num_held_out) for field, each in readings.items()),
        overlaps=tuple(overlaps),
    )


def preprocessing_of(options: DataOptions) -> AnyPreprocessing:
    """How files become arrays, a tokenizer loaded if they are texts."""
    if options.modality == "text":
        return load_text_preprocessing(options.tokenizer, options.max_length)
    return Preprocessing(
        image_size=options.image_size, channels=options.channels, reader_version=options.reader_version
    )


def optdigits_oracle(preprocessing: Preprocessing) -> OracleLabels:
    """True classes of all of optdigits: for scoring a finished search, never for one."""
    digits = load_optdigits(preprocessing)
    return OracleLabels({key: digits.classes[label] for key, label in zip(digits.ids, digits.labels, strict=True)})


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise all_at_once("data", problems) if len(problems) > 1 else InvalidInput(problems[0])


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        problems.append(str(error))


def _require_shots_to_choose(places: Places, options: DataOptions) -> None:
    if options.target_shots is not None and places.target_labelled is None:
        raise InvalidInput(
            f"target_shots={options.target_shots} chooses among labelled target examples, and there are none; give a "
            "folder of them with --target-labelled, or leave target_shots out."
        )


def _chosen(labelled: LabelledDomain, options: DataOptions, seed: int) -> LabelledDomain:
    return labelled if options.target_shots is None else few_shots(labelled, options.target_shots, seed)


def _groups(reading: Reading[LabelledDomain], options: DataOptions) -> NDArray[np.int64]:
    """A number for each example; what has the same stays on one side."""
    groups = groups_of_copies(reading.contents, with_near=options.split_by == GROUP)
    if options.split_by == FOLDER:
        return _joined_by(groups, [id.rpartition("/")[0] for id in reading.domain.ids])
    column = reading.columns.get(options.split_by) if options.split_by is not None else None
    return groups if column is None else _joined_by(groups, column)


def _joined_by(groups: NDArray[np.int64], values: Sequence[object]) -> NDArray[np.int64]:
    """Groups of which those become one that have an equal value; one that is missing equals no other."""
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(repr(value), row), row)
        for row, value in enumerate(values)
        if value not in (None, "") and value == value
    ]
    return joined_groups(groups, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def _in_two_classes(reading: Reading[LabelledDomain]) -> list[str]:
    """Exact copies of one example under different labels."""
    groups = groups_of_copies(reading.contents, with_near=False)
    labelled = np.unique(np.stack([groups, reading.domain.labels]), axis=1)
    twice = np.flatnonzero(np.bincount(labelled[0]) > 1)
    if not len(twice):
        return []
    rows = np.flatnonzero(np.isin(groups, twice))
    named = ", ".join(reading.domain.ids[row] for row in rows[groups[rows] == groups[rows[0]]][:SHOWN])
    return [f"{counted(len(rows), reading.noun)} of the source are copies with different labels ({named}, ...)."]


def _across_the_split(
    reading: Reading[LabelledDomain], training: LabelledDomain, holdout: LabelledDomain, options: DataOptions
) -> list[str]:
    """Copies that are trained on and held out."""
    if options.split_by == GROUP:
        return []
    place = {id: row for row, id in enumerate(reading.domain.ids)}
    late, early = (reading.contents.take([place[id] for id in part.ids]) for part in (holdout, training))
    found = overlap(late, early, ("the hold-out", "the training part of the source"), reading.noun)
    return [] if found is None else [f"{found}; --split-by group keeps copies on one side."]


def _domain_summary(field: str, reading: Reading, num_held_out: int | None) -> DomainSummary:
    domain = reading.domain
    summary = DomainSummary(
        field=field,
        stated=reading.address.stated,
        size=len(domain),
        noun=reading.noun,
        left_out=dict(reading.left_out),
        held_out=num_held_out if field == SOURCE else None,
    )
    if not isinstance(domain, LabelledDomain):
        return summary
    sizes = np.bincount(domain.labels, minlength=len(domain.classes))
    ends = {"smallest": int(sizes.argmin()), "largest": int(sizes.argmax())}
    stated = {key: ClassSize(name=domain.classes[at], size=int(sizes[at])) for key, at in ends.items()}
    return summary.model_copy(update={"classes": len(domain.classes), **stated})


def _trimmed(pair: DomainPair) -> DomainPair:
    """All domains as wide as the longest text of any: they make joint batches."""
    domains = {name: domain for name in DOMAINS if (domain := getattr(pair, name)) is not None}
    longest = max(int((domain.inputs != PAD).sum(axis=1).max()) for domain in domains.values())
    return replace(pair, **{name: _cut(domain, longest) for name, domain in domains.items()})


def _cut(domain: Domain, length: int) -> Domain:
    return replace(domain, inputs=domain.inputs[:, :length].copy())
