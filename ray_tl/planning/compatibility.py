"""Whether networks, data and machine fit together, found out before anything runs, on a device of shapes alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.config import Component, TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import dimensions
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.memory import GIB, StepMemory, step_memory
from ray_tl.models.parameter_efficient import ALL_WEIGHTS
from ray_tl.models.transfer_model import TransferModel, network_of, stages_of
from ray_tl.search_space import DataOptions
from ray_tl.training.averaging import AVERAGING
from ray_tl.training.network import blank_rows, built, expected_context
from ray_tl.training.regularisers import REGULARISERS, regulariser_of

NETWORK_FIELDS = ("backbone", "features", "adaptor", "domain_norm", "trained_stages", "parameter_efficient")
SIDES = (32, 64, 96, 128, 192, 224, 299, 384, 512)


@dataclass(frozen=True)
class Room:
    """Memory for training.

    Attributes:
        name: For messages: "this machine's memory".
        free_bytes: Now.
        num_workers: That share it, over all trials at a time.
        ranks: Over which a trial's batch is spread.
    """

    name: str
    free_bytes: int
    num_workers: int
    ranks: int = 1


def network_problems(configs: Iterable[TrialConfig], options: DataOptions) -> list[str]:
    """Networks that can't take what the data are, each named once with a remedy."""
    configs = list(configs)
    networks = [*_largest(configs, options), *_isolated(configs)]
    found = [*(_network_problem(config, options) for config in networks)]
    if not any(found):
        found += [_regulariser_problem(config, options) for config in _regularised(configs)]
    return list(dict.fromkeys(line for line in found if line is not None))


def memory_problems(configs: Iterable[TrialConfig], options: DataOptions, room: Room) -> list[str]:
    """Networks whose step, at the largest batch and with the most stages that train, needs more memory than there is.

    What a worker holds beside that, of libraries and data, is not counted: who passes may still run out of memory.
    """
    networks = _largest(configs, options)
    return [line for config in networks if (line := _memory_problem(config, options, room)) is not None]


