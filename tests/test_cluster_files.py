"""The files under cluster/, checked without a cloud."""

import copy
import re
import tomllib
from pathlib import Path
from typing import Literal

import pytest
import ray
import yaml
from jsonschema import ValidationError as SchemaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from ray_tl.on_ray.cluster_file import ClusterConfig, load_cluster

ROOT = Path(__file__).parents[1]
AWS = yaml.safe_load((ROOT / "cluster/aws-gpu.yaml").read_text())
JOB, CONFIG_MAP = yaml.safe_load_all((ROOT / "cluster/kuberay-rayjob.yaml").read_text())
IMAGE = re.compile(r"rayproject/ray:(?P<ray>[\d.]+)-py(?P<python>\d+)-gpu")


class Strict(BaseModel):
    """One Kubernetes or KubeRay object, of which only the fields that the file uses are known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SecretKey(Strict):
    name: str
    key: str


class SecretValue(Strict):
    secret_key_ref: SecretKey = Field(alias="secretKeyRef")


class RedisPassword(Strict):
    value_from: SecretValue = Field(alias="valueFrom")


class GcsFaultTolerance(Strict):
    redis_address: str = Field(alias="redisAddress")
    redis_password: RedisPassword = Field(alias="redisPassword")


class AuthOptions(Strict):
    mode: Literal["token"]


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    upscaling_mode: Literal["Default", "Conservative", "Aggressive"] = Field(alias="upscalingMode")
    idle_timeout_s: int = Field(alias="idleTimeoutSeconds")


class Port(Strict):
    container_port: int = Field(alias="containerPort")
    name: str


class Quantities(Strict):
    cpu: str
    memory: str
    gpus: int | None = Field(default=None, alias="nvidia.com/gpu")


class Resources(Strict):
    limits: Quantities
    requests: Quantities


class Mount(Strict):
    name: str
    mount_path: str = Field(alias="mountPath")


class Container(Strict):
    name: str
    image: str = Field(pattern=f"^{IMAGE.pattern}$".replace("?P<ray>", "").replace("?P<python>", ""))
    ports: list[Port]
    resources: Resources
    volume_mounts: list[Mount] = Field(alias="volumeMounts")


class Claim(Strict):
    claim_name: str = Field(alias="claimName")


class Memory(Strict):
    medium: Literal["Memory"]
    size_limit: str = Field(alias="sizeLimit")


class Named(Strict):
    name: str


class Volume(Strict):
    name: str
    claim: Claim | None = Field(default=None, alias="persistentVolumeClaim")
    memory: Memory | None = Field(default=None, alias="emptyDir")
    config_map: Named | None = Field(default=None, alias="configMap")


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


class PodSpec(Strict):
    containers: list[Container]
    volumes: list[Volume]
    tolerations: list[Toleration] = []
    restart_policy: Literal["Never", "Always"] = Field(default="Always", alias="restartPolicy")


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    ray_start_params: dict[str, str] = Field(alias="rayStartParams")
    template: PodTemplate


class WorkerGroup(HeadGroup):
    group_name: str = Field(alias="groupName")
    replicas: int
    min_replicas: int = Field(alias="minReplicas")
    max_replicas: int = Field(alias="maxReplicas")


class RayClusterSpec(Strict):
    ray_version: str = Field(alias="rayVersion")
    auth_options: AuthOptions = Field(alias="authOptions")
    gcs_fault_tolerance: GcsFaultTolerance = Field(alias="gcsFaultToleranceOptions")
    autoscaling: Literal[True] = Field(alias="enableInTreeAutoscaling")
    autoscaler_options: AutoscalerOptions = Field(alias="autoscalerOptions")
    head: HeadGroup = Field(alias="headGroupSpec")
    workers: list[WorkerGroup] = Field(alias="workerGroupSpecs", min_length=1)


class RayJobSpec(Strict):
    entrypoint: str = Field(pattern="^ray-tl search ")
    runtime_env: str = Field(alias="runtimeEnvYAML")
    submission_mode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"] = Field(alias="submissionMode")
    backoff_limit: int = Field(alias="backoffLimit")
    shutdown: bool = Field(alias="shutdownAfterJobFinishes")
    time_to_live_s: int = Field(alias="ttlSecondsAfterFinished")
    cluster: RayClusterSpec = Field(alias="rayClusterSpec")


class RayJob(Strict):
    api_version: Literal["ray.io/v1"] = Field(alias="apiVersion")
    kind: Literal["RayJob"]
    metadata: Named
    spec: RayJobSpec


def _validate_aws(config):
    validate_config(prepare_config(copy.deepcopy(config)))


def _changed(config, path, value):
    """A copy of `config` with one more entry: `a 0 b` names the place."""
    changed = copy.deepcopy(config)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(" ")]
    place = changed
    for part in way:
        place = place[part]
    place[last] = value
    return changed


def _containers(job):
    cluster = RayJob.model_validate(job).spec.cluster
    return [c for group in (cluster.head, *cluster.workers) for c in group.template.spec.containers]


@pytest.mark.parametrize("name", ["local.yaml", "gpu.yaml"])
def test_committed_cluster_files_load(name):
    assert load_cluster(ROOT / "cluster" / name).workers_per_trial == 1


def test_local_file_states_every_field_with_its_default_but_the_environment():
    stated = load_cluster(ROOT / "cluster/local.yaml")
    assert stated.model_fields_set == set(ClusterConfig.model_fields)
    assert stated.model_copy(update={"env": {}}) == ClusterConfig()


def test_ray_up_file_is_valid():
    _validate_aws(AWS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("max_worker", 3),
        ("available_node_types gpu min_worker", 1),
        ("available_node_types gpu resources GPU", 0.5),
        ("head_start_ray_command", []),
        ("docker imagee", "x"),
    ],
)
def test_typo_in_the_ray_up_file_is_found(path, value):
    with pytest.raises(SchemaError):
        _validate_aws(_changed(AWS, path, value))


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_up_file_forces_token_authentication_on_every_node(commands):
    starts = [line for line in AWS[commands] if "ray start" in line]
    assert len(starts) == 1
    assert starts[0].startswith("RAY_AUTH_MODE=token ")
    assert "--env RAY_AUTH_MODE=token" in AWS["docker"]["run_options"]
    assert AWS["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_ray_up_file_installs_this_package_on_every_node():
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert any(line.startswith("pip install") and f" {name} " in line for line in AWS["setup_commands"])


def test_trial_of_the_gpu_cluster_file_fits_on_a_worker_and_not_on_the_head():
    trial = load_cluster(ROOT / "cluster/gpu.yaml")
    head, worker = (AWS["available_node_types"][name]["resources"] for name in ("head", "gpu"))
    assert trial.cpus_per_worker <= worker["CPU"]
    assert trial.gpus_per_worker <= worker["GPU"]
    assert "GPU" not in head


def test_ray_job_has_only_known_fields():
    RayJob.model_validate(JOB)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec entryPoint", "x"),
        ("spec rayClusterSpec gcsFaultTolerance", {}),
        ("spec rayClusterSpec autoscalerOptions version", "v3"),
        ("spec rayClusterSpec authOptions mode", "disabled"),
        ("spec rayClusterSpec workerGroupSpecs 0 maxReplica", 2),
        ("spec rayClusterSpec workerGroupSpecs 0 minReplicas", "1"),
        ("spec rayClusterSpec workerGroupSpecs 0 template spec containers 0 resources limits nvidia.com/gpus", 1),
        ("spec rayClusterSpec headGroupSpec template spec containers 0 image", "rayproject/ray:latest"),
        ("apiVersion", "ray.io/v1alpha1"),
    ],
)
def test_typo_in_the_ray_job_is_found(path, value):
    with pytest.raises(ValidationError):
        RayJob.model_validate(_changed(JOB, path, value))


def test_images_agree_with_each_other_and_with_the_ray_version():
    cluster = RayJob.model_validate(JOB).spec.cluster
    images = {AWS["docker"]["image"], *(container.image for container in _containers(JOB))}
    assert len(images) == 1
    assert IMAGE.fullmatch(images.pop())["ray"] == cluster.ray_version


def test_image_has_a_ray_and_a_python_that_this_package_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = IMAGE.fullmatch(AWS["docker"]["image"])
    assert project["requires-python"] == f">={image['python'][0]}.{image['python'][1:]}"
    assert any(
        text.startswith("ray[") and image["ray"].startswith(text.split(">=")[1]) for text in project["dependencies"]
    )


def test_images_have_the_ray_that_is_tested_here():
    assert IMAGE.fullmatch(AWS["docker"]["image"])["ray"] == ray.__version__


def test_worker_reserves_the_gpus_that_it_tells_ray_of():
    (group,) = RayJob.model_validate(JOB).spec.cluster.workers
    (container,) = group.template.spec.containers
    assert (
        container.resources.limits.gpus == container.resources.requests.gpus == int(group.ray_start_params["num-gpus"])
    )


def test_every_mount_names_a_volume_of_its_pod():
    cluster = RayJob.model_validate(JOB).spec.cluster
    for pod in (group.template.spec for group in (cluster.head, *cluster.workers)):
        mounted = {mount.name for container in pod.containers for mount in container.volume_mounts}
        assert mounted == {volume.name for volume in pod.volumes}


def test_cluster_file_inside_the_ray_job_is_the_committed_one():
    inside = ClusterConfig.model_validate(yaml.safe_load(CONFIG_MAP["data"]["gpu.yaml"]))
    assert inside == load_cluster(ROOT / "cluster/gpu.yaml")
    assert JOB["spec"]["entrypoint"].endswith("--cluster /cluster/gpu.yaml")
