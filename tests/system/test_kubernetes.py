"""The manifest for Kubernetes: valid for its versions; its pods, run by a stand-in, that find each
other, die and go on with the same bits."""

import json
import re

import numpy as np
import pytest
from commands import outcome, stand_in
from pods import missing, running
from small_runs import newest_weights
from waiting import until

SUBMIT = ("submit", "--engine", "kubernetes", "--nodes", "3", "--image", "ringlet:0.1")
STEPS = 60
TRAIN = ("train", "-n", "1", "--preset", "tiny", "--data", "/data/text.txt", "--batch-size", "12",
         "--steps", str(STEPS), "--checkpoint-every", "1", "--sample", "0")  # fmt: skip
WAIT_S = 120
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]


@pytest.fixture
def ask(capfd):
    """Exit code, and what is shown."""

    def asked(*words):
        code, out, error = outcome(capfd, *words)
        return code, out + error

    return asked


@pytest.fixture
def manifest(ask):
    """The manifest of a command, with more options."""

    def written(*words, command=TRAIN):
        code, text = ask(*SUBMIT, "--claim", "runs", *words, "--print", "--", *command)
        assert code == 0, text
        return text

    return written


def test_a_manifest_names_what_the_job_needs(manifest):
    text = manifest("--gpus", "1", "--time", "90min", "--memory", "4Gi", "--retries", "2")
    service, secret, job = (json.loads(each) for each in text.split("---\n"))
    assert re.fullmatch("[0-9a-f]{64}", secret["stringData"]["job.key"])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimitPerIndex"]) == (3, 3, 2)
    assert spec["activeDeadlineSeconds"] == 5400
    container = pod["containers"][0]
    assert container["command"][-3:] == [
        "--out", "/data/runs/ringlet-$(JOB_ID)", "--resume-if-saved"
    ]  # fmt: skip
    assert container["resources"] == {
        "requests": {"memory": "4Gi"}, "limits": {"nvidia.com/gpu": "1"}
    }  # fmt: skip
    assert service["metadata"]["name"] == pod["subdomain"] == "ringlet"


def test_what_the_user_says_stays(manifest):
    run = ("run", "in_the_image.py", "--", "$(HOME)")
    job = json.loads(manifest(command=run).split("---\n")[2])
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["ringlet", "run", "in_the_image.py", "--", "$$(HOME)"]
    own = ("train", "--out", "/data/mine", "--resume")
    job = json.loads(manifest(command=own).split("---\n")[2])
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["ringlet", *own]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_manifest_is_valid(version, manifest):
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate here")
    for one in manifest("--time", "2h", "--cpus", "2", "--gpus", "1").split("---\n"):
        validate.validate(json.loads(one), version, strict=True)


REFUSED = {
    "no image": (("submit", "--engine", "kubernetes", "--", "train"), "needs --image"),
    "no claim": ((*SUBMIT, "--", "train"), "a training needs --claim"),
    "a name for Slurm": ((*SUBMIT, "--name", "A_b", "--", "run", "x.py"), "--name is 'A_b'"),
    "a long name": ((*SUBMIT, "--name", "a" * 53, "--", "run", "x.py"), "at most 52 characters"),
    "a claim that is a path": ((*SUBMIT, "--claim", "a/b", "--", "train"), "--claim is 'a/b'"),
    "an image with a space": (
        ("submit", "--engine", "kubernetes", "--image", "a b", "--", "run", "x.py"),
        "--image is 'a b'",
    ),
    "an image in capitals": (
        ("submit", "--engine", "kubernetes", "--image", "lab/Ringlet:1", "--", "run", "x.py"),
        "--image is 'lab/Ringlet:1'",
    ),
    "what is lost with the pod": (
        (*SUBMIT, "--claim", "runs", "--", "train", "--out=runs/a"),
        "--out is runs/a; of a pod",
    ),
    "memory": ((*SUBMIT, "--memory", "4 GB", "--", "run", "x.py"), "--memory is '4 GB'"),
    "an option of Slurm's": ((*SUBMIT, "--account", "a", "--", "run", "x"), "for --engine slurm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused(case, ask):
    words, text = REFUSED[case]
    code, shown = ask(*words)
    assert (code, text in shown) == (2, True), shown


def test_kubectl_makes_the_job_before_it_replaces_a_key(tmp_path, monkeypatch, ask):
    run = (*SUBMIT, "--namespace", "lab", "--", "run", "x.py")
    text = f'echo "$@" >> {tmp_path}/calls; cat >> {tmp_path}/text'
    stand_in(tmp_path, monkeypatch, kubectl=text)
    code, shown = ask(*run)
    assert (code, "kubectl delete -n lab job ringlet" in shown) == (0, True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["create --namespace lab -f -", "apply --namespace lab -f -"]
    kinds = re.findall('"kind": "(\\w+)"', (tmp_path / "text").read_text())
    assert kinds == ["Job", "Service", "Secret"]
    text = 'cat > /dev/null; echo "Error: jobs ringlet exists" >&2; exit 1'
    stand_in(tmp_path, monkeypatch, kubectl=text)
    code, shown = ask(*run)
    assert (code, "has failed: Error: jobs ringlet exists" in shown) == (2, True)
    text = 'cat > /dev/null; echo "error: Get http://x: dial tcp: no; if you choose to ignore" >&2'
    stand_in(tmp_path, monkeypatch, kubectl=f"{text}; exit 1")
    assert "dial tcp: no; `kubectl config view` shows where it asks" in ask(*run)[1]
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "there is no kubectl on this host" in ask(*run)[1]


pods = pytest.mark.skipif(bool(missing()), reason=f"no pods here: {missing()}")


def trained(text, folder, disturb=None):
    """The weights at the end, by the stand-in; `disturb(job)` once step 5 is saved."""
    (folder / "data").mkdir()
    (folder / "data/text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 500)
    run = folder / "data/runs/ringlet-5a27"
    with running(text, folder) as job:
        if disturb is not None:
            assert until(lambda: job.step() and (run / "checkpoints/step-000005").exists(), WAIT_S)
            disturb(job)
        done = until(lambda: job.step() != "active", WAIT_S)
        assert done and job.state == "complete", list(zip(job.codes, job.said, strict=True))
        return newest_weights(run), job


@pods
@pytest.mark.slow
@pytest.mark.parametrize(("index", "what"), [(0, "kill"), (1, "kill"), (1, "drain")])
def test_a_pod_that_ends_comes_back_and_the_bits_are_the_same(tmp_path, index, what, manifest):
    text = manifest()
    for name in ("quiet", "lost"):
        (tmp_path / name).mkdir()
    expected, quiet = trained(text, tmp_path / "quiet")
    assert quiet.tries == [1, 1, 1]
    actual, lost = trained(text, tmp_path / "lost", lambda job: getattr(job.pods[index], what)())
    assert min(lost.tries) == 2
    assert any(lost.failures) == (what == "kill")  # what has saved has not failed
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


@pods
def test_wrong_options_fail_the_job_at_once(tmp_path, manifest):
    (tmp_path / "data").mkdir()
    with running(manifest(command=("train", "--data", "/data/nothing.txt")), tmp_path) as job:
        assert until(lambda: job.step() == "failed", WAIT_S), job.codes
        assert [code for _, code in job.codes] == [2] * len(job.codes)
