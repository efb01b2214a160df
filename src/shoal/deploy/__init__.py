"""Shoal on other machines over SSH: installed, configured, started and updated one node after the other."""
