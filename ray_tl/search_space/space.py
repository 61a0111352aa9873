"""Trees for the fields of a trial: sampled, resolved, checked, walked to their ends."""

from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from typing import cast

from ray_tl.config import Component, TrialConfig
from ray_tl.registry import Registry, Value, did_you_mean
from ray_tl.search_space.checks import Place, tree_problems
from ray_tl.search_space.trees import Corner, Middle, Suggests, Tree, resolve_tree, sample_tree

Catalogue = Mapping[str, Registry]


class SearchSpace:
    """Trees for the fields of a `TrialConfig`.

    Args:
        trees: By field name, in the notation of the module.
        epochs: Full fidelity of every trial.
        seed: Of every trial, unless the trees hold one.
        min_steps: Likewise.
    """

    def __init__(self, trees: Mapping[str, Tree], epochs: int, seed: int, min_steps: int | None = None) -> None:
        fields = [name for name in TrialConfig.model_fields if name in trees]
        self.trees = {name: trees[name] for name in fields}
        self._unknown = [name for name in trees if name not in TrialConfig.model_fields]
        self._defaults: dict[str, Value] = {"epochs": epochs, "seed": seed, "min_steps": min_steps}

    def with_field(self, name: str, tree: Tree) -> "SearchSpace":
        """The same space with another tree for one field."""
        return self._with({**self.trees, name: tree})

    def sample(self, trial: Suggests) -> TrialConfig:
        """One configuration; names of parameters are paths: `method`, `method.mcc.temperature`."""
        sampled: dict[str, object] = dict(self._defaults)
        for name, tree in self.trees.items():
            sampled[name] = sample_tree(tree, name, trial, sampled)
        return TrialConfig.model_validate(sampled)

    def baseline(self) -> TrialConfig:
        """Plain source-only, unaugmented, in the middle of the space: what every search has to beat.

        Ranges give their middle (geometric for logarithmic ones), choices their first.
        """
        middle = self.sample(Middle())
        plain = {
            "method": Component(name="source_only"),
            "loss_weighting": Component(name="constant"),
            "transfer": Component(name="direct"),
            "multi_task": Component(name="none"),
            "augmentation": Component(name="none"),
            "mixing": Component(name="none"),
            "class_balance": Component(name="none"),
            "test_time_augmentation": Component(name="none"),
        }
        return middle.model_copy(update=plain)

    def resolved(self, catalogue: Catalogue) -> "SearchSpace":
        """The same space with every `auto` replaced by the range that the component declares."""
        trees = {
            name: resolve_tree(tree, catalogue[name]) if name in catalogue else tree
            for name, tree in self.trees.items()
        }
        return self._with(trees)

    def problems(self, catalogue: Catalogue) -> list[str]:
        """Everything that is wrong with the space, given the components that there are."""
        found = [
            f"trial.{name} is not known{did_you_mean(name, list(TrialConfig.model_fields))}" for name in self._unknown
        ]
        if "backbone" not in self.trees:
            found.append("trial.backbone is missing; name one, for example 'efficientnet_lite0'.")
        return found + [line for name in self.trees for line in self._tree_problems(name, catalogue.get(name))]

    def value_problems(self) -> list[str]:
        """What is wrong with the fields that no component stands in; it takes no catalogue to see it."""
        names = [name for name in self.trees if TrialConfig.model_fields[name].annotation is not Component]
        return [line for name in names for line in self._tree_problems(name, None)]

    def _tree_problems(self, name: str, registry: Registry | None) -> list[str]:
        before = dict(takewhile(lambda item: item[0] != name, self.trees.items()))
        return tree_problems(self.trees[name], Place(f"trial.{name}", name, registry, before))

    def extremes(self, fields: Collection[str]) -> Iterator[TrialConfig]:
        """Configurations of these fields, the others at their defaults: every combination of choices, at both ends.

        Args:
            fields: Few, as the combinations multiply; those that they depend on join them.
        """
        part = {name: self.trees[name] for name in self.with_dependencies(fields) if name in self.trees}
        space = self._with(part)
        for end in (0, -1):
            turn: list[tuple[int, int]] | None = []
            while turn is not None:
                corner = Corner(end, turn)
                yield space.sample(corner)
                turn = corner.next_turn()

    def with_dependencies(self, fields: Collection[str]) -> set[str]:
        """These fields and those whose value decides what is sampled for them."""
        trees = [self.trees[field] for field in fields if field in self.trees]
        return {*fields, *(str(tree["by"]) for tree in trees if isinstance(tree, dict) and "by" in tree)}

    def _with(self, trees: Mapping[str, Tree]) -> "SearchSpace":
        defaults = self._defaults
        min_steps = cast("int | None", defaults["min_steps"])
        return SearchSpace(trees, cast(int, defaults["epochs"]), cast(int, defaults["seed"]), min_steps)
