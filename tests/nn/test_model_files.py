"""Model files written for PyTorch run after their import lines are changed, and learn the same.

RINGLET_MODEL_FILES names a folder with clones of karpathy/nanoGPT, karpathy/minGPT,
huggingface/picotron, karpathy/llama2.c and harvardnlp/annotated-transformer. Without it the model
that is here, in the same style, is tested alone.
"""

import importlib.util
import os
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from ringlet import nn

FOLDER = Path(os.environ.get("RINGLET_MODEL_FILES", "none"))
LIBRARIES = ["ringlet", "torch"] if importlib.util.find_spec("torch") else ["ringlet"]
IDS = np.random.default_rng(0).integers(1, 11, (3, 8))
IMPORT = re.compile(r"( *)(import|from) +([\w.]+)(.*)")
ELSEWHERE = re.compile(
    r"(mingpt|picotron|flash_attn|pandas|altair|torchtext|spacy|GPUtil"
    r"|torch\.(utils|distributed|multiprocessing|nn\.parallel))\b"
)
"""What belongs to a model's surroundings; `others` are what the model itself needs of it."""


def changed(line, library):
    """An import line for the library; docs/how-to/pytorch_models.md has the same rules."""
    found = IMPORT.fullmatch(line)
    if not found:
        return line
    space, word, name, rest = found.groups()
    if ELSEWHERE.match(name):
        return f"{space}pass"
    if name.partition(".")[0] != "torch" or library == "torch":
        return line
    if name == "torch":
        return f"{space}{word} ringlet.nn.torch{rest or ' as torch'}"
    name = name.replace("torch.nn", "ringlet.nn").replace("torch.optim", "ringlet.nn.optim")
    return f"{space}{word} {name}{rest}"


@dataclass
class Case:
    """A file, how to make its model and its loss, and `edits` of other lines for ringlet."""

    path: Path
    make: Callable[[Any], Any]
    loss: Callable[[Any, Any, Any], Any] = lambda file, model, ids: model(ids, ids)[1]
    optimizer: tuple[Any, ...] | None = (0.1, 1e-2, (0.9, 0.95), "cpu")
    edits: dict[str, str] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    generates: bool = True

    def load(self, library):
        """The file as a module."""
        lines = [changed(line, library) for line in self.path.read_text().splitlines()]
        text = "\n".join(lines)
        for before, after in self.edits.items() if library == "ringlet" else ():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        module = types.ModuleType(self.path.stem)
        module.__dict__.update(self.others)
        exec(compile(text, str(self.path), "exec"), module.__dict__)
        return module

    def train(self, file, weights):
        """Losses, the first gradients, the parameters after the steps, and a generated text."""
        torch, model = file.torch, self.make(file).eval()
        if weights is not None:
            assert model.load_state_dict(weights) == ([], [])
        if self.optimizer is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        else:
            optimizer = model.configure_optimizers(*self.optimizer)
        ids, losses, gradients = torch.tensor(IDS), [], {}
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(file, model, ids)
            loss.backward()
            named = model.named_parameters()
            grads = {name: np.asarray(p.grad).copy() for name, p in named if p.grad is not None}
            gradients = gradients or grads
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(f"{loss:.6f}"))
        text = model.generate(ids[:, :3], 6, top_k=1).tolist() if self.generates else None
        ends = {name: p.detach().numpy() for name, p in model.named_parameters()}
        return losses, gradients, ends, text


def of_gpts(file):
    return file.GPT(file.GPTConfig(8, 13, n_layer=2, n_head=2, n_embd=16))


def of_mingpt(file):
    config = file.GPT.get_default_config()
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 13, "block_size": 8}
    config.merge_from_dict({"model_type": None, **sizes})
    return file.GPT(config)


def of_llama2(file):
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 13}
    return file.Transformer(file.ModelArgs(**sizes, max_seq_len=8, multiple_of=8))


def last_loss(file, model, ids):
    model(ids, ids)
    return model.last_loss


def of_picotron(file):
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 13}
    limits = {"rms_norm_eps": 1e-5, "max_position_embeddings": 8, "rope_theta": 1e4}
    return file.Llama(SimpleNamespace(**sizes, **limits))


def of_logits(file, model, ids):
    return file.F.cross_entropy(input=model(ids).flatten(0, 1), target=ids.flatten())


def of_annotated(file):
    return file.make_model(11, 11, N=2, d_model=16, d_ff=32, h=2, dropout=0.0)


def smoothed(file, model, ids):
    batch = file.Batch(ids, ids, 0)
    out = model.forward(batch.src, batch.tgt, batch.src_mask, batch.tgt_mask)
    criterion = file.LabelSmoothing(11, 0, 0.1)
    compute = file.SimpleLossCompute(model.generator, criterion)
    return compute(out, batch.tgt_y, batch.ntokens)[1]


