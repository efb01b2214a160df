"""`shoal check`: whether a cluster would work, found out before it goes live."""
