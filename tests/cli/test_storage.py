"""Studies on a database, from the command line: by option or by environment variable, and without a password shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import studies_at
from tests.examples import epoch, store
from tests.postgres import PASSWORD, QUOTED


@pytest.fixture
def study(database, tmp_path) -> StudyStore:
    """With a champion."""
    opened = store(studies_at(tmp_path / "studies", database))
    opened.add_epoch(opened.ask().number, epoch(1), 1)
    opened.finish(0, TrialState.COMPLETE)
    opened.write_json("champion.json", {"trial": 0, "reason": "best", "candidates": []})
    return opened


def ray_tl(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of its own process, which shows no password."""
    env = {**os.environ, "RAY_TL_HOME": str(home), "COLUMNS": "200", **environment}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ray_tl", *arguments]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert not [secret for secret in (PASSWORD, QUOTED) if secret in done.stdout + done.stderr]
    return done


def test_a_study_on_a_database_is_shown_where_its_address_is_given(tmp_path, study, database):
    shown = ray_tl(tmp_path, "status", "office", "--storage", database, "--json")
    assert json.loads(shown.stdout)["champion"] == 0
    listed = ray_tl(tmp_path, "status", "--storage", database, "--json")
    assert json.loads(listed.stdout)["study"] == "office"


def test_the_address_may_be_in_the_environment(tmp_path, study, database):
    assert "champion" in ray_tl(tmp_path, "status", "office", RAY_TL_STORAGE=database).stdout
    assert ray_tl(tmp_path, "ledger", RAY_TL_STORAGE=database).returncode == 0
    assert "RAY_TL_STORAGE" in ray_tl(tmp_path, "status", "--help", RAY_TL_STORAGE=database).stdout


def test_without_its_address_the_study_is_not_there(tmp_path, study):
    assert ray_tl(tmp_path, "status", "office").returncode == 3


def test_an_unknown_study_names_the_database(tmp_path, study, database):
    ended = ray_tl(tmp_path, "status", "ofice", "--storage", database)
    assert ended.returncode == 3
    assert "is not in postgresql://tester:***@127.0.0.1:" in ended.stderr
    assert "did you mean 'office'?" in ended.stderr


def test_a_server_that_is_not_there_is_one_message(tmp_path, database):
    ended = ray_tl(tmp_path, "status", "--storage", f"postgresql://me:{QUOTED}@127.0.0.1:1/lab")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: postgresql://me:***@127.0.0.1:1/lab: ")
    assert "check the address, and whether the server runs" in ended.stderr


def test_a_search_looks_for_the_database_before_it_looks_at_the_data(tmp_path, database):
    given = ["--source", "none", "--target", "none", "--storage", "postgresql://me@127.0.0.1:1/lab"]
    ended = ray_tl(tmp_path, "search", "search_spaces/digits.yaml", *given)
    assert "postgresql://me@127.0.0.1:1/lab" in ended.stderr
