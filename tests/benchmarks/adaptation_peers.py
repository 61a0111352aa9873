"""The same methods in `pytorch-adapt` and `skada`, as contenders of `adaptation_features.py`.

Where a formula differs by a constant factor or by a parameter of the same meaning, theirs is set to ours (below, beside
each), so that what is compared is the method and not a weight. What a library does in its own way stays: pytorch-adapt
runs the domains through the network one after the other, each normalised by its own batch, and has CDAN and ADDA in two
phases a step and MCD in six; skada's CDAN conditions on logits, as ours does beside it, and its kernels for DAN are of
distances.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from adaptation_features import (
    BATCH_SIZE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Batch,
    Build,
    Features,
    SolvePeer,
    optimizer,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ray_tl.adaptation.adversarial import domain_discriminator, reverse_gradient
from ray_tl.adaptation.alignment import MMD_SCALES
from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.models.transfer_model import TransferModel

HIDDEN_WIDTH, GAMMA, TEMPERATURE = 256, 10.0, 2.5  # of our methods, by default
MDD_MARGIN, MDD_STRENGTH = 4.0, 0.1
JDOT_FEATURE_WEIGHT, JDOT_LABEL_WEIGHT = 0.001, 0.0001
ADDA_START, AFN_STEP = 0.4, 0.1


def available_peers() -> tuple[dict[str, dict[str, Build]], list[str]]:
    """For each installed library how it builds which methods, and what to say of those that are missing."""
    peers: dict[str, dict[str, Build]] = {}
    missing = []
    for library, methods in {"pytorch-adapt": _pytorch_adapt, "skada": _skada}.items():
        try:
            peers[library] = methods()
        except ImportError as error:
            missing.append(f"{library} is missing ({error}): see --help; ours runs without it.")
    return peers, missing


def solving_peers() -> dict[str, SolvePeer]:
    """Closed-form methods of `skada`, on standard scores of each domain and with the classifier of ours."""
    try:
        from skada import CORAL, SubspaceAlignment
    except ImportError:
        return {}
    # Its shrinkage (1 - r) C + r I of standard scores is ours, C + I, times a half that cancels out, at r = 1/2.
    return {
        "coral_closed": lambda features, _: _solved(CORAL(_logistic(), reg=0.5), features),
        "subspace_alignment": lambda features, seed: _solved(
            SubspaceAlignment(_logistic(), n_components=16, random_state=seed), features
        ),
    }


def _logistic() -> LogisticRegression:
    return LogisticRegression(C=1.0, tol=1e-6, max_iter=1000)


def _solved(pipeline: Pipeline, features: Features) -> Tensor:
    source, target = (rows.double().numpy() for rows in (features.source, features.target))
    scaler = StandardScaler().fit(target)
    rows = np.vstack([StandardScaler().fit_transform(source), scaler.transform(target)])
    labels = np.concatenate([features.labels.numpy(), np.full(len(target), -1)])
    domains = np.concatenate([np.ones(len(source)), np.full(len(target), -2)])
    pipeline.fit(rows, labels, sample_domain=domains)
    test = scaler.transform(features.test.double().numpy())
    return torch.from_numpy(pipeline.predict(test, sample_domain=np.full(len(test), -2)))


def _pytorch_adapt() -> dict[str, Build]:
    import pytorch_adapt.hooks  # noqa: F401

    names = [*_CLASSIFIER_HOOKS, "dann", "dann_mcc", "cdan", "cdan_e", "cdan_mcc", "mcd", "adda"]
    return dict.fromkeys(names, PytorchAdapt)


class PytorchAdapt:
    """A hook of `pytorch-adapt`, which runs the networks, weighs the losses and moves the weights."""

    def __init__(self, name: str, model: TransferModel) -> None:
        width, classes = model.feature_dim, model.head.out_features
        discriminator_width = width * classes if name.startswith("cdan") else width
        self._models = {
            "G": model.adaptor,
            "C": _two_classifiers(width, classes) if name == "mcd" else model.head,
            "D": nn.Sequential(domain_discriminator(discriminator_width, HIDDEN_WIDTH), nn.Flatten(0)),
            "feature_combiner": _OuterProduct(),
        }
        self._adda = name == "adda"
        self._hook = _hook("source_only" if self._adda else name, self._models)
        self._reversals = _gradient_reversals(self._hook)

    def begin_epoch(self, progress: float) -> None:
        for model in self._models.values():
            model.train()

    def step(self, batch: Batch) -> None:
        if self._adda and "T" not in self._models and batch.progress >= ADDA_START:
            self._start_adda()
        for reversal in self._reversals:
            reversal.update_weight(dann_ramp(batch.progress, GAMMA))
        rows = len(batch.source)
        data = {
            "src_imgs": batch.source,
            "src_labels": batch.labels,
            "src_domain": torch.zeros(rows),
            "target_imgs": batch.target,
            "target_domain": torch.ones(rows),
        }
        self._hook({**self._models, **data}, {})

    def finish(self) -> None:
        for model in self._models.values():
            model.eval()

    @torch.no_grad()
    def predict(self, rows: Tensor) -> Tensor:
        logits = self._models["C"](self._models.get("T", self._models["G"])(rows))
        return (sum(logits) if isinstance(logits, list) else logits).argmax(dim=1)

    def _start_adda(self) -> None:
        self._models["T"] = copy.deepcopy(self._models["G"])
        self._hook = _hook("adda", self._models)


# What is added to the source's cross-entropy, and weights that make the sum ours.
_CLASSIFIER_HOOKS: dict[str, Callable[[], tuple[list, dict[str, float]]]] = {
    "source_only": lambda: ([], {}),
    "coral": lambda: _pa_aligner("CORALLoss", {}, {}),
    "mmd": lambda: _pa_aligner("MMDLoss", _kernels(), {"features_confusion_loss": float(len(MMD_SCALES))}),
    "jan": lambda: _pa_joint_aligner(),
    "mcc": lambda: _pa_losses("MCCHook"),
    "bnm": lambda: _pa_losses("BNMHook"),
    "entropy": lambda: _pa_losses("TargetEntropyHook"),
    "im": lambda: _pa_losses("TargetEntropyHook", "TargetDiversityHook"),
    "afn": lambda: (_pa_losses("AFNHook")[0], {"afn_loss": 0.5}),  # theirs adds the domains' means, ours takes one
}


def _hook(name: str, models: dict[str, nn.Module]) -> Callable:
    from pytorch_adapt import hooks
    from pytorch_adapt.weighters import SumWeighter

    def over(*parts: str) -> list[torch.optim.Optimizer]:
        return [optimizer([value for part in parts for value in models[part].parameters()])]

    mcc = _pa_losses("MCCHook")[0] if name.endswith("_mcc") else []
    # The sum over both domains is halved, as in ours.
    halves = {"src_domain_loss": 0.5, "target_domain_loss": 0.5}
    if name in _CLASSIFIER_HOOKS:
        post, weights = _CLASSIFIER_HOOKS[name]()
        return hooks.ClassifierHook(over("G", "C"), weighter=SumWeighter(weights=weights), post=post)
    if name in ("dann", "dann_mcc"):
        return hooks.DANNHook(over("G", "C", "D"), weighter=SumWeighter(weights=halves), post_g=mcc)
    if name == "cdan_e":
        return hooks.CDANNEHook(opts=over("G", "C", "D"), weighter=SumWeighter(weights=halves))
    if name == "mcd":
        return hooks.MCDHook(g_opts=over("G"), c_opts=over("C"))
    if name == "adda":
        return hooks.ADDAHook(d_opts=over("D"), g_opts=over("T"))
    halved = {f"g_{loss}": weight for loss, weight in halves.items()}
    weighter = SumWeighter(weights=halved)
    return hooks.CDANHook(d_opts=over("D"), g_opts=over("G", "C"), g_weighter=weighter, post_g=mcc)


def _pa_losses(*names: str) -> tuple[list, dict[str, float]]:
    from pytorch_adapt import hooks, layers

    ours = {"MCCHook": layers.MCCLoss(T=TEMPERATURE), "AFNHook": layers.AdaptiveFeatureNorm(AFN_STEP)}
    return [getattr(hooks, name)(loss_fn=ours.get(name)) for name in names], {}


def _pa_aligner(loss: str, parameters: dict, weights: dict[str, float]) -> tuple[list, dict[str, float]]:
    from pytorch_adapt import hooks, layers

    return [hooks.AlignerHook(getattr(layers, loss)(**parameters))], weights


def _pa_joint_aligner() -> tuple[list, dict[str, float]]:
    from pytorch_adapt import hooks, layers
    from pytorch_adapt.hooks.classification import SoftmaxLocallyHook

    softmax = ["src_imgs_features_logits", "target_imgs_features_logits"]
    aligner = hooks.JointAlignerHook(layers.MMDLoss(**_kernels()))
    return [hooks.FeaturesAndLogitsHook(), SoftmaxLocallyHook(softmax, aligner)], {}


def _kernels() -> dict:
    """Our kernels, a mean of them in place of the sum; the width is their median distance, ours a mean."""
    return {"kernel_scales": torch.tensor([1 / (2 * scale) for scale in MMD_SCALES]), "mmd_type": "quadratic"}


def _gradient_reversals(hook: object) -> list:
    """Theirs has one strength for all of training; the ramp of the paper is set from outside."""
    from pytorch_adapt.hooks.base import BaseHook
    from pytorch_adapt.layers import GradientReversal

    found, waiting, seen = [], [hook], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, GradientReversal):
            found.append(part)
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, BaseHook):
            waiting.extend(vars(part).values())
    return found


def _two_classifiers(width: int, classes: int) -> nn.Module:
    from pytorch_adapt.layers import MultipleModels

    return MultipleModels(*(_classifier(width, classes) for _ in range(2)))


def _classifier(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN_WIDTH), nn.ReLU(), nn.Linear(HIDDEN_WIDTH, classes))


class _OuterProduct(nn.Module):
    def forward(self, features: Tensor, predictions: Tensor) -> Tensor:
        return (features[:, :, None] * predictions[:, None, :]).flatten(1)


def _skada() -> dict[str, Build]:
    import skada.deep  # noqa: F401

    return dict.fromkeys(["source_only", "coral", "mmd", "deepjdot", "dann", "cdan", "mcc", "mdd"], Skada)


class Skada:
    """A `DomainAwareNet` of `skada`, one call of its `train_step` a step."""

    def __init__(self, name: str, model: TransferModel) -> None:
        self._source_only = name == "source_only"
        self._network = _Network(model)
        self._net, self._adversary = _domain_aware_net(name, self._network)
        self._net.initialize()

    def begin_epoch(self, progress: float) -> None:
        pass

    def step(self, batch: Batch) -> None:
        if self._adversary is not None:
            self._adversary.progress = batch.progress
        rows, labels, domains = batch.source, batch.labels, torch.ones(len(batch.source))
        if not self._source_only:
            rows = torch.cat([rows, batch.target])
            labels = torch.cat([labels, torch.full((len(batch.target),), -1)])
            domains = torch.cat([domains, torch.full((len(batch.target),), -2.0)])
        self._net.train_step(({"X": rows, "sample_domain": domains}, labels))

    def finish(self) -> None:
        self._network.eval()

    @torch.no_grad()
    def predict(self, rows: Tensor) -> Tensor:
        return self._network(rows).argmax(dim=1)


class _Network(nn.Module):
    def __init__(self, model: TransferModel) -> None:
        super().__init__()
        self.bottleneck, self.head = model.adaptor, model.head

    def forward(self, rows: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return self.head(self.bottleneck(rows))


class _Adversary(nn.Module):
    """Our discriminator or classifier behind the gradient reversal that skada expects inside it, with our ramp."""

    def __init__(self, layers: nn.Module, strength: float = 1.0) -> None:
        super().__init__()
        self.layers, self.strength, self.progress = layers, strength, 0.0

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(reverse_gradient(features, self.strength * dann_ramp(self.progress, GAMMA)))


def _domain_aware_net(name: str, network: _Network) -> tuple:
    from skada import deep

    width, classes = network.head.in_features, network.head.out_features
    settings = {
        "module": network,
        "layer_name": "bottleneck",
        "optimizer": torch.optim.AdamW,
        "lr": LEARNING_RATE,
        "optimizer__weight_decay": WEIGHT_DECAY,
        "batch_size": BATCH_SIZE,
        "train_split": None,
        "callbacks": None,
        "verbose": 0,
    }
    if name in ("dann", "cdan"):
        inputs = width * classes if name == "cdan" else width
        judge = nn.Sequential(domain_discriminator(inputs, HIDDEN_WIDTH), nn.Flatten(0), nn.Sigmoid())
        adversary = _Adversary(judge)
        # The sum over both domains is halved, as in ours.
        return getattr(deep, name.upper())(reg=0.5, domain_classifier=adversary, **settings), adversary
    if name == "mdd":
        adversary = _Adversary(_classifier(width, classes), MDD_STRENGTH)
        return deep.MDD(reg=1, gamma=MDD_MARGIN, disc_classifier=adversary, **settings), adversary
    if name == "deepjdot":
        return deep.DeepJDOT(reg_dist=JDOT_FEATURE_WEIGHT, reg_cl=JDOT_LABEL_WEIGHT, **settings), None
    if name == "mcc":
        return deep.MCC(reg=1, T=TEMPERATURE, **settings), None
    if name == "source_only":
        return deep.SourceOnly(**settings), None
    return {"coral": deep.DeepCoral, "mmd": deep.DAN}[name](reg=1, **settings), None
