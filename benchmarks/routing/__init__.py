"""Routing measured: policies of Shoal and of other routers in front of the same simulated engines.

`make bench-routing`, see docs/performance.md.
"""
