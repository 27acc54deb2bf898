"""Kubernetes: an Indexed Job with one pod for each host, which is the agent of its workers.

A headless service gives the pods names, a secret holds the job's key. A pod that ends with an error
is made anew, and so are all others, whose ranks have lost it; the training goes on from what is
saved on the claim. https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from shutil import which
from typing import Any, ClassVar

from ringlet.comm.join.key import KEY_FILE, JobKey, find_key
from ringlet.comm.join.kubernetes import PORT
from ringlet.launcher.engines.engine import Submission, call
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.options import option

NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""What DNS takes as a name (RFC 1123)."""

LONGEST_NAME = 52
"""A label of DNS has at most 63 characters, and a pod is called NAME-INDEX."""

IMAGE = r"([\w.-]+(:\d+)?/)?[a-z0-9._/-]+(:\w[\w.-]{0,127})?(@sha\d+:[0-9a-f]+)?"
"""host:port/name:tag@digest, where a name is enough; only host and tag may have capitals
(https://pkg.go.dev/github.com/distribution/reference)."""

DATA, KEYS = "/data", "/key"
KEY_NAME = "job.key"


@dataclass(frozen=True)
class Kubernetes:
    """What the manifest says of a job."""

    HEADING: ClassVar = "Kubernetes"
    SHARES_FILES: ClassVar = False

    image: str | None = option(None, "Image that has ringlet: see Dockerfile.")
    claim: str | None = option(
        None, f"PersistentVolumeClaim that all pods see as {DATA}: runs are saved there."
    )
    namespace: str | None = option(None, "Namespace of the job.", shown="kubectl's")
    memory: str | None = option(None, "Memory of each pod: 4Gi.", shown="the namespace's")
    shm: str = option("1Gi", "Shared memory of each pod, in which its ranks meet.")
    retries: int = option(6, "How often a pod may be made anew after an error.", least=0)

    def write(self, job: Submission) -> str:
        """The manifest: documents in JSON, which is YAML."""
        self._check(job)
        key = find_key(os.environ) or JobKey.new()
        documents = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": job.name},
                "spec": {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": True,  # they meet before they are ready
                    "selector": {"batch.kubernetes.io/job-name": job.name},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"{job.name}-key"},
                "stringData": {KEY_NAME: key.text},
            },
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": job.name},
                "spec": self._job(job),
            },
        ]
        return "---\n".join(json.dumps(each, indent=2) + "\n" for each in documents)

    def submit(self, job: Submission, text: str) -> str:
        """Hand the manifest to kubectl."""
        if which("kubectl") is None:
            raise UserError(
                "there is no kubectl on this host: write the manifest with --print, and "
                "`kubectl apply -f` it where there is one"
            )
        service, secret, made = text.split("---\n")
        # First: `apply` would leave a job of this name as it is, but replace its key.
        self._kubectl("create", made)
        self._kubectl("apply", f"{service}---\n{secret}")
        where = f" -n {self.namespace}" if self.namespace else ""
        return (
            f"job {job.name}: `kubectl logs{where} -f job/{job.name}` shows its output, "
            f"`kubectl delete{where} job {job.name}` ends it"
        )

    def _check(self, job: Submission) -> None:
        if self.image is None:
            raise UserError(
                "--engine kubernetes needs --image: one that has ringlet, see Dockerfile"
            )
        names = {"--name": job.name, "--claim": self.claim, "--namespace": self.namespace}
        for option_name, name in names.items():
            if name is not None and (not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME):
                raise UserError(
                    f"{option_name} is {name!r}; on Kubernetes it is made of lowercase letters, "
                    f"digits and -, begins and ends with a letter or digit, and has at most "
                    f"{LONGEST_NAME} characters"
                )
        for option_name, size in {"--memory": self.memory, "--shm": self.shm}.items():
            if size is not None and not re.fullmatch(r"[1-9][0-9]*([KMGT]i?)?", size):
                raise UserError(f"{option_name} is {size!r}; it is a size such as 4Gi")
        if not re.fullmatch(IMAGE, self.image, re.ASCII):
            raise UserError(f"--image is {self.image!r}; it is a name such as registry/ringlet:1")
        if job.trains and self.claim is None:
            raise UserError(
                "a training needs --claim, a PersistentVolumeClaim for what it saves: what a pod "
                "has written is gone with the pod"
            )
        out = job.value("--out") if job.trains else ""
        if out and not PurePosixPath(out).is_relative_to(DATA):
            raise UserError(f"--out is {out}; of a pod only {DATA} stays, where the claim is")

    def _job(self, job: Submission) -> dict[str, Any]:
        ends = {} if job.seconds is None else {"activeDeadlineSeconds": math.ceil(job.seconds)}
        return {
            "completionMode": "Indexed",
            "completions": job.nodes,
            "parallelism": job.nodes,
            "backoffLimitPerIndex": self.retries,
            **ends,
            "podFailurePolicy": {
                "rules": [
                    {  # wrong options or files: to try again does not help
                        "action": "FailJob",
                        "onExitCodes": {"operator": "In", "values": [int(ExitCode.USER_ERROR)]},
                    },
                    {  # saved, because its host, or another's, is needed for something else
                        "action": "Ignore",
                        "onExitCodes": {"operator": "In", "values": [int(ExitCode.STOPPED)]},
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": {"spec": self._pod(job)},
        }

    def _pod(self, job: Submission) -> dict[str, Any]:
        wanted = {"cpu": job.cpus and str(job.cpus), "memory": self.memory}
        resources: dict[str, Any] = {"requests": {k: v for k, v in wanted.items() if v}}
        if job.gpus:
            resources["limits"] = {"nvidia.com/gpu": str(job.gpus)}
        places: list[dict[str, Any]] = [
            {"name": "key", "mountPath": KEYS, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ]
        volumes: list[dict[str, Any]] = [
            {"name": "key", "secret": {"secretName": f"{job.name}-key", "defaultMode": 0o400}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": self.shm}},
        ]
        if self.claim is not None:
            places.append({"name": "data", "mountPath": DATA})
            volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": self.claim}})
        return {
            "subdomain": job.name,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 120,  # in which the ranks save
            "containers": [
                {
                    "name": "ringlet",
                    "image": self.image,
                    "command": ["ringlet", *_continued(job)],
                    "env": [
                        {"name": "WORLD_SIZE", "value": str(job.nodes)},
                        {"name": KEY_FILE, "value": f"{KEYS}/{KEY_NAME}"},
                        _of_the_pod("RINGLET_ADDRESS", "status.podIP"),
                        _of_the_pod(
                            "JOB_ID", "metadata.labels['batch.kubernetes.io/controller-uid']"
                        ),
                    ],
                    "ports": [{"containerPort": int(PORT)}],
                    "resources": resources,
                    "volumeMounts": places,
                }
            ],
            "volumes": volumes,
        }

    def _kubectl(self, verb: str, text: str) -> None:
        where = [] if self.namespace is None else ["--namespace", self.namespace]
        code, out, error = call("kubectl", verb, *where, "-f", "-", given=text)
        if code:
            lines = (error or out).strip().splitlines() or ["without a word"]
            reason = lines[-1].partition("; if you choose to ignore")[0]
            hint = "; `kubectl config view` shows where it asks" if "dial tcp" in reason else ""
            raise UserError(f"`kubectl {verb}` has failed: {reason}{hint}")


def _of_the_pod(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _continued(job: Submission) -> list[str]:
    """The command, with what lets a training that is started again find what it has saved. A
    dollar of the user's is no variable of the manifest."""
    command = [word.replace("$(", "$$(") for word in job.command]
    if job.trains and not job.gives("--out"):
        command += ["--out", f"{DATA}/runs/{job.name}-$(JOB_ID)"]
    if job.trains and not job.gives("--resume"):
        command += ["--resume-if-saved"]
    return command
