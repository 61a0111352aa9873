"""Every method, loss weighting and choice of how to fine-tune trains the same on one rank, on two and on four.

One joint batch of 64 of each domain, as 1 x 64, 2 x 32 and 4 x 16 over gloo, in float64, batch normalisation included.
"""

import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import LOSS_WEIGHTS, METHODS
from ray_tl.training.loop import TrialRun
from tests.conformance.choices import CHOICES
from tests.gloo import run_on_ranks
from tests.training.tiny import RULE, further, tiny_config, tiny_data, tiny_pair

# Methods that begin to adapt later: both of their phases are looked at.
SECOND_PHASE: dict[str, dict] = {name: {"start": 0.25} for name in ("adda", "distillation", "tent")}
CASES: dict[str, dict] = {
    **{f"method {name}": {"method": {name: SECOND_PHASE.get(name)}} for name in METHODS.names()},
    **{f"{name} on estimated shares": {"method": {name: {"prior": "estimated"}}} for name in ("im", "mcc", "bnm")},
    **{f"{name} on stated shares": {"method": name, "target_shares": [0.6, 0.4, 0.0]} for name in ("im", "pada")},
    "method cdan on logits": {"method": {"cdan": {"condition": "logits"}}},
    **{f"weighting {name}": {"method": "dann", "loss_weighting": name} for name in LOSS_WEIGHTS.names()},
    **CHOICES,
    **{f"mixing {name}": {"method": "dann", "mixing": name} for name in ("mixup", "cutmix")},
    "mixing after torchvision": {"augmentation": "heavy", "mixing": "mixup"},
    "staged transfer": {"method": "coral", "transfer": {"staged": {"share": 0.4}}},
    "pretraining first": {"method": "dann", "transfer": {"staged": {"share": 0.2, "pretraining": 0.4}}},
    "another task": {"method": "dann", "multi_task": "auxiliary"},
}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}
EPOCHS = 2  # of one step each: what a method learns or remembers after a step shows in the second


def train_all(cases: dict[str, dict]) -> dict[str, dict]:
    torch.set_default_dtype(torch.float64)
    try:
        return {name: train(changes) for name, changes in cases.items()}
    finally:
        torch.set_default_dtype(torch.float32)


def train(changes: dict) -> dict:
    """Losses and weights of every epoch; gradients and state after the last. Evaluation has a test of its own."""
    fields = {"batch_size": 64, "epochs": EPOCHS, "optimizer": {"sgd": {"lr": 0.05}}, "augmentation": "affine"}
    config = tiny_config(**{**fields, **changes})
    pair = further(tiny_pair(num_source=64, num_target=70, num_labelled=9), rows=66)
    run = TrialRun(config, tiny_data(pair), RULE)
    losses, weights = zip(*(trained(run, epoch) for epoch in range(EPOCHS)), strict=True)
    return {
        "losses": list(losses),
        "weights": list(weights),
        "gradients": {name: part.grad for name, part in run.task.named_parameters() if part.requires_grad},
        "state": dict(run.task.state_dict()),
    }


def trained(run: TrialRun, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
    """An epoch without its evaluation and examination."""
    progress = epoch / run.config.epochs
    run._enter_phase(progress)
    run._begin_epoch(progress)
    found = run._train(epoch)
    run.task.method.before_evaluation(run.task.model, run._feed.target_batches(), run._feed.inputs.start)
    return found


@pytest.fixture(scope="module")
def alone():
    return train_all(CASES)


@pytest.fixture(scope="module", params=[2, 4])
def on_ranks(request):
    return run_on_ranks(train_all, request.param, CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", ["losses", "weights", "gradients", "state"])
def test_every_rank_has_what_one_process_has(alone, on_ranks, case, key):
    for rank in on_ranks:
        assert_close(rank[case][key], alone[case][key], **CLOSE)
