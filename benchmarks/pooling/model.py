"""A model of BERT-Large's shape with random weights: as much work as the real one, and nothing to download but words.

``python -m benchmarks.pooling.model TOKENIZER DIRECTORY`` writes it, with the transformers that vLLM brings along.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

# Devlin et al. 2019, https://arxiv.org/abs/1810.04805: 24 layers, hidden size 1024, 16 heads; 335 million parameters.
LARGE = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
}


def write(tokenizer: Path, directory: Path, **shape: int) -> None:
    """Write model and tokenizer; the same ones each time.

    Args:
        tokenizer: directory of a BERT whose words it has.
        directory: where to.
        shape: in place of `LARGE`, as BertConfig has it.
    """
    words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), **(shape or LARGE))
    BertModel(config).to(torch.bfloat16).save_pretrained(directory)
    words.save_pretrained(directory)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
