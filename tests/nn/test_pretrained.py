"""Folders of models: what is loaded, saved, and refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringlet import nn
from ringlet.nn.models import (
    BERT,
    GPT,
    T5,
    BERTConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    PretrainedError,
    T5Config,
    from_pretrained,
)
from ringlet.nn.safetensors import SafetensorsError

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8)


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder, change):
    arrays = load_file(folder / "model.safetensors")
    save_file(change(arrays), folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    GPT(CONFIG, seed=3).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def assert_same(model, other):
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


def test_a_saved_model_is_loaded(folder):
    model = GPT.from_pretrained(str(folder))
    assert model.config == CONFIG
    assert_same(model, GPT(CONFIG, seed=3))
    arrays = load_file(folder / "model.safetensors")
    assert arrays["transformer.h.0.mlp.c_fc.weight"].shape == (8, 32)  # GPT-2's: (in, out)
    assert "lm_head.weight" not in arrays


@pytest.mark.parametrize("shard_bytes", [1, 900, 2000])
def test_shards(tmp_path, shard_bytes):
    model = GPT(CONFIG, seed=3)
    model.save_pretrained(tmp_path, shard_bytes)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(p.data.nbytes for p in model.parameters())
    for file in files:
        arrays = load_file(tmp_path / file)
        assert sum(a.nbytes for a in arrays.values()) <= shard_bytes or len(arrays) == 1
    assert_same(GPT.from_pretrained(tmp_path), model)


def test_a_config_keeps_what_it_said(folder, tmp_path):
    edit(folder, bos_token_id=7, dtype="bfloat16", architectures=["GPT2Model"])
    GPT.from_pretrained(folder).save_pretrained(tmp_path / "b")
    values = json.loads((tmp_path / "b" / "config.json").read_text())
    assert values["bos_token_id"] == 7
    assert values["torch_dtype"] == "float32"
    assert "dtype" not in values
    assert values["architectures"] == ["GPT2LMHeadModel"]


def test_files_of_the_model_without_its_head(folder):
    """As the hub's gpt2: no prefix, and masks that are no parameters."""

    def bare(arrays):
        plain = {name.removeprefix("transformer."): array for name, array in arrays.items()}
        return plain | {"h.0.attn.bias": np.ones((1, 1, 6, 6), np.float32)}

    rewrite(folder, bare)
    assert_same(GPT.from_pretrained(folder), GPT(CONFIG, seed=3))


def test_halves_are_loaded_as_float32(folder):
    rewrite(folder, lambda arrays: {k: a.astype(np.float16) for k, a in arrays.items()})
    weight = GPT.from_pretrained(folder).transformer.wte.weight.data
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, GPT(CONFIG, seed=3).transformer.wte.weight.data, atol=1e-4)


def without(name):
    def change(arrays):
        del arrays[name]
        return {**arrays, "extra": np.ones(1, np.float32)}

    return change


def test_what_is_missing_unexpected_or_misshaped_is_listed(folder):
    rewrite(folder, without("transformer.h.0.ln_1.weight"))
    with pytest.raises(KeyError, match=r"missing: transformer.h.0.ln_1.weight; unexpected: extra"):
        GPT.from_pretrained(folder)
    assert GPT.from_pretrained(folder, strict=False).transformer.h[0].ln_1.weight.data.min() == 1
    edit(folder, n_positions=7)
    with pytest.raises(KeyError, match=r"wpe.weight: \(6, 8\) for \(7, 8\)"):
        GPT.from_pretrained(folder, strict=False)


def tiny(kind):
    """A small model of the kind, its config tied or not, and its ids."""
    llama = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    return {
        GPT: lambda tied: GPTConfig(11, 6, 1, 2, 8, tie_word_embeddings=tied),
        Llama: lambda tied: LlamaConfig(11, num_hidden_layers=1, tie_word_embeddings=tied, **llama),
        BERT: lambda tied: BERTConfig(11, num_hidden_layers=1, tie_word_embeddings=tied, **llama),
        T5: lambda tied: T5Config(
            11, 8, 4, 12, 1, num_heads=2, tie_word_embeddings=tied, decoder_start_token_id=0
        ),
    }[kind]


