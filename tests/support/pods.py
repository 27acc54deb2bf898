"""A stand-in for what runs an Indexed Job: the Job's controller, the pods' hosts, and DNS.

Each pod has a network, UTS, mount and process namespace of its own, on a switch in another one, and
a new address whenever it is made anew; nothing is left behind. Volumes are folders, in whose place
paths of the manifest are written. Needs root.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("ip", "nsenter", "unshare", "mount")
NETWORK = "10.77.8"

START = """\
mount -t tmpfs none /dev/shm && mount --bind "$1" /etc/hosts && hostname "$2" || exit 90
shift 2
echo && read _ && exec "$@" 2>&1
"""
"""Prints a line when the pod has its namespaces, and waits for one."""

SWITCH = "ip link add bridge0 type bridge && ip link set bridge0 up && cat"


def missing() -> str:
    """Why there can be no pods here; empty if there can."""
    if os.getuid() != 0:
        return "needs root, for network namespaces"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(absent)} here" if absent else ""


class Pod:
    """One try at one index of the job."""

    def __init__(self, job: "IndexedJob", index: int, address: str) -> None:
        name = f"{job.name}-{index}"
        started = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
        words = ["--mount-proc", "sh", "-c", START, "-", str(job.hosts), name]
        variables = job.variables(index, address)
        command = [job.expanded(word, variables) for word in job.container["command"]]
        self.process = subprocess.Popen(
            [*started, *words, sys.executable, "-m", *command],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout
        assert self.process.stdout.readline() == "\n", "the pod has no namespaces"
        job.connect(self.process.pid, address)
        self.process.stdin.write("\n")
        self.process.stdin.close()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self.lines.extend, args=(self.process.stdout,))
        self._reader.start()

    def kill(self) -> None:
        """As when its host dies: nothing in it runs another line."""
        self.process.kill()

    def drain(self) -> None:
        """As when its host is to be emptied: SIGTERM to its first process."""
        parent = self.process.pid
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        os.kill(int(child), 15)

    def ended(self) -> int | None:
        """Its exit code, once all of its output is read."""
        if self.process.poll() is not None:
            self._reader.join()
        return self.process.returncode


class IndexedJob:
    """A manifest's job; `step()` does what its controller does."""

    def __init__(self, manifest: str, folder: Path) -> None:
        service, secret, job = (json.loads(each) for each in manifest.split("---\n"))
        self.name, self.spec = job["metadata"]["name"], job["spec"]
        pod = self.spec["template"]["spec"]
        self.container, self.domain = pod["containers"][0], pod["subdomain"]
        assert self.spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
        assert (
            service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
        )
        assert service["metadata"]["name"] == self.domain
        assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": self.name}
        self.hosts, self._folders = folder / "hosts", {}
        for place in self.container["volumeMounts"]:
            volume = next(each for each in pod["volumes"] if each["name"] == place["name"])
            if "emptyDir" in volume:
                continue  # /dev/shm: START mounts it
            self._folders[place["mountPath"]] = own = folder / place["name"]
            own.mkdir(exist_ok=True)
            if "secret" in volume:
                assert volume["secret"]["secretName"] == secret["metadata"]["name"]
                for name, text in secret["stringData"].items():
                    (own / name).write_text(text)
                    (own / name).chmod(volume["secret"]["defaultMode"])
        self.pods: dict[int, Pod] = {}
        self.tries = [0] * self.spec["completions"]
        self.failures = [0] * self.spec["completions"]
        self.codes: list[tuple[int, int]] = []
        self.said: list[list[str]] = []
        self.state = "active"
        self._addresses: dict[int, str] = {}
        self._switch = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", SWITCH],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._switch.stdin and self._switch.stdout
        self._switch.stdin.write(b"\n")
        self._switch.stdin.flush()
        self._switch.stdout.readline()

    def step(self) -> str:
        """Start pods that are missing, and judge those that have ended; the job's state."""
        for index in range(self.spec["completions"]):
            if self.state == "active" and index not in self.pods:
                self._start(index)
        for index, pod in list(self.pods.items()):
            code = pod.ended()
            if code is None or ((index, code) in self.codes and code == 0):
                continue
            self.codes.append((index, code))
            self.said.append(pod.lines[-5:])
            if code:
                self._failed(index, code)
        ended = {index for index, code in self.codes if code == 0}
        if len(ended) == self.spec["completions"]:
            self.state = "complete"
        return self.state

    def _start(self, index: int) -> None:
        address = f"{NETWORK}.{10 + index + 10 * self.tries[index]}"
        self.tries[index] += 1
        self._addresses[index] = address
        lines = [f"{own} {self.name}-{at}.{self.domain}" for at, own in self._addresses.items()]
        lines = [f"{line} {line.split()[1].partition('.')[0]}\n" for line in lines]
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        self.pods[index] = Pod(self, index, address)

    def _failed(self, index: int, code: int) -> None:
        """What the failure policy says of it."""
        del self.pods[index]
        rules = self.spec["podFailurePolicy"]["rules"]
        by_code = [rule for rule in rules if code in rule.get("onExitCodes", {}).get("values", ())]
        action = by_code[0]["action"] if by_code else "Count"
        if action == "Count":
            self.failures[index] += 1
        if action == "FailJob" or self.failures[index] > self.spec["backoffLimitPerIndex"]:
            self.state = "failed"

    def variables(self, index: int, address: str) -> dict[str, str]:
        """What is in a pod's environment."""
        found = {"PATH": os.environ["PATH"], "JOB_COMPLETION_INDEX": str(index)}
        fields = {
            "status.podIP": address,
            "metadata.labels['batch.kubernetes.io/controller-uid']": "5a27",
        }
        for one in self.container["env"]:
            value = one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            found[one["name"]] = self._placed(value)
        return found

    def expanded(self, word: str, variables: dict[str, str]) -> str:
        """$(VARIABLE) as its value, $$ as a dollar."""
        found = re.sub(
            r"\$(\$|\((\w+)\))",
            lambda match: "$" if match[1] == "$" else variables.get(match[2], match[0]),
            word,
        )
        return self._placed(found)

    def _placed(self, text: str) -> str:
        for path, folder in self._folders.items():
            if text.startswith(f"{path}/"):
                text = f"{folder}{text.removeprefix(path)}"
        return text

    def connect(self, pid: int, address: str) -> None:
        """Join a pod to the switch."""
        link = f"p{pid}"
        self._in(self._switch.pid, f"link add {link} type veth peer name eth0 netns {pid}")
        self._in(self._switch.pid, f"link set {link} master bridge0 up")
        for words in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self._in(pid, words)

    def _in(self, pid: int, words: str) -> None:
        command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *words.split()]
        subprocess.run(command, check=True, timeout=20, capture_output=True)

    def close(self) -> None:
        """End whatever runs."""
        for pod in self.pods.values():
            pod.kill()
        for pod in self.pods.values():
            pod.process.wait(20)
        self._switch.kill()
        self._switch.wait(20)


@contextlib.contextmanager
def running(manifest: str, folder: Path) -> Iterator[IndexedJob]:
    """The job of a manifest, until the end of the block."""
    job = IndexedJob(manifest, folder)
    try:
        yield job
    finally:
        job.close()
