"""Which layer trains, how fast and from when on, of a file or of a trial; nothing runs and no weights are read."""

from pathlib import Path

from ray_tl.components import catalogue
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.models.backbones import WrongModality
from ray_tl.models.backbones.user import register_user_backbones
from ray_tl.search_space import DataOptions, Middle, SearchFile, load_search_file, validated
from ray_tl.strict_json import parse_json
from ray_tl.study.store import StudyStore
from ray_tl.training.layer_plan import LayerPlan, plan_of


def plan_of_trial(store: StudyStore, trial: int) -> LayerPlan:
    """Of a trial of a study; raises `UnknownName` if there is none of this number."""
    spec = store.spec
    register_user_backbones(spec.backbones)
    return plan_of(store.trial(trial).config, len(spec.classes), spec.data.options)


def plan_of_file(config: Path, num_classes: int) -> LayerPlan:
    """Of a search-space file, for the middle of its ranges and the first of its choices, or of a trial as JSON.

    Args:
        config: Path of the file.
        num_classes: For the size of the head.

    Raises:
        InvalidInput: If the file is not sound.
    """
    if config.suffix == ".json":
        trial_config = _trial_config(config)
        try:
            return plan_of(trial_config, num_classes, DataOptions())
        except WrongModality as error:
            return plan_of(trial_config, num_classes, DataOptions.model_validate({"modality": error.reads}))
    file = load_search_file(config)
    register_user_backbones(file.backbones)
    return plan_of(_middle(file), num_classes, file.data)


def _trial_config(path: Path) -> TrialConfig:
    if not path.is_file():
        raise InvalidInput(f"trial {str(path)!r} is not a file; give the path of a JSON file with a trial's fields.")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{path}: not valid JSON: {error}") from error
    return validated(TrialConfig, content, str(path))


def _middle(file: SearchFile) -> TrialConfig:
    """The middle of every range and the first of every choice."""
    space = file.space()
    if found := space.problems(catalogue()):
        raise all_at_once("search space", found)
    return space.resolved(catalogue()).sample(Middle())
