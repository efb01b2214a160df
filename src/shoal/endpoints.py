"""Paths of engines that both the gateway and batches have to know."""

_JSON = """
/v1/chat/completions /v1/chat/completions/batch /v1/chat/completions/render /v1/chat/completions/derender
/v1/completions /v1/completions/render /v1/completions/derender
/v1/responses /v1/responses/render
/v1/messages /v1/messages/count_tokens /v1/messages/render
/cohere/v2/chat /cohere/v2/chat/render
/v1/embeddings /v2/embed /pooling /classify /score /v1/score /rerank /v1/rerank /v2/rerank
/generative_scoring /v1/systemone /inference/v1/generate
/tokenize /detokenize /invocations
/v1/moderations /v1/images/generations
"""  # the last line: not vLLM itself but vLLM-Omni and other OpenAI-compatible servers (external engines)

JSON = frozenset(_JSON.split())
"""Those that take one JSON document and answer with one, or with a stream of them."""
