import re
from itertools import product
from pathlib import Path

import optuna
import pytest

from ray_tl.components import catalogue
from ray_tl.config import Component, TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry
from ray_tl.search_space import Corner, Middle, SearchFile, SearchSpace, load_search_file

SHIPPED = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
MCC = {"choice": {"source_only": None, "mcc": {"temperature": {"log_uniform": [1, 4]}}}}


def space(**trees: object) -> SearchSpace:
    return SearchFile.model_validate({"search": {"epochs": 9}, "trial": {"backbone": "tiny_cnn", **trees}}).space()


def problems(**trees: object) -> list[str]:
    return space(**trees).problems(catalogue())


def load(path: Path, text: str | bytes) -> SearchFile:
    file = path / "space.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_search_file(file)


def optuna_trials(number: int, seed: int = 0) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.ask() for _ in range(number)]


# what is sampled


def test_sampled_values_lie_in_their_ranges_and_are_known_to_optuna_by_path():
    trees = {"freeze_depth": {"int": [1, 3]}, "optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-2]}}}}
    for trial in optuna_trials(50):
        config = space(**trees).sample(trial)
        assert trial.params == {
            "freeze_depth": config.freeze_depth,
            "optimizer.adamw.lr": config.optimizer.params["lr"],
        }
        assert config.freeze_depth in {1, 2, 3}
        assert 1e-4 <= config.optimizer.params["lr"] <= 1e-2


def test_parameter_exists_only_where_its_component_is_chosen():
    trials = optuna_trials(30)
    configs = [space(method=MCC).sample(trial) for trial in trials]
    seen = {(config.method.name, frozenset(trial.params)) for config, trial in zip(configs, trials, strict=True)}
    assert seen == {
        ("source_only", frozenset({"method"})),
        ("mcc", frozenset({"method", "method.mcc.temperature"})),
    }


def test_middle_is_geometric_for_logarithmic_ranges_and_the_first_of_choices():
    trees = {
        "method": {"mcc": {"temperature": {"log_uniform": [1, 4]}}},
        "augmentation": {"affine": {"scale": {"uniform": [0.1, 0.4]}}},
        "freeze_depth": {"int": [0, 3]},
        "batch_size": {"choice": [32, 64]},
    }
    config = space(**trees).sample(Middle())
    assert config.method.params == {"temperature": 2.0}
    assert config.augmentation.params == {"scale": 0.25}
    assert (config.freeze_depth, config.batch_size) == (2, 32)


def test_corner_gives_either_end_of_a_range():
    trees = {"freeze_depth": {"int": [0, 3]}, "method": {"mcc": {"temperature": {"uniform": [1, 4]}}}}
    low, high = (space(**trees).sample(Corner(end)) for end in (0, -1))
    assert (low.freeze_depth, low.method.params["temperature"]) == (0, 1)
    assert (high.freeze_depth, high.method.params["temperature"]) == (3, 4)


def test_extremes_take_every_combination_of_choices_at_both_ends():
    backbone = {"choice": {"small_cnn": None, "tiny_cnn": {"width": {"choice": [4, 8]}}}}
    found = space(backbone=backbone, freeze_depth={"choice": [0, 1]}, method=MCC).extremes(("backbone", "freeze_depth"))
    seen = [(config.backbone.name, config.backbone.params.get("width"), config.freeze_depth) for config in found]
    networks = [("small_cnn", None), ("tiny_cnn", 4), ("tiny_cnn", 8)]
    expected = {(*network, depth) for network, depth in product(networks, (0, 1))}
    assert set(seen) == expected
    assert len(seen) == 2 * len(expected)


def test_value_depends_on_the_component_chosen_before():
    backbone = {"choice": ["tiny_cnn", "resnet18"]}
    depth = {"by": "backbone", "cases": {"tiny_cnn": {"choice": [0, 2]}, "resnet18": {"int": [5, 6]}}}
    seen = set()
    for trial in optuna_trials(60):
        config = space(backbone=backbone, freeze_depth=depth).sample(trial)
        seen.add((config.backbone.name, config.freeze_depth))
    assert seen == {("tiny_cnn", 0), ("tiny_cnn", 2), ("resnet18", 5), ("resnet18", 6)}


def test_cases_with_different_choices_live_in_one_optuna_study(tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db", sampler=optuna.samplers.RandomSampler(seed=0))
    cases = {"tiny_cnn": {"choice": [0, 1]}, "small_cnn": {"choice": [2, 3]}}
    tree = {"by": "backbone", "cases": cases}
    both = space(backbone={"choice": ["tiny_cnn", "small_cnn"]}, freeze_depth=tree)
    configs = [both.sample(study.ask()) for _ in range(20)]
    assert {(each.backbone.name, each.freeze_depth // 2) for each in configs} == {("tiny_cnn", 0), ("small_cnn", 1)}


def test_cases_may_depend_on_a_number():
    lr = {"by": "freeze_depth", "cases": {0: {"uniform": [1, 2]}, 1: 0.5}}
    found = space(freeze_depth={"int": [0, 1]}, optimizer={"adamw": {"lr": lr}})
    assert found.problems(catalogue()) == []
    assert found.sample(Corner(-1)).optimizer.params == {"lr": 0.5}


def test_component_may_depend_on_another():
    weighting = {"by": "method", "cases": {"source_only": "constant", "mcc": {"dann": {"gamma": "auto"}}}}
    found = space(method=MCC, loss_weighting=weighting)
    assert found.problems(catalogue()) == []
    names = {
        (each.method.name, str(each.loss_weighting))
        for each in found.resolved(catalogue()).extremes(("method", "backbone", "loss_weighting"))
    }
    assert names == {("source_only", "constant"), ("mcc", "dann(gamma=1)"), ("mcc", "dann(gamma=20)")}


def test_list_holds_fixed_values_and_ranges():
    tree = {"per_stage": {"multipliers": [0.1, {"uniform": [0.2, 0.6]}, 1.0]}}
    found = space(lr_multipliers=tree)
    assert found.problems(catalogue()) == []
    assert found.sample(Middle()).lr_multipliers.params["multipliers"] == pytest.approx([0.1, 0.4, 1.0])


def test_auto_becomes_the_range_that_the_component_declares():
    found = space(method={"mcc": {"temperature": "auto"}}, optimizer={"choice": {"adamw": {"lr": "auto"}}})
    trees = found.resolved(catalogue()).trees
    assert trees["method"] == {"mcc": {"temperature": {"log_uniform": [1.0, 5.0]}}}
    assert trees["optimizer"] == {"choice": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-2]}}}}


