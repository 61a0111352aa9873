"""How good is a choice without target labels? Every validator and rule on every pool of `selection_pools.py`.

    python tests/benchmarks/selection.py FOLDER [--pairs 'google>twitter' ...] [--data FOLDER] [--skada] [--json]

FOLDER holds the pools, and gets the evidence that their networks give. The true classes of the targets are read here
alone, to score what was chosen. Regret is what the chosen candidate is worse than the best of its pool, in points of
accuracy on the target; `worse` is the share of choices more than a point worse than source-only, `collapses` that of
regrets over 20 points. `best validator elsewhere` takes on each pair the validator that is best on all the others.

--skada adds the scorers of `skada` (`pip install -e '.[bench]'`); without the package it says so and goes on.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from selection_pools import BALANCES, PAIRS, Domains, load_domains

from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import AS_IT_IS
from ray_tl.models.transfer_model import TransferModel, stages_of
from ray_tl.neighbours import LabelledSpace
from ray_tl.selection import SELECTION_RULES, Choice, SelectionContext, SelectionRule, TrialEvidence
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState
from ray_tl.training.data import TrialData
from ray_tl.training.examination import gather_evidence
from ray_tl.training.files import TrialFiles
from ray_tl.training.final_evidence import look_closer
from ray_tl.training.network import build_model, restore_model
from ray_tl.training.untrained_features import find_fixed_space
from ray_tl.validation import VALIDATORS, PoolEvidence, score_all
from ray_tl.validation.evidence import FinalEvidence

REFERENCE, SCORES = "reference.npz", "scores.json"
MUCH_WORSE, COLLAPSE = 1.0, 20.0  # points
RULE, OURS = "agreement", "agreement (ours)"


@dataclass(frozen=True)
class Member:
    """A candidate of a pool.

    Attributes:
        holdout: Softmax on held-out source examples, [N, C].
        target: Softmax, [M, C].
        accuracy: On the target, which no rule is shown.
    """

    number: int
    config: TrialConfig
    holdout: NDArray[np.float32]
    target: NDArray[np.float32]
    final: FinalEvidence
    accuracy: float


@dataclass(frozen=True)
class Pool:
    """Candidates of one pair at one balance, source-only first, and the space that none of them trained."""

    name: str
    balance: str
    members: tuple[Member, ...]
    reference: LabelledSpace
    folder: Path

    @property
    def accuracies(self) -> NDArray[np.float64]:
        return np.array([member.accuracy for member in self.members])

    def scores(self) -> list[dict[str, float]]:
        """Of every candidate by every validator that its evidence allows; kept beside the pool."""
        path = self.folder / SCORES
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("validators") != VALIDATORS.names() or len(kept["scores"]) != len(self.members):
            kept = {"validators": VALIDATORS.names(), "scores": self._scored()}
            path.write_text(json.dumps(kept))
        return kept["scores"]

    def _scored(self) -> list[dict[str, float]]:
        together = PoolEvidence(np.mean([member.target for member in self.members], axis=0))
        return [
            score_all(
                VALIDATORS.names(),
                member.final.source(member.holdout),
                member.final.target(member.target, self.reference),
                together,
                skip_unavailable=True,
            )
            for member in self.members
        ]


def write_evidence(name: str, balance: str, folder: Path, domains: Domains) -> None:
    """What every network of a pool says of its domains; what is there stays."""
    place = folder / f"{name}-{balance}"
    data = TrialData(domains.pair, torch.device("cpu"))
    entries = json.loads((place / "pool.json").read_text())
    for number, entry in enumerate(entries):
        files = TrialFiles(place, number)
        if files.final_evidence.is_file():
            continue
        config = TrialConfig.model_validate(entry["config"])
        model = _restored(config, data, folder / "trials" / entry["checkpoint"])
        inputs = data.evaluated(model, stages_of(config, model).start, [AS_IT_IS])
        evidence = gather_evidence(model, inputs, data.device)
        files.save_evidence(evidence)
        files.save_final_evidence(look_closer(model, inputs[0], data, evidence["target"]))
    if not (place / REFERENCE).is_file():
        baseline = TrialConfig.model_validate(entries[0]["config"])
        with (place / REFERENCE).open("wb") as file:
            find_fixed_space(baseline.backbone, data, baseline.seed).save(file)


def _restored(config: TrialConfig, data: TrialData, checkpoint: Path) -> TransferModel:
    model = build_model(config, data)
    restore_model(model, config, torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model.eval()


def load_pool(name: str, balance: str, folder: Path) -> Pool:
    place = folder / f"{name}-{balance}"
    truth = np.load(place / "truth.npy")
    members = []
    for number, entry in enumerate(json.loads((place / "pool.json").read_text())):
        files = TrialFiles(place, number)
        evidence, final = files.load_evidence(), files.load_final_evidence()
        accuracy = float((evidence["target"].argmax(axis=1) == truth).mean())
        config = TrialConfig.model_validate(entry["config"])
        members.append(Member(number, config, evidence["source_holdout"], evidence["target"], final, accuracy))
    return Pool(name, balance, tuple(members), LabelledSpace.load(place / REFERENCE), place)


def complete_pools(pairs: Sequence[str], folder: Path) -> list[Pool]:
    """The pools of these pairs whose evidence has been written; at least one."""
    places = [(name, balance) for name in pairs for balance in BALANCES]
    found = [load_pool(*each, folder) for each in places if (folder / "-".join(each) / REFERENCE).is_file()]
    if not found:
        sys.exit(f"{folder} has no pool with evidence: run selection_pools.py there, and then selection.py.")
    return found


def chosen_by_rule(pool: Pool, rule: str, params: Mapping[str, object]) -> Choice:
    """What a rule of choice makes of a pool."""
    made, trials, outputs = trials_of(pool, rule, params)
    choice = made.choose(trials, outputs.__getitem__)
    assert choice is not None
    return choice


def trials_of(
    pool: Pool, rule: str, params: Mapping[str, object]
) -> tuple[SelectionRule, list[TrialRecord], dict[int, TrialEvidence]]:
    """A rule of choice, and the candidates of a pool as the trials of a study, with their evidence."""
    first = pool.members[0]
    shares = np.bincount(first.final.holdout_labels, minlength=first.target.shape[1]) / len(first.final.holdout_labels)
    classes = tuple(map(str, range(len(shares))))
    has_judge = pool.reference.can_be_trusted
    context = SelectionContext(classes, tuple(shares.tolist()), num_target=len(first.target), has_judge=has_judge)
    made = SELECTION_RULES.create(rule, params, context)
    outputs = {member.number: TrialEvidence(member.holdout, member.target, member.final) for member in pool.members}
    trials = []
    for member in pool.members:
        target = member.final.target(member.target, pool.reference)
        scores = made.observe(member.final.source(member.holdout), target)
        histogram = target.histogram().tolist()
        record = EpochRecord(
            epoch=member.config.epochs,
            objective=made.objective(scores, histogram),
            scores=scores,
            histogram=histogram,
            losses={},
            weights={},
            freeze_depth=0,
            lr=0.0,
            seconds=0.0,
        )
        is_baseline = member.number == 0
        trials.append(TrialRecord(member.number, TrialState.COMPLETE, member.config, [record], is_baseline=is_baseline))
    return made, trials, outputs


def by_validator(pool: Pool, scores: Sequence[Mapping[str, float]], name: str) -> int:
    """The candidate that a validator alone takes; source-only where it can score none."""
    sign = 1 if VALIDATORS.create(name, {}).higher_is_better else -1
    known = [(sign * each[name], -number) for number, each in enumerate(scores) if name in each]
    return -max(known)[1] if known else 0


def prepare(name: str, folder: Path, data: Path) -> list[Pool]:
    """The pools of a pair that there are, with their evidence."""
    present = [balance for balance in BALANCES if (folder / f"{name}-{balance}" / "pool.json").is_file()]
    whole = load_domains(name, data) if present else None
    for balance in present:
        write_evidence(name, balance, folder, whole.balanced(balance))
    return [load_pool(name, balance, folder) for balance in present]


def prepared(pairs: Sequence[str], folder: Path, data: Path) -> list[Pool]:
    """The pools of these pairs; at least one."""
    found = [pool for name in pairs for pool in prepare(name, folder, data)]
    if not found:
        sys.exit(f"{folder} has no pool: run selection_pools.py there.")
    return found


def picks(pools: Sequence[Pool], with_validators: bool) -> dict[str, list[int]]:
    """The candidate that each way to choose takes of every pool."""
    found = _picks_of_validators(pools) if with_validators else {}
    found["source-only"] = [0] * len(pools)
    choices = [chosen_by_rule(pool, RULE, {}) for pool in pools]
    found["objective of the search"] = [
        max(choice.candidates, key=lambda item: item.objective).trial.number for choice in choices
    ]
    found[OURS] = [choice.champion.number for choice in choices]
    return found


def _picks_of_validators(pools: Sequence[Pool]) -> dict[str, list[int]]:
    scores = [pool.scores() for pool in pools]
    found = {
        name: [by_validator(pool, each, name) for pool, each in zip(pools, scores, strict=True)]
        for name in VALIDATORS.names()
    }
    found["best validator elsewhere"] = _elsewhere(pools, found)
    return found


def picks_of_skada(pools: Sequence[Pool]) -> dict[str, list[int]]:
    """The candidate that each scorer of `skada` takes of every pool; none where the package is missing."""
    try:
        from selection_peers import pick, skada_scores
    except ImportError as error:
        print(f"skada is missing ({error}): see --help; the rest runs without it.", file=sys.stderr)
        return {}
    scores = [[skada_scores(each.holdout, each.target, each.final) for each in pool.members] for pool in pools]
    return {f"skada {name}": [pick(each, name) for each in scores] for name in scores[0][0]} if scores else {}


def _elsewhere(pools: Sequence[Pool], found: Mapping[str, Sequence[int]]) -> list[int]:
    chosen = []
    for place, pool in enumerate(pools):
        others = [number for number, other in enumerate(pools) if other.name != pool.name]
        if not others:
            chosen.append(0)
            continue
        means = {name: np.mean([regret(pools[i], taken[i]) for i in others]) for name, taken in found.items()}
        chosen.append(found[min(means, key=means.__getitem__)][place])
    return chosen


def regret(pool: Pool, number: int) -> float:
    """In points."""
    return 100 * float(pool.accuracies.max() - pool.accuracies[number])


def summary(pools: Sequence[Pool], taken: Sequence[int]) -> dict[str, float]:
    regrets = np.array([regret(pool, number) for pool, number in zip(pools, taken, strict=True)])
    losses = np.array([100 * (p.accuracies[0] - p.accuracies[n]) for p, n in zip(pools, taken, strict=True)])
    even = np.array([pool.balance == "same" for pool in pools])
    return {
        "mean": float(regrets.mean()),
        "worst": float(regrets.max()),
        "worse": float((losses > MUCH_WORSE).mean()),
        "collapses": float((regrets > COLLAPSE).mean()),
        "mean_same": float(regrets[even].mean()) if even.any() else float("nan"),
        "mean_other": float(regrets[~even].mean()) if (~even).any() else float("nan"),
    }


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    data = options.data or options.folder / "data"
    pools = prepared(options.pairs, options.folder, data)
    found = picks(pools, not options.rules) | (picks_of_skada(pools) if options.skada else {})
    rows = {name: summary(pools, taken) for name, taken in found.items()}
    if options.json:
        each = [
            {"pool": f"{pool.name} {pool.balance}", "candidates": len(pool.members), "best": pool.accuracies.max()}
            | {name: pool.accuracies[taken[place]] for name, taken in found.items()}
            for place, pool in enumerate(pools)
        ]
        print(json.dumps({"summary": rows, "pools": each}))
        return
    print(f"{'':32}{'mean':>7}{'worst':>7}{'worse':>8}{'collapses':>11}{'same':>7}{'other':>7}  regret in points")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["mean"]):
        shares = f"{row['worse']:>8.0%}{row['collapses']:>11.0%}"
        print(f"{name:32}{row['mean']:7.1f}{row['worst']:7.1f}{shares}{row['mean_same']:7.1f}{row['mean_other']:7.1f}")
    print()
    for place, pool in enumerate(pools):
        taken = found[OURS][place]
        print(
            f"{pool.name} {pool.balance}: {len(pool.members)} candidates, source-only {pool.accuracies[0]:.1%}, "
            f"ours {pool.accuracies[taken]:.1%} ({pool.members[taken].config.method}), "
            f"best {pool.accuracies.max():.1%}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the pools")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--data", type=Path, help="where the emoji are, or shall be kept")
    parser.add_argument("--rules", action="store_true", help="rules of choice alone: validators take minutes a pool")
    parser.add_argument("--skada", action="store_true", help="the scorers of skada too: seconds a candidate")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
