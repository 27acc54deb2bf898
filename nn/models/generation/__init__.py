"""nn/models/generation"""
