"""Requests between nodes over QUIC: one long connection to each peer, a stream for each request."""
