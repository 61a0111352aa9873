"""All domains of a study together: listed, read, and compared with one another."""

from collections.abc import Callable, Sequence
from itertools import combinations

from ray_tl.data.class_problems import class_problems
from ray_tl.data.copies import Overlap, near_pairs, overlap
from ray_tl.data.domains import LabelledDomain
from ray_tl.data.places import (
    AUXILIARY,
    SOURCE,
    TARGET,
    TARGET_TEST,
    Listing,
    Places,
    is_between,
    list_domain,
    nested_problems,
)
from ray_tl.data.preprocessing import AnyPreprocessing
from ray_tl.data.reading import Reading
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

Report = Callable[[Sequence[str]], None]
"""Is told what is wrong after each step; raises, or goes on to find more."""

Listings = dict[str, Listing]
Readings = dict[str, Reading]

IN_THE_TEST = "of which target_test has a copy"
FEW_PAIRS, MOST_MIXED = 10, 0.1
"""With so many near copies in the source, and more than this share of them of two classes, near copies mean nothing."""

LEAST_KNOWN = 0.05  # of the words of a domain

_REMEDY = (
    "remove them from one of the two, or leave them out of training with --on-overlap skip; if near copies are "
    "examples of their own, --on-overlap exact."
)


def list_domains(places: Places, preprocessing: AnyPreprocessing, options: DataOptions, report: Report) -> Listings:
    """What is at each place, by field; fields of which nothing can be listed are not there."""
    found: Listings = {}
    problems: list[str] = []
    for field, stated in places.stated():
        classes = getattr(found.get(SOURCE), "names", None)
        if field not in (SOURCE, TARGET, TARGET_TEST) and classes is None:
            continue  # of the source there is nothing to compare classes with, which is said
        try:
            listing = list_domain(field, stated, preprocessing, options, classes)
            problems += [f"{listing.address}: {line}" for line in listing.problems]
            found[field] = listing
        except InvalidInput as error:
            problems.append(str(error))
    if options.reader_version > 1:
        problems += nested_problems(list(found.values()))
    report(problems)
    return found


def read_domains(listings: Listings, report: Report) -> Readings:
    """The examples of each domain."""
    found: Readings = {}
    problems: list[str] = []
    for field, listing in listings.items():
        reading = listing.read()
        told = set(listing.problems)
        problems += [f"{reading.address}: {line}" for line in reading.problems if line not in told]
        problems += [*_size_problems(field, reading), *_word_problems(reading)]
        found[field] = reading
    report(problems)
    return {field: reading for field, reading in found.items() if len(reading.domain)}


def compare_domains(readings: Readings, options: DataOptions, report: Report) -> tuple[Readings, list[str]]:
    """Copies of one example in two domains.

    No example that is trained on may be one that is scored on; elsewhere copies are counted. The first reader did not
    ask, so its studies go on as they are.

    Returns:
        The domains, without what `options.on_overlap` leaves out, and a sentence for each two that overlap.
    """
    if options.reader_version == 1:
        return readings, []
    kept, problems, sentences = dict(readings), [], []
    trained = [field for field in readings if field != TARGET_TEST]
    has_test = TARGET_TEST in readings
    near_counts = has_test and options.on_overlap != "exact" and not _near_means_nothing(readings)
    for field in trained if has_test else ():
        found = _overlap(readings, field, TARGET_TEST)
        if found is None:
            continue
        if not near_counts and not len(found.exact):
            sentences.append(str(found))
        elif options.on_overlap == "skip":
            kept[field] = readings[field].without(found.rows if near_counts else found.exact, IN_THE_TEST)
            problems += _left_problems(field, kept[field], readings[field])
        else:
            problems.append(f"{found}; {_REMEDY}")
    for one, other in combinations(trained, 2):
        found = _overlap(kept, other, one)
        if found is not None and _gives_labels_away(kept, found):
            problems.append(
                f"{found}; remove them, or give the labels that you have of the target with --target-labelled."
            )
        elif found is not None:
            sentences.append(str(found))
    report(problems)
    return kept, sentences


def _near_means_nothing(readings: Readings) -> bool:
    """Whether near copies within the source are of different classes, as with a camera that never moves.

    What tells the classes apart is then smaller than what makes a near copy, so exact copies count alone.
    """
    source = readings.get(SOURCE)
    if source is None or source.texts is not None or not isinstance(source.domain, LabelledDomain):
        return False
    labels, pairs = source.domain.labels, near_pairs(source.contents, source.contents)
    return len(pairs) >= FEW_PAIRS and float((labels[pairs[:, 0]] != labels[pairs[:, 1]]).mean()) > MOST_MIXED


def _overlap(readings: Readings, field: str, other: str) -> Overlap | None:
    return overlap(readings[field].contents, readings[other].contents, (field, other), readings[field].noun)


def _gives_labels_away(readings: Readings, found: Overlap) -> bool:
    """Whether labelled examples of another domain than the source are examples of the target."""
    labelled = isinstance(readings[found.domain].domain, LabelledDomain)
    return (
        found.other == TARGET
        and labelled
        and (found.domain == AUXILIARY or is_between(found.domain))
        and len(found.exact) > 0
    )


def _size_problems(field: str, reading: Reading) -> list[str]:
    if (field == TARGET or is_between(field)) and len(reading.domain) == 1:
        one = reading.noun.removesuffix("s")
        return [f"{reading.address} has 1 {one} that can be used, and adapting to a domain needs 2 or more; give more."]
    return []


def _word_problems(reading: Reading) -> list[str]:
    if reading.known_words is None or reading.known_words >= LEAST_KNOWN:
        return []
    return [
        f"{reading.address}: {reading.known_words:.1%} of its words are in the file of word vectors; give vectors of "
        "its language and case."
    ]


def _left_problems(field: str, left: Reading, before: Reading) -> list[str]:
    """Whether enough is left after examples were left out."""
    domain, address = left.domain, left.address
    if not len(domain):
        return [f"{address} has nothing but copies of target_test; hold out other examples for that."]
    if not isinstance(domain, LabelledDomain):
        return _size_problems(field, left)
    labels = [domain.classes[label] for label in domain.labels]
    if field in (SOURCE, AUXILIARY):
        return [f"{address}: {line}" for line in class_problems((), labels, None, left.noun, domain.classes)]
    gone = sorted({domain.classes[label] for label in before.domain.labels} - set(labels))
    return [f"{address} has nothing but copies of target_test in {', '.join(gone)}; give others."] if gone else []
