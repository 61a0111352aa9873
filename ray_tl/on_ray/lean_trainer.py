"""A Ray Train run that starts without the helper processes that a slot has no use for."""

from ray.train.torch import TorchTrainer

# Each is a process of its own, which imports Ray Train before the first worker may begin. A slot reads no Ray Datasets,
# and its placement group goes with the job that it belongs to: there is one job a search.
UNUSED_CALLBACKS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class LeanTorchTrainer(TorchTrainer):
    """A `TorchTrainer` without the two helper actors for datasets and for orphaned placement groups.

    The hook is not public API of Ray: where a later Ray has it no more, this is a plain `TorchTrainer`.
    """

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]
