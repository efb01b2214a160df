"""The node process: wiring, reconcile rules, events, control API."""
