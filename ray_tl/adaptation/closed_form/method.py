"""What a closed-form method is: a head computed from the features of whole domains, without gradient steps.

A fitted head is its state and nothing else: `fit` solves for named tensors and builds the head from them exactly as
`load_closed_form_head` does from a file, so no pickle is needed and a served head can't differ from the fitted one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_tl.adaptation.method import MethodContext
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import Registry, Value

Array = NDArray[np.float64]
State = dict[str, NDArray]


@dataclass(frozen=True)
class Domains:
    """Whole domains on the processor, in float64.

    Attributes:
        source: Features [N, D].
        labels: Of the source rows, int64 [N], every class of 0..C-1 at least once.
        target: Features [M, D].
    """

    source: Array
    labels: NDArray[np.int64]
    target: Array


@dataclass(frozen=True)
class ClosedForm(ABC):
    """A head computed from whole domains of frozen features, in one go.

    A trial with such a method trains nothing: the backbone stays as its weights were loaded, in evaluation mode, and
    the trial reports once, at full fidelity. Adaptor, freeze depth, unfreezing, learning rates, optimiser, loss
    weighting, augmentation, batch size and the number of epochs have no part in it; an adaptor, whose weights would be
    random, is left out, which the trial's findings say.

    A subclass takes, keyword-only, the parameters that a search may choose.

    Attributes:
        context: Gives D and C, C >= 2.
        needs_domains: The domains whose features decide: `source`, and `target` where it is aligned with that.
        takes_target_labels: Whether labelled examples of the target, where there are some and their weight is above 0,
            join the source, each as one more row of it. Not so where the source is mapped to the target: a target
            row needs no map.
        needs_words: Whether the classes are described to it in words, which the backbone must know.

    Raises:
        InvalidInput: If there is one class only.
    """

    needs_domains: ClassVar[tuple[str, ...]] = ("source",)
    takes_target_labels: ClassVar[bool] = True
    needs_words: ClassVar[bool] = False

    context: MethodContext

    def __post_init__(self) -> None:
        if self.context.num_classes < 2:
            raise InvalidInput(f"num_classes={self.context.num_classes} must be at least 2; one class needs no head.")

    @abstractmethod
    def solve(self, domains: Domains, seed: int) -> State:
        """The state of the head; floating entries in float64."""

    def require_rows(self, num_source: int, num_target: int) -> None:  # noqa: B027  most methods ask for none
        """Raise `InvalidInput` if a parameter asks for more rows than there are; all that is known before features."""

    def blank_head(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A head with the shapes of this state and arbitrary values; a linear layer, where a method does not differ."""
        return nn.Linear(self.context.feature_dim, self.context.num_classes)

    def fit(self, source: Tensor, labels: Tensor, target: Tensor, seed: int = 0) -> nn.Module:
        """The head for these domains, from features [B, D] to logits [B, C], in evaluation mode.

        Everything is solved in float64 on the processor, without gradient. The head has the device and the precision of
        `source`, at least float32. Equal arguments give equal heads.

        Args:
            source: Features [N, D].
            labels: Of the source rows, integers [N], every class of 0..C-1 at least once.
            target: Features [M, D], M >= 1; the probes do not look at their values.
            seed: Of the methods that draw random numbers; its last 32 bits count.

        Raises:
            InvalidInput: If shapes do not fit each other or the context, a value is not finite, a class has no row, or
                a parameter of the method does not fit the domains.
        """
        self._require_fitting(source, labels, target)
        self.require_rows(len(source), len(target))
        domains = Domains(_wide(source), labels.detach().cpu().long().numpy(), _wide(target))
        dtype = torch.promote_types(source.dtype, torch.float32)
        state = {name: _tensor(array, dtype) for name, array in self.solve(domains, seed).items()}
        return self.restore(state).to(source.device)

    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The head of a saved state, in the precision that was saved; it shares no memory with the state.

        Raises:
            InvalidInput: If the state is not one of this method, width and number of classes.
        """
        try:
            head = self.blank_head(state)
            copies = {key: tensor.detach().clone() for key, tensor in state.items()}
            head.load_state_dict(copies, strict=True, assign=True)
        except (KeyError, RuntimeError) as error:
            rule = f"must be that of a head for {self.context.feature_dim} features and {self.context.num_classes}"
            raise InvalidInput(f"state {rule} classes, of the method that fitted it ({error}).") from error
        return head.eval()

    def _require_fitting(self, source: Tensor, labels: Tensor, target: Tensor) -> None:
        problems = [*self._feature_problems("source", source), *self._feature_problems("target", target)]
        problems += self._label_problems(source, labels)
        if problems:
            raise all_at_once("closed-form method", problems)

    def _feature_problems(self, domain: str, features: Tensor) -> list[str]:
        width = self.context.feature_dim
        if features.ndim != 2 or features.shape[1] != width or not len(features):
            shape = list(features.shape)
            return [f"{domain} features of shape {shape} must be [rows, {width}]; use one backbone for both domains."]
        if not features.isfinite().all():
            return [f"{domain} features hold values that are not finite; lower the learning rate of their backbone."]
        return []

    def _label_problems(self, source: Tensor, labels: Tensor) -> list[str]:
        if labels.shape != source.shape[:1]:
            return [f"labels of shape {list(labels.shape)} must be [{len(source)}], one for each source row."]
        classes = set(range(self.context.num_classes))
        found = set(labels.unique().tolist())
        unknown, missing = sorted(found - classes), sorted(classes - found)
        problems = (
            [f"labels {unknown} are outside 0..{len(classes) - 1}; number the classes from 0."] if unknown else []
        )
        if missing:
            problems.append(f"classes {missing} have no source row; give at least one row of each class.")
        return problems


CLOSED_FORM: Registry[ClosedForm] = Registry("closed-form method")


def is_closed_form(method: str) -> bool:
    """Whether the head of a method of this name is solved for; otherwise it is trained."""
    return method in CLOSED_FORM.names()


def load_closed_form_head(
    state: Mapping[str, Tensor], name: str, params: Mapping[str, Value], context: MethodContext
) -> nn.Module:
    """The head of a saved state, in evaluation mode: what `fit` gave, to the bit.

    Args:
        state: The head's `state_dict()`, for example from a safetensors file.
        name: Of the method in `CLOSED_FORM`.
        params: That the method was created with.
        context: Gives D and C.

    Raises:
        InvalidInput: If the state does not fit the rest; see also `Registry.create`.
    """
    return CLOSED_FORM.create(name, params, context).restore(state)


def _wide(features: Tensor) -> Array:
    return features.detach().cpu().double().numpy()


def _tensor(array: NDArray, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
