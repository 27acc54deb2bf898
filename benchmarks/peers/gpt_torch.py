"""The peer's side of train_step.py: a GPT-2 step in PyTorch eager. Needs torch, nothing of ringlet.

    python gpt_torch.py CONFIG STEPS [eager | compile] [THREADS]
    torchrun --nproc_per_node 2 gpt_torch.py CONFIG STEPS ddp      # Gloo, half of the batch each

Prints one JSON line. A step is zero_grad, forward, cross-entropy, backward and AdamW on random
tokens; times are in milliseconds.
"""

import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from configs import CONFIGS

WARM_UP = 3


class Block(nn.Module):
    """Attention and MLP, normalization first."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(self, vocabulary, context, width, heads, layers):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # as ringlet's; PyTorch's own lead to subnormal gradients
                residual = name.endswith(("c_proj.weight", "c_out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers if residual else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        logits = F.linear(self.ln_f(self.h(x)), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def measure(name, steps, mode="eager", threads=1):
    """Median and fastest step of one config."""
    *sizes, batch = CONFIGS[name]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = GPT(*sizes)
    rank, ranks = 0, 1
    if mode == "ddp":
        torch.distributed.init_process_group("gloo")
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        model = nn.parallel.DistributedDataParallel(model)
    elif mode == "compile":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    ids, targets = torch.randint(sizes[0], (2, max(1, batch // ranks), sizes[1]))
    times = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        model(ids, targets).backward()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(times[WARM_UP:])
    if mode == "ddp":
        torch.distributed.destroy_process_group()
    return rank, {"config": name, "step_ms": median, "min_ms": min(times), "peak_rss_mb": peak}


if __name__ == "__main__":
    number, row = measure(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:]))
    if number == 0:
        print(json.dumps(row))
