"""Everything that can be wrong with the configurations of a search, found without training any of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pyarrow.fs import FileType

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.closed_form import CLOSED_FORM, is_closed_form
from ray_tl.components import catalogue
from ray_tl.config import TrialConfig
from ray_tl.data.addresses import Address
from ray_tl.data.augmentation import augmentation_for
from ray_tl.data.domains import DomainPair
from ray_tl.data.load import preprocessing_of
from ray_tl.errors import InvalidInput
from ray_tl.models.adaptors import AdaptorContext
from ray_tl.models.backbones import build_backbone, dimensions, is_pretrained, require_words
from ray_tl.models.fine_tuning import LR_MULTIPLIERS
from ray_tl.models.freezing import stages_that_train
from ray_tl.study.records import DataSource
from ray_tl.training.averaging import AVERAGING, Averaging
from ray_tl.training.batches import check_accumulation
from ray_tl.training.building import check_class_balance, check_mixing
from ray_tl.training.multi_task import MultiTaskContext
from ray_tl.training.network import context_of, expected_context
from ray_tl.training.regularisers import regulariser_of
from ray_tl.training.transfer import TransferContext

Data = TypeVar("Data", DataSource, DomainPair)


def configuration_problems(configs: Sequence[TrialConfig], data: DataSource) -> list[str]:
    """Every rule that a component of these configurations would break when it is built."""
    mixed = [config for config in configs if _mixes(config)]
    balanced = [config for config in configs if _balances(config)]
    spoken = {str((config.backbone, config.method)): config for config in configs}
    checks = [(_build_components, configs), (_require_mixable, mixed), (_fit_words, list(spoken.values()))]
    checks += [(_require_balanceable, balanced), (_fit_backbone, configs)]
    found = _problems((check, config, data) for check, each in checks for config in each)
    return found or _idle_averages(configs, data)


def weight_problems(configs: Sequence[TrialConfig], data: DataSource) -> list[str]:
    """Load the weights of each pretrained backbone once: fetched before a slot asks, and named if they can't be."""
    one_each = {str(config.backbone): config for config in configs if is_pretrained(config.backbone)}
    return _problems((_load_weights, config, data) for config in one_each.values())


def data_problems(configs: Sequence[TrialConfig], data: DataSource) -> list[str]:
    """What of the data is not there, or is given though no trial of the search would look at it."""
    return [*_missing(data), *_unused(configs, data)]


def row_problems(configs: Sequence[TrialConfig], pair: DomainPair) -> list[str]:
    """Every parameter of these configurations that asks for more rows than the pair has."""
    return _problems((_fit_rows, config, pair) for config in configs if is_closed_form(config.method.name))


def _problems(checks: Iterable[tuple[Callable[[TrialConfig, Data], None], TrialConfig, Data]]) -> list[str]:
    """What these checks raise, each once."""
    found: dict[str, None] = {}
    for check, config, data in checks:
        try:
            check(config, data)
        except InvalidInput as error:
            found[str(error)] = None
    return list(found)


def _load_weights(config: TrialConfig, data: DataSource) -> None:
    build_backbone(config.backbone, context_of(preprocessing_of(data.options), load_weights=True))


def _build_components(config: TrialConfig, data: DataSource) -> None:
    check_accumulation(config)
    contexts: dict[str, list[object]] = {
        "method": [_method_context(config, data)],
        "adaptor": [AdaptorContext(2)],
        "transfer": [TransferContext(len(data.intermediate))],
        "multi_task": [MultiTaskContext(2, 0 if data.auxiliary is None else 2)],
    }
    for field, registry in catalogue().items():
        component = getattr(config, field)
        if field not in ("backbone", "features", "augmentation"):  # features are built with their backbone
            registry.create(component.name, component.params, *contexts.get(field, []))
    augmentation_for(config.augmentation, data.options.modality)
    _require_for_images(config, data.options.modality)
    regulariser_of(config)


def _require_for_images(config: TrialConfig, modality: str) -> None:
    for field in () if modality == "images" else ("mixing", "test_time_augmentation"):
        stated = getattr(config, field).name
        if stated != "none":
            raise InvalidInput(f"{field}={stated!r} is for images, and data.modality is {modality!r}; choose none.")


