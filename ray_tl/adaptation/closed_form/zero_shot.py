"""Classes described in words: the head that a network of images and texts has before any training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ray_tl.adaptation.closed_form.method import CLOSED_FORM, ClosedForm, Domains, State
from ray_tl.adaptation.zero_shot import TEMPLATE, TEMPLATES, ZeroShotHead, class_weights, require_template
from ray_tl.registry import Published


@CLOSED_FORM.register(
    "zero_shot",
    ranges={"template": {"choice": list(TEMPLATES)}},
    published=Published(
        "Radford et al., 2021, https://arxiv.org/abs/2103.00020", params={"template": "a photo of a {}"}
    ),
    family="zero_shot",
)
@dataclass(frozen=True, kw_only=True)
class ZeroShot(ClosedForm):
    """CLIP's zero-shot classifier: the class whose description is nearest to the image.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
    https://arxiv.org/abs/2103.00020, sec. 3.1.2. It looks at no example, of the source or of the target.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        template: Describes a class, whose name takes the place of `{}`.
    """

    needs_domains: ClassVar[tuple[str, ...]] = ()
    takes_target_labels: ClassVar[bool] = False
    needs_words: ClassVar[bool] = True

    template: str = TEMPLATE

    def __post_init__(self) -> None:
        super().__post_init__()
        require_template("zero_shot.template", self.template)

    def solve(self, domains: Domains, seed: int) -> State:
        return {"weights": class_weights(self.context, self.template).double().numpy()}

    def blank_head(self, state: Mapping[str, Tensor]) -> nn.Module:
        return ZeroShotHead(self.context.num_classes, self.context.feature_dim)
