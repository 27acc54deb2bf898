"""Hugging Face's folders: config.json and safetensors, and an adapter for each model.

It knows the models; they know only that somebody loads and saves them (`LanguageModel.files`).
Read folder.py and adapter.py, then llama.py for a short adapter; auto.py chooses one.
"""
