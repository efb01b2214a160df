"""How much a cluster adds to, and multiplies, an encoder's embeddings: BERT-Large's shape, real vLLM."""
