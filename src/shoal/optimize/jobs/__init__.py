"""What computes: one file per job, run by `launcher` in the environment of `shoal.optimize.environment`.

They may import torch, transformers and llmcompressor, and of Shoal only each other, `shoal.optimize.texts` and the
standard library: nothing else is installed there. Each has ``run(given, report) -> result``.
"""
