"""How far is the estimated prior of a target off, and what is it worth to correct predictions to it?

    python tests/benchmarks/prior.py FOLDER [--pairs 'google>twitter' ...] [--json]

The pools are those of `selection_pools.py`, with the evidence that `selection.py` writes. The true classes of the
targets are read to score alone, and for their shares, as if users had stated them: exactly, and roughly (each share
times a random factor up to e^0.5, either way). A correction is to a fixed point, the mean prediction, or by the ratio
to the source's shares. `always` applies it, `by rule` where the rule of choice finds it better. Gains are in points of
accuracy of the champion. `gate` says whether the estimate's shift is beyond chance: without it nothing is corrected.
Shares alone shift where half of the hold-out stands for the target and has lost half of its classes: there gains are
means over candidates.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from selection import RULE, Pool, chosen_by_rule, complete_pools
from selection_pools import PAIRS

from ray_tl.selection import TrialEvidence
from ray_tl.selection.correction import by_ratio, half_way, to_shares, with_correction
from ray_tl.selection.families import family_of
from ray_tl.selection.prior import TrialOutputs, estimate_prior
from ray_tl.selection.prior.estimate import total_variation
from ray_tl.selection.prior.of_pool import prior_of_pool, stated_prior

ROUGH, SEED = 0.5, 0


def of_pool(pool: Pool) -> dict[str, object]:
    """One row: what is estimated, and what corrections gain."""
    choice = chosen_by_rule(pool, RULE, {})
    sound = {item.trial.number for item in choice.candidates if item.rejected is None}
    outputs = {
        each.number: TrialEvidence(each.holdout, each.target, each.final)
        for each in pool.members
        if each.number in sound
    }
    families = {each.number: family_of(each.config) for each in pool.members if each.number in sound}
    champion = next(member for member in pool.members if member.number == choice.champion.number)
    truth = np.load(pool.folder / "truth.npy")
    num_classes = champion.target.shape[1]
    source, true = (_shares(labels, num_classes) for labels in (champion.final.holdout_labels, truth))
    prior = prior_of_pool(outputs, families, choice.merits, source)
    assert prior is not None
    noise = np.random.default_rng(SEED).uniform(-ROUGH, ROUGH, size=num_classes)
    roughly = true * np.exp(noise) / (true * np.exp(noise)).sum()
    corrections = {
        "stated, fixed point": to_shares(champion.target, true),
        "stated, ratio": by_ratio(true, source),
        "stated, half way": half_way(champion.target, stated_prior(true, source)),
        "roughly, fixed point": to_shares(champion.target, roughly),
        "roughly, ratio": by_ratio(roughly, source),
        "roughly, half way": half_way(champion.target, stated_prior(roughly, source)),
        "estimate, fixed point": to_shares(champion.target, prior.shares),
        "estimate, ratio": by_ratio(prior.shares, source),
    }
    gains: dict[str, object] = {}
    for name, added in corrections.items():
        corrected = with_correction(champion.target, added.tolist())
        gain = 100 * (float((corrected.argmax(axis=1) == truth).mean()) - champion.accuracy)
        gains[name] = {
            "always": gain,
            "by rule": gain if _is_preferred(pool, choice.champion.number, corrected) else 0.0,
        }
    return {
        "pool": f"{pool.name} {pool.balance}",
        "accuracy": champion.accuracy,
        "method": champion.config.method.name,
        "estimate_off": float(total_variation(prior.shares, true)),
        "source_off": float(total_variation(source, true)),
        "predictions_off": float(total_variation(_shares(champion.target.argmax(axis=1), num_classes), true)),
        "gate": prior.is_beyond_chance,
        "gains": gains,
    }


def of_shares_alone(pool: Pool) -> dict[str, object]:
    """One row: what the estimate is worth where examples of a class look alike in both domains, over all candidates."""
    random = np.random.default_rng(SEED)
    labels = pool.members[0].final.holdout_labels
    num_classes = pool.members[0].target.shape[1]
    first, second = np.array_split(random.permutation(len(labels)), 2)
    rows = second[np.isin(labels[second], random.permutation(num_classes)[: num_classes // 2])]
    source, true = _shares(labels, num_classes), _shares(labels[rows], num_classes)
    trials = [
        TrialOutputs(each.holdout[first], each.holdout[rows], family=family_of(each.config)) for each in pool.members
    ]
    prior = estimate_prior(trials, labels[first], source)
    added = by_ratio(prior.shares, source)
    gains = [
        float((with_correction(each.target_probs, added.tolist()).argmax(axis=1) == labels[rows]).mean())
        - float((each.target_probs.argmax(axis=1) == labels[rows]).mean())
        for each in trials
    ]
    return {
        "source": pool.name.split(">")[0],
        "estimate_off": float(total_variation(prior.shares, true)),
        "source_off": float(total_variation(source, true)),
        "gate": prior.is_beyond_chance,
        "gain": 100 * float(np.mean(gains)),
        "worst": 100 * float(min(gains)),
    }


def _shares(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float64]:
    return np.bincount(labels, minlength=num_classes) / len(labels)


def _is_preferred(pool: Pool, champion: int, corrected: NDArray[np.float32]) -> bool:
    """Whether the rule puts the corrected champion, as one more candidate, before it."""
    own = next(member for member in pool.members if member.number == champion)
    number = max(member.number for member in pool.members) + 1
    more = replace(own, number=number, target=corrected)
    order = chosen_by_rule(replace(pool, members=(*pool.members, more)), RULE, {}).candidates
    places = {item.trial.number: place for place, item in enumerate(order)}
    return order[places[number]].rejected is None and places[number] < places[champion]


def means(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Of all pools: the mean gain of each correction, and the worst."""
    found = {}
    for name in rows[0]["gains"]:
        each = {way: [row["gains"][name][way] for row in rows] for way in ("always", "by rule")}
        by_rule = [row["gains"][name]["by rule"] * row["gate"] for row in rows]
        each["as used"] = by_rule if "estimate" in name else each["always"]
        found[name] = {way: float(np.mean(gains)) for way, gains in each.items()}
        found[name] |= {f"worst {way}": float(min(gains)) for way, gains in each.items()}
    return found


def main() -> None:
    options = _parse()
    warnings.filterwarnings("ignore")
    pools = complete_pools(options.pairs, options.folder)
    rows, alone = [of_pool(pool) for pool in pools], [of_shares_alone(pool) for pool in pools if pool.balance == "same"]
    if options.json:
        print(json.dumps({"means": means(rows), "pools": rows, "shares_alone": alone}))
        return
    for row in rows:
        off = f"estimate off by {row['estimate_off']:.2f}, source {row['source_off']:.2f}"
        print(f"{row['pool']} ({row['method']}, {row['accuracy']:.1%}): {off}, beyond chance: {row['gate']}")
        for name, gain in row["gains"].items():
            print(f"    {name:24}{gain['always']:+7.1f}{gain['by rule']:+7.1f}")
    for row in alone:
        off = f"estimate off by {row['estimate_off']:.2f}, source {row['source_off']:.2f}"
        gain = f"ratio {row['gain']:+.1f} points on average, worst {row['worst']:+.1f}"
        print(f"shares alone, {row['source']}: {off}, beyond chance: {row['gate']}, {gain}")
    print(f"\n{'mean, worst gain in points':28}{'always':>16}{'by rule':>16}{'as used':>16}")
    for name, row in means(rows).items():
        ways = ("always", "by rule", "as used")
        print(f"{name:28}" + "".join(f"{row[way]:+9.1f}{row[f'worst {way}']:+7.1f}" for way in ways))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the pools")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
