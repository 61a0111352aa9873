"""From a finished trial to a version folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_tl.data.load import load_pair
from ray_tl.errors import InvalidInput, TrialFailed
from ray_tl.models.backbones.user import register_user_backbones
from ray_tl.models.domain_norm import keep_target_norms
from ray_tl.models.ensemble import members_of
from ray_tl.models.parameter_efficient import merge_adapters
from ray_tl.models.transfer_model import TransferModel, with_prior_correction
from ray_tl.promotion.bundle import Bundle, Lineage, library_versions, load_bundle, spec_of
from ray_tl.promotion.gate import STRAYS_OF_STEPS, PromotionDecision, check_reproduces
from ray_tl.promotion.versions import add_version
from ray_tl.study.records import TrialRecord
from ray_tl.study.store import StudyStore
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.network import built, head_of, load_model
from ray_tl.validation.metrics import summary


@dataclass(frozen=True)
class PromotedVersion:
    """A version that has passed the gate.

    Attributes:
        version: `v1`, `v2`, ...
        modality: `images` or `text`.
        notes: What users may not expect of it.
    """

    name: str
    version: str
    folder: Path
    decision: PromotionDecision
    modality: str
    notes: tuple[str, ...] = ()


def promote_trial(
    store: StudyStore,
    trial: TrialRecord,
    name: str,
    root: Path,
    created_at: str,
    correction: Sequence[float] | None = None,
) -> PromotedVersion:
    """Write the next version of a model from a trial's checkpoint, if it still says what the trial recorded.

    Args:
        store: Of the study.
        trial: Must have reached full fidelity.
        name: Of the model.
        root: Folder of all models.
        created_at: ISO 8601 with a time zone.
        correction: What the version adds to each logit of the trial, [C]; the gate looks at the network without it.

    Raises:
        InvalidInput: If the trial did not finish, or the name is not valid.
        TrialFailed: If the network does not give the recorded predictions again; nothing is written then.
    """
    last = trial.last
    if not trial.at_full_fidelity or last is None:
        raise InvalidInput(f"trial={trial.number} is {trial.state}; only a complete trial can be promoted.")
    spec = store.spec
    register_user_backbones(spec.backbones)
    data = spec.data
    names = data.source, data.target, data.target_test
    pair = load_pair(*names, data.options, spec.search.seed, data.target_labelled, data.intermediate, data.auxiliary)
    files = TrialFiles.of(store, trial.number)
    evidence = files.load_evidence()
    trial_data = TrialData(pair, torch.device("cpu"))
    model = load_model(trial.config, trial_data, files).eval()
    keep_target_norms(model)
    merge_adapters(model)
    head, architecture = head_of(trial.config, model), model.backbone.architecture
    num_members = len(members_of(model))
    model_spec = spec_of(built(trial.config), pair.preprocessing, spec.classes, head, architecture, num_members)
    is_refit = trial.refit_of is not None  # its training saw what was held out
    lineage = Lineage.model_validate(
        {
            "study": spec.name,
            "trial": trial.number,
            "config": trial.config,
            "data_fingerprint": spec.data_fingerprint,
            "scores": last.scores,
            "source_metrics": {} if is_refit else summary(evidence["source_holdout"], trial_data.holdout_labels),
            "created_at": created_at,
            "libraries": library_versions(),
        }
    )
    trained = Bundle(store.folder, model_spec, lineage, "", model)
    strays = 0.0 if model_spec.head is None else STRAYS_OF_STEPS
    decision = check_reproduces(
        trained.probabilities(trial_data.recorded["target"].numpy()), evidence["target"], strays=strays
    )
    if not decision.accepted:
        raise TrialFailed(f"trial {trial.number} is not promoted. {' '.join(decision.reasons)}")
    if correction is not None and isinstance(model, TransferModel):  # none is ever found for an ensemble
        model = with_prior_correction(model, correction)
    folder = add_version(name, root, model, model_spec, lineage, spec.backbones.get(trial.config.backbone.name))
    load_bundle(folder)
    return PromotedVersion(name, folder.name, folder, decision, spec.data.options.modality)
