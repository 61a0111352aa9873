"""To which examples of a study's target, or of its test domain, given labels belong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ray_tl.data.copies import Contents
from ray_tl.data.domains import DomainPair, OracleLabels, UnlabelledDomain
from ray_tl.data.places import TARGET, TARGET_TEST
from ray_tl.data.reading import SHOWN, counted
from ray_tl.errors import InvalidInput
from ray_tl.scoring.labels import contents_in, names_in, read_given
from ray_tl.scoring.matching import GivenLabels, Match, match
from ray_tl.study.records import StudySpec

Domain = Literal["target", "target_test"]
NAMED_ALONE = ("id", "path")


@dataclass(frozen=True)
class KnownTarget:
    """A domain, and what is known of its true classes.

    Attributes:
        oracle: True classes by id, of those examples that count.
        stated: Where they are from.
        notes: What users should know of them.
    """

    domain: Domain
    target: UnlabelledDomain
    oracle: OracleLabels
    stated: str
    notes: tuple[str, ...]


def known_target(spec: StudySpec, stated: str, on: str | None, pair: DomainPair) -> KnownTarget:
    """Which domain labels belong to, and to which of its examples.

    Args:
        spec: Of the study.
        stated: Place of the labels; see `read_given`.
        on: `target` or `target_test`; `None` for whichever it is.
        pair: The domains of the study.

    Raises:
        InvalidInput: If the labels can't be read, belong to no example or to those of both domains, or contradict each
            other.
    """
    data, options = spec.data, spec.data.options
    domains: dict[Domain, UnlabelledDomain] = {} if pair.target_test is None else {"target_test": pair.target_test}
    domains["target"] = pair.target
    places = {TARGET: data.target} | ({} if data.target_test is None else {TARGET_TEST: data.target_test})
    if on is not None and on not in domains:
        raise InvalidInput(f"on={on!r} is no domain of study {spec.name!r}; choose from {', '.join(domains)}.")
    given = read_given(stated, pair, places, options)
    asked = [name for name in domains if on in (None, name) and given.domain in (None, name)]
    if not asked:
        raise InvalidInput(
            f"{given.stated} is the place of {given.domain}, so it has no labels of {on}; leave out --on."
        )
    found = {
        name: match(
            given,
            names_in(domains[name], given.by, places[name], options),
            contents_in(domains[name], given.by, places[name], options),
        )
        for name in asked
    }
    name = _chosen(given, found, domains)
    known = _consistent(given, found[name], name, domains[name])
    return _without_trained(known, pair, _notes(given, found, name))


def _chosen(given: GivenLabels, found: Mapping[Domain, Match], domains: Mapping[Domain, UnlabelledDomain]) -> Domain:
    """The domain of whose rows the most have a label, as a share; of equal ones the one that is not trained on."""
    hit = [name for name in found if found[name].used]
    if not hit:
        raise InvalidInput(_no_match(given, {name: domains[name] for name in found}))
    if given.by in NAMED_ALONE and len(hit) > 1 and frozenset.intersection(*(found[name].used for name in hit)):
        raise InvalidInput(
            f"{given.stated} names {given.noun} by {given.by}, and both target and target_test have some of these; say "
            "which one is meant, with --on target or --on target_test."
        )
    return max(hit, key=lambda name: len(found[name].classes) / len(domains[name]))


def _no_match(given: GivenLabels, domains: Mapping[Domain, UnlabelledDomain]) -> str:
    looked_for = {"pixels": "equal pixels", "text": "an equal text", "path": "that path", "id": "that id"}[given.by]
    shown = next((name for name in given.names if name is not None), "without a name")
    sizes = [f"{name} has {counted(len(each), given.noun)}, such as {each.ids[0]}" for name, each in domains.items()]
    return (
        f"{given.stated} has labels of {counted(len(given.classes), given.noun)}, such as {shown}, and no example with "
        f"{looked_for} is in the study ({'; '.join(sizes)}); give the labels of these, in class folders or in a table "
        "with a column path or id."
    )


def _consistent(given: GivenLabels, found: Match, name: Domain, domain: UnlabelledDomain) -> KnownTarget:
    if twice := found.contradictions:
        shown = "; ".join(f"{domain.ids[row]}: {', '.join(names)}" for row, names in list(twice.items())[:SHOWN])
        more = "; ..." if len(twice) > SHOWN else ""
        remedy = "give each one class"
        if given.by in ("text", "pixels"):
            remedy += f", and where {name} has copies of different classes, a table with a column id or path"
        raise InvalidInput(
            f"{given.stated} has labels that contradict each other for {counted(len(twice), given.noun)} of {name} "
            f"({shown}{more}); {remedy}."
        )
    oracle = OracleLabels({domain.ids[row]: names[0] for row, names in found.classes.items()})
    return KnownTarget(name, domain, oracle, given.stated, ())


def _notes(given: GivenLabels, found: Mapping[Domain, Match], chosen: Domain) -> list[str]:
    notes = list(given.notes)
    if unused := len(given.classes) - len(found[chosen].used):
        notes.append(f"{unused} of {len(given.classes)} labels belong to no example of {chosen}")
    notes += [
        f"labels of {len(each.classes)} examples of {name} are there too: score them with --on {name}"
        for name, each in found.items()
        if name != chosen and each.classes
    ]
    return notes


def _without_trained(known: KnownTarget, pair: DomainPair, notes: list[str]) -> KnownTarget:
    """Without the examples whose labels users gave to train on, or to choose by."""
    domain, labels = known.target, known.oracle.labels
    for few in (each for each in (pair.target_labelled, pair.target_choice) if each is not None):
        trained = np.isin(Contents(domain.ids, domain.inputs).exact, Contents(few.ids, few.inputs).exact)
        seen = {id for id, is_in in zip(domain.ids, trained, strict=True) if is_in and id in labels}
        if seen:
            use = "target_labelled" if few is pair.target_labelled else "what the champion was chosen by"
            notes.append(f"{len(seen)} labelled examples are in {use}, and do not count")
        labels = {id: label for id, label in labels.items() if id not in seen}
    if not labels:
        raise InvalidInput(
            f"{known.stated} has labels of target_labelled alone, which the search has seen; give those of others."
        )
    return KnownTarget(known.domain, domain, OracleLabels(labels), known.stated, tuple(notes))
