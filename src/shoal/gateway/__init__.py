"""The hot path: HTTP/1.1 in, HTTP/1.1 out, one raw asyncio protocol on each side."""
