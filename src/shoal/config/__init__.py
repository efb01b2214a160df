"""The one typed configuration. Nothing else in Shoal reads YAML, or settings from the environment.

loaded = load(Path("cluster.yaml"))   # ConfigError, complete for people, if anything is wrong
loaded.require_servable()             # ConfigError if the cluster may not start (no secret off loopback)
loaded.config.models, loaded.config.node("10.0.0.1:8000"), loaded.where("nodes", 0, "port")
"""

from shoal.config.errors import ConfigError, Problem, SettingPath
from shoal.config.explain import Setting, Source
from shoal.config.json_schema import json_schema
from shoal.config.load import Loaded, load
from shoal.config.schema import Config, Model, Node

__all__ = [
    "Config",
    "ConfigError",
    "Loaded",
    "Model",
    "Node",
    "Problem",
    "Setting",
    "SettingPath",
    "Source",
    "json_schema",
    "load",
]
