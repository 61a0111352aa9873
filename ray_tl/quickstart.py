"""From two digit data sets to a served model, for a person who comes new to it."""

import io
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.panel import Panel

from ray_tl import api
from ray_tl.cli.live import run_with_progress
from ray_tl.cli.output import Output
from ray_tl.data.domains import OracleLabels, UnlabelledDomain
from ray_tl.data.load import load_pair, optdigits_oracle
from ray_tl.data.places import MNIST, OPTDIGITS, OPTDIGITS_TEST
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.home import shipped_file
from ray_tl.observability.tables import ended_table
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import SearchResult
from ray_tl.on_ray.serve_app import deploy, require_free_port, undeploy
from ray_tl.on_ray.session import ray_session
from ray_tl.planning import Plan
from ray_tl.promotion.promote import PromotedVersion
from ray_tl.scoring import evaluate
from ray_tl.search_space import DataOptions

SPACE = "search_spaces/digits.yaml"
NAME = "quickstart"
NUM_CALLERS = 8
HOST, USUAL_PORT = "127.0.0.1", 8000


def run_quickstart(output: Output, home: Path | None, num_trials: int, port: int | None, keep: bool) -> None:
    """Search digits to digits, score the finished search on labels it never saw, promote, serve, and ask over HTTP.

    Args:
        output: Where to; with JSON, the last line holds everything.
        home: Folder of studies and models.
        num_trials: Of the search.
        port: Of the served model, on 127.0.0.1; `None` for 8000, or any that is free.
        keep: Whether the server stays up until Ctrl-C.
    """
    started = time.monotonic()
    port = _usable(port)
    output.say("source: 5,000 MNIST digits (28x28), labelled; target: 899 UCI optdigits (8x8) without labels")
    name = f"{NAME}-{time.strftime('%Y%m%d-%H%M%S')}"
    settings = {"num_trials": num_trials}
    plan = api.plan_search(shipped_file(SPACE), MNIST, OPTDIGITS, OPTDIGITS_TEST, name, settings, home)
    with ray_session(ClusterConfig()):
        result = run_with_progress(plan, ClusterConfig(), output, closing=False)
        preprocessing = plan.pair.preprocessing
        assert isinstance(preprocessing, Preprocessing)
        oracle = optdigits_oracle(preprocessing)
        accuracies = evaluate(plan.store, OPTDIGITS, on="target_test", pair=plan.pair).accuracies
        _show_leaderboard(result, accuracies, output)
        version = api.promote(result.study, NAME, home=home)
        output.say(f"promoted trial {result.champion.number} as {version.name} {version.version}: {version.folder}")
        output.say("starting Ray Serve ...")
        served = deploy(version.folder, version.name, port)
        output.say(f"serving at {served.url}; sending it {len(_target_test(plan))} held-out digits ...")
        accuracy = _ask(served.url, oracle)
        summary = _summary(result, accuracies, version, served.url, accuracy, time.monotonic() - started)
        output.say(_closing(summary, keep))
        output.emit(summary)
        _stay_up(keep, output)
        undeploy(version.name)


def _usable(port: int | None) -> int:
    if port is not None:
        require_free_port(HOST, port)
        return port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, USUAL_PORT))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _target_test(plan: Plan) -> UnlabelledDomain:
    assert plan.pair.target_test is not None
    return plan.pair.target_test


def _show_leaderboard(result: SearchResult, accuracies: dict[int, float], output: Output) -> None:
    output.say("\nThe search is over. Only now are the target's labels read, to see how good the choice was:\n")
    output.say(ended_table(result.trials, result.champion.number, result.choice.merits, accuracies))


def _ask(url: str, oracle: OracleLabels) -> float:
    """Send every held-out digit over HTTP as the 8x8 PNG that it is; gives the accuracy of the answers."""
    raw = load_pair(MNIST, OPTDIGITS, OPTDIGITS_TEST, DataOptions(image_size=8, channels=1), 0).target_test
    assert raw is not None
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(NUM_CALLERS) as callers:
        replies = list(callers.map(lambda image: client.post(f"{url}/predict", content=_png(image)), raw.inputs))
    classes = [reply.raise_for_status().json()["class"] for reply in replies]
    return float(np.mean([given == oracle.labels[key] for given, key in zip(classes, raw.ids, strict=True)]))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "PNG")
    return buffer.getvalue()


def _summary(
    result: SearchResult,
    accuracies: dict[int, float],
    version: PromotedVersion,
    url: str,
    served_accuracy: float,
    seconds: float,
) -> dict[str, object]:
    baseline = next(trial.number for trial in result.trials if trial.is_baseline)
    return {
        **result.summary(),
        "champion": {**result.champion_summary(), "target_accuracy": accuracies[result.champion.number]},
        "source_only": {"trial": baseline, "target_accuracy": accuracies[baseline]},
        "served": {"url": url, "accuracy": served_accuracy},
        "model": {"name": version.name, "version": version.version, "folder": str(version.folder)},
        "seconds": round(seconds, 1),
    }


def _closing(summary: dict, keep: bool) -> Panel:
    name, url = summary["model"]["name"], summary["served"]["url"]
    lines = [
        f"source-only     {summary['source_only']['target_accuracy']:.1%} of held-out target digits",
        f"champion        {summary['champion']['target_accuracy']:.1%}, chosen without a single target label",
        f"served answers  {summary['served']['accuracy']:.1%} over HTTP at {url}",
        f"{summary['trials']} trials, {summary['seconds']:.0f} s in all",
        "",
        f"try it yourself:  curl -F file=@DIGIT.png {url}/predict" if keep else f"serve it again:  ray-tl serve {name}",
        "your own images:  ray-tl search search_spaces/image_folders.yaml --source DIR --target DIR",
    ]
    return Panel("\n".join(lines), title="quickstart", expand=False)


def _stay_up(keep: bool, output: Output) -> None:
    if not keep:
        return
    output.say("The server stays up until Ctrl-C.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        output.say("stopped.")
