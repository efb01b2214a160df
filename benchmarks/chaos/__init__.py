"""Breaks real clusters on purpose and counts what clients notice: `make chaos`.

Real ``shoal serve`` processes with simulated engines, streaming load whose every answer is known in advance, one fault
after the other. What each number means is in docs/failure.md.
"""
