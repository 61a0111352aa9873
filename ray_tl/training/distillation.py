"""From several networks of one configuration to one that has learned what they predict together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_tl.adaptation.teachers import RecordedTeacher
from ray_tl.config import Component, TrialConfig
from ray_tl.data.augmentation import AS_IT_IS, views_of
from ray_tl.models.transfer_model import TransferModel, stages_of
from ray_tl.selection import SelectionRule
from ray_tl.training.data import Inputs, TrialData
from ray_tl.training.examination import mean_probabilities
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_run
from ray_tl.training.network import load_model
from ray_tl.training.report import Report
from ray_tl.training.run import TrialRun
from ray_tl.validation.evidence import log_probabilities

NONE, CONSTANT = Component(name="none"), Component(name="constant")
OF_THE_METHOD = {
    "loss_weighting": CONSTANT,
    "gradient_masking": NONE,
    "mixing": NONE,
    "class_balance": NONE,
    "transfer": Component(name="direct"),
    "multi_task": NONE,
}
"""What says how labels and losses of a method are used; a student has neither."""


def distil_trials(
    members: Sequence[TrialFiles],
    config: TrialConfig,
    data: TrialData,
    report: Report,
    files: TrialFiles,
    rule: SelectionRule,
) -> bool:
    """Train one network to predict, on source and target, the mean of what those predict that trials have left.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531; see
    `RecordedTeacher`. The student has the members' configuration, network and optimisation alike, but for their method
    and what belongs to it (`OF_THE_METHOD`). Otherwise it is trained, reported and resumed as by `train_trial`.

    Args:
        members: At least one, of one configuration but for their seeds, and none with a head that is solved for.
        config: Of these, and of the student.
        data: On which they were trained.
        report: As for `train_trial`.
        files: Where checkpoint and evidence of the student go.
        rule: Says what is looked at.

    Returns:
        Whether full fidelity was reached.

    Raises:
        TrialFailed: If a member left no checkpoint, or a loss is no longer finite.
    """
    source, target = mean_predictions(members, config, data)
    student = config.model_copy(update=OF_THE_METHOD)
    return train_run(TrialRun(student, data, rule, RecordedTeacher(source, target)), report, files)


def mean_predictions(members: Sequence[TrialFiles], config: TrialConfig, data: TrialData) -> tuple[Tensor, Tensor]:
    """Logarithms of the mean softmax of networks for every row of source and target, float16 [N, C] and [M, C].

    Two bytes a class and row are held, for a million rows and 1,000 classes 2 GB.
    """
    totals: dict[str, Tensor] = {}
    for each in members:  # one network at a time
        network = load_model(config, data, each)
        assert isinstance(network, TransferModel), "a member is no ensemble itself"
        views = _views(network, config, data)
        for name in ("source", "target"):
            found = torch.as_tensor(mean_probabilities(network, views, name, data.device))
            totals[name] = totals[name].add_(found) if name in totals else found
    source, target = (torch.as_tensor(log_probabilities((total / len(members)).numpy())) for total in totals.values())
    return source, target


def _views(network: TransferModel, config: TrialConfig, data: TrialData) -> list[Inputs]:
    """All rows once for each view that the members are evaluated by; what frozen stages give of them as they are."""
    depth = stages_of(config, network).start
    return [
        data.inputs(network, depth) if view == AS_IT_IS else Inputs(data.rows, 0, view)
        for view in views_of(config.test_time_augmentation)
    ]
