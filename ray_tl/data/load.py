"""From the names of two domains to a pair in memory."""

from pathlib import Path

from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, OracleLabels, UnlabelledDomain
from ray_tl.data.images import read_labelled_folder, read_unlabelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.splits import few_shots, random_halves, stratified_split
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

MNIST, OPTDIGITS, OPTDIGITS_TEST = "digits:mnist", "digits:optdigits", "digits:optdigits/test"
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

    Args:
        source: Folder of class folders, or `digits:mnist`.
        target: Folder of images, or `digits:optdigits`, one half of that set.
        target_test: Folder of images, or `digits:optdigits/test`, the other half; `None` for none.
        options: How files become arrays.
        seed: Of the split of the source, and of the choice of labelled target examples.
        target_labelled: Folder of class folders with target examples to train on, or `digits:optdigits`, whose labels
            are then known for the half that is searched on; `None` for none. `options.target_shots` takes a few.

    Raises:
        InvalidInput: For a missing or empty folder, too few classes or images, or a broken image unless skipped;
            if an image of `target_test` is among the labelled ones.
    """
    if options.target_shots is not None and target_labelled is None:
        raise InvalidInput(
            f"target_shots={options.target_shots} chooses among labelled target examples, and there are none; give a "
            "folder of them with --target-labelled, or leave target_shots out."
        )
    preprocessing = Preprocessing(image_size=options.image_size, channels=options.channels)
    searched = _unlabelled(target, "target", preprocessing, options)
    test = None if target_test is None else _unlabelled(target_test, "target_test", preprocessing, options)
    labelled = _labelled(source, preprocessing, options)
    training, holdout = stratified_split(labelled, options.holdout_fraction, seed)
    few = None
    if target_labelled is not None:
        few = _target_labelled(target_labelled, labelled.classes, preprocessing, options, seed)
        if test is not None:
            _require_apart(few, test)
    return DomainPair(training, holdout, searched, preprocessing, test, few)


def optdigits_oracle(preprocessing: Preprocessing) -> OracleLabels:
    """True classes of all of optdigits: for scoring a finished search, never for one."""
    digits = load_optdigits(preprocessing)
    return OracleLabels({key: digits.classes[label] for key, label in zip(digits.ids, digits.labels, strict=True)})


def _labelled(name: str, preprocessing: Preprocessing, options: DataOptions) -> LabelledDomain:
    if name == MNIST:
        return load_mnist_5k(preprocessing)
    _refuse_unknown_scheme(name, "source", [MNIST])
    return read_labelled_folder(Path(name), preprocessing, options.on_broken)


def _target_labelled(
    name: str, classes: tuple[str, ...], preprocessing: Preprocessing, options: DataOptions, seed: int
) -> LabelledDomain:
    field = "target_labelled"
    if name == OPTDIGITS:
        given = _optdigits_half(0, preprocessing)
    else:
        _refuse_unknown_scheme(name, field, [OPTDIGITS])
        given = read_labelled_folder(Path(name), preprocessing, options.on_broken, field, classes)
    return given if options.target_shots is None else few_shots(given, options.target_shots, seed)


def _require_apart(labelled: LabelledDomain, test: UnlabelledDomain) -> None:
    """No image to be scored on may be one that was trained on with its label."""
    trained = {image.tobytes() for image in labelled.inputs}
    both = [name for name, image in zip(test.ids, test.inputs, strict=True) if image.tobytes() in trained]
    if both:
        raise InvalidInput(
            f"target_test has {len(both)} images that target_labelled has too ({', '.join(both[:5])}); "
            "remove them from one of the two."
        )


def _optdigits_half(number: int, preprocessing: Preprocessing) -> LabelledDomain:
    return random_halves(load_optdigits(preprocessing), HALVES_SEED)[number]


def _unlabelled(name: str, field: str, preprocessing: Preprocessing, options: DataOptions) -> UnlabelledDomain:
    if name in (OPTDIGITS, OPTDIGITS_TEST):
        half = _optdigits_half(int(name == OPTDIGITS_TEST), preprocessing)
        return UnlabelledDomain(name, half.inputs, half.ids)
    _refuse_unknown_scheme(name, field, [OPTDIGITS, OPTDIGITS_TEST])
    return read_unlabelled_folder(Path(name), preprocessing, options.on_broken, field)


def _refuse_unknown_scheme(name: str, field: str, known: list[str]) -> None:
    if name.startswith("digits:"):
        raise InvalidInput(f"{field}={name!r} is not known; choose from {', '.join(known)}, or give a folder.")
