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
from ray_tl.data.reading import Reading
from ray_tl.data.splits import class_halves, few_shots, grouped_split, stratified_split, temporal_split
from ray_tl.data.summary import ClassSize, DataSummary, DomainSummary
from ray_tl.data.survey import Readings, compare_domains, list_domains, read_domains
from ray_tl.data.text import TextPreprocessing, load_text_preprocessing
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.search_space import DataOptions
from ray_tl.tokens import PAD

Domain = TypeVar("Domain", bound=UnlabelledDomain)

DOMAINS = ("source", "source_holdout", "target", "target_test", "target_labelled", "target_choice")

DARK = 31  # levels: an eighth of white
FEW_KNOWN = 0.5  # of the words of a domain

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
            domains at a time; if a tokenizer can't be loaded.
    """
    _require_shots_to_choose(places, options)
    preprocessing = preprocessing_of(options)
    readings = read_domains(list_domains(places, preprocessing, options, _raise), _raise)
    readings, sentences = compare_domains(readings, options, _raise)
    sentences += _in_two_classes(readings[SOURCE])
    training, holdout = split_source(readings[SOURCE], options, seed)
    for_training, for_choice = None, None
    if TARGET_LABELLED in readings:
        readings[TARGET_LABELLED] = _drawn(readings[TARGET_LABELLED], options, seed)
        for_training, for_choice = _by_use(readings[TARGET_LABELLED].domain, options, seed)
    pair = DomainPair(
        training,
        holdout,
        readings[TARGET].domain,
        preprocessing,
        readings[TARGET_TEST].domain if TARGET_TEST in readings else None,
        for_training,
        tuple(reading.domain for field, reading in readings.items() if is_between(field)),
        readings[AUXILIARY].domain if AUXILIARY in readings else None,
        target_choice=for_choice,
    )
    sentences += _across_the_split(readings[SOURCE], training, holdout, options)
    notes = [*_notes(readings), *_odd_split(training, holdout, options)]
    summary = summary_of(readings, options, sentences, len(holdout), notes)
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
        InvalidInput: If a tokenizer can't be loaded.
    """
    problems: list[str] = []
    with _collected(problems):
        _require_shots_to_choose(places, options)
    preprocessing = preprocessing_of(options)
    readings = read_domains(list_domains(places, preprocessing, options, problems.extend), problems.extend)
    readings, sentences = compare_domains(readings, options, problems.extend)
    num_held_out: int | None = None
    notes = _notes(readings)
    if SOURCE in readings:
        sentences += _in_two_classes(readings[SOURCE])
    if SOURCE in readings and not problems:
        with _collected(problems):
            training, holdout = split_source(readings[SOURCE], options, seed)
            sentences += _across_the_split(readings[SOURCE], training, holdout, options)
            num_held_out, notes = len(holdout), [*notes, *_odd_split(training, holdout, options)]
    if TARGET_LABELLED in readings and not problems:
        with _collected(problems):
            readings[TARGET_LABELLED] = _drawn(readings[TARGET_LABELLED], options, seed)
            _by_use(readings[TARGET_LABELLED].domain, options, seed)
    return summary_of(readings, options, sentences, num_held_out, notes), problems


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
        with _named("split_by_time", options.split_by_time):
            return temporal_split(reading.domain, reading.columns[options.split_by_time], fraction)
    with _named("split_by", options.split_by):
        return grouped_split(reading.domain, _groups(reading, options), fraction, seed)