NAMES = {  # of the head's matrix and the embedding in files, and of one more copy
    GPT: ("lm_head.weight", "transformer.wte.weight", None),
    Llama: ("lm_head.weight", "model.embed_tokens.weight", None),
    BERT: (
        "cls.predictions.decoder.weight",
        "bert.embeddings.word_embeddings.weight",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    T5: ("lm_head.weight", "shared.weight", ("shared.weight", "decoder.embed_tokens.weight")),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_tied_model_s_matrix_may_be_there_under_either_name_or_both(tmp_path, kind):
    head, table, more = NAMES[kind]
    model = kind(tiny(kind)(True), seed=3)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for names in ([table], [head], [head, table]):
        without_it = {name: array for name, array in saved.items() if name != table}
        rewrite(tmp_path, lambda _, a=without_it, n=names: a | dict.fromkeys(n, saved[table]))
        loaded = kind.from_pretrained(tmp_path)
        assert loaded.config.tie_word_embeddings
        assert_same(loaded, model)
    if more:
        name, copy = more
        for names in ([copy], [name, copy]):
            others = {key: array for key, array in saved.items() if key != name}
            rewrite(tmp_path, lambda _, a=others, n=names: a | dict.fromkeys(n, saved[name]))
            assert_same(kind.from_pretrained(tmp_path), model)
        rewrite(tmp_path, lambda _: saved | {copy: saved[name] + 1})
        with pytest.raises(PretrainedError, match=f"{copy} differs from {name}"):
            kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", NAMES)
def test_a_head_of_its_own_counts_whatever_the_config_says(tmp_path, kind):
    head, table, _ = NAMES[kind]
    untied = kind(tiny(kind)(False), seed=3)
    own = np.random.default_rng(0).standard_normal((11, 8)).astype(np.float32)
    assert untied.output.weight is not kind(tiny(kind)(True)).output.weight
    untied.output.weight.data[...] = own
    untied.save_pretrained(tmp_path / "a")
    for tied in (False, True):
        edit(tmp_path / "a", tie_word_embeddings=tied)
        loaded = kind.from_pretrained(tmp_path / "a")
        assert_same(loaded, untied)
        np.testing.assert_array_equal(loaded.output.weight.data, own)
        loaded.save_pretrained(tmp_path / f"b{tied}")
        assert_same(kind.from_pretrained(tmp_path / f"b{tied}"), untied)
    edit(tmp_path / "a", tie_word_embeddings=False)
    for name in (head, table):
        rewrite(tmp_path / "a", lambda _, n=name: {
            key: array
            for key, array in load_file(tmp_path / "bTrue" / "model.safetensors").items()
            if key != n
        })  # fmt: skip
        with pytest.raises(KeyError, match="missing: "):
            kind.from_pretrained(tmp_path / "a")


def test_a_loaded_model_evaluates(folder):
    assert not any(module.training for module in GPT.from_pretrained(folder).modules())
    assert not any(module.training for module in from_pretrained(folder).modules())


def test_old_weights_beside_new_shards_are_refused(folder, tmp_path):
    GPT(CONFIG, seed=4).save_pretrained(tmp_path / "b", 900)
    for path in (tmp_path / "b").glob("model*"):
        shutil.copy(path, folder)
    with pytest.raises(
        PretrainedError, match=r"both model.safetensors and model.safetensors.index"
    ):
        GPT.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    assert_same(GPT.from_pretrained(folder), GPT(CONFIG, seed=4))
    (folder / "config.json").unlink()
    with pytest.raises(FileExistsError, match="holds a model already"):
        GPT(CONFIG).save_pretrained(folder)


def test_an_index_of_one_file(folder):
    places = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert_same(GPT.from_pretrained(folder), GPT(CONFIG, seed=3))


ENDS = {
    "none": ({}, None, ()),
    "one": ({"eos_token_id": 2}, None, (2,)),
    "several": ({"eos_token_id": [2, 5]}, None, (2, 5)),
    "no list": ({"eos_token_id": []}, None, ()),
    "null": ({"eos_token_id": None}, None, ()),
    "generation's null": ({"eos_token_id": 2}, {"eos_token_id": None}, (2,)),
    "generation's": ({}, {"eos_token_id": [5, 7]}, (5, 7)),
    "generation's first": ({"eos_token_id": 2}, {"eos_token_id": 5}, (5,)),
    "generation says nothing": ({"eos_token_id": 2}, {"top_p": 0.5}, (2,)),
}


@pytest.mark.parametrize("case", ENDS)
@pytest.mark.parametrize("kind", [GPT, T5])
def test_the_ids_that_end_a_text(tmp_path, case, kind):
    values, generation, ends = ENDS[case]
    kind(tiny(kind)(True)).save_pretrained(tmp_path / "a")
    edit(tmp_path / "a", **{"eos_token_id": None, **values})
    if generation is not None:
        (tmp_path / "a" / "generation_config.json").write_text(json.dumps(generation))
    for name in "ab":  # as it was, and saved again
        model = from_pretrained(tmp_path / name)
        assert (model.eos, model.generation) == (ends, generation or {})
        if name == "a":
            model.save_pretrained(tmp_path / "b")


@pytest.mark.parametrize("value", ["x", True, 1.5, [1, None], {}, {"a": 1}])
def test_ids_that_are_none_are_refused(folder, value):
    edit(folder, eos_token_id=value)
    with pytest.raises(PretrainedError, match=r"eos_token_id is .* must be an id"):
        GPT.from_pretrained(folder)


def test_lora_is_merged_before_it_is_saved(tmp_path):
    model = Llama(tiny(Llama)(False))
    nn.add_lora(model, "*.q_proj")
    with pytest.raises(PretrainedError, match=r"self_attn.q_proj has LoRA matrices.*merge_lora"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    nn.merge_lora(model)
    model.save_pretrained(tmp_path)
    assert_same(Llama.from_pretrained(tmp_path), model)


REFUSED = {
    "another model": ({"model_type": "llama"}, "is of a 'llama', not of a 'gpt2'"),
    "an activation": ({"activation_function": "relu"}, 'activation_function: "relu"; this model'),
    "no width": ({"n_embd": None}, "n_embd: None"),
    "layers": ({"n_layer": -1}, "n_layer: -1; it must be"),
    "an inner width": ({"n_inner": 5}, "n_inner is 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_is_not_built_here_is_refused(folder, case):
    values, words = REFUSED[case]
    edit(folder, **values)
    with pytest.raises(PretrainedError, match=words):
        GPT.from_pretrained(folder)


SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
YARN = {"rope_type": "yarn", "factor": 2.0}
LLAMAS_REFUSED = {
    "a window": ("llama", {"sliding_window": 4}, "sliding_window: 4; this model supports null"),
    "layers": ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types: .*full_attention"),
    "a kind of layer": (
        "qwen3",
        {"layer_types": ["chunked_attention"] * 2},
        "layer_types are .*'chunked_attention'.*for each of 2 layers",
    ),
    "too few layers": (
        "qwen2",
        {"use_sliding_window": True, "layer_types": ["sliding_attention"]},
        "for each of 2 layers",
    ),
    "no window": (
        "qwen2",
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types of sliding_attention, and no sliding_window",
    ),
    "part of a head": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    "part of a head inside": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor: 0.5",
    ),
    "a rope": ("llama", {"rope_scaling": {"type": "longrope"}}, "rope_type is 'longrope'; known"),
    "a rope's option": (
        "llama",
        {"rope_scaling": {**YARN, "long_factor": [1.0]}},
        "yarn has no long_factor",
    ),
    "a rope by layers": (
        "llama",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "default has no full_attention",
    ),
    "a rope without a factor": ("llama", {"rope_scaling": {"type": "linear"}}, "needs factor"),
    "quantized": ("llama", {"quantization_config": {"bits": 4}}, "has a quantization_config"),
    "another model": ("gemma", {}, "is of a 'gemma', not of a 'llama' or 'mistral' or 'qwen2'"),
}


@pytest.mark.parametrize("case", LLAMAS_REFUSED)
def test_what_a_llama_s_config_cannot_have_is_refused(tmp_path, case):
    kind, values, words = LLAMAS_REFUSED[case]
    Llama(LlamaConfig(11, **SMALL)).save_pretrained(tmp_path)
    edit(tmp_path, model_type=kind, **values)
    with pytest.raises(PretrainedError, match=words):
        Llama.from_pretrained(tmp_path)


SLIDING, FULL = "sliding_attention", "full_attention"
LLAMAS = {  # options, the model_type of its files, and what they say
    "llama": ({"attention_bias": True, "mlp_bias": True}, "llama", {"rope_scaling": None}),
    "yarn": ({"rope_scaling": {**YARN, "original_max_position_embeddings": 4}}, "llama", {}),
    "mistral": ({"sliding_window": 3}, "mistral", {"sliding_window": 3}),
    "qwen2": ({"qkv_bias": True}, "qwen2", {"use_sliding_window": False, "sliding_window": None}),
    "qwen3": (
        {"qk_norm": True, "sliding_window": 3, "layer_types": (FULL, SLIDING)},
        "qwen3",
        {"use_sliding_window": True, "layer_types": [FULL, SLIDING], "sliding_window": 3},
    ),
}


@pytest.mark.parametrize("case", LLAMAS)
def test_relatives_of_llama_are_saved_as_what_they_are(tmp_path, case):
    options, kind, said = LLAMAS[case]
    sizes = {**SMALL, "num_key_value_heads": 1, "head_dim": 4}
    model = Llama(LlamaConfig(11, **sizes, **options))
    model.save_pretrained(tmp_path / "a")
    values = json.loads((tmp_path / "a" / "config.json").read_text())
    assert values["model_type"] == kind
    assert values["architectures"][0].lower() == f"{kind}forcausallm"
    assert said.items() <= values.items()
    for again in (from_pretrained(tmp_path / "a"), Llama.from_pretrained(tmp_path / "a")):
        assert again.config == model.config
        assert_same(again, model)


def test_a_config_keeps_its_family_s_defaults(tmp_path):
    """As the library reads them: a Mistral has a window and 8 heads of keys unless it says not."""
    sizes = {**SMALL, "num_attention_heads": 8, "hidden_size": 16}
    Llama(LlamaConfig(11, **sizes, sliding_window=3)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["sliding_window"], values["num_key_value_heads"], values["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = Llama.from_pretrained(tmp_path).config
    assert (config.sliding_window, config.groups, config.width) == (4096, 8, 2)
    edit(tmp_path, sliding_window=None)
    assert Llama.from_pretrained(tmp_path).config.sliding_window == 0


def test_a_mixture_that_nobody_has_is_not_saved(tmp_path):
    model = Llama(LlamaConfig(11, **SMALL, qkv_bias=True, qk_norm=True))
    with pytest.raises(PretrainedError, match="together what this one has: qkv_bias True, qk_norm"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bert_without_its_head(tmp_path):
    """Loaded as an encoder, unless its config promises a head: then it is missing."""
    BERT(BERTConfig(11, **SMALL), seed=3).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda arrays: {
        name.removeprefix("bert."): array
        for name, array in arrays.items() if not name.startswith("cls.")
    } | {"pooler.dense.weight": np.ones((8, 8), np.float32)})  # fmt: skip
    with pytest.raises(KeyError, match=r"missing: cls.predictions"):
        BERT.from_pretrained(tmp_path)
    edit(tmp_path, architectures=["BertModel"])
    model = from_pretrained(tmp_path)
    assert not any(name.startswith("cls") for name, _ in model.named_parameters())
    assert BERT.from_pretrained(tmp_path, strict=False).config.language_head
    model.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["architectures"] == [
        "BertModel"
    ]
    assert_same(from_pretrained(tmp_path / "b"), model)
    rewrite(tmp_path, lambda arrays: arrays | {"classifier.weight": np.ones((2, 8), np.float32)})
    with pytest.raises(KeyError, match=r"unexpected: bert.classifier.weight"):
        from_pretrained(tmp_path)


def test_folders_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(PretrainedError, match=r"config.json does not exist"):
        GPT.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match=r"neither .* pytorch_model.bin is a pickle"):
        GPT.from_pretrained(folder)
    with pytest.raises(FileExistsError, match="holds a model already"):
        GPT(CONFIG).save_pretrained(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(PretrainedError, match="is not a JSON object"):
        GPT.from_pretrained(folder)


INDEXES = {
    "no map": ({}, "needs a weight_map"),
    "a file elsewhere": ({"weight_map": {"x": "../model.safetensors"}}, "files beside it"),
    "a file of a long name": ({"weight_map": {"x": "y" * 300}}, "File name too long"),
    "a file that is not there": ({"weight_map": {"x": "other"}}, "has no other, which its index"),
    "an array that is not there": (
        {"weight_map": {"x": "one.safetensors"}},
        "has no x in one.safetensors",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_refused(folder, case):
    index, words = INDEXES[case]
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((PretrainedError, SafetensorsError), match=words):
        GPT.from_pretrained(folder)
