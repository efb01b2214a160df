"""Hides modules from the Python processes an engine starts; put on their PYTHONPATH by ``vllm_launcher.py``.

vLLM starts interpreters of its own (``python -m vllm.model_executor.models.registry``, for one), which never see the
launcher. Python imports a module of this name in every interpreter at its start (see the ``site`` module).
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

for name in os.environ.get("SHOAL_HIDDEN_MODULES", "").split(","):
    if name:
        sys.modules[name] = None  # type: ignore[assignment]

# The one this file stands in front of, a distribution's for instance, has its turn as well.
here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (pathlib costs 10 ms at every start)
other = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if os.path.abspath(entry) != here])  # noqa: PTH100
if other is not None and other.loader is not None:
    other.loader.exec_module(importlib.util.module_from_spec(other))