def test_auto_fills_a_parameter_that_is_required():
    assert problems(lr_multipliers={"layer_decay": {"decay": "auto"}}) == []


def test_component_that_is_called_like_a_range_takes_parameters():
    found = space(lr_multipliers={"uniform": {"head": {"log_uniform": [1, 4]}}})
    assert found.problems(catalogue()) == []
    assert found.sample(Middle()).lr_multipliers == Component(name="uniform", params={"head": 2.0})


def test_fixed_space_asks_for_nothing():
    (trial,) = optuna_trials(1)
    config = space(method="mcc", batch_size=16).sample(trial)
    assert trial.params == {}
    assert config == TrialConfig(backbone="tiny_cnn", method="mcc", batch_size=16, epochs=9, min_steps=1200, seed=0)


def test_seed_of_the_trees_wins():
    assert space(seed=7).sample(Middle()).seed == 7


def test_baseline_is_source_only_whatever_the_space():
    trees = {"method": "dann", "loss_weighting": {"dann": {"domain": 3}}, "freeze_depth": {"int": [0, 2]}}
    baseline = space(**trees).baseline()
    assert (str(baseline.method), str(baseline.loss_weighting), baseline.freeze_depth) == ("source_only", "constant", 1)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_file_has_no_problems_and_every_sample_can_be_built(path):
    registries = catalogue()
    shipped = load_search_file(path).space()
    assert shipped.problems(registries) == []
    resolved = shipped.resolved(registries)
    for trial in optuna_trials(200):
        config = resolved.sample(trial)
        assert found_in(config, registries) == []


