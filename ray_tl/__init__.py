"""Distributed search for transfer learning and domain adaptation.

A labelled source domain, an unlabelled target domain and a pretrained backbone go in; a model that is served over
HTTP comes out. The way of the data, one package a question:

    search_spaces/x.yaml -> search_space -> TrialConfig (config) -> components by name (registry)
      everything checked, first trials advised                                        planning
      Tune client trial -> trial queue -> warm slot (a Ray Train run)                 on_ray
          -> train_trial                                                              training
               paired batches -> AdaptationTask -> {loss name: value} -> LossWeights  data, models, adaptation
               each epoch: evidence -> validators -> scores                           validation
      reports -> study store, ASHA, metrics                                           study, observability
      finished trials -> guards, objective -> champion                                selection
      champion -> version folder -> gate -> Ray Serve application behind a router     promotion, on_ray

Public names are imported when they are first used, so that `import ray_tl` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_tl.api import components, predict, promote, resume, search, serve, status, studies, watch
    from ray_tl.config import TrialConfig
    from ray_tl.errors import RayTLError
    from ray_tl.on_ray.cluster_file import ClusterConfig

_HOMES = {
    "ClusterConfig": "ray_tl.on_ray.cluster_file",
    "RayTLError": "ray_tl.errors",
    "TrialConfig": "ray_tl.config",
    "components": "ray_tl.api",
    "predict": "ray_tl.api",
    "promote": "ray_tl.api",
    "resume": "ray_tl.api",
    "search": "ray_tl.api",
    "serve": "ray_tl.api",
    "status": "ray_tl.api",
    "studies": "ray_tl.api",
    "watch": "ray_tl.api",
}

__all__ = [
    "ClusterConfig",
    "RayTLError",
    "TrialConfig",
    "components",
    "predict",
    "promote",
    "resume",
    "search",
    "serve",
    "status",
    "studies",
    "watch",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ray_tl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
