"""The rules of what can be combined: one table, from which errors and documentation are made.

A rule says when it is broken, as a function of facts: the axes of the mesh and the options by
their names. `parallelize`, the sharding styles, the trainer and the launcher refuse by this table,
before anything starts. docs/reference/combinations.md has what `table()` returns.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from ringlet.comm.schedules.svg import counted
from ringlet.runtime.mesh import MeshError, divisors_text, misfit, share
from ringlet.runtime.pipeline.schedules import chunks_problem, fit_problem, recipe_of, title_of


class Rule(NamedTuple):
    """What is refused and why ("what | why", its row in the documentation), and when.

    The message is the error, with facts in braces.
    """

    row: str
    broken: Callable[[Any], Any]
    message: str | Callable[[Any], str] = "{why}"

    def problem(self, facts: Mapping[str, Any]) -> str:
        """The error's message; "" if the facts keep the rule."""
        found = SimpleNamespace(**facts)
        if not self.broken(found):
            return ""
        if callable(self.message):
            return self.message(found)
        return self.message.format(why=self.row.partition(" | ")[2], **facts)


def _batch(r: Any) -> str:
    parts = f" with {r.accumulate} micro-batches each" if r.accumulate > 1 else ""
    axes = "workers" if r.dp == max(r.shape.values()) else "data-parallel ranks"
    most = r.batch_size // r.accumulate
    return f"{r.dp * r.ep} {axes}{parts} cannot share a batch of {r.batch_size}; at most {most} can"


def _sharded_by(r: Any) -> str:
    """What shards matrices that the optimizer needs whole."""
    cuts = {"zero": r.zero, "tp": r.tp > 1, "ep": r.ep > 1 and r.optimizer == "adafactor"}
    return " and ".join(name for name, here in cuts.items() if here)


def _uneven_rounds(r: Any) -> str:
    """An interval that ends where replicas do not agree, and its length."""
    names = [n for n in ("steps", "checkpoint_every") if getattr(r, n) % r.local_steps]
    return f"{names[0]} is {getattr(r, names[0])}" if names else ""


def _other_stages(r: Any) -> str:
    """What is wrong with the blocks that stages are given, with what would fit."""
    sizes, stages = r.layers_per_stage, r.pp * r.chunks
    if not sizes or (len(sizes) == stages and sum(sizes) == r.n_layer):
        return ""
    equal = ",".join(str(share(r.n_layer, stages, stage)[1]) for stage in range(stages))
    return (
        f"{counted(len(sizes), 'stage')} with {counted(sum(sizes), 'block')}, and there are "
        f"{stages} (pp={r.pp}, chunks {r.chunks}) with {r.n_layer}; {equal} would fit"
    )


def _divides(things: str, count: str, axis: str, why: str) -> Rule:
    """An axis of the mesh has to divide the number of these things."""
    return Rule(
        f"{things} that `{axis}` does not divide | {why}",
        lambda r: getattr(r, count) % getattr(r, axis),
        lambda r: (
            f"{getattr(r, count)} {things} cannot be cut into {axis}={getattr(r, axis)} parts; "
            f"{axis} can be {divisors_text(getattr(r, count))}"
        ),
    )