def test_what_a_shipped_file_suggests_in_comments_is_valid(tmp_path):
    """Lines of its section `trial` without their comment sign, instead of what they are alternatives to."""
    (path,) = [path for path in SHIPPED if path.stem == "image_folders"]
    stated = path.read_text().replace("\n  augmentation: none ", "\n  # ")
    suggested = load(tmp_path, re.sub(r"(?m)^  # ( *[a-z_]+:)", r"  \1", stated)).space()
    assert suggested.problems(catalogue()) == []
    hidden = {"features", "domain_norm", "mixing", "class_balance", "test_time_augmentation", "transfer", "multi_task"}
    assert hidden <= set(suggested.trees) - set(load_search_file(path).trial)
    own = {"affine_resolution", "strong", "word_dropout"}
    assert set(suggested.trees["augmentation"]["choice"]) == set(catalogue()["augmentation"].names()) - own


# what is refused


@pytest.mark.parametrize(
    ("trees", "said"),
    [
        ({"methd": "mcc"}, "trial.methd is not known; did you mean 'method'?"),
        ({"method": "mccc"}, "adaptation method 'mccc' is not known; did you mean 'mcc'?"),
        ({"method": {"mcc": {"temprature": 2}}}, "has no parameter 'temprature'; did you mean 'temperature'?"),
        ({"lr_multipliers": "layer_decay"}, "'layer_decay' needs 'decay' (float)"),
        ({"lr_multipliers": {"per_stage": {"multipliers": "auto"}}}, "declares no range for it; write one"),
        ({"method": {"mcc": {"temperature": {"choice": [1, "hot"]}}}}, "mcc.temperature='hot' is not of type float"),
        ({"method": {"mcc": {"temperature": {"uniform": [2, 1]}}}}, "low is above high; swap them"),
        ({"method": {"mcc": {"temperature": {"log_uniform": [0, 1]}}}}, "needs low > 0; raise it or use uniform"),
        ({"method": {"mcc": {"temperature": {"uniform": [1]}}}}, "must be two numbers [low, high]"),
        ({"method": {"mcc": {"temperature": {"uniform": [1, "2"]}}}}, "must be two numbers [low, high]"),
        ({"method": {"mcc": {"temperature": {"uniform": [True, 2]}}}}, "must be two numbers [low, high]"),
        ({"method": {"mcc": {"temperature": {"uniform": 3}}}}, "neither a value nor a range"),
        ({"method": {"mcc": {"temperature": {"unifrm": [1, 2]}}}}, "neither a value nor a range"),
        ({"method": {"mcc": {"temperature": {"choice": []}}}}, "choice is empty"),
        (
            {"method": {"mcc": {"temperature": {"choice": [[1]]}}}},
            "is a choice between lists; give each element its",
        ),
        ({"method": {"mcc": {"temperature": {"choice": [1], "int": [0, 1]}}}}, "neither a value nor a range"),
        ({"method": {"mcc": [2.5]}}, "trial.method.mcc=[2.5] must be a mapping of parameters"),
        ({"method": {"mcc": 0}}, "trial.method.mcc=0 must be a mapping of parameters"),
        ({"method": 3}, "must be one adaptation method"),
        ({"method": None}, "must be one adaptation method"),
        ({"method": []}, "must be one adaptation method"),
        ({"method": ["mcc"]}, "must be one adaptation method"),
        ({"method": {}}, "must be one adaptation method"),
        ({"method": {"mcc": None, "dann": None}}, "must be one adaptation method"),
        ({"method": {"choice": 3}}, "must be one adaptation method"),
        ({"method": {"choice": "mcc"}}, "must be one adaptation method"),
        ({"method": {"choice": []}}, "must be one adaptation method"),
        ({"method": {"choice": {}}}, "must be one adaptation method"),
        ({"method": {"choice": [{"mcc": {"temperature": 2}}]}}, "must be one adaptation method"),
        ({"method": {"choice": ["mcc", 3]}}, "must be one adaptation method"),
        ({"method": {"choice": {"choice": ["mcc"]}}}, "trial.method.choice=['mcc'] must be a mapping of parameters"),
        ({"method": {"int": [0, 1]}}, "trial.method.int=[0, 1] must be a mapping of parameters"),
        ({"freeze_depth": {"int": [0, 1.5]}}, "trial.freeze_depth.int=[0, 1.5] must be whole numbers"),
        ({"freeze_depth": {"int": [-1, 2]}}, "trial.freeze_depth=-1: Input should be greater than or equal to 0"),
        ({"freeze_depth": [0, 1]}, "trial.freeze_depth=[0, 1]: Input should be a valid integer"),
        ({"freeze_depth": "last_0"}, "trial.freeze_depth='last_0': Input should be a number of stages, or head_only"),
        ({"trained_stages": {"int": [0, 2]}}, "trial.trained_stages=0: Input should be greater than or equal to 1"),
        ({"precision": {"choice": ["fp32", "fp8"]}}, "trial.precision='fp8': Input should be 'fp32', 'bf16' or 'fp16'"),
        ({"max_gradient_norm": 0}, "trial.max_gradient_norm=0: Input should be greater than 0"),
        ({"freeze_depth": None}, "trial.freeze_depth=None: Input should be a valid integer"),
        ({"batch_size": {"choice": [32, "many"]}}, "trial.batch_size='many': Input should be a valid integer"),
        ({"batch_size": "auto"}, "trial.batch_size='auto': Input should be a valid integer"),
        ({"batch_size": {"choice": [8, 9.5]}}, "trial.batch_size=9.5: Input should be a valid integer"),
        ({"batch_size": {"choice": [8, 16.0]}}, "trial.batch_size=16.0: Input should be a valid integer; write 16."),
        ({"batch_size": "1:30"}, "trial.batch_size='1:30': Input should be a valid integer; write a whole number."),
        ({"trained_stages": True}, "trial.trained_stages=True: Input should be a valid integer"),
        ({"dropout": False}, "trial.dropout=False: Input should be a valid number"),
        ({"optimizer": {"sgd": {"decay_all": "no"}}}, "sgd.decay_all='no' is not of type bool; give true or false"),
        ({"method": {"by": "optimizer", "cases": {"adamw": "mcc"}}}, "must name a field given before 'method'"),
        ({"method": {"by": "method", "cases": {}}}, "must name a field given before 'method': backbone."),
        (
            {"method": {"by": "freeze_depth", "cases": {"0": "mcc"}}},
            "must name a field given before 'method': backbone.",
        ),
        ({"method": {"by": ["backbone"], "cases": {}}}, "must name a field given before 'method'"),
        ({"method": {"by": "backbone", "cases": {}}}, "trial.method.cases lacks 'tiny_cnn', which backbone may be"),
        ({"method": {"by": "backbone"}}, "must have exactly the keys 'by' and 'cases'"),
        ({"method": {"by": "backbone", "cases": ["mcc"]}}, "must have exactly the keys 'by' and 'cases'"),
        ({"freeze_depth": {"by": "backbone", "cases": {"tiny_cnn": -1}}}, "trial.freeze_depth=-1: Input should be"),
        ({"method": {"mcc": {"temperature": {"by": "backbone", "cases": {}}}}}, "temperature.cases lacks 'tiny_cnn'"),
        (
            {"method": {"by": "backbone", "cases": {"tiny_cnn": "mcc", "tiny_cn": "mcc"}}},
            "trial.method.cases.tiny_cn is never chosen; did you mean 'tiny_cnn'?",
        ),
        (
            {
                "backbone": {"choice": ["tiny_cnn", "small_cnn"]},
                "method": {"by": "backbone", "cases": {"tiny_cnn": "im"}},
            },
            "trial.method.cases lacks 'small_cnn'",
        ),
    ],
)
def test_mistake_in_a_tree_is_said_in_one_line(trees, said):
    (line,) = problems(**trees)
    assert said in line


