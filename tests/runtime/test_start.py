"""Training that starts from a model: of a Hugging Face folder or of a run, on any mesh."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from quickly import mostly_slow
from small_runs import Rows, newest_weights, run_to_the_end, small_trainer
from whole_models import collected

from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn import uninitialized
from ringlet.nn.models import GPT, GPTConfig, Llama, LlamaConfig, from_pretrained
from ringlet.nn.safetensors import SafetensorsFile
from ringlet.runtime import (
    ConfigError,
    Mesh,
    Parallelism,
    Trainer,
    latest_checkpoint,
    load_corpus,
    make_config,
    parallelize,
)
from ringlet.runtime.training.corpus import training_batch
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.factories import make_model, make_schedule
from ringlet.runtime.training.start import from_folder, from_run, values_of

FIXTURES = Path(__file__).parents[1] / "nn" / "transformers" / "fixtures"
KINDS = ("gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3")
SIZES = {
    "block_size": 16, "batch_size": 4, "steps": 10, "eval_every": 10, "eval_windows": 4,
    "checkpoint_every": 10, "warmup_steps": 3, "dropout": 0.0,
}  # fmt: skip


def ids_file(folder, vocabulary=23):
    path = folder / "ids.bin"
    np.random.default_rng(0).integers(0, vocabulary, 3000).astype("<u2").tofile(path)
    return str(path)


def config_of(folder, data, **options):
    """The config of a run from a folder, with room for the data's ids."""
    start = from_folder(Path(folder))
    given = {"data": data, "start": str(folder), **SIZES, **options}
    if start.options["model"] == "llama":
        del given["dropout"]
    config = start.config(given)
    needed = load_corpus(data, config.block_size).vocab_size
    return replace(config, vocab_size=max(needed, config.vocab_size))


PLACES = {
    "dp": ({"dp": 2}, {}),
    "zero 1": ({"dp": 2}, {"zero": 1}),
    "zero 3": ({"dp": 2}, {"zero": 3}),
    "tp": ({"tp": 2}, {}),
    "pp": ({"pp": 2}, {"schedule": "zb-v"}),
    "cp": ({"cp": 2}, {"zero": 2}),
}


def filled(world, folders):
    """Whatever the mesh, all have the folder's values together."""
    for folder in folders:
        start = from_folder(Path(folder))
        config = start.config({"start": folder})
        whole = dict(from_pretrained(folder).named_parameters())
        for mesh, options in PLACES.values():
            if mesh.get("pp") and config.n_layer < 4:
                options = {}
            if mesh.get("cp") and getattr(make_model(config, 23).config, "sliding_window", 0):
                continue
            model = make_model(config, config.vocab_size)
            values = values_of(Path(folder), config, config.vocab_size)
            made = parallelize(model, Mesh(world, **mesh), Parallelism(**options), values=values)
            found = collected(made)
            assert set(found) == set(whole)
            for name, (value, _) in found.items():
                np.testing.assert_array_equal(value, whole[name].data, err_msg=f"{mesh} {name}")


@pytest.mark.parametrize(
    "names", [("gpt2", "llama3"), pytest.param(KINDS, marks=pytest.mark.slow)], ids="-".join
)
def test_each_rank_takes_its_part_of_a_folder(ranks, names):
    ranks(2).run(filled, folders=[str(FIXTURES / name) for name in names])


def in_bfloat16(folder):
    """Write the arrays of a folder anew, in half the bytes."""
    file = SafetensorsFile(folder / "model.safetensors")
    header, data = {}, b""
    for name, array in file.items():
        half = (np.ascontiguousarray(array).view("<u4") >> 16).astype("<u2").tobytes()
        places = [len(data), len(data) + len(half)]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": places}
        data += half
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_stages_in_a_v_and_bfloat16(ranks, tmp_path):
    GPT(GPTConfig(23, 16, 4, 2, 8)).save_pretrained(tmp_path)
    in_bfloat16(tmp_path)
    ranks(2).run(filled, folders=[str(tmp_path)])


def make(options):
    return make_config(options=options)


def trained(world, runs):
    """The losses of each of these runs."""
    found = []
    for config in map(make, runs):
        rows = []
        corpus = load_corpus(config.data, config.block_size, config.vocab_size)
        values = values_of(Path(config.start), config, config.vocab_size)
        Trainer(config, corpus, world, None, [Rows(rows.append)], values=values).run()
        found.append([row["loss"] for row in rows if "loss" in row])
    return found


MESHES = {"dp=2": {}, "tp=2": {}, "pp=2": {"accumulate": 2}, "cp=2": {}, "zero 3": {"zero": 3}}