GPT = {"optimizer": (SimpleNamespace(weight_decay=0.1, learning_rate=1e-2, betas=(0.9, 0.95)),)}
CASES = {
    "nanoGPT": lambda: Case(FOLDER / "nanoGPT/model.py", of_gpts),
    "minGPT": lambda: Case(
        FOLDER / "minGPT/mingpt/model.py", of_mingpt, **GPT, others={"CN": settings()}
    ),
    "llama2.c": lambda: Case(FOLDER / "llama2.c/model.py", of_llama2, last_loss),
    "picotron": lambda: Case(
        FOLDER / "picotron/picotron/model.py", of_picotron, of_logits, None, generates=False,
        others={
            "pgm": SimpleNamespace(process_group_manager=SimpleNamespace(tp_world_size=1)),
            "context_parallel": MagicMock(update_rope_for_context_parallel=lambda *both: both),
        },
    ),
    "annotated-transformer": lambda: Case(
        FOLDER / "annotated-transformer/the_annotated_transformer.py", of_annotated, smoothed, None,
        generates=False, others={"pd": MagicMock(), "alt": MagicMock()},
        edits={  # .data is an array here
            "true_dist = x.data.clone()": "true_dist = x.detach().clone()",
            "target.data.unsqueeze(1)": "target.unsqueeze(1)",
        },
    ),
}  # fmt: skip


def settings():
    return Case(FOLDER / "minGPT/mingpt/utils.py", of_mingpt).load("ringlet").CfgNode


def check(case):
    """Train with each library, from the same weights; both must learn, and the same."""
    files = [case.load(library) for library in LIBRARIES[::-1]]
    weights = {name: each.detach().numpy().copy() for name, each in begin(case, files[0]).items()}
    results = [case.train(file, as_tensors(file, weights)) for file in files]
    assert all(losses[2] < losses[1] < losses[0] for losses, *_ in results)
    if len(results) == 1:
        return
    (expected, theirs, ends, text), (losses, gradients, found, ours) = results
    np.testing.assert_allclose(losses, expected, atol=2e-5)
    for one, other in ((theirs, gradients), (ends, found)):
        assert list(one) == list(other)
        for name in one:
            close = {"rtol": 1e-3, "atol": 2e-5, "err_msg": name}
            np.testing.assert_allclose(other[name], one[name], **close)
    assert ours == text


def begin(case, file):
    file.torch.manual_seed(1)
    return case.make(file).state_dict()


def as_tensors(file, weights):
    return {name: file.torch.tensor(array) for name, array in weights.items()}


def test_a_model_file_runs_with_its_imports_changed():
    check(Case(Path(__file__).with_name("torch") / "model_file.py", lambda f: f.Model(f.Config())))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="RINGLET_MODEL_FILES names no folder of clones")
@pytest.mark.parametrize("name", CASES)
def test_public_model_files_run_with_their_imports_changed(name, monkeypatch):
    names = {"FLASH_ATTEN": "0", "DEVICE": "cpu", "DTYPE": "float32", "LOCAL_RANK": "0"}
    for variable, value in names.items():  # picotron's path for CPUs
        monkeypatch.setenv(variable, value)
    check(CASES[name]())


@pytest.mark.skipif(not FOLDER.is_dir(), reason="RINGLET_MODEL_FILES names no folder of clones")
def test_mingpts_trainer_trains_with_a_loader_that_is_given():
    def loader(dataset, **options):
        return [[nn.Tensor(IDS), nn.Tensor(IDS)]] * 9

    sampler = "sampler=torch.utils.data.RandomSampler"
    line = f"{sampler}(self.train_dataset, replacement=True, num_samples=int(1e10)),"
    others = {"CN": settings(), "DataLoader": loader}
    path = FOLDER / "minGPT/mingpt/trainer.py"
    kind = Case(path, of_mingpt, edits={line: ""}, others=others).load("ringlet").Trainer
    config, losses = kind.get_default_config(), []
    config.merge_from_dict({"max_iters": 5, "learning_rate": 1e-2})
    trainer = kind(config, of_mingpt(CASES["minGPT"]().load("ringlet")), None)
    trainer.set_callback("on_batch_end", lambda trainer: losses.append(trainer.loss.item()))
    trainer.run()
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.3


def test_pytorchs_own_tensors_are_loaded_and_copied():
    linear = pytest.importorskip("torch").nn.Linear(2, 2)
    own, state = nn.Linear(2, 2), linear.state_dict()
    assert own.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(own.bias.data, state["bias"].numpy())
    with nn.no_grad():
        own.state_dict()["weight"].copy_(state["weight"].t())
    np.testing.assert_array_equal(own.weight.data, state["weight"].numpy().T)
