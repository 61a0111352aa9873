"""A person's own function as a backbone: its network as stages, its parameters as what a search may choose."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType

import torch
from torch import nn

from ray_tl.config import UserFunction
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.models.backbones.common import BACKBONES, HALF, BackboneContext, forget_sizes, image_entry
from ray_tl.models.stages import ImageEntry, StagedBackbone
from ray_tl.registry import Registry, Value

Stages = nn.Sequential | list[tuple[str, nn.Module]]
FROM_DATA = ("channels", "image_size")
_registered: dict[str, UserFunction] = {}


def register_user_backbones(functions: Mapping[str, UserFunction]) -> None:
    """Make functions of a search-space file available under their names, in this process; their files are run.

    Raises:
        InvalidInput: If a name is taken, a file can't be run, or holds no such function; all at once.
    """
    problems = []
    for name, function in functions.items():
        if _registered.get(name) == function:
            continue
        if name in BACKBONES.names() and name not in _registered:
            problems.append(f"backbones.{name} has the name of a backbone of ray_tl; choose another.")
            continue
        try:
            BACKBONES.register(name)(user_backbone(name, function))
            _registered[name] = function
        except InvalidInput as error:
            problems.append(str(error))
    forget_sizes()
    if problems:
        raise all_at_once("backbones", problems)


def build_user_backbone(
    name: str, params: Mapping[str, Value], function: UserFunction, context: BackboneContext
) -> StagedBackbone:
    """What the function of a bundle builds, whatever is registered under its name."""
    own: Registry[StagedBackbone] = Registry("backbone")
    own.register(name)(user_backbone(name, function))
    return own.create(name, params, context)


def user_backbone(name: str, function: UserFunction) -> Callable[..., StagedBackbone]:
    """A factory for `BACKBONES` from a person's function.

    The function gives a `nn.Sequential` or a list of (name, module), of which each is a stage and the last gives rows
    [N, D]. Images come normalised to mean 0.5 and deviation 0.5. Parameters called `channels` and `image_size` are
    those of the data; all others are for a search to choose.
    """
    build = _loaded(name, function)
    if "context" in inspect.signature(build).parameters:
        raise InvalidInput(
            f"backbones.{name}: a parameter called 'context' can't be chosen by a search; rename it. Of the data a "
            f"function gets {' and '.join(FROM_DATA)}, by these names."
        )

    @wraps(build)
    def factory(context: BackboneContext, **values: object) -> StagedBackbone:
        stated = {key: getattr(context, key) for key in FROM_DATA if key in inspect.signature(build).parameters}
        try:
            built = build(**stated, **values)
        except (InvalidInput, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of whatever a person has written
            given = ", ".join(f"{key}={value!r}" for key, value in {**stated, **values}.items())
            raise InvalidInput(
                f"backbone {name!r}: its function breaks down with ({given}): {type(error).__name__}: {error}."
            ) from error
        return _staged(name, built, context)

    chosen = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for key, parameter in inspect.signature(build).parameters.items()
        if key not in FROM_DATA and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    given = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY)
    factory.__signature__ = inspect.Signature([given, *chosen])  # type: ignore[attr-defined]
    return factory


def _loaded(name: str, function: UserFunction) -> Callable[..., Stages]:
    """The function of a module that is made from its source alone, so that every worker and bundle has the same."""
    module = ModuleType(f"ray_tl_user_{hashlib.sha256(function.source.encode()).hexdigest()[:12]}")
    sys.modules[module.__name__] = module  # where dataclasses look for it
    try:
        exec(compile(function.source, function.path, "exec"), module.__dict__)
    except Exception as error:  # of whatever a person has written
        raise InvalidInput(
            f"backbones.{name}: {function.path} can't be run ({type(error).__name__}: {error}); "
            "it must stand alone, and import installed packages only."
        ) from error
    found = getattr(module, function.function, None)
    if not inspect.isfunction(found):
        names = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise InvalidInput(
            f"backbones.{name}: {function.path} has no function {function.function!r}; it has {', '.join(names)}."
        )
    return found


def _staged(name: str, built: object, context: BackboneContext) -> StagedBackbone:
    stages = list(built.named_children()) if isinstance(built, nn.Sequential) else built
    if not isinstance(stages, list) or not stages or not all(_is_stage(stage) for stage in stages):
        raise InvalidInput(
            f"backbone {name!r}: its function gives {type(built).__name__}; "
            "return a torch.nn.Sequential or a list of (name, module)."
        )
    names, modules = zip(*stages, strict=True)
    if len(set(names)) < len(names):
        raise InvalidInput(f"backbone {name!r}: stages {list(names)} share a name; give each a name of its own.")
    entry = ImageEntry(image_entry(context, HALF).normalisation, context.image_size)
    backbone = StagedBackbone(modules, names, 0, entry)
    backbone.feature_dim = _feature_dim(name, backbone)
    return backbone


def _is_stage(stage: object) -> bool:
    match stage:
        case (str(), nn.Module()):
            return True
    return False


@torch.no_grad()
def _feature_dim(name: str, backbone: StagedBackbone) -> int:
    """Width of what comes out for a blank image."""
    try:
        features = backbone.eval()(backbone.entry(backbone.entry.blank()))
    except Exception as error:  # of whatever a person has written
        raise InvalidInput(f"backbone {name!r} can't take an image ({type(error).__name__}: {error}).") from error
    finally:
        backbone.train()
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise InvalidInput(
            f"backbone {name!r} gives {shape} for an image; its last stage must give rows [1, D]: pool and flatten."
        )
    return features.shape[1]
