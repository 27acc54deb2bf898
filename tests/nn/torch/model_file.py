"""A small language model as one writes it for PyTorch; the tests change its imports alone."""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class Config:
    vocab_size: int = 13
    block_size: int = 8
    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 16
    dropout: float = 0.0


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.register_parameter("bias", None)

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return y.type_as(x) * self.weight


def rotation(width, length, base=10000.0):
    rates = 1.0 / (base ** (torch.arange(0, width, 2)[: width // 2].float() / width))
    angles = torch.outer(torch.arange(length, device=rates.device), rates)
    return torch.cos(angles), torch.sin(angles)


def rotate(x, cos, sin):
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    shape = [1, x.size(1), 1, even.size(-1)]
    cos, sin = cos.view(shape), sin.view(*shape)
    both = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return both.flatten(3).type_as(x)


class Attention(nn.Module):
    def __init__(self, config, fused):
        super().__init__()
        self.heads, self.fused, self.dropout = config.n_head, fused, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        size = config.block_size
        self.register_buffer("mask", torch.tril(torch.ones(size, size)).view(1, 1, size, size))

    def forward(self, x, cos, sin):
        B, T, C = x.size()
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (each.view(B, T, self.heads, C // self.heads) for each in (q, k, v))
        q, k, v = (
            rotate(q, cos, sin).transpose(1, 2),
            rotate(k, cos, sin).transpose(1, 2),
            v.transpose(1, 2),
        )
        if self.fused:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None,
                dropout_p=self.dropout if self.training else 0,
                is_causal=True,
            )
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
            y = self.drop(F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, config, fused):
        super().__init__()
        self.norm_1, self.norm_2 = RMSNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attention = Attention(config, fused)
        self.mlp = nn.ModuleDict(
            {
                "gate": nn.Linear(config.n_embd, 2 * config.n_embd, bias=False),
                "up": nn.Linear(config.n_embd, 2 * config.n_embd, bias=False),
                "down": nn.Linear(2 * config.n_embd, config.n_embd, bias=False),
            }
        )
        self.scales = nn.ParameterList([nn.Parameter(torch.full((1,), 0.9)) for _ in range(2)])

    def forward(self, x, cos, sin):
        x = x + self.scales[0] * self.attention(self.norm_1(x), cos, sin)
        y, m = self.norm_2(x), self.mlp
        return x + self.scales[1] * m["down"](F.silu(m["gate"](y)) * m.up(y))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        for number in range(config.n_layer):
            self.blocks.append(Block(config, fused=number % 2 == 0))
        self.norm = nn.Sequential(RMSNorm(config.n_embd), nn.Identity())
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.embed.weight = self.head.weight
        cos, sin = rotation(config.n_embd // config.n_head, config.block_size)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._init_weights)
        for name, parameter in self.named_parameters():
            if name.endswith("proj.weight"):
                torch.nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * config.n_layer))

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.2)
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)

    def forward(self, idx, targets=None):
        _, T = idx.size()
        assert self.config.block_size >= T
        x = self.drop(self.embed(idx))
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        x = self.norm(x)
        if targets is None:
            return self.head(x[:, [-1], :]), None
        logits = self.head(x)
        return logits, F.cross_entropy(
            logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1
        )

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        named = {n: p for n, p in self.named_parameters() if p.requires_grad}
        groups = [
            {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            size = self.config.block_size
            seen = idx if idx.size(1) <= size else idx[:, -size:]
            logits = self(seen)[0][:, -1, :] / temperature
            if top_k is not None:
                best, _ = torch.topk(logits, min(top_k, logits.size(-1)))
                logits[logits < best[:, [-1]]] = -float("Inf")
            probs = F.softmax(logits, dim=-1)
            idx = torch.cat((idx, torch.multinomial(probs, num_samples=1)), dim=1)
        return idx
