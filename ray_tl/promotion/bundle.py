"""A version folder: weights, model, lineage, and the manifest that all of it is checked against.

    v1/
      model.safetensors   state of the network; no pickle
      model.json          ModelSpec: how to build the network, what to do to an example, what the classes are called
      lineage.json        Lineage: which trial of which study on which data it came from
      backbone.py         the person's own function that builds the backbone, where one does
      tokenizer.json      of a model of texts alone: from a text to numbers of tokens
      MANIFEST.json       SHA-256 and size of the others

A folder appears whole or not at all, and is never changed afterwards.
"""

import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from safetensors import SafetensorError
from torch import Tensor

from ray_tl.config import Component, FreezeDepth, TrialConfig, UserFunction
from ray_tl.data.augmentation import views_of
from ray_tl.data.domains import Inputs
from ray_tl.data.preprocessing import AnyPreprocessing
from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import BrokenBundle, InvalidInput
from ray_tl.files import naming
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.domain_norm import keep_target_norms
from ray_tl.models.ensemble import Ensemble, Network
from ray_tl.models.parameter_efficient import ALL_WEIGHTS, left_after_merge
from ray_tl.models.transfer_model import LAST_STAGE, NO_ADAPTOR, SHARED_NORM, TransferModel, build_transfer_model
from ray_tl.promotion.prediction import Prediction
from ray_tl.training.network import context_of, load_network

WEIGHTS = "model.safetensors"
SPEC = "model.json"
LINEAGE = "lineage.json"
CODE = "backbone.py"
TOKENIZER = "tokenizer.json"
MANIFEST = "MANIFEST.json"

BATCH_SIZE = 64
ONE_VIEW = Component(name="none")
REMEDY = "promote the trial again, or restore the folder from a copy."

_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "tokenizers", "peft", "ray", "ray-tl")
_Record = TypeVar("_Record", bound=BaseModel)


class FolderTaken(InvalidInput):
    """The version folder exists already; versions are immutable."""


class ModelSpec(BaseModel):
    """All that is needed to build the network and to name its answers.

    Attributes:
        head: The closed-form method whose head it is, with its parameters; `None` for a linear layer.
        domain_norm: Of the trial; of `separate` statistics the network keeps the target's alone.
        parameter_efficient: What the trial put into stages and can't be merged with their weights.
        freeze_depth: Of the trial; `domain_norm` and `parameter_efficient` are those of the stages that it trained.
        trained_stages: Of the trial.
        test_time_augmentation: Views of an image over which probabilities are averaged.
        architecture: Of the backbone, where its parameters name a folder or hub; see `StagedBackbone.architecture`.
        function: In `backbone.py`, that builds the backbone; `None` where ray_tl does.
        num_members: So many such networks answer together, by the mean of their softmax outputs.
        classes: Names in the order of the logits; unique.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Component
    features: Component = LAST_STAGE
    adaptor: Component = NO_ADAPTOR
    head: Component | None = None
    domain_norm: Component = SHARED_NORM
    parameter_efficient: Component = ALL_WEIGHTS
    freeze_depth: FreezeDepth = 0
    trained_stages: int | None = Field(default=None, ge=1)
    test_time_augmentation: Component = ONE_VIEW
    architecture: dict[str, JsonValue] | None = None
    function: str | None = None
    num_members: int = Field(default=1, ge=1)
    preprocessing: AnyPreprocessing
    classes: tuple[str, ...] = Field(min_length=1)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @field_validator("test_time_augmentation")
    @classmethod
    def _known(cls, averaged: Component) -> Component:
        views_of(averaged)
        return averaged

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError(f"classes {list(classes)} hold a name twice; give each class a name of its own")
        return classes


class Lineage(BaseModel):
    """Where a version came from.

    Attributes:
        data_fingerprint: Of the study's `DomainPair`.
        scores: Of the champion, by validator; not a number and infinity are kept.
        source_metrics: Accuracy, calibration and so on, on held-out source examples; empty if these trained it too.
        libraries: Versions of what trained it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    study: str
    trial: int = Field(ge=0)
    config: TrialConfig
    data_fingerprint: str
    scores: dict[str, float]
    source_metrics: dict[str, float] = Field(default_factory=dict)
    created_at: AwareDatetime
    libraries: dict[str, str]


