"""LoRA and bottleneck adapters against their formulas, and what is left of them when a trial is promoted."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.parameter_efficient import PARAMETER_EFFICIENT, BottleneckAdapter, left_after_merge, merge_adapters
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.models.transfer_model import TransferModel, build_transfer_model
from ray_tl.training.run import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data

LORA = Component(name="lora", params={"rank": 3, "alpha": 6.0})
ADAPTERS = Component(name="bottleneck_adapter", params={"width": 5})
BACKBONES = {
    "tiny_cnn": {"width": 4},
    "small_cnn": {"width": 4},
    "efficientnet_lite0": {"weights": "none"},
}


def network(backbone: str, isolation: Component | None = None, depth: int = 1) -> TransferModel:
    torch.manual_seed(0)
    chosen = {} if isolation is None else {"parameter_efficient": isolation}
    component = Component(name=backbone, params=BACKBONES[backbone])
    model = build_transfer_model(component, 3, BackboneContext(load_weights=False), freeze_depth=depth, **chosen)
    model.backbone.freeze(depth)
    return model.eval()


def trained(model: TransferModel) -> TransferModel:
    """As after something like training: all that trains has moved at random."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=random)
    return model


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("isolation", [LORA, ADAPTERS], ids=str)
def test_the_network_begins_as_the_plain_one(backbone, isolation):
    with torch.no_grad():
        assert_close(network(backbone, isolation)(images()), network(backbone)(images()), rtol=0, atol=0)


@pytest.mark.parametrize("backbone", ["small_cnn", "efficientnet_lite0"])
@pytest.mark.parametrize("isolation", [LORA, ADAPTERS], ids=str)
def test_new_weights_of_the_stages_behind_the_freeze_depth_train_and_no_others(backbone, isolation):
    plain = {name for name, _ in network(backbone).named_parameters()}
    learning = {name for name, value in network(backbone, isolation, 2).named_parameters() if value.requires_grad}
    stages = {int(name.split(".")[2]) for name in learning if name.startswith("backbone.stages.")}
    assert learning & plain == {"head.weight", "head.bias"}
    assert stages
    assert min(stages) >= 2


@pytest.mark.parametrize("isolation", [LORA, ADAPTERS], ids=str)
def test_a_stage_without_weights_stays_so(isolation):
    sizes = [[sum(1 for _ in stage.parameters()) for stage in network("tiny_cnn", each).backbone.stages]
             for each in (None, isolation)]  # fmt: skip
    assert [size > 0 for size in sizes[1]] == [size > 0 for size in sizes[0]] == [True, True, False]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_merged_lora_is_a_plain_network_with_the_same_outputs(backbone):
    model = trained(network(backbone, LORA))
    with torch.no_grad():
        before = model(images())
        merge_adapters(model)
        after = model(images())
    assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == network(backbone).state_dict().keys()
    assert not any(type(part).__module__.startswith("peft") for part in model.modules())


class Layers(nn.Module):
    """A convolution, a linear layer as torch has it and one as GPT-2 has it, in one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.conv1d = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Linear(4, 5), Conv1D(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1d(self.linear(self.conv(x).mean((2, 3))))


def test_an_update_is_alpha_over_rank_times_b_a():
    backbone = StagedBackbone([Layers()], ["all"], 6, ImageEntry(Normalisation((0.5,) * 3, (0.5,) * 3))).double()
    PARAMETER_EFFICIENT.create("lora", LORA.params).apply(backbone, range(1))
    state = backbone.double().state_dict()
    for name, value in state.items():
        value.copy_(torch.from_numpy(np.random.default_rng(len(name)).normal(size=value.shape)))
    part = {name.removeprefix("stages.0.").replace(".default.weight", ""): value for name, value in state.items()}
    x = images(8).double()
    down = F.conv2d(x, part["conv.lora_A"], stride=2, padding=1)
    update = torch.einsum("or,nrhw->nohw", part["conv.lora_B"][:, :, 0, 0], down) * 6.0 / 3
    y = F.conv2d(x, part["conv.base_layer.weight"], part["conv.base_layer.bias"], 2, 1) + update
    y = y.mean((2, 3))
    y = y @ (part["linear.base_layer.weight"] + 2 * part["linear.lora_B"] @ part["linear.lora_A"]).T
    y = y + part["linear.base_layer.bias"]
    weight = part["conv1d.base_layer.weight"] + 2 * (part["conv1d.lora_B"] @ part["conv1d.lora_A"]).T
    assert_close(backbone(x), y @ weight + part["conv1d.base_layer.bias"])


def test_an_adapter_is_a_shortcut_around_a_narrow_layer_at_every_position():
    adapter = BottleneckAdapter(torch.Size([1, 4, 2, 3]), width=2).double()
    nn.init.normal_(adapter.up.weight)
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    down, up = (layer.weight.detach().numpy()[:, :, 0, 0] for layer in (adapter.down, adapter.up))
    expected = x.numpy().copy()
    for place in np.ndindex(2, 2, 3):
        column = x.numpy()[place[0], :, place[1], place[2]]
        hidden = F.gelu(torch.from_numpy(down @ column)).numpy()
        expected[place[0], :, place[1], place[2]] += up @ hidden
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, rtol=1e-10)


def test_padding_of_texts_stays_zero_behind_an_adapter():
    adapter = BottleneckAdapter(torch.Size([1, 7, 4]), width=2)
    nn.init.normal_(adapter.up.weight)
    texts = torch.randn(2, 5, 4)
    texts[1, 3:] = 0
    adapted = adapter(texts)
    assert adapted[1, 3:].count_nonzero() == 0
    assert (adapted[0] != texts[0]).any()


@pytest.mark.parametrize("isolation", [LORA, ADAPTERS], ids=str)
def test_a_trial_keeps_the_weights_it_started_from(isolation):
    config = tiny_config(parameter_efficient=isolation, unfreezing="gradual", epochs=2)
    run = TrialRun(config, tiny_data(), RULE)
    start = {name: value.detach().clone() for name, value in run.task.named_parameters()}
    for epoch in range(2):
        run.epoch(epoch)
    moved = {name for name, value in run.task.named_parameters() if not torch.equal(value, start[name])}
    new = {name for name in start if "lora_" in name or ".up." in name or ".down." in name or ".head." in name}
    assert moved == new


def test_what_can_be_merged_is_not_part_of_what_is_served():
    assert [left_after_merge(each) for each in (LORA, ADAPTERS)] == [Component(name="none"), ADAPTERS]


@pytest.mark.parametrize(
    ("isolation", "message"),
    [(LORA, "lora finds no linear layer or convolution in the stages that train"),
     (ADAPTERS, "bottleneck_adapter finds no stage that trains; lower freeze_depth")],
)  # fmt: skip
def test_nothing_to_isolate_is_refused(isolation, message):
    with pytest.raises(InvalidInput, match=message):
        network("tiny_cnn", isolation, depth=3)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("lora", {"rank": 0}, "lora.rank=0 is too low"),
        ("lora", {"alpha": 0.0}, "lora.alpha=0.0 must be a finite number above 0"),
        ("lora", {"dropout": 1.0}, "lora.dropout=1.0 is out of range"),
        ("bottleneck_adapter", {"width": 0}, "bottleneck_adapter.width=0 is too narrow"),
    ],
)
def test_a_parameter_out_of_range_is_refused(name, params, message):
    with pytest.raises(InvalidInput, match=message):
        PARAMETER_EFFICIENT.create(name, params)
