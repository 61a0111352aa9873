"""From the names of two domains to a pair in memory."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, OracleLabels, UnlabelledDomain
from ray_tl.data.images import read_labelled_folder, read_unlabelled_folder
from ray_tl.data.preprocessing import AnyPreprocessing, Preprocessing
from ray_tl.data.splits import few_shots, random_halves, stratified_split
from ray_tl.data.table_domains import read_labelled_table, read_unlabelled_table
from ray_tl.data.tables import is_table
from ray_tl.data.text import TextPreprocessing, load_text_preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions
from ray_tl.tokens import PAD

Domain = TypeVar("Domain", bound=UnlabelledDomain)

MNIST, OPTDIGITS, OPTDIGITS_TEST = "digits:mnist", "digits:optdigits", "digits:optdigits/test"
DOMAINS = ("source", "source_holdout", "target", "target_test", "target_labelled")
HALVES_SEED = 0


def load_pair(
    source: str,
    target: str,
    target_test: str | None,
    options: DataOptions,
    seed: int,
    target_labelled: str | None = None,
) -> DomainPair:
    """Read and split all domains of a study.

    A table (see `read_columns`) may stand for each folder of images; texts come from tables alone.

    Args:
        source: Folder of class folders, or `digits:mnist`.
        target: Folder of images, or `digits:optdigits`, one half of that set.
        target_test: Folder of images, or `digits:optdigits/test`, the other half; `None` for none.
        options: How files become arrays.
        seed: Of the split of the source, and of the choice of labelled target examples.
        target_labelled: Folder of class folders with target examples to train on, or `digits:optdigits`, whose labels
            are then known for the half that is searched on; `None` for none. `options.target_shots` takes a few.

    Raises:
        InvalidInput: For a missing or empty folder or table, too few classes or examples, or broken ones unless
            skipped; if an example of `target_test` is among the labelled ones; if a tokenizer can't be had.
    """
    if options.target_shots is not None and target_labelled is None:
        raise InvalidInput(
            f"target_shots={options.target_shots} chooses among labelled target examples, and there are none; give a "
            "folder of them with --target-labelled, or leave target_shots out."
        )
    preprocessing = preprocessing_of(options)
    searched = _unlabelled(target, "target", preprocessing, options)
    test = None if target_test is None else _unlabelled(target_test, "target_test", preprocessing, options)
    labelled = _labelled(source, preprocessing, options)
    training, holdout = stratified_split(labelled, options.holdout_fraction, seed)
    few = None
    if target_labelled is not None:
        few = _target_labelled(target_labelled, labelled.classes, preprocessing, options, seed)
        if test is not None:
            _require_apart(few, test)
    pair = DomainPair(training, holdout, searched, preprocessing, test, few)
    return _trimmed(pair) if isinstance(preprocessing, TextPreprocessing) else pair


def preprocessing_of(options: DataOptions) -> AnyPreprocessing:
    """How files become arrays, a tokenizer loaded if they are texts."""
    if options.modality == "text":
        return load_text_preprocessing(options.tokenizer, options.max_length)
    return Preprocessing(image_size=options.image_size, channels=options.channels)


def optdigits_oracle(preprocessing: Preprocessing) -> OracleLabels:
    """True classes of all of optdigits: for scoring a finished search, never for one."""
    digits = load_optdigits(preprocessing)
    return OracleLabels({key: digits.classes[label] for key, label in zip(digits.ids, digits.labels, strict=True)})


def _labelled(name: str, preprocessing: AnyPreprocessing, options: DataOptions) -> LabelledDomain:
    if name == MNIST and isinstance(preprocessing, Preprocessing):
        return load_mnist_5k(preprocessing)
    return _read_labelled(name, "source", preprocessing, options, [MNIST])


def _target_labelled(
    name: str, classes: tuple[str, ...], preprocessing: AnyPreprocessing, options: DataOptions, seed: int
) -> LabelledDomain:
    if name == OPTDIGITS and isinstance(preprocessing, Preprocessing):
        given = _optdigits_half(0, preprocessing)
    else:
        given = _read_labelled(name, "target_labelled", preprocessing, options, [OPTDIGITS], classes)
    return given if options.target_shots is None else few_shots(given, options.target_shots, seed)


def _read_labelled(
    name: str,
    field: str,
    preprocessing: AnyPreprocessing,
    options: DataOptions,
    schemes: list[str],
    classes: tuple[str, ...] | None = None,
) -> LabelledDomain:
    if is_table(name) or isinstance(preprocessing, TextPreprocessing):
        return read_labelled_table(name, preprocessing, options, field, classes)
    _refuse_unknown_scheme(name, field, schemes)
    return read_labelled_folder(Path(name), preprocessing, options.on_broken, field, classes)


def _require_apart(labelled: LabelledDomain, test: UnlabelledDomain) -> None:
    """No example to be scored on may be one that was trained on with its label."""
    trained = {row.tobytes() for row in labelled.inputs}
    both = [name for name, row in zip(test.ids, test.inputs, strict=True) if row.tobytes() in trained]
    if both:
        raise InvalidInput(
            f"target_test has {len(both)} examples that target_labelled has too ({', '.join(both[:5])}); "
            "remove them from one of the two."
        )


def _optdigits_half(number: int, preprocessing: Preprocessing) -> LabelledDomain:
    return random_halves(load_optdigits(preprocessing), HALVES_SEED)[number]


def _unlabelled(name: str, field: str, preprocessing: AnyPreprocessing, options: DataOptions) -> UnlabelledDomain:
    if name in (OPTDIGITS, OPTDIGITS_TEST) and isinstance(preprocessing, Preprocessing):
        half = _optdigits_half(int(name == OPTDIGITS_TEST), preprocessing)
        return UnlabelledDomain(name, half.inputs, half.ids)
    if is_table(name) or isinstance(preprocessing, TextPreprocessing):
        return read_unlabelled_table(name, preprocessing, options, field)
    _refuse_unknown_scheme(name, field, [OPTDIGITS, OPTDIGITS_TEST])
    return read_unlabelled_folder(Path(name), preprocessing, options.on_broken, field)


def _refuse_unknown_scheme(name: str, field: str, known: list[str]) -> None:
    if name.startswith("digits:"):
        raise InvalidInput(f"{field}={name!r} is not known; choose from {', '.join(known)}, or give a folder.")


def _trimmed(pair: DomainPair) -> DomainPair:
    """All domains as wide as the longest text of any: they make joint batches."""
    domains = {name: domain for name in DOMAINS if (domain := getattr(pair, name)) is not None}
    longest = max(int((domain.inputs != PAD).sum(axis=1).max()) for domain in domains.values())
    return replace(pair, **{name: _cut(domain, longest) for name, domain in domains.items()})


def _cut(domain: Domain, length: int) -> Domain:
    return replace(domain, inputs=domain.inputs[:, :length].copy())
