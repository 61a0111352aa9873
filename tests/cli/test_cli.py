import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from ray_tl.cli import main
from ray_tl.cli.app import app
from ray_tl.components import catalogue
from ray_tl.selection import SELECTION_RULES
from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from ray_tl.validation import VALIDATORS
from tests.examples import epoch, spec

SPACE = "data: {image_size: 16}\nsearch: {epochs: 2}\ntrial:\n  backbone: tiny_cnn\n"
COMMAND = typer.main.get_command(app)
GROUPS = {"dashboards": "push", "data": "check"}
VERBS = [[name] for name in COMMAND.commands if name not in GROUPS] + [list(pair) for pair in GROUPS.items()]


class Ended:
    """How a command ended: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Iterator:
    monkeypatch.setenv("RAY_TL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ray-tl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def folders(tmp_path) -> Path:
    """A sound search: `space.yaml`, `source` with two classes, `target`."""
    (tmp_path / "space.yaml").write_text(SPACE)
    for name in ["source/cat", "source/dog", "target"]:
        (tmp_path / name).mkdir(parents=True)
        for number in range(4):
            noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
    return tmp_path


SEARCH = ("search", "space.yaml", "--source", "source", "--target", "target", "--name", "pets")


def assert_refused(ended: Ended, code: int, said: str, home: Path) -> None:
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("Error: ")
    assert ended.err.count("Error") == 1
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not home.exists()


# help


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_names_every_option(run, verb):
    command = COMMAND
    for name in verb:
        command = command.commands[name]
    ended = run(*verb, "--help")
    assert ended.code == 0
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if option not in ended.out] == []


def test_help_lists_every_verb_and_the_exit_codes(run):
    ended = run("--help")
    assert [name for name in COMMAND.commands if name not in ended.out] == []
    assert "130 interrupted" in ended.out


# wrong input ends before anything is written


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("trial: {backbone: tiny_cn}", 2, "backbone 'tiny_cn' is not known; did you mean 'tiny_cnn'?"),
        ("trial: {backbone: tiny_cnn, method: {mcc: {temprature: 2}}}", 2, "did you mean 'temperature'?"),
        (
            "trial: {backbone: {choice: [tiny_cnn, small_cnn]}, freeze_depth: last_3}",
            2,
            "freeze_depth='last_3' is more than 'tiny_cnn' has, 2 stages with parameters",
        ),
        (
            "trial: {backbone: tiny_cnn, freeze_depth: {choice: [0, 2]}, trained_stages: 2}",
            2,
            "trained_stages=2 from stage 2 on ends behind the last of the 3 stages of 'tiny_cnn'",
        ),
        (
            "trial: {backbone: tiny_cnn, batch_size: {choice: [64, 8]}, accumulation: {choice: [1, 8]}}",
            2,
            "accumulation=8 leaves a micro-batch less than 2 of batch_size=8 examples",
        ),
        (
            "trial: {backbone: tiny_cnn, optimizer: {sgd: {momentum: -1}}, averaging: {ema: {decay: 1}}}",
            2,
            "2 problems",
        ),
        (
            "trial: {backbone: tiny_cnn, freeze_depth: 4}",
            2,
            "freeze_depth=4 is deeper than 'tiny_cnn', which has 3 stages",
        ),
        (
            "trial: {backbone: {choice: [tiny_cnn, small_cnn]}, freeze_depth: {choice: [3, 4]}}",
            2,
            "freeze_depth=4 is deeper",
        ),
        ("trial: {backbone: tiny_cnn, lr_multipliers: {layer_decay: {decay: 2}}}", 2, "layer_decay.decay=2"),
        (
            "trial: {backbone: tiny_cnn, features: {choice: {last: , multi_scale: {num_taps: auto}}}}",
            2,
            "multi_scale.num_taps=3 does not fit 'tiny_cnn', which has 2 stages before its last; choose 1..2.",
        ),
        (
            "trial: {backbone: {resnet18: {weights: none}}, domain_norm: {choice: [shared, instance]}}\n"
            "data: {image_size: 16}",
            2,
            "domain_norm='instance' needs feature maps of more than one position",
        ),
        (
            "trial: {backbone: tiny_cnn}\nsearch: {validators: [source_accuracy, im, bnm, imm]}",
            2,
            "validator 'imm' is not",
        ),
        ("trial: {backbone: tiny_cnn}\nsaerch: {}", 2, "saerch is not known; did you mean 'search'?"),
        ("trial: [", 2, "not valid YAML"),
        ("trial: {backbone: tiny_cnn}\ndata: {channels: 1, image_size: 4}", 2, "data.image_size=4"),
    ],
)
def test_mistake_in_the_space_file_is_refused(run, folders, change, code, said):
    (folders / "space.yaml").write_text(change)
    assert_refused(run(*SEARCH), code, said, folders / "home")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"space.yaml": "none.yaml"}, "search space 'none.yaml' is not a file"),
        ({"source": "none"}, "source='none' does not exist"),
        ({"target": "none"}, "target='none' does not exist"),
        ({"source": "space.yaml"}, "source='space.yaml' is a file, not a folder"),
        ({"source": "source/cat"}, "source='source/cat'"),
        ({"source": "digits:mnits"}, "source='digits:mnits' is not known; choose from digits:mnist"),
        ({"target": "digits:mnist"}, "target='digits:mnist' is not known; choose from digits:optdigits"),
        ({"pets": "../pets"}, "study='../pets' must start with a letter or digit"),
    ],
)
def test_wrong_argument_is_refused(run, folders, changed, said):
    assert_refused(run(*[changed.get(argument, argument) for argument in SEARCH]), 2, said, folders / "home")


def test_single_class_is_refused(run, folders):
    (folders / "source" / "dog").rename(folders / "elsewhere")
    assert_refused(run(*SEARCH), 2, "has 1 class folder, but a classifier needs 2", folders / "home")


def test_broken_image_is_named(run, folders):
    (folders / "target" / "2.png").write_bytes(b"no image")
    assert_refused(run(*SEARCH), 2, "target='target': 1 image can't be used (2.png", folders / "home")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search"], "SPACE, --source, --target is missing"),
        (["search", "space.yaml", "--target", "target"], "--source is missing"),
        (["search", "--resume", "pets", "--source", "x"], "leave out --source"),
        ([*SEARCH, "--on-broken", "ignore"], "data.on_broken='ignore'"),
        ([*SEARCH, "--target-classes", "others"], "data.target_classes='others'"),
        ([*SEARCH, "--target-classes", "cat=0.4,dog=0.4"], "data.target_classes='cat=0.4,dog=0.4'"),
        ([*SEARCH, "--target-classes", "cat=0.4,wolf=0.6"], "'wolf' is no class of the source"),
        ([*SEARCH, "--cluster", "none.yaml"], "none.yaml"),
        ([*SEARCH, "--intermediate", "target"], "--intermediate is given, but no trial uses it"),
        ([*SEARCH, "--auxiliary", "source"], "--auxiliary is given, but no trial uses it"),
        (["search", "--resume", "pets", "--intermediate", "x"], "leave out --intermediate"),
        (["components", "methd"], "field='methd' is not known; did you mean 'method'?"),
        (["status", "../x"], "study='../x' must start with a letter or digit"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(run, folders, arguments, said):
    assert_refused(run(*arguments), 2, said, folders / "home")


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--resume", "none"],
        ["status", "none"],
        ["watch", "none"],
        ["promote", "none"],
        ["predict", "none", "source/cat/0.png"],
        ["serve", "none"],
    ],
    ids=" ".join,
)
def test_unknown_name_has_an_exit_code_of_its_own(run, folders, arguments):
    assert_refused(run(*arguments), 3, "'none'", folders / "home")


@pytest.mark.parametrize("arguments", [["search", "--trials", "0"], ["serve"], ["nonsense"], ["status", "--nonsense"]])
def test_usage_error_ends_with_2(run, arguments):
    assert run(*arguments).code == 2


# reading


@pytest.fixture
def study(tmp_path) -> StudyStore:
    """Two trials: the baseline, complete, and one that failed with brackets in its error."""
    opened = StudyStore.create(tmp_path / "home" / "studies" / "office", spec())
    opened.ask()
    opened.add_epoch(0, epoch(1), 1)
    opened.finish(0, TrialState.COMPLETE)
    opened.finish(opened.ask().number, TrialState.FAILED, "no file [/tmp/x] [bold]")
    return opened


def test_error_with_brackets_is_printed_as_it_is(run, study):
    ended = run("status", "office")
    assert ended.code == 0
    assert "trial 1 failed: no file [/tmp/x] [bold]" in ended.out
    assert "it was interrupted; go on with: ray-tl search --resume office" in ended.out


def test_a_trial_is_examined_where_it_is_asked_for(run, study):
    last = epoch(1).model_copy(update={"health": {"mmd": 0.1, "mmd_before": 0.3}, "source_recalls": [0.5, 1.0]})
    number = study.ask().number
    study.add_epoch(number, last, 1)
    ended = run("status", "office", "--trial", str(number))
    assert f"trial {number}, gap between the domains before -> after training: MMD 0.3 -> 0.1" in ended.out
    assert "of each class of the source hold-out: cat 50%, dog 100%" in ended.out


def test_study_without_a_champion_can_not_be_promoted(run, study):
    ended = run("promote", "office")
    assert (ended.code, ended.err) == (
        2,
        "Error: study='office' has no champion yet; finish it with: ray-tl search --resume office\n",
    )


def test_no_studies_yet_says_how_to_begin(run):
    ended = run("status")
    assert (ended.code, ended.out) == (0, "no studies yet; begin with: ray-tl quickstart\n")


# JSON


def run_json(*arguments: str, home: Path) -> tuple[int, list[dict[str, object]], str]:
    """In a process of its own, because it takes the real stdout away."""
    code = "from ray_tl.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--json"]
    root = Path(__file__).parents[2]
    environment = {"RAY_TL_HOME": str(home), "PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def test_components_as_json_list_every_registered_name(tmp_path):
    code, rows, _ = run_json("components", home=tmp_path)
    registries = {**catalogue(), "selection": SELECTION_RULES, "validators": VALIDATORS}
    assert code == 0
    assert [(row["field"], row["name"]) for row in rows] == [
        (field, name) for field, registry in registries.items() for name in registry.names()
    ]


def test_status_as_json_is_one_line_and_the_rest_goes_to_stderr(tmp_path, study):
    code, (row,), error = run_json("status", "office", home=tmp_path / "home")
    assert (code, row["study"], row["states"]) == (0, "office", {"complete": 1, "failed": 1})
    assert error.startswith("study office: 2/4 trials ended")


def test_error_as_json_says_kind_and_message(tmp_path):
    code, (row,), error = run_json("status", "none", home=tmp_path)
    assert (code, row["error"]["kind"]) == (3, "UnknownName")
    assert error == f"Error: {row['error']['message']}\n"


def test_components_of_one_field_only(run):
    ended = run("components", "method")
    assert [name for name in catalogue()["method"].names() if f"  {name}  " not in ended.out] == []
    assert "efficientnet_lite0" not in ended.out
    assert "temperature: float, default 2.5, usual range {'log_uniform': [1.0, 5.0]}" in ended.out


def test_the_plan_of_a_space_is_that_of_its_middle(run, folders):
    (folders / "space.yaml").write_text(SPACE + "  freeze_depth: {choice: [last_1, head_only]}\n")
    ended = run("plan", "space.yaml", "--classes", "5")
    lines = {line.split("│")[1].strip(): line for line in ended.out.splitlines() if line.startswith("│")}
    assert list(lines) == ["conv1", "conv2", "pool", "head"]
    assert ["frozen" in line for line in lines.values()] == [True, False, False, False]
    assert f" {16 * 5 + 5} " in lines["head"]  # 16 features, a weight and a bias for each class


def test_the_plan_of_a_trial_is_read_from_json_or_from_its_study(run, folders, study):
    (folders / "trial.json").write_text(study.trial(0).config.model_dump_json())
    alone = run("plan", "trial.json", "--classes", str(len(study.spec.classes))).out
    assert run("plan", "--study", "office", "--trial", "0").out == alone
    assert "parameters train (100.0%)" in alone


def test_a_plan_says_when_the_method_begins_anew(run, folders):
    (folders / "trial.json").write_text('{"backbone": "tiny_cnn", "method": {"adda": {"start": 0.3, "rate": 0.25}}}')
    said = run("plan", "trial.json", "--classes", "3").out
    assert "from 30% on adda begins anew, with learning rates times 0.25" in said


def test_a_plan_of_a_network_that_reads_texts(run, folders):
    (folders / "trial.json").write_text('{"backbone": "minilm", "freeze_depth": "last_1"}')
    (folders / "texts.yaml").write_text("data: {modality: text}\ntrial: {backbone: minilm, freeze_depth: last_1}\n")
    said = run("plan", "trial.json", "--classes", "2").out
    lines = [line for line in said.splitlines() if line.startswith("│")]
    assert ["frozen" in line for line in lines] == [True] * 6 + [False] * (len(lines) - 6)
    assert run("plan", "texts.yaml", "--classes", "2").out == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of the two"),
        (["space.yaml", "--study", "pets"], "give one of the two"),
        (["--study", "pets"], "give one of the two"),
        (["trial.json"], "trial 'trial.json' is not a file"),
        (["broken.json"], "broken.json: freeze_depth='last': Input should be a number of stages, or head_only"),
        (["broken.yaml"], "trial.freeze_depth='last': Input should be a number of stages, or head_only"),
    ],
)
def test_a_plan_of_nothing_sound_is_refused(run, folders, arguments, said):
    (folders / "broken.json").write_text('{"backbone": "tiny_cnn", "freeze_depth": "last"}')
    (folders / "broken.yaml").write_text(SPACE + "  freeze_depth: {choice: [last_1, last]}\n")
    assert_refused(run("plan", *arguments), 2, said, folders / "home")


def test_a_plan_of_a_trial_with_a_key_given_twice_is_refused(run, folders):
    (folders / "trial.json").write_text('{"backbone": "tiny_cnn", "batch_size": 8, "batch_size": 16}')
    said = 'trial.json: not valid JSON: key "batch_size" is given twice; keep one'
    assert_refused(run("plan", "trial.json"), 2, said, folders / "home")


# broken studies, disks that are full or may only be read


@pytest.fixture
def broken(study) -> Path:
    """A study beside `office` whose database was cut."""
    opened = StudyStore.create(study.folder.with_name("cut"), spec(name="cut"))
    content = (opened.folder / "study.db").read_bytes()
    (opened.folder / "study.db").write_bytes(content[:5000])
    return opened.folder


def test_a_broken_study_is_listed_with_the_reason_and_hides_no_other(run, broken):
    ended = run("status")
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert any("│cut " in line and " broken " in line for line in lines)
    assert any("│office " in line and " interrupted " in line for line in lines)
    assert [line for line in lines if line.startswith("cut is broken:")] == [
        f"cut is broken: {broken}/study.db is damaged (database disk image is malformed); "
        f"restore it from a copy, or remove {broken} and search again."
    ]


def test_a_broken_study_is_one_message(run, broken):
    ended = run("status", "cut")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == run("watch", "cut").err == run("promote", "cut").err
    assert ended.err.startswith(f"Error: {broken}/study.db is damaged (database disk image is malformed); restore it")
    assert ended.err.count("\n") == 1


def test_studies_as_json_are_a_line_each_with_an_error_where_one_is_broken(tmp_path, broken):
    code, rows, _ = run_json("status", home=tmp_path / "home")
    sound, cut = sorted(rows, key=lambda row: "error" in row)
    fields = ["study", "trials", "state", "champion", "created"]
    assert (code, list(sound), sorted(cut)) == (0, fields, sorted([*fields, "error"]))
    assert (cut["study"], cut["state"], cut["trials"]) == ("cut", "broken", None)


def test_status_says_what_is_expected_of_the_champion(run, study, tmp_path):
    expected = {"accuracy": 0.71, "low": 0.58, "high": 0.84, "words": "expected accuracy on the target: 71%"}
    study.write_json("champion.json", {"trial": 0, "reason": "best", "candidates": [], "expected": expected})
    assert "\nexpected accuracy on the target: 71%\n" in run("status", "office").out
    assert run_json("status", "office", home=tmp_path / "home")[1][0]["expected"] == expected


def test_a_champion_file_that_was_cut_breaks_one_study(run, study):
    (study.folder / "champion.json").write_text('{"trial": 0}')
    assert "office is broken: " in run("status").out
    assert "champion.json is not what was written (KeyError: 'candidates'); remove it, and choose" in run("status").out


@pytest.mark.parametrize(
    "verb", [["status"], ["status", "office"], ["watch", "office"], ["plan", "--study", "office", "--trial", "0"]]
)
def test_a_home_that_may_only_be_read_can_be_looked_at(run, study, only_readable, verb):
    before = run(*verb).out
    only_readable(study.folder.parents[1])
    ended = run(*verb)
    assert (ended.code, ended.out) == (0, before)


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ("/proc/x", "/proc/x/studies can't be written: No such file or directory; check the path, or choose another"),
        ("space.yaml", "space.yaml/studies can't be written: Not a directory; a file stands where a folder should be"),
    ],
)
def test_a_home_that_can_not_be_written_is_one_line_before_anything_is_planned(run, folders, home, said):
    (folders / "target" / "0.png").write_bytes(b"would be refused, if it were looked at")
    ended = run(*SEARCH, "--home", home)
    assert_refused(ended, 1, said, folders / "home")
    assert ended.err.count("\n") == 1


def test_a_full_disk_is_one_line_and_nothing_stays_of_the_samples(run, full_disk):
    ended = run("sample-data", str(full_disk / "d"))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"Error: {full_disk}/d/")
    assert "No space left on device; the disk is full: free some room" in ended.err
    assert [path for path in full_disk.rglob("*") if path.is_file()] == []


def test_an_error_of_the_system_as_json_says_kind_and_message(tmp_path):
    code, (row,), error = run_json("sample-data", "/proc/x", home=tmp_path)
    assert (code, row["error"]["kind"]) == (1, "StorageFailed")
    assert error == f"Error: {row['error']['message']}\n"


@pytest.mark.parametrize("arguments", [["components"], ["components", "--json"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(arguments):
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as ended:
        ended.stdout.close()
        said = ended.stderr.read().decode()
    assert "Traceback" not in said
    assert "Error" not in said


def test_a_stdout_that_is_full_is_one_line():
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "components", "method"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("Error: No space left on device; the disk is full")


# data check

CHECK = ("data", "check", "space.yaml", "--source", "source", "--target", "new")


@pytest.fixture
def sound(folders) -> Path:
    """As `folders`, with images that are all different, and a target `new`."""
    for seed, path in enumerate(sorted((folders / "source").glob("*/*.png"))):
        noise = np.random.default_rng(100 + seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (folders / "target").rename(folders / "new")
    return folders


def test_sound_data_are_reported_and_nothing_is_written(run, sound):
    ended = run(*CHECK)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "source: 8 images in 2 classes, 4 each, 2 held out",
        "target: 4 images",
        "a search would start with these data",
    ]
    assert not (sound / "home").exists()


def test_a_check_ends_with_the_exit_code_of_wrong_input_and_names_each_problem(run, sound):
    (sound / "source" / "Cat").mkdir()
    (sound / "new" / "half.png").write_bytes(b"half")
    ended = run(*CHECK)
    assert ended.code == 2
    assert "problem 1: source='source': classes 'Cat' and 'cat' differ by case" in ended.out
    assert "target='new': 1 image can't be used (half.png: is not PNG" in ended.out


def test_a_check_as_json_is_one_line(sound):
    (sound / "new" / "half.png").write_bytes(b"half")
    names = [str(sound / name) for name in ("space.yaml", "source", "new")]
    arguments = "data", "check", names[0], "--source", names[1], "--target", names[2]
    code, (told,), _ = run_json(*arguments, home=sound / "home")
    assert (code, [domain["size"] for domain in told["domains"]]) == (2, [8, 4])
    assert len(told["problems"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--on-overlap", "warn"), "on_overlap='warn'"),
        (("--split-by", "patient"), "split_by='patient' names a column, and source='source' is a folder"),
    ],
)
def test_options_of_a_check_are_those_of_a_search(run, sound, options, said):
    checked, searched = run(*CHECK, *options), run("search", *CHECK[2:], *options)
    assert checked.code == searched.code == 2
    assert said in checked.out + checked.err
    assert said in searched.err


def test_what_the_doctor_finds_of_several_trials_is_one_line(run, tmp_path):
    opened = StudyStore.create(tmp_path / "home" / "studies" / "office", spec())
    for findings in (["small batches"], ["small batches", "losses oppose"], ["small batches"]):
        number = opened.ask().number
        opened.add_epoch(number, epoch(1).model_copy(update={"findings": findings}), 1)
        opened.finish(number, TrialState.COMPLETE)
    said = [line for line in run("status", "office").out.splitlines() if line.startswith("doctor")]
    assert said == ["doctor: trials 0, 1, 2: small batches", "doctor: trial 1: losses oppose"]


@pytest.mark.parametrize("stated", [",", "", "im,", "im,,bnm"])
def test_validators_with_no_name_beside_a_comma_are_refused(run, study, stated):
    ended = run("rescore", "office", "--validators", stated)
    assert ended.code == 2
    assert f"--validators={stated!r} must be NAME or NAME,NAME with a name on each side of a comma" in ended.err


def test_a_study_that_was_interrupted_in_a_refit_says_how_to_go_on(run, study):
    config = study.ask().config
    study.begin_refit(0, config)
    study.write_json("champion.json", {"trial": 0, "reason": "best", "candidates": []})
    assert "it was interrupted; go on with: ray-tl search --resume office" in run("status", "office").out
    assert "interrupted" in run("status").out