def test_all_mistakes_are_found_at_once():
    lines = problems(backbone="tiny_cn", methd="mcc", freeze_depth=-1, batch_size={"int": [9, 8]}, lr_schedule=3)
    named = [re.match(r"trial\.[a-z_]+", line).group() for line in lines]
    fields = ["methd", "backbone", "freeze_depth", "lr_schedule", "batch_size"]
    assert named == [f"trial.{field}" for field in fields]


def test_space_without_a_backbone_is_refused():
    assert SearchSpace({}, 1, 0).problems(catalogue()) == [
        "trial.backbone is missing; name one, for example 'efficientnet_lite0'."
    ]


def test_sections_with_mistakes_are_reported_together_with_the_nearest_names(tmp_path):
    text = "serach: {}\nsearch: {epoch: 3, num_trials: 0}\ndata: {channels: 2}\ntrial: {backbone: tiny_cnn}"
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "4 problems" in message
    assert "serach is not known; did you mean 'search'?" in message
    assert "search.epoch is not known; did you mean 'epochs'?" in message
    assert "search.num_trials=0" in message
    assert "data.channels=2" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold the sections data, search and trial"),
        ("- trial", "must hold the sections data, search and trial"),
        ("trial:", "trial=None: Input should be a valid dictionary"),
        ("trial: [a]", "trial=.*Input should be a valid dictionary"),
        ("search: {}", "trial=.*Field required"),
        ("trial: {a: [}", "not valid YAML"),
        ("trial: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"trial: \xff\xfe\xfa", "not valid YAML"),
        ("trial: {seed: 2020-10-05}", "trial.seed='2020-10-05': Input should be a valid integer"),
        ("trial: {}\ntrial: {seed: 1}", "line 2: trial was given before, on line 1"),
        ("trial: {seed: .nan}", "finite numbers, texts, lists and mappings"),
        ("trial: {seed: [.inf]}", "finite numbers, texts, lists and mappings"),
        ("trial: &t {method: *t}", "not valid YAML"),
        ("trial: " + "[" * 5000, "not valid YAML"),
        ("trial: {}\nsearch: {validators: [im, bnm]}", "lacks source_accuracy"),
        ("trial: {}\n1: 2", "1 is not known; choose from"),
        ("trial: {}\nsearch: {reduction_factor: .inf}", "search.reduction_factor=inf: Input should be a finite number"),
    ],
)
def test_file_that_makes_no_sense_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=rf"(?s)space\.yaml: .*{said}"):
        load(tmp_path, text)


