"""Model optimisation: quantise, prune, distil, and measure what came of it.

What computes runs in an environment and a process of its own (`worker`, `jobs`); here is what decides and what tells.
"""
