"""The network of a trial: as it begins, and as it was left."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ray_tl.adaptation.closed_form import is_closed_form, load_closed_form_head
from ray_tl.adaptation.method import MethodContext
from ray_tl.config import Component, TrialConfig, UserFunction
from ray_tl.data.load import preprocessing_of
from ray_tl.data.preprocessing import AnyPreprocessing
from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import TrialFailed
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.ensemble import Ensemble, Network, members_of
from ray_tl.models.parameter_efficient import ALL_WEIGHTS
from ray_tl.models.transfer_model import LAST_STAGE, NO_ADAPTOR, SHARED_NORM, TransferModel, network_of
from ray_tl.randomness import derive_seed, seed_torch
from ray_tl.search_space import DataOptions
from ray_tl.training.data import TrialData
from ray_tl.training.files import State, TrialFiles

PREFIX = "model."
NUM_MEMBERS = "num_members"  # of a checkpoint that is an ensemble
BARE = {"features": LAST_STAGE, "adaptor": NO_ADAPTOR, "domain_norm": SHARED_NORM, "parameter_efficient": ALL_WEIGHTS}


def build_model(config: TrialConfig, data: TrialData, load_weights: bool = True) -> TransferModel:
    """The network of a trial, its new parts initialised from the trial's seed."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(config.seed if config.initial_seed is None else config.initial_seed, "model"))
        context = context_of(data.pair.preprocessing, load_weights)
        return network_of(built(config), data.pair.num_classes, context)


def context_of(
    preprocessing: AnyPreprocessing,
    load_weights: bool,
    architecture: Mapping[str, object] | None = None,
    function: UserFunction | None = None,
) -> BackboneContext:
    """What the examples of a study tell a backbone, and a bundle its recorded architecture or person's function."""
    if isinstance(preprocessing, TextPreprocessing):
        vocabulary, length = preprocessing.vocabulary, preprocessing.max_length
        return BackboneContext(
            load_weights=load_weights, architecture=architecture, vocabulary=vocabulary, max_length=length
        )
    channels, side = preprocessing.channels, preprocessing.image_size
    return BackboneContext(channels, load_weights, side, architecture, function)


def expected_context(options: DataOptions) -> BackboneContext:
    """What the examples of a study tell a backbone, known before they are read; no weights are loaded."""
    return context_of(preprocessing_of(options), load_weights=False)


def blank_rows(options: DataOptions, num_rows: int) -> Tensor:
    """Rows of a domain of the largest size that options allow: images [N, C, S, S], or texts [N, L]."""
    if options.modality == "text":
        return torch.zeros(num_rows, options.max_length, dtype=torch.int32)
    return torch.zeros(num_rows, options.channels, options.image_size, options.image_size)


def built(config: TrialConfig) -> TrialConfig:
    """The configuration of the network that the trial has: a closed-form method leaves out what nobody would train."""
    return config.model_copy(update=BARE) if is_closed_form(config.method.name) else config


def head_of(config: TrialConfig, model: Network) -> Component | None:
    """The closed-form method that says how each head is built from its state; `None` for a linear layer."""
    return None if isinstance(members_of(model)[0].head, nn.Linear) else config.method


def load_model(config: TrialConfig, data: TrialData, files: TrialFiles) -> Network:
    """The network as a trial left it; an ensemble, if it combines several.

    Raises:
        TrialFailed: If the trial left no checkpoint.
    """
    state = files.load_checkpoint()
    if state is None:
        raise TrialFailed(f"trial {files.number} left no checkpoint in {files.place}.")
    members = [build_model(config, data, load_weights=False) for _ in range(state.get(NUM_MEMBERS, 1))]
    model: Network = members[0] if len(members) == 1 else Ensemble(members)
    restore_model(model, config, state)
    return model.to(data.device)


def restore_model(model: Network, config: TrialConfig, state: State) -> None:
    """Make a network that of a trial's checkpoint."""
    load_network(model, _network_state(state), config.method if is_closed_form(config.method.name) else None)


def load_network(model: Network, state: Mapping[str, Tensor], head: Component | None) -> None:
    """Fill a network with a saved state.

    Args:
        model: Its head is replaced, if `head` is given; of an ensemble that of every member.
        state: Of a whole network.
        head: The closed-form method that fitted the head; `None` for the linear layer that the model has.

    Raises:
        InvalidInput: If the head's state does not fit its method.
        RuntimeError: If another part of the state does not fit the network.
    """
    if isinstance(model, Ensemble):
        for number, member in enumerate(model.networks):
            load_network(member, _below(f"members.{number}.", state), head)
        return
    if head is not None:
        context = MethodContext(model.feature_dim, model.num_classes)
        model.head = load_closed_form_head(_below("head.", state), head.name, head.params, context)
    model.load_state_dict(state, strict=True)


def _network_state(state: State) -> dict[str, Tensor]:
    return _below(PREFIX, state["task"])


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
