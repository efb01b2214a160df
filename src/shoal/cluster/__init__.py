"""Membership without a head: wire format, failure detector, view."""
