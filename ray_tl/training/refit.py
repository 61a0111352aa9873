"""From several networks of one configuration to one."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from torch import nn

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.collectives import rank
from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import views_of
from ray_tl.errors import InvalidInput, TrialFailed
from ray_tl.models.backbones import dimensions, is_pretrained
from ray_tl.models.ensemble import Ensemble, Network, members_of
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.transfer_model import TransferModel, stages_of
from ray_tl.selection import SelectionRule
from ray_tl.selection.refit import Combination
from ray_tl.study.records import StudySpec
from ray_tl.training.averaging import KeptEpoch, mean_weights
from ray_tl.training.data import Inputs, TrialData, prefix_key
from ray_tl.training.examination import confidence_gap, gap_of_domains, gather_evidence, histogram_drift, scores_of
from ray_tl.training.files import TrialFiles
from ray_tl.training.final_evidence import look_closer
from ray_tl.training.network import NUM_MEMBERS, PREFIX, expected_context, load_model
from ray_tl.training.report import BEFORE, EpochReport


def combination_of(config: TrialConfig, spec: StudySpec) -> tuple[Combination, str]:
    """What becomes of the networks that a trial is trained again as, and why not what the study asks for.

    Args:
        config: Of the trial.
        spec: Of a study that asks for refits.

    Returns:
        The combination, and a reason; the reason is empty where nothing stands against what was asked for.
    """
    assert spec.search.refit is not None
    asked = spec.search.refit.combine
    why = _why_not(asked, config, spec)
    return (asked, "") if why is None else ("nearest", f"{why}, so the network nearest to their mean stands for them")


def _why_not(asked: Combination, config: TrialConfig, spec: StudySpec) -> str | None:
    if asked == "soup" and is_closed_form(config.method.name):
        return f"heads of {config.method.name!r} are solved for and have no mean that is one"
    if asked == "distilled" and is_closed_form(config.method.name):
        return f"heads of {config.method.name!r} are solved for and learn from no teacher"
    if asked == "soup" and _learns_from_nothing(config, spec):
        return f"stages of {config.backbone.name!r} train without pretrained weights, and such networks have no mean"
    return None


def _learns_from_nothing(config: TrialConfig, spec: StudySpec) -> bool:
    """Whether stages train that begin at random; of users' own backbones that is not known."""
    if is_pretrained(config.backbone) or config.backbone.name in spec.backbones:
        return False
    sizes, _ = dimensions(config.backbone, expected_context(spec.data.options))
    return bool(stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name))


def combine_trials(
    kind: Literal["soup", "ensemble"],
    members: Sequence[TrialFiles],
    config: TrialConfig,
    data: TrialData,
    files: TrialFiles,
    rule: SelectionRule,
) -> EpochReport:
    """Make one network of those that trials have left, look at it as at the end of a trial, and write it.

    On W ranks each calls this with the same arguments; rank 0 alone writes.

    Args:
        kind: How.
        members: At least one, of one configuration but for their seeds.
        config: Of the result.
        data: On which they were trained.
        files: Where checkpoint and evidence go.
        rule: Says what is looked at.

    Raises:
        TrialFailed: If one of them left no checkpoint.
        InvalidInput: If they can't be mixed; see `soup`.
    """
    start = time.perf_counter()
    networks = [_loaded(config, data, each) for each in members]
    model = (soup(networks) if kind == "soup" else Ensemble(networks)).eval()
    inputs = _inputs(model, config, data)
    evidence = gather_evidence(model, inputs, data.device)
    final = look_closer(model, inputs[0], data, evidence["target"])
    scores, histogram = scores_of(evidence, data, rule)
    gap = gap_of_domains(model, inputs[0], data.device, config.seed)
    health = {**_before(members[0]), **gap, "histogram_drift": histogram_drift(histogram, data)}
    report = EpochReport(
        epoch=config.epochs,
        scores=scores,
        histogram=histogram,
        losses={},
        weights={},
        freeze_depth=0,
        lr=0.0,
        seconds=time.perf_counter() - start,
        gap=confidence_gap(evidence),
        health=health,
    )
    if rank() == 0:
        files.save_evidence(evidence)
        if final is not None:
            files.save_final_evidence(final)
        _save(model, report, files)
    return report


def soup(networks: Sequence[TransferModel]) -> TransferModel:
    """The mean of all weights and running statistics, in the first network.

    Wortsman et al., "Model soups", 2022, https://arxiv.org/abs/2203.05482, the uniform one. It is a network of use only
    if they began with the same weights, new ones included.

    Raises:
        InvalidInput: If a head is solved for, whose numbers have no mean that is one.
    """
    if not all(isinstance(network.head, nn.Linear) for network in networks):
        raise InvalidInput("refit.combine='soup' has no mean of heads that are solved for; choose nearest or ensemble.")
    kept = [KeptEpoch(0, 0.0, network.state_dict()) for network in networks]
    networks[0].load_state_dict(mean_weights(kept))
    return networks[0]


def _inputs(model: Network, config: TrialConfig, data: TrialData) -> list[Inputs]:
    """Recorded rows once for each view, behind the frozen stages that the networks have in common."""
    first, *others = members_of(model)
    closed = is_closed_form(config.method.name)
    depth = first.backbone.num_stages if closed else stages_of(config, first).start
    if any(prefix_key(other, depth) != prefix_key(first, depth) for other in others):
        depth = 0
    return data.evaluated(first, depth, views_of(config.test_time_augmentation))


def _loaded(config: TrialConfig, data: TrialData, files: TrialFiles) -> TransferModel:
    network = load_model(config, data, files)
    assert isinstance(network, TransferModel), "what is combined is no ensemble itself"
    return network


def _before(files: TrialFiles) -> dict[str, float]:
    """The gap between the domains before training, as a member has found it."""
    state = files.load_checkpoint()
    if state is None:
        raise TrialFailed(f"trial {files.number} left no checkpoint in {files.place}.")
    return {name: value for name, value in state["report"]["health"].items() if name.endswith(BEFORE)}


def _save(model: Network, report: EpochReport, files: TrialFiles) -> None:
    task = {f"{PREFIX}{name}": value.detach().cpu() for name, value in model.state_dict().items()}
    count = len(model.networks) if isinstance(model, Ensemble) else 1
    files.save_checkpoint({"task": task, "report": asdict(report), NUM_MEMBERS: count})