OPTIONS = {
    "chunks": Rule(
        "`--chunks` that `--schedule` does not have: `interleaved` 2 or more, `zb-v` 2, others 1 | "
        "the schedule decides how many stages are on each rank",
        lambda r: chunks_problem(r.schedule, r.chunks),
        lambda r: chunks_problem(r.schedule, r.chunks),
    ),
    "pipeline": Rule(
        "`--schedule` with `pp=1` | without a pipeline there is nothing to schedule",
        lambda r: r.schedule != "1f1b" and r.pp == 1,
        lambda r: f"{title_of(r.schedule)} is a pipeline schedule, and the mesh has pp=1",
    ),
    "schedule file": Rule(
        "`--schedule FILE.csv` that has not `pp` rows | it says what each rank computes",
        lambda r: fit_problem(r.schedule, ranks=r.pp),
        lambda r: f"{fit_problem(r.schedule, ranks=r.pp)}; the mesh has pp={r.pp}",
    ),
    "zero-bubble": Rule(
        "`--schedule zero-bubble` or `zb-...` with `--zero 2` or 3 | "
        "zero-bubble postpones weight gradients, and ZeRO from stage 2 on has no memory for them",
        lambda r: r.zero >= 2 and recipe_of(r.schedule).splits,
        "{why}; zero=1, or the schedule 1f1b, would fit",
    ),
    "replicas": Rule(
        "`--local-steps` with `dp=1` | "
        "local steps are for data-parallel replicas, and the mesh has dp=1",
        lambda r: r.local_steps > 1 and r.dp == 1,
    ),
    "diverged": Rule(
        "`--local-steps` with `--zero` | "
        "ZeRO shards what replicas have in common, and with local steps they differ",
        lambda r: r.local_steps > 1 and r.zero,
        "{why}; zero=0, or local_steps=1, would fit",
    ),
    "priority": Rule(
        "`--priority` with `--zero`, `--local-steps` or `--compress` | "
        "priority orders the gradients of plain data parallelism",
        lambda r: r.priority and (r.zero or r.local_steps > 1 or r.compress),
        "{why}; zero=0, local_steps=1 and no compression would fit",
    ),
    "residual": Rule(
        "`--compress` with `--zero` or `ep` | "
        "a compressor remembers what it lost of each rank's whole gradient, which ranks under "
        "ZeRO or with experts of their own do not have",
        lambda r: r.compress and (r.zero or r.ep > 1),
        "{why}; zero=0 and ep=1 would fit",
    ),
    "no gradients": Rule(
        "`--compress` with `--local-steps`, or with `dp=1` and `cp=1` | "
        "no gradients travel between replicas with local steps, nor with dp=1 and cp=1",
        lambda r: r.compress and (r.local_steps > 1 or r.dp * r.cp == 1),
        "{why}: without compress it would fit",
    ),
    "partial gradients": Rule(
        "`--compress` with `--sequence` | "
        "with sequence parallelism some gradients are summed again after the compressed sum, and "
        "a compressor needs whole ones",
        lambda r: r.compress and r.sequence,
        "{why}; sequence=False would fit",
    ),
    "no activations": Rule(
        "`--compress-activations` with `tp=1` and `pp=1` | "
        "no activations travel on a mesh with tp=1 and pp=1",
        lambda r: r.compress_activations and r.tp == 1 and r.pp == 1,
    ),
    "sequence": Rule(
        "`--sequence` with `tp=1` | "
        "sequence parallelism needs tensor parallelism, and the mesh has tp=1",
        lambda r: r.sequence and r.tp == 1,
    ),
    "device": Rule(
        "`--compress-activations` with `--device cuda` | "
        "compress_activations does not work on a device: the CPU encodes, and every layer would "
        "wait for it",
        lambda r: r.device == "cuda" and r.compress_activations,
        "{why}; without it, or on the CPU, it would fit",
    ),
}
"""Of the options of Parallelism, the axes, and `device`."""