def _method_context(config: TrialConfig, data: DataSource) -> MethodContext:
    few = int(data.trains_on_target_labels)
    _, width = dimensions(config.backbone, expected_context(data.options))
    return MethodContext(width, 2, num_source=2, num_target=2, num_target_labelled=few)


def _mixes(config: TrialConfig) -> bool:
    return config.mixing.name != "none" and not is_closed_form(config.method.name)  # these train nothing


def _require_mixable(config: TrialConfig, data: DataSource) -> None:
    check_mixing(config, METHODS.create(config.method.name, config.method.params, _method_context(config, data)))


def _balances(config: TrialConfig) -> bool:
    return config.class_balance.name != "none" and not is_closed_form(config.method.name)


def _require_balanceable(config: TrialConfig, data: DataSource) -> None:
    check_class_balance(config, METHODS.create(config.method.name, config.method.params, _method_context(config, data)))


def _fit_rows(config: TrialConfig, pair: DomainPair) -> None:
    _, width = dimensions(config.backbone, context_of(pair.preprocessing, load_weights=False))
    method = CLOSED_FORM.create(config.method.name, config.method.params, MethodContext(width, pair.num_classes))
    method.require_rows(len(pair.source), len(pair.target))


def _fit_backbone(config: TrialConfig, data: DataSource) -> None:
    sizes, _ = dimensions(config.backbone, expected_context(data.options))
    stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name)
    LR_MULTIPLIERS.create(config.lr_multipliers.name, config.lr_multipliers.params).multipliers(len(sizes))


def _idle_averages(configs: Sequence[TrialConfig], data: DataSource) -> list[str]:
    """Averages of fine-tuned weights in a space in which none is fine-tuned.

    Where it is with some of its trials alone, the others are as without an average, and say so.
    """
    trained = [config for config in configs if not is_closed_form(config.method.name)]
    stated = [config for config in trained if _averaging(config).needs_fine_tuning]
    useful = {config.averaging.name for config in stated if _fine_tunes(config, data)}
    idle = {config.averaging.name: config for config in stated if config.averaging.name not in useful}
    return [
        f"averaging={name!r} has nothing to average: no stage of the backbone trains with freeze_depth="
        f"{config.freeze_depth!r}; lower freeze_depth, or choose another averaging."
        for name, config in idle.items()
    ]


def _fine_tunes(config: TrialConfig, data: DataSource) -> bool:
    sizes, _ = dimensions(config.backbone, expected_context(data.options))
    return len(stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name)) > 0


def _averaging(config: TrialConfig) -> Averaging:
    return AVERAGING.create(config.averaging.name, config.averaging.params)


def _fit_words(config: TrialConfig, data: DataSource) -> None:
    """Have something described, where a method needs words."""
    method = catalogue()["method"].create(config.method.name, config.method.params, _method_context(config, data))
    if method.needs_words:
        require_words(config.backbone, expected_context(data.options))


def _missing(data: DataSource) -> list[str]:
    """Places where there is nothing; what is in them shows when they are read."""
    named = {name: getattr(data, name) for name in ("source", "target", "target_test", "target_labelled", "auxiliary")}
    stated = [*named.items(), *(("intermediate", name) for name in data.intermediate)]
    found = [_why_missing(field, name) for field, name in stated if name is not None]
    return [why for why in found if why is not None]


def _why_missing(field: str, name: str) -> str | None:
    if name.startswith("digits:"):
        return None
    try:
        if Address.of(name, field).kind() is not FileType.NotFound:
            return None
    except InvalidInput as error:
        return str(error)
    return f"{field}={name!r} does not exist; give the path of a folder or table."


def _unused(configs: Sequence[TrialConfig], data: DataSource) -> list[str]:
    found = []
    if data.intermediate and "staged" not in {config.transfer.name for config in configs}:
        found.append(
            "--intermediate is given, but no trial uses it; add transfer: staged to the file, or leave it out."
        )
    if data.auxiliary is not None and "auxiliary" not in {config.multi_task.name for config in configs}:
        found.append("--auxiliary is given, but no trial uses it; add multi_task: auxiliary, or leave it out.")
    return found
