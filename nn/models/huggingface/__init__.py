"""Hugging Face's folders: config.json and safetensors, and an adapter for each model.

It knows the models; they know only that somebody loads and saves them (`LanguageModel.files`).
Read folder.py and adapter.py, then gpt2.py for the shortest adapter; auto.py picks one.
"""
