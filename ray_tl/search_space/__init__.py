"""A search-space file: what may vary, checked before anything runs, sampled through anything with `suggest_*()`.

Notation, at any place where a value may stand::

    {uniform: [0, 1]}        float          {log_uniform: [1e-4, 1e-1]}   float, uniform in its logarithm
    {int: [0, 6]}            both ends in   {log_int: [8, 128]}           likewise
    {choice: [16, 32]}       one of a list  {by: backbone, cases: {...}}  depends on the component chosen before
    auto                     the range that the component declares itself

A component is a name (`mcc`), a name with parameters (`{mcc: {temperature: 2.5}}`) or a choice among them
(`{choice: {source_only:, mcc: {temperature: auto}}}`). Parameters exist only where their component is chosen.
"""

from ray_tl.search_space.explain import explain, validated
from ray_tl.search_space.file import (
    DataOptions,
    RefitOptions,
    SearchFile,
    SearchOptions,
    load_search_file,
)
from ray_tl.search_space.space import SearchSpace
from ray_tl.search_space.trees import Corner, Middle, Preference, Preferring, Suggests

__all__ = [
    "Corner",
    "DataOptions",
    "Middle",
    "Preference",
    "Preferring",
    "RefitOptions",
    "SearchFile",
    "SearchOptions",
    "SearchSpace",
    "Suggests",
    "explain",
    "load_search_file",
    "validated",
]
