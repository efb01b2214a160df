"""Bytes as people who buy GPUs write them."""


def gb(size: float) -> str:
    """Return bytes as ``141 GB`` or ``17.6 GB`` (10^9 bytes, as on the data sheets of models and GPUs)."""
    value = size / 1e9
    if abs(value) < 0.1:
        return f"{size / 1e6:.0f} MB"
    return f"{value:.0f} GB" if abs(value) >= 100 else f"{value:.1f} GB"
