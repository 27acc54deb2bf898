"""nn/models/huggingface"""
