"""The rules of what can be combined: one table, from which errors and documentation are made.

A rule says when it is broken, as a function of facts: the axes of the mesh and the options by
their names. `parallelize`, the sharding styles, the trainer and the launcher refuse by this table,
before anything starts. `python -m ringlet.runtime.rules` prints the table of docs/parallel.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ringlet.runtime.mesh import MeshError, divisors, misfit
from ringlet.runtime.pipeline.schedules import SCHEDULES


@dataclass(frozen=True)
class Rule:
    """What is refused: `what` (for the documentation) because of `why`; `fits` would be accepted.

    `scope` says who knows the facts: "mesh" (axes, `shape` and `workers`), "options" (those of
    Parallelism and the axes), "device" (the same, on a GPU), "config" (a TrainConfig alone), "run"
    (a TrainConfig on a mesh), "model" (sizes of a model on a mesh) or "module" (one module).
    """

    scope: str
    what: str
    broken: Callable[[Any], Any]
    why: str
    fits: str = ""
    message: Callable[[Any], str] | None = None
    """With the numbers of the case; by default made from `why` and `fits`."""

    def problem(self, facts: SimpleNamespace) -> str:
        """The error's message; "" if the facts keep the rule."""
        if not self.broken(facts):
            return ""
        if self.message is not None:
            return self.message(facts)
        return f"{self.why}; {self.fits} would fit" if self.fits else self.why


def _batch(r: Any) -> str:
    parts = f" with {r.accumulate} micro-batches each" if r.accumulate > 1 else ""
    axes = "workers" if r.dp == max(r.shape.values()) else "data-parallel ranks"
    most = r.batch_size // r.accumulate
    return f"{r.dp * r.ep} {axes}{parts} cannot share a batch of {r.batch_size}; at most {most} can"


def _sharded_by(r: Any) -> list[str]:
    """What shards matrices that the optimizer needs whole."""
    cuts = {"zero": r.zero, "tp": r.tp > 1, "ep": r.ep > 1 and r.optimizer == "adafactor"}
    return [name for name, here in cuts.items() if here]


def _uneven_rounds(r: Any) -> str:
    """An interval that ends where replicas do not agree, and its length."""
    names = [n for n in ("steps", "checkpoint_every") if getattr(r, n) % r.local_steps]
    return f"{names[0]} is {getattr(r, names[0])}" if names else ""


def _divided(things: str, count: str, axis: str, why: str) -> Rule:
    """An axis of the mesh has to divide the number of these things."""

    def message(r: Any) -> str:
        number = getattr(r, count)
        return (
            f"{number} {things} cannot be cut into {axis}={getattr(r, axis)} parts; {axis} can be "
            f"{divisors(number)}"
        )

    def broken(r: Any) -> Any:
        return getattr(r, count) % getattr(r, axis)

    return Rule("model", f"{things} that `{axis}` does not divide", broken, why, message=message)


