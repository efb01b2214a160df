"""Which files a model is, and what it needs: read from its configuration and headers, never from its weights."""