def summary_of(
    readings: Readings,
    options: DataOptions,
    overlaps: Sequence[str],
    num_held_out: int | None,
    notes: Sequence[str] = (),
) -> DataSummary:
    """What was read, in numbers."""
    return DataSummary(
        domains=tuple(_domain_summary(field, each, num_held_out, options) for field, each in readings.items()),
        overlaps=tuple(overlaps),
        notes=tuple(notes),
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


@contextmanager
def _named(option: str, value: str | None) -> Iterator[None]:
    """What is wrong with a split, with the option that asked for it."""
    try:
        yield
    except InvalidInput as error:
        raise error if value is None else InvalidInput(f"{option}={value!r}: {error}") from error


def _require_shots_to_choose(places: Places, options: DataOptions) -> None:
    if options.target_shots is not None and places.target_labelled is None:
        raise InvalidInput(
            f"target_shots={options.target_shots} chooses among labelled target examples, and there are none; give a "
            "folder of them with --target-labelled, or leave target_shots out."
        )
    if options.target_labels_for != "training" and places.target_labelled is None:
        raise InvalidInput(
            f"target_labels_for={options.target_labels_for!r} is about labelled target examples, and there are none; "
            "give a folder of them with --target-labelled, or leave target_labels_for out."
        )


def _by_use(
    domain: LabelledDomain, options: DataOptions, seed: int
) -> tuple[LabelledDomain | None, LabelledDomain | None]:
    """Labelled target examples that are trained on, and those by which the champion is chosen."""
    if options.target_labels_for == "both":
        return class_halves(domain, seed)
    return (domain, None) if options.target_labels_for == "training" else (None, domain)


def _drawn(reading: Reading[LabelledDomain], options: DataOptions, seed: int) -> Reading[LabelledDomain]:
    """The labelled target examples that are used."""
    if options.target_shots is None:
        return reading
    chosen = few_shots(reading.domain, options.target_shots, seed)
    left_out = {**reading.left_out, "not drawn by --shots": len(reading.domain) - len(chosen)}
    return replace(reading, domain=chosen, left_out=left_out)


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


def _notes(readings: Readings) -> list[str]:
    """What users should know of the domains as they were read."""
    return [*_repeated(readings), *_unknown_words(readings), *_dark(readings)]


def _repeated(readings: Readings) -> list[str]:
    """Exact copies within the source."""
    if SOURCE not in readings:
        return []
    groups = groups_of_copies(readings[SOURCE].contents, with_near=False)
    copies = len(groups) - len(np.unique(groups))
    return [f"exact copies of other {readings[SOURCE].noun} within the source: {copies}."] if copies else []


def _unknown_words(readings: Readings) -> list[str]:
    """Texts of which a file of word vectors knows less than half of the words."""
    shares = {field: each.known_words for field, each in readings.items() if each.known_words is not None}
    return [
        f"only {share:.0%} of the words of {field} are in the file of word vectors; is it of this language and case?"
        for field, share in shares.items()
        if share < FEW_KNOWN
    ]


def _dark(readings: Readings) -> list[str]:
    """Domains of images that are nearly black, as 12 bits in 16 are."""
    brightest = {
        field: int(each.domain.inputs.max())
        for field, each in readings.items()
        if each.texts is None and len(each.domain) and each.domain.inputs.dtype == np.uint8
    }
    return [
        f"no pixel of {field} is brighter than {level} of 255; if its images use a part of their range, such as 12 "
        "bits of 16, scale them."
        for field, level in brightest.items()
        if level <= DARK
    ]


def _odd_split(training: LabelledDomain, holdout: LabelledDomain, options: DataOptions) -> list[str]:
    """A hold-out that lacks classes, or is much smaller than was asked for, because groups or times decide it."""
    lacking = sorted(set(training.labels.tolist()) - set(holdout.labels.tolist()))
    asked, total = options.holdout_fraction, len(training) + len(holdout)
    notes = []
    if lacking:
        more = ", ..." if len(lacking) > SHOWN else ""
        names = ", ".join(training.classes[label] for label in lacking[:SHOWN]) + more
        notes.append(f"the hold-out has no example of {names}; the accuracy there stays unknown.")
    if len(holdout) < asked * total / 2 and options.split_by is not None:
        notes.append(f"the hold-out has {len(holdout)} of {total} examples, and {asked:.0%} were asked for.")
    return notes


def _in_two_classes(reading: Reading[LabelledDomain]) -> list[str]:
    """Exact copies of one example under different labels."""
    groups = groups_of_copies(reading.contents, with_near=False)
    labelled = np.unique(np.stack([groups, reading.domain.labels]), axis=1)
    twice = np.flatnonzero(np.bincount(labelled[0]) > 1)
    if not len(twice):
        return []
    rows = np.flatnonzero(np.isin(groups, twice))
    shown = rows[groups[rows] == groups[rows[0]]][:SHOWN]
    named = ", ".join(reading.domain.ids[row] for row in shown) + (", ..." if len(rows) > len(shown) else "")
    return [f"{len(rows)} {reading.noun} of the source are copies with different labels ({named}); keep one label."]


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


def _domain_summary(field: str, reading: Reading, num_held_out: int | None, options: DataOptions) -> DomainSummary:
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
    use = _use(sizes, options) if field == TARGET_LABELLED else ""
    return summary.model_copy(update={"classes": len(domain.classes), "use": use, **stated})


def _use(sizes: NDArray[np.int64], options: DataOptions) -> str:
    """What labelled target examples are for, where that is not training alone; see `class_halves`."""
    if options.target_labels_for == "both":
        return f"{((sizes + 1) // 2).sum()} to train on and {(sizes // 2).sum()} for the choice of the champion"
    alone = "for the choice of the champion alone: no trial is shown these labels"
    return alone if options.target_labels_for == "choice" else ""


def _trimmed(pair: DomainPair) -> DomainPair:
    """All domains as wide as the longest text of any: they make joint batches."""
    domains = {name: domain for name in DOMAINS if (domain := getattr(pair, name)) is not None}
    longest = max(int((domain.inputs != PAD).sum(axis=1).max()) for domain in domains.values())
    return replace(pair, **{name: _cut(domain, longest) for name, domain in domains.items()})


def _cut(domain: Domain, length: int) -> Domain:
    return replace(domain, inputs=domain.inputs[:, :length].copy())
