"""Tiny models of the transformers library with random weights, and what they compute.

Needs torch and transformers, which the ordinary tests do not have: `make_fixtures.py` writes down
what comes out of here.
"""

import numpy as np

VOCABULARY, BATCH, LENGTH, NEW = 23, 2, 12, 100
GPT2 = {"n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 4}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 16.0}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
    "beta_slow": 0.5,
}  # fmt: skip
LATER_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20,
}  # fmt: skip
T5 = {
    "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
    "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
}  # fmt: skip

MODELS = {
    "gpt2": ("GPT2", "GPT2LMHeadModel", GPT2),
    "llama": ("Llama", "LlamaForCausalLM", LLAMA),
    "llama3": (
        "Llama",
        "LlamaForCausalLM",
        {
            **LLAMA, "rope_scaling": LLAMA3, "rope_theta": 5000.0, "head_dim": 6,
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        },
    ),
    "llama-linear": ("Llama", "LlamaForCausalLM", {**LLAMA, "rope_scaling": LINEAR}),
    "llama-yarn": ("Llama", "LlamaForCausalLM", {**LLAMA, "rope_scaling": YARN, "head_dim": 8}),
    "llama-dynamic": (
        "Llama",
        "LlamaForCausalLM",
        {**LLAMA, "rope_scaling": DYNAMIC, "max_position_embeddings": 8},
    ),
    "mistral": ("Mistral", "MistralForCausalLM", {**LLAMA, "sliding_window": 5}),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", "Qwen3ForCausalLM", {**LLAMA, **LATER_WINDOW, "head_dim": 6}),
    "bert": ("Bert", "BertForMaskedLM", BERT),
    "bert-encoder": ("Bert", "BertModel", BERT),
    "t5": ("T5", "T5ForConditionalGeneration", T5),
    "t5-gated": (
        "T5",
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
         "num_decoder_layers": 1},
    ),
}  # fmt: skip
"""By name: the config's class, the model's and the sizes."""


def build(name):
    """The model, far from its even start, without dropout."""
    import torch
    import transformers

    kind, model_class, sizes = MODELS[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, **sizes)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return model.eval()


def decodes(name):
    """Whether the model is a decoder alone."""
    return not name.startswith(("bert", "t5"))


def padding(given):
    """What a decoder gets of the ids if the second row is three shorter, padded in front."""
    mask = np.ones_like(given["ids"])
    mask[1, :3] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    return {"input_ids": given["ids"], "attention_mask": mask, "position_ids": positions}


def inputs(name):
    """Ids, targets of which some do not count, and what else the model gets, as arrays."""
    random = np.random.default_rng(len(name))
    found = {
        "ids": random.integers(2, VOCABULARY, (BATCH, LENGTH)),
        "targets": random.integers(2, VOCABULARY, (BATCH, LENGTH)),
    }
    found["targets"][0, :3] = -100
    found["targets"][1, -1] = VOCABULARY - 1
    if not decodes(name):
        found["attention_mask"] = np.ones((BATCH, LENGTH), np.int64)
        found["attention_mask"][1, 9:] = 0
    if name.startswith("bert"):
        found["token_type_ids"] = random.integers(0, 2, (BATCH, LENGTH))
    if name.startswith("t5"):
        found["targets"] = found["targets"][:, :7]
    return found


def computed(model, name):
    """Logits, loss, gradients by the library's names, and greedy and beam-searched tokens."""
    import copy

    import torch

    given = {key: torch.tensor(value) for key, value in inputs(name).items()}
    if name == "bert-encoder":
        return encoded(model, given)
    fresh = [copy.deepcopy(model) for _ in range(2)]  # dynamic positions remember longer texts
    ids, targets = given.pop("ids"), given.pop("targets")
    if name.startswith("t5"):
        given["labels"] = targets
    logits = model(input_ids=ids, **given).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
    model.zero_grad()
    loss.backward()
    results = {"logits": logits.detach().numpy(), "loss": np.float32(loss.item())}
    for parameter, tensor in model.named_parameters():
        results[f"grad/{parameter}"] = tensor.grad.numpy()
    if decodes(name) and name != "llama-dynamic":  # there, a batch has the longest row's angles
        rows = {key: torch.tensor(value) for key, value in padding(inputs(name)).items()}
        results["padded"] = model(**rows).logits.detach().numpy()
    if name != "bert":
        how = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        how["use_cache"] = name != "llama-dynamic"  # there, what is cached has the angles of before
        for each in fresh:
            each.generation_config.eos_token_id = None
        greedy = fresh[0].generate(ids, max_new_tokens=NEW, **how)
        beams = fresh[1].generate(ids, max_new_tokens=20, num_beams=3, length_penalty=0.5, **how)
        results |= {"greedy": greedy.numpy(), "beams": beams.numpy()}
    return results


def encoded(model, given):
    """An encoder's result, and its mean over each row's tokens, as sentence-transformers has it."""
    ids, mask = given["ids"], given["attention_mask"]
    x = model(ids, attention_mask=mask, token_type_ids=given["token_type_ids"]).last_hidden_state
    seen = mask[:, :, None].float()
    mean = (x * seen).sum(1) / seen.sum(1).clamp(min=1e-9)
    return {"encoded": x.detach().numpy(), "mean": mean.detach().numpy()}