def section(path: Path, name: str, content: str) -> SearchFile:
    return load(path, f"{name}: {{{content}}}\ntrial: {{backbone: tiny_cnn}}")


@pytest.mark.parametrize("name", ["num_trials", "epochs", "grace_epochs", "seed"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("yes", "'yes': Input should be a valid integer; write a whole number."),
        ("true", "True: Input should be a valid integer; write a whole number."),
        ("2.5", "2.5: Input should be a valid integer; write a whole number."),
        ("3.0", "3.0: Input should be a valid integer; write 3."),
        ("'3'", "'3': Input should be a valid integer; write it without quotes."),
    ],
)
def test_what_is_counted_is_a_whole_number_and_nothing_like_one(tmp_path, name, value, said):
    with pytest.raises(InvalidInput, match=re.escape(f"search.{name}={said}")):
        section(tmp_path, "search", f"{name}: {value}")


@pytest.mark.parametrize("stated", ["image_size: 28.0", "channels: true", "channels: 3.0", "target_shots: 'many'"])
def test_sizes_of_the_data_are_whole_numbers(tmp_path, stated):
    name, value = stated.split(": ")
    with pytest.raises(
        InvalidInput, match=rf"data\.{name}={value.title() if value == 'true' else value}: Input should"
    ):
        section(tmp_path, "data", stated)


