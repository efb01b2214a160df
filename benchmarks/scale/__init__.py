"""What membership, routing tables and what gateways tell each other cost as a cluster grows: ``make bench-scale``."""
