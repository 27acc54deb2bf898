"""The sizes that are measured: vocabulary, context, width, heads, layers, batch."""

CONFIGS = {
    "tiny": (64, 32, 64, 4, 2, 8),
    "nano": (256, 64, 128, 4, 4, 12),  # nanoGPT's recipe for a CPU
    "small": (256, 128, 256, 8, 6, 8),
    "baby": (256, 256, 384, 6, 6, 4),  # nanoGPT's character-level model
    "wide": (8192, 128, 512, 8, 4, 4),
    "long": (256, 1024, 256, 4, 4, 1),
}
