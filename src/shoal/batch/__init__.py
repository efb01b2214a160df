"""Offline batches: OpenAI's files and batches, kept on several nodes and finished whatever happens to one of them."""
