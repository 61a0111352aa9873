"""Domains beside source and target: steps on the way from one to the other, and another task."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ray_tl.data.domains import DomainPair, LabelledDomain, UnlabelledDomain
from ray_tl.data.images import read_labelled_folder, read_unlabelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions


def with_further_domains(
    pair: DomainPair, intermediate: Sequence[str], auxiliary: str | None, options: DataOptions
) -> DomainPair:
    """The pair with intermediate domains and an auxiliary task.

    Args:
        pair: Source and target.
        intermediate: Folders of images, in the order from source to target. Where all folders in one are named as
            classes of the source, its images are labelled; where none is, they are not.
        auxiliary: Folder of class folders, of any classes; `None` for none.
        options: How files become arrays.

    Raises:
        InvalidInput: For data other than images; for a folder that is missing, empty, broken, or holds folders of both
            kinds; and if labelled images are also in the target or its test part.
    """
    if not intermediate and auxiliary is None:
        return pair
    if not isinstance(pair.preprocessing, Preprocessing):
        raise InvalidInput(
            "--intermediate and --auxiliary are folders of images so far; leave them out for other data."
        )
    between = tuple(_intermediate(Path(name), pair, pair.preprocessing, options) for name in intermediate)
    other = None
    if auxiliary is not None:
        other = read_labelled_folder(Path(auxiliary), pair.preprocessing, options.on_broken, "auxiliary")
    for field, domains in (("intermediate", between), ("auxiliary", (other,))):
        _require_apart(field, [domain for domain in domains if isinstance(domain, LabelledDomain)], pair)
    return replace(pair, intermediate=between, auxiliary=other)


def _intermediate(
    folder: Path, pair: DomainPair, preprocessing: Preprocessing, options: DataOptions
) -> UnlabelledDomain:
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    known = [name for name in inside if name in pair.source.classes]
    if not known:
        return read_unlabelled_folder(folder, preprocessing, options.on_broken, "intermediate")
    if len(known) < len(inside):
        foreign = ", ".join(name for name in inside if name not in known)
        raise InvalidInput(
            f"intermediate='{folder}' has folders named as classes of the source ({', '.join(known[:5])}) and others "
            f"({foreign[:200]}); rename or remove the others, or put all images side by side to use none of the labels."
        )
    classes = pair.source.classes
    return read_labelled_folder(folder, preprocessing, options.on_broken, "intermediate", classes)


def _require_apart(field: str, labelled: Iterable[LabelledDomain], pair: DomainPair) -> None:
    """Nothing of the target may come in with a label by this door."""
    trained = {row.tobytes() for domain in labelled for row in domain.inputs}
    for name, domain in (("target", pair.target), ("target_test", pair.target_test)):
        rows = () if domain is None else domain.inputs
        both = sum(row.tobytes() in trained for row in rows)
        if both:
            raise InvalidInput(
                f"{field} has {both} labelled images that {name} has too; remove them, or give the labels that you "
                "have of the target with --target-labelled."
            )
