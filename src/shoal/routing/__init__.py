"""Which engine gets a request: immutable routing tables and one file per policy. Pure; imports nothing of Shoal."""
