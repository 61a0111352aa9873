"""A small model with random weights, and images to ask it about."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ray_tl.config import Component, TrialConfig
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import TransferModel, build_transfer_model
from ray_tl.promotion.bundle import Lineage, ModelSpec, write_bundle

SMALL = Component(name="small_cnn", params={"width": 4})


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(backbone=SMALL, preprocessing=Preprocessing(image_size=32), classes=("cat", "dog", "eel"))


@pytest.fixture
def lineage() -> Lineage:
    return Lineage(
        study="office",
        trial=7,
        config=TrialConfig(backbone=SMALL),
        data_fingerprint="ab" * 32,
        scores={"im": 0.5, "broken": float("nan")},
        created_at="2026-01-02T03:04:05+00:00",
        libraries={"torch": torch.__version__},
    )


@pytest.fixture
def model(spec: ModelSpec) -> TransferModel:
    torch.manual_seed(0)
    return build_transfer_model(spec.backbone, spec.num_classes, BackboneContext(load_weights=False)).eval()


@pytest.fixture
def folder(tmp_path: Path, model: TransferModel, spec: ModelSpec, lineage: Lineage) -> Path:
    return write_bundle(tmp_path / "pets" / "v1", model, spec, lineage)


@pytest.fixture
def images() -> list[bytes]:
    return [png(seed) for seed in range(5)]


def png(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
