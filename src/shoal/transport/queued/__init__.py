"""What carriers through message queues have in common: messages, the rules of delivery, and the carrier itself."""
