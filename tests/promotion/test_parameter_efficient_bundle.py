"""What of LoRA and bottleneck adapters is in a bundle."""

import numpy as np
import pytest

from ray_tl.config import Component
from ray_tl.models.domain_norm import keep_target_norms
from ray_tl.models.parameter_efficient import merge_adapters
from ray_tl.promotion.bundle import load_bundle, spec_of, write_bundle
from ray_tl.training.run import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data, tiny_pair

EXPECTED = {"lora": Component(name="none"), "bottleneck_adapter": Component(name="bottleneck_adapter")}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bundle_predicts_what_its_trial_did_and_holds_only_what_cannot_be_merged(name, tmp_path, lineage):
    config = tiny_config(parameter_efficient=name, domain_norm="separate", freeze_depth=1, epochs=1, method="coral")
    run = TrialRun(config, tiny_data(), RULE)
    run.epoch(0)
    model = run.task.model.eval()
    keep_target_norms(model)
    merge_adapters(model)
    spec = spec_of(config, tiny_pair().preprocessing, ("a", "b", "c"))
    bundle = load_bundle(write_bundle(tmp_path / "v1", model, spec, lineage))
    np.testing.assert_allclose(bundle.probabilities(tiny_pair().target.inputs), run.evidence["target"], atol=1e-5)
    assert bundle.spec.parameter_efficient == EXPECTED[name]
    assert not any("lora" in key for key in bundle.model.state_dict())