def on_meshes(config):
    """The run on all meshes; a window cannot be cut."""
    whole = getattr(make_model(config, 23).config, "sliding_window", 0)
    return [
        asdict(replace(config, mesh=mesh if "=" in mesh else "dp=2", **options))
        for mesh, options in MESHES.items()
        if not (whole and mesh == "cp=2")
    ]


@pytest.mark.parametrize("name", mostly_slow(KINDS, "gpt2"))
def test_ten_steps_are_those_of_one_process(ranks, tmp_path, name):
    config = config_of(FIXTURES / name, ids_file(tmp_path))
    ((one,),) = ranks(1).run(trained, runs=[asdict(config)])
    for found in ranks(2).run(trained, runs=on_meshes(config))[:1]:
        for losses in found:
            assert losses == pytest.approx(one, abs=1e-5)
    assert len(one) == 10


def grown(world, data, folder):
    """Rows that are new have initial values; all others the folder's."""
    old = dict(from_pretrained(folder).named_parameters())
    config = config_of(folder, data, block_size=160)
    fresh = make_model(config, config.vocab_size)
    values = values_of(Path(folder), config, config.vocab_size)
    model = make_model(config, config.vocab_size)
    found = collected(parallelize(model, Mesh(world, tp=2), values=values))
    for name, (value, _) in found.items():
        rows = len(old[name].data)
        np.testing.assert_array_equal(value[:rows], old[name].data, err_msg=name)
        initial = fresh.initial_value(name, value.shape, config.seed)
        np.testing.assert_array_equal(value[rows:], initial[rows:], err_msg=name)
    return {name: value.shape[0] for name, (value, _) in found.items()}


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_vocabulary_and_a_context_may_grow(ranks, tmp_path, name):
    data = ids_file(tmp_path, 30)
    sizes, _ = ranks(2).run(grown, data=data, folder=str(FIXTURES / name))
    if name == "gpt2":
        assert (sizes["transformer.wte.weight"], sizes["transformer.wpe.weight"]) == (30, 160)
    else:
        assert (sizes["model.embed_tokens.weight"], sizes["lm_head.weight"]) == (30, 30)
    start = from_folder(FIXTURES / name)
    config = config_of(FIXTURES / name, data, block_size=160)
    assert start.news(config) == [
        "ids 23 to 29 of the vocabulary",
        "positions 128 to 159 of the context",
    ]


def test_what_the_folder_says_goes_into_the_export(tmp_path):
    config = config_of(FIXTURES / "qwen3", ids_file(tmp_path, 30))
    make_model(config, 30).save_pretrained(tmp_path / "out")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    had = json.loads((FIXTURES / "qwen3" / "config.json").read_text())
    same = {"model_type", "layer_types", "head_dim", "rope_parameters", "tie_word_embeddings"}
    assert {name: values[name] for name in same} == {name: had[name] for name in same}
    assert values["vocab_size"] == 30
    llama = json.loads((FIXTURES / "llama" / "config.json").read_text())
    assert make_model(config_of(FIXTURES / "llama", str(tmp_path / "ids.bin")), 30).eos == (
        llama["eos_token_id"],
    )


def without_its_folder(world, name, data, folder):
    """Train, lose the folder that it has started from, and go on."""
    config = replace(config_of(name, data), steps=2)
    corpus = load_corpus(data, config.block_size, config.vocab_size)
    values = values_of(Path(name), config, config.vocab_size)
    Trainer(config, corpus, world, Path(folder), values=values).run()
    shutil.rmtree(name)
    again = Trainer(replace(config, steps=3), corpus, world, Path(folder))
    assert again.resume() == 2
    again.run()


