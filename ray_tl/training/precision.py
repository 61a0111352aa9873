"""Mixed precision: the network in half precision where that is safe, everything else in full."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast of the network's steps, and the scaling that gradients need in float16.

    Weights, optimiser, losses and evaluation stay in full precision: what is promoted is what was evaluated. See
    Micikevicius et al., "Mixed Precision Training", 2018, https://arxiv.org/abs/1710.03740, section 3.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        device: Of the network.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype, self._device = DTYPES.get(name), device.type
        self._scaler = torch.amp.grad_scaler.GradScaler(self._device, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """Around the forward pass of a step."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device, self._dtype)

    def scale(self) -> Tensor:
        """What losses are multiplied by before one goes back from them, so that small gradients survive float16."""
        scale: Tensor = self._scaler.scale(torch.ones((), device=self._device))
        return scale

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients back to their size, once, before anything looks at them."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step, unless a gradient has overflowed; says whether."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        if state:
            self._scaler.load_state_dict(state)


def widened(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, any other as it is; gradients flow."""
    return tensor.float() if tensor.dtype in DTYPES.values() else tensor


def synchronised(module: nn.Module, now: bool) -> AbstractContextManager:
    """Whether DDP joins the gradients of this backward pass, or leaves them to add up until a later one."""
    return nullcontext() if now or not isinstance(module, DistributedDataParallel) else module.no_sync()
