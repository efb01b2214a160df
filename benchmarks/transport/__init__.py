"""What carries requests between nodes, measured: latency, gaps between tokens, processor time, losses."""