@pytest.mark.parametrize(("value", "meant"), [("no", False), ("false", False), ("on", True), ("TRUE", True)])
def test_a_switch_may_be_said_as_in_older_yaml(tmp_path, value, meant):
    assert section(tmp_path, "search", f"advice: {value}").search.advice is meant


def test_a_switch_that_is_neither_says_what_to_write(tmp_path):
    with pytest.raises(InvalidInput, match=r"search\.advice='maybe': .*; write true or false\."):
        section(tmp_path, "search", "advice: maybe")


def test_a_column_may_be_called_no(tmp_path):
    assert section(tmp_path, "data", "label_column: no").data.label_column == "no"


def test_mistakes_in_all_sections_are_told_at_once(tmp_path):
    with pytest.raises(InvalidInput, match="3 problems") as caught:
        load(tmp_path, "data: {channels: 2}\nsearch: {epochs: yes}\ntrial: {backbone: tiny_cnn, batch_size: 1:30}")
    for said in ("data.channels=2", "search.epochs='yes'", "trial.batch_size='1:30'"):
        assert said in str(caught.value)


def test_missing_file_is_named():
    with pytest.raises(InvalidInput, match=r"search space 'none\.yaml' is not a file"):
        load_search_file("none.yaml")


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "+.1e-3", "1e-04"])
def test_number_in_scientific_notation_is_a_number(tmp_path, text):
    file = load(tmp_path, f"trial: {{backbone: tiny_cnn, optimizer: {{adamw: {{lr: {text}}}}}}}")
    assert file.space().sample(Middle()).optimizer.params == {"lr": 1e-4}


def test_text_that_only_begins_like_a_number_stays_a_text(tmp_path):
    assert load(tmp_path, "trial: {backbone: 1e4x}").trial == {"backbone": "1e4x"}


def found_in(config: TrialConfig, registries: dict[str, Registry]) -> list[str]:
    chosen = {field: getattr(config, field) for field in registries}
    return [line for field, item in chosen.items() for line in registries[field].problems(item.name, item.params)]


def test_the_space_of_every_method_holds_every_method_that_needs_no_target_labels_and_no_words():
    (path,) = [path for path in SHIPPED if path.stem == "every_method"]
    methods = load_search_file(path).space().trees["method"]["choice"]
    needing_labels = {"fine_tune", "source_and_target", "tradaboost"}
    assert set(methods) == set(catalogue()["method"].names()) - needing_labels - {"zero_shot"}


STRATEGIES = [
    "lr_multipliers",
    "unfreezing",
    "optimizer",
    "lr_schedule",
    "averaging",
    "early_stopping",
    "class_balance",
]


@pytest.mark.parametrize("field", STRATEGIES)
def test_the_space_of_every_strategy_holds_every_strategy(field):
    (path,) = [path for path in SHIPPED if path.stem == "every_strategy"]
    assert set(load_search_file(path).space().trees[field]["choice"]) == set(catalogue()[field].names())


def test_presets_and_blocks_of_stages_are_sampled_as_they_stand():
    block = {"by": "freeze_depth", "cases": {"last_2": None, "3": 1}}
    both = space(freeze_depth={"choice": ["last_2", 3]}, trained_stages=block)
    configs = both.extremes(("backbone", "freeze_depth", "trained_stages"))
    assert {(config.freeze_depth, config.trained_stages) for config in configs} == {("last_2", None), (3, 1)}
