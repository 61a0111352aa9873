"""What can be wrong with the classes of a labelled domain."""

from collections import Counter
from collections.abc import Sequence

from ray_tl.data.labels import alike_problems, clean_name
from ray_tl.data.reading import counted

SHOWN = 10


def class_problems(
    written: Sequence[str], labels: Sequence[str], known: Sequence[str] | None, noun: str, classes: Sequence[str] = ()
) -> list[str]:
    """Classes that are alike, too few, too small, or not those of another domain.

    Args:
        written: Class names as they are written, before they were read.
        labels: Class of each example.
        known: Classes of the domain whose classes these must be; `None` for the source itself.
        noun: What an example is, in the plural.
        classes: Further classes, of which there may be no example.
    """
    if known is not None:
        return alike_problems(sorted(set(map(clean_name, written))), known) or _foreign_problems(
            {*labels, *classes}, known
        )
    sizes = Counter(labels)
    names = sorted({*sizes, *classes})
    alike = alike_problems(written)
    if len(names) < 2 and not alike:
        few = "1 class" if names else "no classes"
        return [f"has {few}, but a classifier needs 2; check the labels."]
    return [
        *alike,
        *(
            f"class {name!r} has {counted(sizes[name], noun)}, training and hold-out need 2; add some or remove it."
            for name in names
            if sizes[name] < 2
        ),
    ]


def _foreign_problems(found: set[str], known: Sequence[str]) -> list[str]:
    foreign = sorted(found - set(known))
    if not foreign:
        return []
    more = ", ..." if len(foreign) > SHOWN else ""
    return [f"has the classes {', '.join(foreign[:SHOWN])}{more}, which the source lacks; rename or remove them."]