class FileRecord(BaseModel):
    """What the manifest says of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size_bytes: int


class Manifest(BaseModel):
    """What the folder must hold, to the byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ray_tl.bundle/1"] = "ray_tl.bundle/1"
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Bundle:
    """A verified version, ready to predict.

    Attributes:
        digest: SHA-256 of the manifest, and so of everything.
        model: In evaluation mode, on the CPU.
    """

    folder: Path
    spec: ModelSpec
    lineage: Lineage
    digest: str
    model: Network

    @property
    def version(self) -> str:
        return self.folder.name

    def predict_images(self, images: Sequence[bytes], batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """One answer for each encoded image, or text in UTF-8, in order.

        Raises:
            InvalidInput: If one of them can't be read.
        """
        decoded: list[np.ndarray] = [self.spec.preprocessing.decode(image) for image in images]
        return self.predict_arrays(np.stack(decoded), batch_size) if decoded else []

    def predict_arrays(self, images: Inputs, batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """One answer for each decoded image of [N, C, S, S], or text of [N, L]."""
        return [self._prediction(row.tolist()) for row in self.probabilities(images, batch_size)]

    def probabilities(self, images: Inputs, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
        """Softmax [N, classes] of decoded images [N, C, S, S], averaged over the trial's views, or texts [N, L]."""
        with torch.inference_mode():
            parts = [self._mean_probabilities(part) for part in torch.from_numpy(images).split(batch_size)]
            return torch.cat(parts).numpy()

    def _mean_probabilities(self, images: Tensor) -> Tensor:
        views = [self.model(view.change(images))[1].softmax(1) for view in views_of(self.spec.test_time_augmentation)]
        return torch.stack(views).mean(0) if len(views) > 1 else views[0]

    def _prediction(self, row: list[float]) -> Prediction:
        best = max(range(len(row)), key=row.__getitem__)
        named = dict(zip(self.spec.classes, row, strict=True))
        return Prediction(self.spec.classes[best], row[best], named, self.version)


def spec_of(
    config: TrialConfig,
    preprocessing: AnyPreprocessing,
    classes: tuple[str, ...],
    head: Component | None = None,
    architecture: Mapping[str, object] | None = None,
    num_members: int = 1,
) -> ModelSpec:
    """The part of a trial that decides its network, with what images and classes are."""
    return ModelSpec(
        backbone=config.backbone,
        features=config.features,
        adaptor=config.adaptor,
        head=head,
        domain_norm=config.domain_norm,
        parameter_efficient=left_after_merge(config.parameter_efficient),
        freeze_depth=config.freeze_depth,
        test_time_augmentation=config.test_time_augmentation,
        architecture=architecture,
        trained_stages=config.trained_stages,
        num_members=num_members,
        preprocessing=preprocessing,
        classes=classes,
    )


def library_versions() -> dict[str, str]:
    """Versions of what decides a result, for `Lineage.libraries`."""
    found = {name: _installed(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found}


def write_bundle(
    folder: Path, model: Network, spec: ModelSpec, lineage: Lineage, function: UserFunction | None = None
) -> Path:
    """Write a version folder that appears whole or not at all.

    Args:
        folder: Of the version.
        model: As it is to predict.
        spec: How to build it.
        lineage: Of the trial.
        function: The person's own that built the backbone, if one did; its file becomes part of the version.

    Raises:
        FolderTaken: If the folder exists.
    """
    contents = {WEIGHTS: safetensors.torch.save(_state(model)), LINEAGE: _json_bytes(lineage)}
    if function is not None:
        spec = spec.model_copy(update={"function": function.function})
        contents[CODE] = function.source.encode()
    if isinstance(spec.preprocessing, TextPreprocessing):
        contents[TOKENIZER] = spec.preprocessing.tokenizer.encode()
    contents[SPEC] = _json_bytes(spec)
    contents[MANIFEST] = _json_bytes(Manifest(files={name: _record(data) for name, data in contents.items()}))
    folder.parent.mkdir(parents=True, exist_ok=True)
    unseen = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        _write_files(unseen, contents)
        _appear(unseen, folder)
    finally:
        shutil.rmtree(unseen, ignore_errors=True)
    return folder


def load_bundle(folder: Path) -> Bundle:
    """Verify every byte, then build the network; nothing of the folder is trusted before its hash is right.

    Raises:
        BrokenBundle: If a file is missing, extra, changed, or does not say what it should.
    """
    contents = _verified(folder)
    spec = _with_tokenizer(folder, _parsed(ModelSpec, folder / SPEC, contents[SPEC]), contents.get(TOKENIZER))
    lineage = _parsed(Lineage, folder / LINEAGE, contents[LINEAGE])
    digest = hashlib.sha256(contents[MANIFEST]).hexdigest()
    return Bundle(folder, spec, lineage, digest, _network(folder, spec, contents))


def _with_tokenizer(folder: Path, spec: ModelSpec, tokenizer: bytes | None) -> ModelSpec:
    needs_one = isinstance(spec.preprocessing, TextPreprocessing)
    _require_none(folder, [f"{TOKENIZER} is missing"] if needs_one and tokenizer is None else [])
    _require_none(folder, [f"{TOKENIZER} does not belong there"] if tokenizer is not None and not needs_one else [])
    if not isinstance(spec.preprocessing, TextPreprocessing) or tokenizer is None:
        return spec
    return spec.model_copy(update={"preprocessing": spec.preprocessing.with_tokenizer(tokenizer)})


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _state(model: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def _json_bytes(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=2).encode()


def _record(data: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in contents.items():
        with naming(folder / name), (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _appear(unseen: Path, folder: Path) -> None:
    """Rename, which fails where a version is: a rename over a folder that is not empty is refused by the system."""
    try:
        unseen.rename(folder)
    except OSError as error:
        if not folder.exists():
            raise
        raise FolderTaken(f"folder={str(folder)!r} exists; versions never change, write a new one.") from error


def _verified(folder: Path) -> dict[str, bytes]:
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST not in present:
        raise BrokenBundle(f"{folder} has no {MANIFEST}, so it is no model version; {REMEDY}")
    manifest = _parsed(Manifest, folder / MANIFEST, (folder / MANIFEST).read_bytes())
    wanted = {WEIGHTS, SPEC, LINEAGE, MANIFEST} | ({CODE, TOKENIZER} & manifest.files.keys())
    problems = [f"{name} is missing" for name in sorted(wanted - present)]
    problems += [f"{name} does not belong there" for name in sorted(present - wanted)]
    problems += [f"{name} is not in the manifest" for name in sorted(wanted - {MANIFEST} - set(manifest.files))]
    problems += [f"{name} is in the manifest only" for name in sorted(set(manifest.files) - wanted)]
    _require_none(folder, problems)
    contents = {name: (folder / name).read_bytes() for name in sorted(wanted)}
    _require_none(folder, [_change(name, contents[name], record) for name, record in manifest.files.items()])
    return contents


def _change(name: str, data: bytes, record: FileRecord) -> str:
    if len(data) != record.size_bytes:
        return f"{name} has {len(data)} bytes, {record.size_bytes} in the manifest"
    return "" if _record(data) == record else f"{name} has changed: its SHA-256 is not that of the manifest"


def _require_none(folder: Path, problems: list[str]) -> None:
    found = [problem for problem in problems if problem]
    if found:
        raise BrokenBundle(f"{folder}: {'; '.join(found)}; {REMEDY}")


def _parsed(kind: type[_Record], path: Path, data: bytes) -> _Record:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        rules = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise BrokenBundle(f"{path} is not valid ({rules}); {REMEDY}") from error


def _network(folder: Path, spec: ModelSpec, contents: Mapping[str, bytes]) -> Network:
    try:
        context = context_of(spec.preprocessing, False, spec.architecture, _function(folder, spec, contents))
        members = [_built(spec, context) for _ in range(spec.num_members)]
        model: Network = members[0] if len(members) == 1 else Ensemble(members)
        load_network(model, safetensors.torch.load(contents[WEIGHTS]), spec.head)
    except (InvalidInput, RuntimeError, SafetensorError) as error:
        raise BrokenBundle(f"{folder}: {WEIGHTS} does not fit {SPEC} ({error}); {REMEDY}") from error
    return model.eval()


def _built(spec: ModelSpec, context: BackboneContext) -> TransferModel:
    components = spec.adaptor, spec.features, spec.domain_norm
    trained = spec.freeze_depth, spec.trained_stages
    isolation = spec.parameter_efficient
    model = build_transfer_model(
        spec.backbone, spec.num_classes, context, *components, *trained, parameter_efficient=isolation
    )
    keep_target_norms(model)
    return model


def _function(folder: Path, spec: ModelSpec, contents: Mapping[str, bytes]) -> UserFunction | None:
    if spec.function is None:
        return None
    if CODE not in contents:
        raise InvalidInput(f"{CODE} is missing, of which the model needs function {spec.function!r}")
    return UserFunction(path=str(folder / CODE), function=spec.function, source=contents[CODE].decode())