def test_a_run_needs_its_folder_no_more(ranks, tmp_path):
    shutil.copytree(FIXTURES / "qwen2", tmp_path / "m")
    given = {"name": str(tmp_path / "m"), "data": ids_file(tmp_path, 30)}
    ranks(1).run(without_its_folder, folder=str(tmp_path / "run"), **given)
    model = load_model(latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert (model.config.qkv_bias, model.config.vocab_size) == (True, 30)
    model.save_pretrained(tmp_path / "out")
    assert from_pretrained(tmp_path / "out").huggingface["model_type"] == "qwen2"


def library_losses(config):
    """Ten steps of the same recipe by transformers and PyTorch."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    corpus = load_corpus(config.data, config.block_size, config.vocab_size)
    model = library.AutoModelForCausalLM.from_pretrained(config.start, dtype=torch.float32).eval()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2))
    rate, losses = make_schedule(config), []
    for step in range(config.steps):
        sizes = config.block_size, config.batch_size
        batch = training_batch(corpus, *sizes, config.seed, step, 0, config.batch_size)
        ids, targets = (torch.tensor(each) for each in batch)
        logits = model(ids).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_steps_are_those_of_transformers(ranks, tmp_path, name):
    config = config_of(FIXTURES / name, ids_file(tmp_path))
    expected = library_losses(config)
    for found in ranks(2).run(trained, runs=on_meshes(config))[0]:
        assert found == pytest.approx(expected, abs=1e-4)


SMALL = {
    "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "batch_size": 4, "steps": 6,
    "eval_every": 3, "eval_windows": 3, "checkpoint_every": 3, "warmup_steps": 2,
}  # fmt: skip


def gone_on(world, folder, other):
    """A run's second half in its own folder and in another one."""
    run_to_the_end(world, SMALL, folder)
    half = Path(folder) / "checkpoints" / "step-000003"
    made, rows = small_trainer(world, SMALL, other)
    assert made.resume(half) == 3
    made.run()
    return [row["loss"] for row in rows]


def test_a_run_goes_on_in_another_folder_with_the_same_bits(ranks, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    losses, _ = ranks(2).run(gone_on, folder=str(one), other=str(other))
    assert len(losses) == 3
    expected = newest_weights(one)
    for name, value in newest_weights(other).items():
        np.testing.assert_array_equal(value, expected[name])


def trained_so(world, folder):
    run_to_the_end(world, SMALL, folder)


def of_a_run(world, folder):
    """A run's parameters where its optimizer cannot go on."""
    path = latest_checkpoint(Path(folder) / "checkpoints")
    start = from_run(Path(folder), path)
    reasons = [
        start.afresh(start.config(given))
        for given in ({}, {"optimizer": "lion"}, {"vocab_size": 300}, {"block_size": 16})
    ]
    config = start.config({"vocab_size": 300, "block_size": 16})
    values = values_of(start.path, config, 300)
    made = parallelize(make_model(config, 300), Mesh(world, tp=2), values=values)
    return reasons, {name: value for name, (value, _) in collected(made).items()}


def test_a_run_may_start_from_another_one(ranks, tmp_path):
    ranks(1).run(trained_so, folder=str(tmp_path))
    (reasons, values), _ = ranks(2).run(of_a_run, folder=str(tmp_path))
    assert reasons == [
        "", "it was adamw", "it has nothing for ids 256 to 299 of the vocabulary",
        "it has nothing for positions 8 to 15 of the context",
    ]  # fmt: skip
    for name, value in newest_weights(tmp_path).items():
        np.testing.assert_array_equal(values[name][: len(value)], value, err_msg=name)
    start = from_run(tmp_path, latest_checkpoint(tmp_path / "checkpoints"))
    for given, text in (
        ({"n_embd": 32}, "n_embd 32 contradicts"),
        ({"block_size": 4}, "only grow"),
    ):
        with pytest.raises(ConfigError, match=text):
            start.config(given)


def memory(name):
    """A figure of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) << 10


READ = {
    "tp": ({"tp": 2}, {}), "pp": ({"pp": 2}, {}), "zero 3": ({"dp": 2}, {"zero": 3}),
    "dp": ({"dp": 2}, {}),
}  # fmt: skip


def loaded(world, folder, mesh, options):
    """The bytes of this rank's parameters, of all that it has then, and of the peak before."""
    before, config = memory("VmRSS"), from_folder(Path(folder)).config({"start": folder})
    values = values_of(Path(folder), config, config.vocab_size)
    with uninitialized():
        model = make_model(config, config.vocab_size)
    made = parallelize(model, Mesh(world, **mesh), Parallelism(**options), values=values)
    own = sum(stop - start for shard in made.shards for start, stop in shard.segments)
    return 4 * own, memory("VmRSS") - before, memory("VmHWM") - before


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_reading_takes_the_ranks_part_and_at_most_one_file_more(tmp_path, name):
    sizes = LlamaConfig(4096, 1024, 2816, 6, 16, 4)
    Llama(sizes).save_pretrained(tmp_path, shard_bytes=64 << 20)
    largest = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    mesh, options = READ[name]
    with WorkerPool(2) as pool:  # whose memory nobody has used before
        found = pool.run(loaded, folder=str(tmp_path), mesh=mesh, options=options, deadline=60)
    for own, held, peak in found:
        shown = " ".join(f"{each >> 20}" for each in (own, held, peak, largest))
        print(f"{name}: parameters, held, peak, a file: {shown} MiB")
        assert own <= 1.05 * held
        assert peak < held + largest
