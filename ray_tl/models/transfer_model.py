"""A backbone with a classifier: the network that a trial trains and a bundle holds."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ray_tl.config import Component, TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.models.adaptors import ADAPTORS, Adaptor, AdaptorContext, JointDropout, set_num_views
from ray_tl.models.backbones import BackboneContext, build_backbone
from ray_tl.models.backbones.user import build_user_backbone
from ray_tl.models.domain_norm import DOMAIN_NORMS, Domain, convert_norms, set_domains
from ray_tl.models.features import FEATURES, Features, FeaturesContext
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.parameter_efficient import ALL_WEIGHTS, PARAMETER_EFFICIENT
from ray_tl.models.stages import StagedBackbone

LAST_STAGE = Component(name="last")
NO_ADAPTOR = Component(name="none")
SHARED_NORM = Component(name="shared")


class TransferModel(nn.Module):
    """Rows of a domain in, features and logits out; normalisation is inside, so that it can't differ at serving.

    Args:
        backbone: Ordered stages.
        features: Of which stages they are.
        adaptor: Between features and head.
        num_classes: C.
        backbone_name: For messages.
        dropout: Share of the features that is hidden from the head in training, in [0, 1); methods see all of them.
    """

    def __init__(
        self,
        backbone: StagedBackbone,
        features: Features,
        adaptor: Adaptor,
        num_classes: int,
        backbone_name: str = "backbone",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_name = backbone_name
        self.features = features
        self.adaptor = adaptor
        self.num_classes = num_classes
        self.dropout = JointDropout(dropout)
        self.head: nn.Module = nn.Linear(adaptor.feature_dim, num_classes)

    @property
    def feature_dim(self) -> int:
        """D, width of the features that methods and head see."""
        return self.adaptor.feature_dim

    def forward(self, rows: Tensor, start: int = 0, domains: Sequence[Domain] = ("target",)) -> tuple[Tensor, Tensor]:
        """Rows of a domain, or activations before stage `start` > 0, to features [N, D] and logits [N, C].

        Args:
            rows: One batch, or several equally long ones joined into one.
            start: At most `features.max_start`.
            domains: Of each of these batches; what is served is of the target.
        """
        set_num_views(self, len(domains))
        set_domains(self, domains)
        x = self.backbone.entry(rows) if start == 0 else self.backbone.entry.resume(rows)
        features = self.adaptor(self.features(self.backbone, x, start))
        return features, self.head(self.dropout(features))

    def with_head(self, head: nn.Module) -> "TransferModel":
        """A network with a copy of this one's backbone, whose own features alone go into another head."""
        backbone = copy.deepcopy(self.backbone)
        features = FEATURES.create(LAST_STAGE.name, {}, FeaturesContext(backbone, self.backbone_name))
        adaptor = ADAPTORS.create(NO_ADAPTOR.name, {}, AdaptorContext(backbone.feature_dim))
        network = TransferModel(backbone, features, adaptor, self.num_classes, self.backbone_name)
        network.head = head
        return network

    def prefix(self, rows: Tensor, depth: int) -> Tensor:
        """Activations after `depth` stages that have never trained, and so normalise both domains alike."""
        set_domains(self, ("target",))
        return self.backbone.entry.suspend(self.backbone(self.backbone.entry(rows), stop=depth), rows)


def with_prior_correction(model: TransferModel, correction: Sequence[float]) -> TransferModel:
    """A copy of a network with a linear head that adds so much to each logit, [C]; see `selection.correction`.

    Raises:
        InvalidInput: If its head is not linear, or has another number of classes.
    """
    if not isinstance(model.head, nn.Linear) or len(correction) != model.num_classes:
        raise InvalidInput(
            f"prior.correction={list(correction)!r} does not fit a {type(model.head).__name__} head of "
            f"{model.num_classes} classes; promote the trial as it was, with --trial."
        )
    corrected = copy.deepcopy(model)
    assert isinstance(corrected.head, nn.Linear)
    with torch.no_grad():
        corrected.head.bias.add_(torch.tensor(correction).to(corrected.head.bias))
    return corrected


def network_of(config: TrialConfig, num_classes: int, context: BackboneContext) -> TransferModel:
    """The network of a trial; see `build_transfer_model`."""
    return build_transfer_model(
        config.backbone,
        num_classes,
        context,
        config.adaptor,
        config.features,
        config.domain_norm,
        config.freeze_depth,
        config.trained_stages,
        config.dropout,
        config.parameter_efficient,
    )


def stages_of(config: TrialConfig, model: TransferModel) -> range:
    """The stages of its network that a trial trains, once everything that ever trains does.

    Raises:
        InvalidInput: If the backbone has too few stages.
    """
    sizes = model.backbone.stage_sizes
    return stages_that_train(config.freeze_depth, config.trained_stages, sizes, model.backbone_name)


def build_transfer_model(
    backbone: Component,
    num_classes: int,
    context: BackboneContext,
    adaptor: Component = NO_ADAPTOR,
    features: Component = LAST_STAGE,
    domain_norm: Component = SHARED_NORM,
    freeze_depth: int | str = 0,
    trained_stages: int | None = None,
    dropout: float = 0.0,
    parameter_efficient: Component = ALL_WEIGHTS,
) -> TransferModel:
    """The network that a configuration names.

    Args:
        backbone: Gives the stages.
        num_classes: C.
        context: Of the backbone.
        adaptor: Between features and head.
        features: Of which stages they are.
        domain_norm: Of adaptor and stages that train.
        freeze_depth: Of the trial; nothing is frozen here.
        trained_stages: Of the trial.
        dropout: Before the head, in training.
        parameter_efficient: What trains of the stages that do.

    Raises:
        InvalidInput: If a component or one of its parameters is unknown, out of range or does not fit the backbone, the
            images have a number of channels that the weights don't fit, or the weights can't be had.
    """
    if context.function is None:
        stages = build_backbone(backbone, context)
    else:
        stages = build_user_backbone(backbone.name, backbone.params, context.function, context)
    taps = FEATURES.create(features.name, features.params, FeaturesContext(stages, backbone.name))
    layers = ADAPTORS.create(adaptor.name, adaptor.params, AdaptorContext(taps.feature_dim))
    model = TransferModel(stages, taps, layers, num_classes, backbone.name, dropout)
    trained = stages_that_train(freeze_depth, trained_stages, stages.stage_sizes, backbone.name)
    isolation = PARAMETER_EFFICIENT.create(parameter_efficient.name, parameter_efficient.params)
    if isolation is not None:
        isolation.apply(stages, trained)
    norm = DOMAIN_NORMS.create(domain_norm.name, domain_norm.params)
    convert_norms([*(stages.stages[number] for number in trained), layers], norm.convert)
    # Channels last: 1.6 times as fast on a CPU for small networks, and what tensor cores want.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
