"""Downloads a model from a hub into a directory: ``python hub_download.py HUB ID DIRECTORY``.

A program of its own, run by the interpreter that has vLLM: that one has the hub's library, and a download that
hangs or is killed takes nothing else with it. The last line of its output is the reason where it fails.
"""

from __future__ import annotations

import sys

# Weights in other formats beside safetensors, which nobody would load. vLLM leaves them out, too.
_OTHER_WEIGHTS = [
    "*.bin",
    "*.pt",
    "*.pth",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "original/*",
    "consolidated*",
]


def main(hub: str, model: str, directory: str) -> int:
    """Download; return the exit status."""
    try:
        if hub == "modelscope":
            from modelscope import snapshot_download as from_modelscope  # noqa: PLC0415

            from_modelscope(model, local_dir=directory)
            return 0
        from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415

        names = HfApi().list_repo_files(model)
        safe = any(name.endswith(".safetensors") for name in names)
        snapshot_download(model, local_dir=directory, ignore_patterns=_OTHER_WEIGHTS if safe else None)
    except Exception as error:  # whatever it is, it is told
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:4]))
