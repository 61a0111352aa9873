"""From the names of two domains to a pair in memory."""

from pathlib import Path

from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, OracleLabels, UnlabelledDomain
from ray_tl.data.images import read_labelled_folder, read_unlabelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.splits import random_halves, stratified_split
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

MNIST, OPTDIGITS, OPTDIGITS_TEST = "digits:mnist", "digits:optdigits", "digits:optdigits/test"
HALVES_SEED = 0


def load_pair(source: str, target: str, target_test: str | None, options: DataOptions, seed: int) -> DomainPair:
    """Read and split all domains of a study.

    Args:
        source: Folder of class folders, or `digits:mnist`.
        target: Folder of images, or `digits:optdigits`, one half of that set.
        target_test: Folder of images, or `digits:optdigits/test`, the other half; `None` for none.
        options: How files become arrays.
        seed: Of the split of the source.

    Raises:
        InvalidInput: For a missing or empty folder, too few classes or images, or a broken image unless skipped.
    """
    preprocessing = Preprocessing(image_size=options.image_size, channels=options.channels)
    unlabelled = [_unlabelled(target, "target", preprocessing, options)]
    if target_test is not None:
        unlabelled.append(_unlabelled(target_test, "target_test", preprocessing, options))
    labelled = _labelled(source, preprocessing, options)
    training, holdout = stratified_split(labelled, options.holdout_fraction, seed)
    return DomainPair(training, holdout, unlabelled[0], preprocessing, *unlabelled[1:])


def optdigits_oracle(preprocessing: Preprocessing) -> OracleLabels:
    """True classes of all of optdigits: for scoring a finished search, never for one."""
    digits = load_optdigits(preprocessing)
    return OracleLabels({key: digits.classes[label] for key, label in zip(digits.ids, digits.labels, strict=True)})


def _labelled(name: str, preprocessing: Preprocessing, options: DataOptions) -> LabelledDomain:
    if name == MNIST:
        return load_mnist_5k(preprocessing)
    _refuse_unknown_scheme(name, "source", [MNIST])
    return read_labelled_folder(Path(name), preprocessing, options.on_broken)


def _unlabelled(name: str, field: str, preprocessing: Preprocessing, options: DataOptions) -> UnlabelledDomain:
    if name in (OPTDIGITS, OPTDIGITS_TEST):
        half = random_halves(load_optdigits(preprocessing), HALVES_SEED)[name == OPTDIGITS_TEST]
        return UnlabelledDomain(name, half.images, half.ids)
    _refuse_unknown_scheme(name, field, [OPTDIGITS, OPTDIGITS_TEST])
    return read_unlabelled_folder(Path(name), preprocessing, options.on_broken, field)


def _refuse_unknown_scheme(name: str, field: str, known: list[str]) -> None:
    if name.startswith("digits:"):
        raise InvalidInput(f"{field}={name!r} is not known; choose from {', '.join(known)}, or give a folder.")
