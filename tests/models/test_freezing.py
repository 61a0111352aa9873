"""Which stages train, from a depth, a block or a preset."""

import pytest
import torch

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext, dimensions
from ray_tl.models.domain_norm import DomainBatchNorm
from ray_tl.models.fine_tuning import UNFREEZING, stages_at
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.transfer_model import TransferModel, build_transfer_model
from tests.models.smallest import SIDES, TEXT, WORD_VECTORS, smallest
from tests.training.tiny_text import tiny_preprocessing

SIZES = [10, 20, 30, 40, 0]  # parameters of five stages, the last a pooling
BLOCK = {"freeze_depth": 1, "trained_stages": 1}  # of tiny_cnn: conv2 alone


@pytest.mark.parametrize(
    ("freeze_depth", "trained_stages", "expected"),
    [
        (2, None, [2, 3, 4]),
        (0, 1, [0]),
        (1, 2, [1, 2]),
        ("everything", None, [0, 1, 2, 3, 4]),
        ("everything", 2, [0, 1]),
        ("head_only", None, []),
        ("last_1", None, [3, 4]),
        ("last_3", None, [1, 2, 3, 4]),
        ("last_3", 2, [1, 2]),
    ],
)
def test_stages_that_train(freeze_depth, trained_stages, expected):
    assert list(stages_that_train(freeze_depth, trained_stages, SIZES, "net")) == expected


@pytest.mark.parametrize(
    ("freeze_depth", "trained_stages", "said"),
    [
        (6, None, r"^freeze_depth=6 is deeper than 'net', which has 5 stages; choose 0\.\.5\.$"),
        ("last_5", None, r"more than 'net' has, 4 stages with parameters; choose last_1\.\.last_4, head_only"),
        (3, 3, r"trained_stages=3 from stage 3 on ends behind the last of the 5 stages of 'net'; choose 1\.\.2"),
        ("head_only", 1, r"trained_stages=1 has no stage to train: freeze_depth='head_only' freezes all 5 of 'net'"),
    ],
)
def test_stages_that_there_are_not_are_refused(freeze_depth, trained_stages, said):
    with pytest.raises(InvalidInput, match=said):
        stages_that_train(freeze_depth, trained_stages, SIZES, "net")


@pytest.mark.parametrize("name", [name for name in BACKBONES.names() if name != WORD_VECTORS])  # it has one stage
def test_presets_fit_every_backbone(name):
    texts = BackboneContext(vocabulary=tiny_preprocessing().vocabulary)
    sizes, _ = dimensions(smallest(name), texts if name in TEXT else BackboneContext(image_size=SIDES.get(name, 32)))
    for preset in ("everything", "last_2", "last_1"):
        assert sum(sizes[number] for number in stages_that_train(preset, None, sizes, name)) > 0
    assert list(stages_that_train("head_only", None, sizes, name)) == []


def tiny(**changes: object) -> TransferModel:
    return build_transfer_model(Component(name="tiny_cnn"), 3, BackboneContext(), **changes).train()


def test_stages_behind_a_block_are_frozen_and_let_gradients_through():
    model = tiny()
    model.backbone.freeze(0, 1)
    before = [buffer.clone() for buffer in model.backbone.stages[1].buffers()]
    model.train()(torch.rand(4, 3, 8, 8))[1].square().sum().backward()
    assert [stage.training for stage in model.backbone.stages] == [True, False, False]
    assert [value.grad is not None for value in model.backbone.stages.parameters()] == [True] * 3 + [False] * 3
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.stages[1].buffers(), strict=True))


def test_only_the_block_that_trains_gets_statistics_for_each_domain():
    model = tiny(domain_norm=Component(name="separate"), **BLOCK)
    found = [any(isinstance(part, DomainBatchNorm) for part in stage.modules()) for stage in model.backbone.stages]
    assert found == [False, True, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fixed", [(1, 3)] * 4),
        ("gradual", [(5, 5), (2, 3), (1, 3), (1, 3)]),
        ("probe_then_fine_tune", [(5, 5), (5, 5), (1, 3), (1, 3)]),
    ],
)
def test_a_block_thaws_from_its_end(name, expected):
    """Stages 1 and 2 of 5; while the head trains alone all 5 are the frozen prefix."""
    choice = UNFREEZING.create(name, {} if name == "fixed" else {"until": 0.5})
    found = [stages_at(choice, epoch / 4, range(1, 3), 5) for epoch in range(4)]
    assert [(stages.start, stages.stop) for stages in found] == expected


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 1.0), (0.29, 1.0), (0.3, 0.1), (1.0, 0.1)])
def test_the_fine_tune_after_the_probe_has_the_lower_rate(progress, rate):
    assert UNFREEZING.create("probe_then_fine_tune", {"until": 0.3, "rate_after": 0.1}).rate_at(progress) == rate


@pytest.mark.parametrize(
    ("params", "said"),
    [({"until": 1.0}, r"until=1\.0 is out of range"), ({"rate_after": 0.0}, r"rate_after=0\.0 is out of range")],
)
def test_a_probe_without_a_fine_tune_is_refused(params, said):
    with pytest.raises(InvalidInput, match=f"probe_then_fine_tune.{said}"):
        UNFREEZING.create("probe_then_fine_tune", params)