RUN = {
    "product": Rule(
        "a mesh whose product is not the number of workers | "
        "every worker has one place on the mesh",
        lambda r: misfit(r.shape, r.workers),
        lambda r: misfit(r.shape, r.workers),
    ),
    "matrices": Rule(
        "`--optimizer muon` or `adafactor` with `--zero` or `tp`, `adafactor` with `ep` | "
        "these optimizers work on whole matrices",
        lambda r: r.optimizer in ("adafactor", "muon") and _sharded_by(r),
        lambda r: (
            f"{r.optimizer} works on whole matrices, which {_sharded_by(r)} would cut: its "
            "steps would differ from one process's; zero 0 and a mesh of dp, pp and cp, or another "
            "optimizer, such as adamw, would fit"
        ),
    ),
    "micro-batches": Rule(
        "`--schedule FILE.csv` for other micro-batches than `--accumulate` says | "
        "it says what is done with each",
        lambda r: fit_problem(r.schedule, micro_batches=r.accumulate),
        lambda r: f"{fit_problem(r.schedule, micro_batches=r.accumulate)}, not {r.accumulate}",
    ),
    "batch": Rule(
        "`--batch-size` below `dp` x `ep` x `--accumulate` | "
        "every micro-batch of every rank needs a sample",
        lambda r: r.dp * r.ep * r.accumulate > r.batch_size,
        _batch,
    ),
    "rounds": Rule(
        "`--steps` or `--checkpoint-every` that is not a multiple of `--local-steps` | "
        "replicas can be saved only when they agree",
        _uneven_rounds,
        lambda r: (
            f"{_uneven_rounds(r)}; with local_steps {r.local_steps} it has to be a multiple "
            "of that, since replicas agree only then"
        ),
    ),
    "equal batches": Rule(
        "`--local-steps` with a `--batch-size` that `dp` does not divide | "
        "every replica counts alike when they agree",
        lambda r: r.local_steps > 1 and r.batch_size % r.dp,
        "a batch of {batch_size} cannot be cut into dp={dp} equal parts, which local steps need",
    ),
    "clipping": Rule(
        "`--priority` with `--clip` | clipping waits for all gradients, and priority does not",
        lambda r: r.priority and r.clip,
        "{why}; clip 0 would fit",
    ),
    "contexts": Rule(
        "`--block-size` that 2 x `cp` does not divide | "
        "each rank has an early and a late part of a context, all equally long",
        lambda r: r.cp > 1 and r.block_size % (2 * r.cp),
        lambda r: (
            f"block_size {r.block_size} cannot be cut into 2 x cp={r.cp} equal parts; a "
            f"multiple of {2 * r.cp} would fit"
        ),
    ),
    "sequence parts": Rule(
        "`--sequence` with a `--block-size` that `cp` x `tp` does not divide | "
        "each rank has an equal part of a sequence",
        lambda r: r.sequence and r.block_size // r.cp % r.tp,
        lambda r: (
            f"block_size {r.block_size} cannot be cut along the sequence into tp={r.tp} "
            f"equal parts; a multiple of {r.cp * r.tp} would fit"
        ),
    ),
}
"""Of a TrainConfig, the axes, `shape` and the number of workers."""

MODEL = {
    "heads": _divides("heads", "n_head", "tp", "each head is on one rank"),
    "key heads": _divides("heads of keys", "n_kv_head", "tp", "each head of keys is on one rank"),
    "no experts": Rule(
        "`ep` without `--experts` | there is nothing to shard",
        lambda r: r.ep > 1 and not r.experts,
        lambda r: (
            f"ep={r.ep} shards experts, and the model has none: experts {2 * r.ep}, or "
            f"dp={r.dp * r.ep}, would fit"
        ),
    ),
    "experts": _divides("experts", "experts", "ep", "every rank has as many experts"),
    "stages": Rule(
        "more stages (`pp` x `--chunks`) than blocks | a stage has at least one block",
        lambda r: r.pp * r.chunks > r.n_layer,
        lambda r: (
            f"{r.n_layer} blocks are too few for {r.pp * r.chunks} stages (pp={r.pp}, "
            f"{r.chunks} chunks); at most {r.n_layer} stages would fit"
        ),
    ),
    "layers per stage": Rule(
        "`--layers-per-stage` that is not a number for each stage (`pp` x chunks), or whose sum is "
        "not the number of blocks | every block is in one stage",
        _other_stages,
        lambda r: (
            f"layers_per_stage is {','.join(map(str, r.layers_per_stage))}: {_other_stages(r)}"
        ),
    ),
}
"""Of a model's sizes, whether a config or the model tells them, on a mesh."""

