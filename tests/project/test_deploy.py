"""What operators start from: the Helm chart, the plain manifest, the units of systemd, compose files."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from shutil import which
from typing import Any

import kubernetes_validate
import pytest
import yaml

from reconcile import __version__, settings
from reconcile.unattended.schedule import cron_file

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "reconcile"
DEPLOY = ROOT / "deploy"
KUBERNETES = ("1.31", "1.37")
ENV_FILE = "LAGO_API_KEY='a,b {{ c }} $d'\nLAGO_API_BASE=https://lago.example.com\n"
Manifest = dict[str, Any]

on_helm = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="Helm's library is built for Linux on x86_64"
)


def rendered(values: dict[str, Any] | None = None, name: str = "reconcile") -> dict[str, Manifest]:
    """What Helm itself makes of the chart, by kind and name; each is right by Kubernetes' own schemas."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        templates = chart.render(values or {}, name=name, namespace="billing")
    found = {}
    for path, text in templates.items():
        for manifest in yaml.safe_load_all(text) if path.endswith(".yaml") else ():
            if manifest is not None:
                for version in KUBERNETES:
                    kubernetes_validate.validate(manifest, version, strict=True)
                found[f"{manifest['kind']}/{manifest['metadata']['name']}"] = manifest
    return found


def pod(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    found: Manifest = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
    return found


@on_helm
def test_the_chart_is_sound() -> None:
    import helm_python

    report = helm_python.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"] if one["severity"] > 1] == []
    with helm_python.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == __version__
        assert set(chart.values) == set((chart.schema or {})["properties"]) - {"global"}


@on_helm
def test_the_plain_manifest_is_what_the_chart_makes() -> None:
    made = rendered()
    assert set(made) == {"CronJob/reconcile", "PersistentVolumeClaim/reconcile-reports"}
    plain = yaml.safe_load((DEPLOY / "kubernetes-cronjob.yaml").read_text(encoding="utf-8"))
    of_chart = made["CronJob/reconcile"]
    assert of_chart["spec"].pop("suspend") is False
    assert pod(of_chart)["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
    of_chart["spec"]["jobTemplate"]["spec"]["template"].pop("metadata")
    assert of_chart["spec"] == plain["spec"]


@on_helm
def test_a_night_with_values_of_ones_own() -> None:
    made = rendered(
        {
            "image": {"repository": "registry.example.com/reconcile", "tag": "0.2.0", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
            "schedule": "0 4 * * *",
            "timeZone": "Europe/Berlin",
            "secret": "proxy-env",
            "settings": {"RECONCILE_FAIL_ON": "", "RECONCILE_PAGE_SIZE": "1000"},
            "reports": {"existingClaim": "evidence"},
            "podAnnotations": {"sidecar.istio.io/inject": "false"},
            "podLabels": {"team": "billing"},
            "nodeSelector": {"pool": "jobs"},
            "tolerations": [{"key": "jobs", "operator": "Exists"}],
        },
        name="night",
    )
    assert set(made) == {"CronJob/night-reconcile", "ConfigMap/night-reconcile"}
    job = made["CronJob/night-reconcile"]
    assert (job["spec"]["schedule"], job["spec"]["timeZone"]) == ("0 4 * * *", "Europe/Berlin")
    (container,) = pod(job)["containers"]
    assert container["image"] == "registry.example.com/reconcile:0.2.0"
    assert container["envFrom"] == [
        {"secretRef": {"name": "proxy-env"}},
        {"configMapRef": {"name": "night-reconcile"}},
    ]
    assert made["ConfigMap/night-reconcile"]["data"] == {"RECONCILE_FAIL_ON": "", "RECONCILE_PAGE_SIZE": "1000"}
    assert pod(job)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "evidence"}
    assert pod(job)["nodeSelector"] == {"pool": "jobs"}
    template = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]
    assert template["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert template["labels"]["team"] == "billing"


@on_helm
def test_an_env_file_arrives_as_it_is(tmp_path: Path) -> None:
    made = rendered({"envFile": ENV_FILE, "reports": {"enabled": False}})
    assert set(made) == {"CronJob/reconcile", "Secret/reconcile"}
    (container,) = pod(made["CronJob/reconcile"])["containers"]
    assert "envFrom" not in container
    mount = next(one for one in container["volumeMounts"] if one["name"] == "env")
    assert (mount["mountPath"], mount["subPath"]) == ("/app/.env", ".env")
    assert b64decode(made["Secret/reconcile"]["data"][".env"]).decode() == ENV_FILE
    assert pod(made["CronJob/reconcile"])["volumes"][0] == {"name": "reports", "emptyDir": {}}


@on_helm
def test_schedule_with_jobs_of_ones_own(tmp_path: Path) -> None:
    jobs = (ROOT / "cron.yaml").read_text(encoding="utf-8")
    made = rendered({"mode": "schedule", "cronYaml": jobs, "envFile": ENV_FILE})
    assert set(made) == {
        *("Deployment/reconcile", "ConfigMap/reconcile-jobs", "Secret/reconcile"),
        "PersistentVolumeClaim/reconcile-reports",
    }
    (container,) = pod(made["Deployment/reconcile"])["containers"]
    assert container["args"] == ["schedule", "--file", "/app/jobs/cron.yaml"]
    arrived = tmp_path / "cron.yaml"
    arrived.write_text(made["ConfigMap/reconcile-jobs"]["data"]["cron.yaml"], encoding="utf-8")
    assert cron_file.load(arrived) == cron_file.load(ROOT / "cron.yaml")
    sums = {
        made["Deployment/reconcile"]["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        for made in (made, rendered({"mode": "schedule", "envFile": ENV_FILE + "A=1\n"}))
    }
    assert len(sums) == 2
    (container,) = pod(rendered({"mode": "schedule"})["Deployment/reconcile"])["containers"]
    assert container["args"] == ["schedule"]


@on_helm
@pytest.mark.parametrize(
    "values",
    [
        {"mode": "often"},
        {"shedule": "0 4 * * *"},
        {"settings": {"RECONCILE_PAGE_SIZE": 1_000_000}},  # Helm would write 1e+06
        {"settings": {"reconcile_lag": "2h"}},
        {"image": {"repository": ""}},
    ],
)
def test_a_slip_of_the_pen_is_refused(values: dict[str, Any]) -> None:
    import helm_python

    with pytest.raises(helm_python.HelmError, match="values"):
        rendered(values)


@pytest.mark.skipif(which("systemd-analyze") is None, reason="asks systemd-analyze")
def test_the_units_of_systemd(tmp_path: Path) -> None:
    units = [*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")]
    for unit in units:
        text = unit.read_text(encoding="utf-8")
        assert "/opt/reconcile/bin/reconcile" in text or unit.suffix == ".timer"
        (tmp_path / unit.name).write_text(text.replace("/opt/reconcile/bin/reconcile", "/bin/true"), encoding="utf-8")
    assert len(units) == 3
    names = [tmp_path / unit.name for unit in units]
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_the_image_of_the_manifest_is_this_version() -> None:
    plain = yaml.safe_load((DEPLOY / "kubernetes-cronjob.yaml").read_text(encoding="utf-8"))
    assert pod(plain)["containers"][0]["image"] == f"reconcile:{__version__}"
    kubernetes_validate.validate(plain, KUBERNETES[0], strict=True)


def test_compose_files_are_right_by_their_schema() -> None:
    files = [ROOT / "compose.yaml", DEPLOY / "compose.yaml"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    services = yaml.safe_load(files[1].read_text(encoding="utf-8"))["services"]
    assert {name: service["command"][0] for name, service in services.items()} == {
        "reconcile": "schedule",
        "once": "run",
    }


def test_settings_that_are_named_are_settings() -> None:
    known = {one.name for one in settings.documentation()}
    for path in [*DEPLOY.iterdir(), *(one for one in CHART.rglob("*") if one.is_file())]:
        named = set(re.findall(r"\bRECONCILE_[A-Z_]+\b", path.read_text(encoding="utf-8")))
        assert named - known == set(), path