def memory_of(config: TrialConfig, options: DataOptions, ranks: int = 1) -> StepMemory:
    """Of one step of one worker, with Adam.

    Raises:
        RuntimeError: If the network can't take such rows.
    """
    rows = _num_views(config) * max(1, config.batch_size // ranks)
    with torch.device("meta"):
        network = _network(config, options).train()
        trained = stages_of(config, network)
        network.backbone.freeze(trained.start, trained.stop)
        memory = step_memory(network, blank_rows(options, rows))
    kept = _num_copies(config) * memory.weights
    if _copies_backbone(config):
        kept += sum(tensor.nbytes for tensor in [*network.backbone.parameters(), *network.backbone.buffers()])
    return replace(memory, weights=memory.weights + kept)


def _network_problem(config: TrialConfig, options: DataOptions) -> str | None:
    try:
        reason = _refusal(config, options)
    except InvalidInput as error:
        return str(error)
    if reason is None:
        return None
    if options.modality == "text":
        return f"the texts do not fit {config.backbone.name!r} ({reason}); choose another backbone."
    larger = [side for side in SIDES if side > options.image_size]
    fits = (side for side in larger if _refusal(config, options.model_copy(update={"image_size": side})) is None)
    remedy = f"choose {side} or more" if (side := next(fits, None)) else "choose another backbone"
    return f"data.image_size={options.image_size} does not fit {config.backbone.name!r} ({reason}); {remedy}."


def _refusal(config: TrialConfig, options: DataOptions) -> str | None:
    """Why the network can't take such rows, in torch's words; `None` if it can; raises `InvalidInput` for our own."""
    try:
        with torch.device("meta"):
            _network(config, options).eval()(blank_rows(options, 1))
    except (RuntimeError, AssertionError) as error:
        return str(error).split("\n", 1)[0].rstrip(".")
    return None


def _regulariser_problem(config: TrialConfig, options: DataOptions) -> str | None:
    try:
        regulariser = regulariser_of(config)
        assert regulariser is not None
        with torch.device("meta"):
            regulariser.attach(_network(config, options))
    except InvalidInput as error:
        return str(error)
    return None


def _memory_problem(config: TrialConfig, options: DataOptions, room: Room) -> str | None:
    needed = memory_of(config, options, room.ranks)
    if needed.total * room.num_workers <= room.free_bytes:
        return None
    size = "max_length" if options.modality == "text" else "image_size"
    workers = f" and {room.num_workers} workers run at a time" if room.num_workers > 1 else ""
    stated = f"batch_size={config.batch_size} on {config.backbone.name!r} from stage {_start(config, options)} on"
    return (
        f"{stated} needs {needed} a worker{workers}, but {room.name} has {room.free_bytes / GIB:.1f} GiB free; lower "
        f"batch_size or data.{size}, raise freeze_depth, or run fewer trials at a time (--max-slots)."
    )


def _largest(configs: Iterable[TrialConfig], options: DataOptions) -> list[TrialConfig]:
    """One configuration for each network: what needs the most memory of all that the space allows.

    Fields are varied apart from one another, so the batch, method and other task that need most are the whole space's.
    """
    trained = [built(config) for config in configs if not is_closed_form(config.method.name)]
    if not trained:
        return []
    batch = max(config.batch_size for config in trained)
    method = max((config.method for config in trained), key=_demand)
    averaging = max((config.averaging for config in trained), key=_copies_for_average)
    other = max((config.multi_task for config in trained), key=lambda each: each.name != "none")
    regulariser = max((config for config in trained), key=_copies_backbone).regulariser
    most = {
        "batch_size": batch,
        "method": method,
        "multi_task": other,
        "regulariser": regulariser,
        "averaging": averaging,
    }
    networks: dict[str, TrialConfig] = {}
    for config in trained:
        key = config.model_dump_json(include=set(NETWORK_FIELDS))
        if key not in networks or _start(config, options) < _start(networks[key], options):
            networks[key] = config.model_copy(update=most)
    return list(networks.values())


def _isolated(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """One configuration for each depth at which new weights are put into stages: at some there is nothing."""
    fields = {*NETWORK_FIELDS, "freeze_depth"}
    changed = [config for config in configs if config.parameter_efficient != ALL_WEIGHTS]
    return list({config.model_dump_json(include=fields): config for config in changed}.values())


def _regularised(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """One configuration for each regulariser of each network."""
    fields = {*NETWORK_FIELDS, "regulariser"}
    stated = [config for config in configs if config.regulariser.name != "none"]
    return list({config.model_dump_json(include=fields): config for config in stated}.values())


def _copies_backbone(config: TrialConfig) -> bool:
    regulariser = REGULARISERS.create(config.regulariser.name, config.regulariser.params)
    return regulariser is not None and regulariser.copies_backbone


def _start(config: TrialConfig, options: DataOptions) -> int:
    """First stage that trains; all before it are computed without keeping anything."""
    sizes, _ = dimensions(config.backbone, expected_context(options))
    return stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name).start


def _num_views(config: TrialConfig) -> int:
    return _demand(config.method)[0] + (config.multi_task.name != "none")


def _num_copies(config: TrialConfig) -> int:
    """Of the network beside the one that trains."""
    return _demand(config.method)[1] + _copies_for_average(config.averaging)


def _demand(method: Component) -> tuple[int, int]:
    """Batches through the network in one step, with labelled target examples among them, and copies of the network."""
    context = MethodContext(2, 2, num_source=2, num_target=2, num_target_labelled=2)
    created = METHODS.create(method.name, method.params, context)
    return len({*created.needs, "target_labelled"}), int(created.copies_network)


def _copies_for_average(averaging: Component) -> int:
    return AVERAGING.create(averaging.name, averaging.params).num_copies


def _network(config: TrialConfig, options: DataOptions) -> TransferModel:
    return network_of(config, 2, expected_context(options))
