"""vLLM: command line, process trees, probes. Everything that touches an engine's process or speaks to one."""