RULES: dict[str, Rule] = {
    "product": Rule(
        "mesh",
        "a mesh whose product is not the number of workers",
        lambda r: misfit(r.shape, r.workers),
        "every worker has one place on the mesh",
        message=lambda r: misfit(r.shape, r.workers),
    ),
    "chunks": Rule(
        "options",
        "`--chunks` above 1 without `--schedule interleaved`, or 1 with it",
        lambda r: (r.chunks > 1) != SCHEDULES[r.schedule].interleaves,
        "only an interleaved pipeline has several stages on each rank",
        message=lambda r: (
            f"{r.schedule} with {r.chunks} chunks; {'2 or more' if r.chunks == 1 else '1'} "
            "would fit"
        ),
    ),
    "pipeline": Rule(
        "options",
        "`--schedule` with `pp=1`",
        lambda r: r.schedule != "1f1b" and r.pp == 1,
        "without a pipeline there is nothing to schedule",
        message=lambda r: f"{r.schedule} is a pipeline schedule, and the mesh has pp=1",
    ),
    "zero-bubble": Rule(
        "options",
        "`--schedule zero-bubble` with `--zero 2` or 3",
        lambda r: r.zero >= 2 and r.schedule == "zero-bubble",
        "zero-bubble postpones weight gradients, and ZeRO from stage 2 on has no memory for them",
        "zero=1, or the schedule 1f1b,",
    ),
    "replicas": Rule(
        "options",
        "`--local-steps` with `dp=1`",
        lambda r: r.local_steps > 1 and r.dp == 1,
        "local steps are for data-parallel replicas, and the mesh has dp=1",
    ),
    "diverged": Rule(
        "options",
        "`--local-steps` with `--zero`",
        lambda r: r.local_steps > 1 and r.zero,
        "ZeRO shards what replicas have in common, and with local steps they differ",
        "zero=0, or local_steps=1,",
    ),
    "priority": Rule(
        "options",
        "`--priority` with `--zero`, `--local-steps` or `--compress`",
        lambda r: r.priority and (r.zero or r.local_steps > 1 or r.compress),
        "priority orders the gradients of plain data parallelism",
        "zero=0, local_steps=1 and no compression",
    ),
    "residual": Rule(
        "options",
        "`--compress` with `--zero` or `ep`",
        lambda r: r.compress and (r.zero or r.ep > 1),
        "a compressor remembers what it lost of each rank's whole gradient, which ranks under "
        "ZeRO or with experts of their own do not have",
        "zero=0 and ep=1",
    ),
    "no gradients": Rule(
        "options",
        "`--compress` with `--local-steps`, or with `dp=1` and `cp=1`",
        lambda r: r.compress and (r.local_steps > 1 or r.dp * r.cp == 1),
        "no gradients travel between replicas with local steps, nor with dp=1 and cp=1",
        "no compress",
    ),
    "partial gradients": Rule(
        "options",
        "`--compress` with `--sequence`",
        lambda r: r.compress and r.sequence,
        "with sequence parallelism some gradients are summed again after the compressed sum, and "
        "a compressor needs whole ones",
        "sequence=False",
    ),
    "no activations": Rule(
        "options",
        "`--compress-activations` with `tp=1` and `pp=1`",
        lambda r: r.compress_activations and r.tp == 1 and r.pp == 1,
        "no activations travel on a mesh with tp=1 and pp=1",
    ),
    "sequence": Rule(
        "options",
        "`--sequence` with `tp=1`",
        lambda r: r.sequence and r.tp == 1,
        "sequence parallelism needs tensor parallelism, and the mesh has tp=1",
    ),
    "device": Rule(
        "device",
        "`--compress-activations` with `--device cuda`",
        lambda r: r.compress_activations,
        "compress_activations does not work on a device: the CPU encodes, and every layer would "
        "wait for it",
        "no compress_activations, or the CPU,",
    ),
    "matrices": Rule(
        "run",
        "`--optimizer muon` or `adafactor` with `--zero` or `tp`, `adafactor` with `ep`",
        lambda r: r.optimizer in ("adafactor", "muon") and _sharded_by(r),
        "these optimizers work on whole matrices",
        message=lambda r: (
            f"{r.optimizer} works on whole matrices, which {' and '.join(_sharded_by(r))} would "
            "cut: its steps would differ from one process's; zero 0 and a mesh of dp, pp and cp, "
            "or another optimizer, such as adamw, would fit"
        ),
    ),
    "batch": Rule(
        "run",
        "`--batch-size` below `dp` x `ep` x `--accumulate`",
        lambda r: r.dp * r.ep * r.accumulate > r.batch_size,
        "every micro-batch of every rank needs a sample",
        message=_batch,
    ),
    "rounds": Rule(
        "run",
        "`--steps` or `--checkpoint-every` that is not a multiple of `--local-steps`",
        _uneven_rounds,
        "replicas can be saved only when they agree",
        message=lambda r: (
            f"{_uneven_rounds(r)}; with local_steps {r.local_steps} it has to be a multiple of "
            "that, since replicas agree only then"
        ),
    ),
    "equal batches": Rule(
        "run",
        "`--local-steps` with a `--batch-size` that `dp` does not divide",
        lambda r: r.local_steps > 1 and r.batch_size % r.dp,
        "every replica counts alike when they agree",
        message=lambda r: (
            f"local steps need equal batches, and a batch of {r.batch_size} cannot be cut into "
            f"dp={r.dp} equal parts"
        ),
    ),
    "clipping": Rule(
        "run",
        "`--priority` with `--clip`",
        lambda r: r.priority and r.clip,
        "clipping waits for all gradients, and priority does not",
        "clip 0",
    ),
    "heads": _divided("heads", "n_head", "tp", "each head is on one rank"),
    "key heads": _divided("heads of keys", "n_kv_head", "tp", "each head of keys is on one rank"),
    "no experts": Rule(
        "model",
        "`ep` without `--experts`",
        lambda r: r.ep > 1 and not r.experts,
        "there is nothing to shard",
        message=lambda r: (
            f"ep={r.ep} shards experts, and the model has none: experts {2 * r.ep}, or "
            f"dp={r.dp * r.ep}, would fit"
        ),
    ),
    "experts": _divided("experts", "experts", "ep", "every rank has as many experts"),
    "stages": Rule(
        "model",
        "more stages (`pp` x `--chunks`) than blocks",
        lambda r: r.pp * r.chunks > r.n_layer,
        "a stage has at least one block",
        message=lambda r: (
            f"{r.n_layer} blocks are too few for {r.pp * r.chunks} stages (pp={r.pp}, "
            f"{r.chunks} chunks); at most {r.n_layer} stages would fit"
        ),
    ),
    "contexts": Rule(
        "run",
        "`--block-size` that 2 x `cp` does not divide",
        lambda r: r.cp > 1 and r.block_size % (2 * r.cp),
        "each rank has an early and a late part of a context, all equally long",
        message=lambda r: (
            f"block_size {r.block_size} cannot be cut into 2 x cp={r.cp} equal parts; a multiple "
            f"of {2 * r.cp} would fit"
        ),
    ),
    "sequence parts": Rule(
        "run",
        "`--sequence` with a `--block-size` that `cp` x `tp` does not divide",
        lambda r: r.sequence and r.block_size // r.cp % r.tp,
        "each rank has an equal part of a sequence",
        message=lambda r: (
            f"block_size {r.block_size} cannot be cut along the sequence into tp={r.tp} equal "
            f"parts; a multiple of {r.cp * r.tp} would fit"
        ),
    ),
    "causal": Rule(
        "module",
        "`cp` with attention that is not causal, or has biases or dropout (BERT, T5)",
        lambda r: not r.plain,
        "ring attention is causal, without biases and dropout",
        message=lambda r: (
            "ring attention is causal, without biases and dropout: this model's contexts cannot "
            f"be cut; cp=1 and dp={r.dp * r.cp} would fit"
        ),
    ),
    "padding": Rule(
        "module",
        "`tp` with an embedding that has a `padding_idx`",
        lambda r: r.padding_idx is not None,
        "sharded embeddings do not support it",
        message=lambda r: (
            f"{r.path} has a padding_idx, which sharded embeddings do not support: tp=1 would fit"
        ),
    ),
    "frozen": Rule(
        "module",
        "any mesh with frozen parameters",
        lambda r: r.frozen,
        "a mesh trains all parameters",
        message=lambda r: (
            f"{r.frozen[0]} is frozen, and a mesh trains all parameters: nn.merge_lora(model) if "
            'there is LoRA, and nn.unfreeze(model, "*"), would fit'
        ),
    ),
    "head width": Rule(
        "config",
        "`--n-embd` that `--n-head` does not divide",
        lambda r: r.n_embd % r.n_head,
        "heads are equally wide",
        message=lambda r: f"n_embd {r.n_embd} cannot be cut into n_head {r.n_head} heads",
    ),
    "llama": Rule(
        "config",
        "`--model llama` with `--dropout` or `--experts`",
        lambda r: r.model == "llama" and (r.dropout or r.experts),
        "a llama has none",
        message=lambda r: (
            f"{'dropout' if r.dropout else 'experts'} is {r.dropout or r.experts}, and a llama "
            "has none: 0, or model gpt, would fit"
        ),
    ),
    "gpt": Rule(
        "config",
        "`--n-kv-head` without `--model llama`",
        lambda r: r.model != "llama" and r.n_kv_head,
        "only a llama's heads share keys",
        message=lambda r: (
            f"n_kv_head is {r.n_kv_head}; only a llama's heads share keys: 0, or model llama, "
            "would fit"
        ),
    ),
    "shared keys": Rule(
        "config",
        "`--n-head` that `--n-kv-head` does not divide",
        lambda r: r.n_kv_head and r.n_head % r.n_kv_head,
        "every head of keys serves as many queries",
        message=lambda r: f"n_head {r.n_head} cannot share n_kv_head {r.n_kv_head}",
    ),
    "top_k": Rule(
        "config",
        "`--top-k` above `--experts`",
        lambda r: r.experts and r.top_k > r.experts,
        "a position chooses different experts",
        message=lambda r: (
            f"top_k is {r.top_k}, and there are {r.experts} experts; at most {r.experts} would fit"
        ),
    ),
}


def problem(facts: Mapping[str, Any], *scopes: str) -> str:
    """The message of the first rule of these scopes that the facts break; "" if there is none."""
    found = SimpleNamespace(**facts)
    problems = (rule.problem(found) for rule in RULES.values() if rule.scope in scopes)
    return next(filter(None, problems), "")


def require(name: str, **facts: Any) -> None:
    """Raise MeshError if the facts break the rule of this name."""
    if text := RULES[name].problem(SimpleNamespace(**facts)):
        raise MeshError(text)


def table() -> str:
    """The table of docs/parallel.md, in Markdown."""
    rows = [f"| {rule.what} | {rule.why} |" for rule in RULES.values()]
    return "\n".join(["| cannot be combined | because |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table())
