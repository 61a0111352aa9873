"""From two digit data sets to a served model, for a person who comes new to it."""

import io
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.panel import Panel

from ray_tl import api
from ray_tl.cli.live import run_with_progress
from ray_tl.cli.output import Output
from ray_tl.data.domains import OracleLabels, UnlabelledDomain
from ray_tl.data.load import MNIST, OPTDIGITS, OPTDIGITS_TEST, optdigits_oracle
from ray_tl.home import home_folder, shipped_file
from ray_tl.observability.tables import best_first, trials_table
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import Plan, SearchResult
from ray_tl.on_ray.serve_app import deploy, undeploy
from ray_tl.on_ray.session import ray_session
from ray_tl.promotion.promote import PromotedVersion
from ray_tl.promotion.versions import resolve
from ray_tl.selection.ledger import oracle_accuracy
from ray_tl.training.files import TrialFiles

SPACE = "search_spaces/digits.yaml"
NAME = "quickstart"


def run_quickstart(output: Output, home: Path | None, num_trials: int, port: int, keep: bool) -> None:
    """Search digits to digits, score the finished search on labels it never saw, promote, serve, and ask over HTTP.

    Args:
        output: Where to; with JSON, the last line holds everything.
        home: Folder of studies and models.
        num_trials: Of the search.
        port: Of the served model, on 127.0.0.1.
        keep: Whether the server stays up until Ctrl-C.
    """
    started = time.monotonic()
    output.say("source: 4,000 of MNIST's digits (28x28), labelled · target: 899 UCI optdigits (8x8), without labels")
    name = f"{NAME}-{time.strftime('%Y%m%d-%H%M%S')}"
    settings = {"num_trials": num_trials}
    plan = api.plan_search(shipped_file(SPACE), MNIST, OPTDIGITS, OPTDIGITS_TEST, name, settings, home)
    with ray_session(ClusterConfig()):
        result = run_with_progress(plan, ClusterConfig(), output)
        oracle = optdigits_oracle(plan.pair.preprocessing)
        accuracies = _accuracies(result, plan, oracle)
        _show_leaderboard(result, accuracies, output)
        version = api.promote(result.study, NAME, home=home)
        served = deploy(version.folder, version.name, port)
        accuracy, agreement = _ask(served.url, _target_test(plan), oracle, plan, result)
        summary = _summary(result, accuracies, accuracy, version, served.url, time.monotonic() - started)
        output.say(_closing(summary, served.url, version, keep))
        output.emit(summary)
        _wait(keep)
        undeploy()


def _accuracies(result: SearchResult, plan: Plan, oracle: OracleLabels) -> dict[int, float]:
    """True accuracy on the held-out target of every trial that left predictions; read after the search has ended."""
    test = _target_test(plan)
    found = {}
    for trial in result.trials:
        files = TrialFiles(result.folder, trial.number)
        if files.evidence.is_file():
            probabilities = files.load_evidence()["target_test"]
            found[trial.number] = oracle_accuracy(probabilities, test.ids, plan.store.spec.classes, oracle)
    return found


def _target_test(plan: Plan) -> UnlabelledDomain:
    assert plan.pair.target_test is not None
    return plan.pair.target_test


def _show_leaderboard(result: SearchResult, accuracies: dict[int, float], output: Output) -> None:
    output.say("\nThe search is over. Only now are the target's labels read, to see how good the choice was:\n")
    output.say(trials_table(best_first(result.trials), "leaderboard", result.champion.number, accuracies))


def _ask(url: str, test: UnlabelledDomain, oracle: OracleLabels) -> float:
    """Send every held-out image over HTTP as a PNG; gives the accuracy of the answers."""
    with httpx.Client(timeout=30) as client:
        answers = [client.post(f"{url}/predict", content=_png(image)).raise_for_status().json() for image in test.images]
    return float(np.mean([answer["class"] == oracle.labels[key] for answer, key in zip(answers, test.ids, strict=True)]))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "PNG")
    return buffer.getvalue()


def _summary(
    result: SearchResult, accuracies: dict[int, float], served: ServedAccuracy, version: PromotedVersion, seconds: float
) -> dict[str, object]:
    baseline = next(trial.number for trial in result.trials if trial.is_baseline)
    summary = result.summary()
    champion = {**summary["champion"], "target_accuracy": accuracies[result.champion.number]}
    return {
        **summary,
        "champion": champion,
        "source_only": {"trial": baseline, "target_accuracy": accuracies[baseline]},
        "served": {"url": served.url, "accuracy": served.accuracy, "images": served.num_images},
        "model": {"name": version.name, "version": version.version, "folder": str(version.folder)},
        "seconds": round(seconds, 1),
    }