MODULE = {
    "causal": Rule(
        "`cp` with attention that is not causal, or has biases, dropout, a sliding window or "
        "`dynamic` positions (BERT, T5, Mistral) | ring attention is causal, without biases, "
        "dropout, windows and positions that depend on the length",
        lambda r: not r.plain,
        "{why}: this model's contexts cannot be cut; cp=1 and dp={ranks} would fit",
    ),
    "padded contexts": Rule(
        "`cp` with an `attention_mask` | ring attention has no mask",
        lambda r: r.masked and r.cp > 1,
        "{why}: without it, padded at the end with targets of -100, or with cp=1 it would fit",
    ),
    "head norms": Rule(
        "`--compress` with `tp` and normalized queries and keys (Qwen3) | each rank has a part of "
        "these norms' gradients, and a compressor needs whole ones",
        lambda r: r.head_norm and r.compress and r.tp > 1,
        "{why}: without compress, or with tp=1, it would fit",
    ),
    "no head": Rule(
        "any mesh with a model without a head (a sentence encoder) | without a head there is no "
        "loss to train with",
        lambda r: r.missing,
        "{why}: this model has no {missing[0]}",
    ),
    "padding": Rule(
        "`tp` with an embedding that has a `padding_idx` | sharded embeddings do not support it",
        lambda r: r.padding_idx is not None,
        "{path} has a padding_idx, which sharded embeddings do not support: tp=1 would fit",
    ),
    "frozen": Rule(
        "any mesh with frozen parameters | a mesh trains all parameters",
        lambda r: r.frozen,
        "{frozen[0]} is frozen, and {why}: nn.merge_lora(model) if there is LoRA, and "
        'nn.unfreeze(model, "*"), would fit',
    ),
}
"""Of a module that is sharded."""

CONFIG = {
    "head width": Rule(
        "`--n-embd` that `--n-head` does not divide | heads are equally wide",
        lambda r: r.n_embd % r.n_head and not r.architecture,
        "n_embd {n_embd} cannot be cut into n_head {n_head} heads",
    ),
    "llama": Rule(
        "`--model llama` with `--dropout` or `--experts` | a llama has none",
        lambda r: r.model == "llama" and (r.dropout or r.experts),
        lambda r: (
            f"{'dropout' if r.dropout else 'experts'} is {r.dropout or r.experts}, and a "
            "llama has none: 0, or model gpt, would fit"
        ),
    ),
    "gpt": Rule(
        "`--n-kv-head` without `--model llama` | only a llama's heads share keys",
        lambda r: r.model != "llama" and r.n_kv_head,
        "n_kv_head is {n_kv_head}; {why}: 0, or model llama, would fit",
    ),
    "shared keys": Rule(
        "`--n-head` that `--n-kv-head` does not divide | every head of keys serves as many queries",
        lambda r: r.n_kv_head and r.n_head % r.n_kv_head,
        "n_head {n_head} cannot share n_kv_head {n_kv_head}",
    ),
    "top_k": Rule(
        "`--top-k` above `--experts` | a position chooses different experts",
        lambda r: r.experts and r.top_k > r.experts,
        "top_k is {top_k}, and there are {experts} experts; at most {experts} would fit",
    ),
}
"""Of a TrainConfig alone."""

RULES: dict[str, Rule] = {**OPTIONS, **RUN, **MODEL, **MODULE, **CONFIG}


def problem(facts: Mapping[str, Any], *groups: Mapping[str, Rule]) -> str:
    """The message of the first of these rules that the facts break; "" if they keep all."""
    problems = (rule.problem(facts) for rules in groups for rule in rules.values())
    return next(filter(None, problems), "")


def require(name: str, **facts: Any) -> None:
    """Raise MeshError if the facts break the rule of this name."""
    if text := RULES[name].problem(facts):
        raise MeshError(text)


def table() -> str:
    """The table of docs/reference/combinations.md, in Markdown."""
    rows = [f"| {rule.row} |" for rule in RULES.values()]
    return "\n".join(["| cannot be combined | because |", "|---|---|", *rows])
