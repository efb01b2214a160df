"""The gateway next to other routers: cost per request and per streamed event, latency, memory.

`make bench-gateway` runs it; docs/performance.md says what it measures and how.
"""
