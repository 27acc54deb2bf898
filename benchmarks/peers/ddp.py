"""The peer's side of slow_links.py: DistributedDataParallel with Gloo. Needs torch, nothing of
ringlet.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python ddp.py FOLDER

Reads commands, a JSON object a line, and answers each with a line. FOLDER/run.npz has the
parameters to begin with, the tokens, and which of them each step trains on.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from gpt_torch import GPT
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
PARTS = {".attn.": ".", "mlp.c_fc": "c_fc", "mlp.c_proj": "c_out", "transformer.": ""}
"""From ringlet's names of parameters to gpt_torch's."""


def make_model(run, way):
    """The model as the way trains it: alone, or with DDP and its hook."""
    named = {n.partition(":")[2]: run[n] for n in run if n.startswith("parameter:")}
    (vocabulary, width), context = named["transformer.wte.weight"].shape, int(run["block"])
    layers = len([name for name in named if name.endswith("c_attn.weight")])
    model = GPT(vocabulary, context, width, int(run["heads"]), layers)
    state = {}
    for name, value in named.items():
        for old, new in PARTS.items():
            name = name.replace(old, new)
        state[name] = torch.from_numpy(value)
    model.load_state_dict(state)
    name, _, hook = way.partition(":")
    if hook == "alone":
        return model
    megabytes = int(name.partition("@")[2] or 25)
    model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=megabytes)
    if hook == "float16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=4, start_powerSGD_iter=2
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return model


class Training:
    """One way's model and optimizer, and how many steps it has taken."""

    def __init__(self, run, way):
        self.run, self.model, self.step = run, make_model(run, way), 0
        groups = [[], []]
        for parameter in self.model.parameters():
            groups[parameter.ndim >= 2].append(parameter)
        decays = [0.0, float(run["weight_decay"])]
        groups = [{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True)]
        self.optimizer = torch.optim.AdamW(groups, betas=tuple(run["betas"].tolist()))

    def windows(self, name, offsets):
        """Contexts at these places, and the same shifted by one."""
        rows = self.run[name][offsets[:, None] + np.arange(int(self.run["block"]) + 1)]
        rows = torch.from_numpy(rows.astype(np.int64))
        return rows[:, :-1], rows[:, 1:]

    def take(self):
        """One step."""
        offsets = self.run["offsets"][self.step % len(self.run["offsets"])]
        rates = self.run["learning_rates"]
        for group in self.optimizer.param_groups:
            group["lr"] = float(rates[self.step % len(rates)])
        ids, targets = self.windows("train", np.array_split(offsets, RANKS)[RANK])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(ids, targets)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def validate(self):
        """The mean loss, in nats a token."""
        losses, offsets = [], self.run["validation_offsets"]
        model = getattr(self.model, "module", self.model)
        with torch.no_grad():
            for part in np.array_split(offsets, -(-len(offsets) // 32)):
                losses.append(float(model(*self.windows("validation", part))) * len(part))
        return sum(losses) / len(offsets)


def seconds(training, steps):
    """Of so many steps in a row."""
    found = []
    torch.distributed.barrier()
    for _ in range(steps):
        started = time.perf_counter()
        training.take()
        found.append(time.perf_counter() - started)
    return found


def learn(training, target, most, block):
    """Validation losses after each block, until the target or `most` steps."""
    losses = [training.validate()]
    while losses[-1] > target and training.step < most:
        for _ in range(block):
            training.take()
        losses.append(training.validate())
    return losses


def main():
    """Take commands until there are no more."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    with np.load(Path(sys.argv[1]) / "run.npz") as archive:
        run = {name: archive[name] for name in archive.files}
    trainings = {}
    for line in sys.stdin:
        command = json.loads(line)
        do, way = command["do"], command.get("way")
        answer = None
        if do == "ready":
            trainings[way] = Training(run, way)
            seconds(trainings[way], command["steps"])
        elif do == "seconds":
            answer = seconds(trainings[way], command["steps"])
        elif do == "learn":
            keys = ("target", "most", "block")
            answer = learn(Training(run, way), *(command[key] for key in keys))
        else:
            trainings.clear()
        print(json.dumps(answer), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
