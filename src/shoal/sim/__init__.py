"""The simulated engine: vLLM's HTTP API, metrics, timing and faults without a model.

A program of its own (``python -m shoal.sim``): it imports nothing else of Shoal. What it says on the wire was
compared with a real vLLM 0.32.
"""
