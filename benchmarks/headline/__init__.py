"""One batch of prompts done in a loop, by one engine, and by clusters of one, two and three nodes."""
