"""What a pod of an Indexed Job knows of its place in the job, and of the pod with index 0.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode: a pod's host name is
JOB-INDEX. With a subdomain and a headless service of that name, pods find each other by name. So
they do in a JobSet, which names them JOBSET-PART-NUMBER-INDEX and gives them a subdomain.
"""

import socket
from collections.abc import Mapping

from ringlet.comm.errors import CommError

PORT = "29400"
"""Where rank 0 listens: a pod has all ports of its address to itself."""

SIZE = 'WORLD_SIZE in the manifest (env: [{name: WORLD_SIZE, value: "4"}])'

_TO_ADD = """\
the pods of {job} cannot find each other: they have no subdomain. Add to the Job
spec:
  template:
    spec:
      subdomain: {job}
and beside it
---
apiVersion: v1
kind: Service
metadata: {{name: {job}}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{job-name: {job}}}"""


def first_pod(variables: Mapping[str, str]) -> str:
    """The name of the pod with index 0. Raises CommError, with what to add to the manifest, if
    pods have no names."""
    own, _, domain = socket.getfqdn().partition(".")
    job, dash, index = own.rpartition("-")
    if not dash or index != variables["JOB_COMPLETION_INDEX"]:
        raise CommError(
            f"this pod's host name is {own}, which does not end in its JOB_COMPLETION_INDEX, "
            f"{variables['JOB_COMPLETION_INDEX']}: set MASTER_ADDR to the name of the pod with "
            "index 0"
        )
    if not domain:
        raise CommError(_TO_ADD.format(job=job))
    return f"{job}-0.{domain}"
