"""The command line: vLLM's own arguments where they mean something here, the simulation's, and any other ignored."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.sim.faults import KINDS, Fault, FaultError
from shoal.sim.place import Place, PlaceError, RayGroup, execute_timeout

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a simulated engine is told at its start. Times in seconds unless the name says otherwise."""

    host: str
    port: int
    model: str
    served: tuple[str, ...]
    api_keys: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_queued_reqs: int | None
    scheduling_policy: str
    stream_interval: int
    prefix_caching: bool
    block_size: int
    kv_blocks: int
    time_scale: float
    prefill_us_per_token: float
    decode_ms: float
    decode_us_per_seq: float
    load_time: float
    shutdown_timeout: float
    salt: str
    embedding_size: int
    auto_tools: bool
    cached_tokens: bool
    force_usage: bool
    faults: tuple[Fault, ...]
    children: int
    place: Place | None
    ray: RayGroup | None
    ssl_keyfile: str | None
    ssl_certfile: str | None
    ssl_ca_certs: str | None
    ssl_cert_reqs: int
    ignored: tuple[str, ...]


def human_int(word: str) -> int:
    """Read a whole number as vLLM does: ``4k`` is 4000, ``4K`` is 4096.

    Raises:
        ValueError: it is none.
    """
    unit = _UNITS.get(word[-1:])
    return int(float(word[:-1]) * unit) if unit else int(word)


def _positive(word: str) -> int:
    value = human_int(word)
    if value < 1:
        raise ValueError(f"{word} is not at least 1")
    return value


def _duration(word: str) -> float:
    value = float(word)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{word} is not a number from 0 on")
    return value


def _fault(word: str) -> Fault:
    try:
        return Fault.parse(json.loads(word))
    except (json.JSONDecodeError, FaultError) as error:
        raise argparse.ArgumentTypeError(f"{error}: {word}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shoal.sim",
        description="vLLM's HTTP API, metrics, timing and faults without a model.",
        epilog=(
            "Unknown arguments are taken for vLLM's own and ignored, with a note. POST /sim/fault orders a fault "
            f"({', '.join(KINDS)}), GET /sim/state tells what happened, the signal USR1 clears all faults."
        ),
        allow_abbrev=False,
    )
    known = parser.add_argument_group("as in vLLM")
    known.add_argument("--host", default="0.0.0.0", help="address to listen on")
    known.add_argument("--port", type=int, default=8000, help="TCP port, 0 for any free one (default: 8000)")
    known.add_argument("--model", default="sim", help="name of the model (default: sim)")
    known.add_argument(
        "--served-model-name", nargs="+", default=[], metavar="NAME", help="ids clients may use"
    )
    known.add_argument("--api-key", nargs="+", default=[], metavar="KEY", help="guards /v1 ($VLLM_API_KEY)")
    known.add_argument("--max-model-len", type=_positive, default=32768, help="tokens of a request at most")
    known.add_argument(
        "--max-num-seqs", type=_positive, default=256, help="requests that run at the same time"
    )
    known.add_argument(
        "--max-num-batched-tokens", type=_positive, default=8192, help="tokens of a step at most"
    )
    known.add_argument(
        "--max-num-queued-reqs", type=human_int, default=None, help="open requests; more get 503"
    )
    known.add_argument("--scheduling-policy", choices=("fcfs", "priority"), default="fcfs")
    known.add_argument("--stream-interval", type=_positive, default=1, help="tokens per event of a stream")
    known.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    known.add_argument("--block-size", type=_positive, default=16, help="tokens per KV block (default: 16)")
    known.add_argument(
        "--enable-prompt-tokens-details", action="store_true", help="name cached tokens in usage"
    )
    known.add_argument("--enable-force-include-usage", action="store_true", help="usage in every stream")
    known.add_argument("--enable-auto-tool-choice", action="store_true", help="accept tools (never called)")
    known.add_argument(
        "--shutdown-timeout", type=_duration, default=5.0, help="to finish requests on SIGTERM"
    )
    known.add_argument("--ssl-keyfile", default=None)
    known.add_argument("--ssl-certfile", default=None)
    known.add_argument("--ssl-ca-certs", default=None)
    known.add_argument(
        "--ssl-cert-reqs", type=int, default=0, help="0 none, 2 clients must show a certificate"
    )
    group = parser.add_argument_group("a group of nodes, as in vLLM")
    group.add_argument("--nnodes", "-n", type=_positive, default=1, help="processes that are one engine")
    group.add_argument("--node-rank", "-r", type=int, default=0, help="of this one; 0 leads and serves HTTP")
    group.add_argument("--master-addr", default="127.0.0.1", help="the leader's address")
    group.add_argument("--master-port", type=int, default=29501, help="where it meets the others")
    group.add_argument("--headless", action="store_true", help="no HTTP: all but the leader")
    group.add_argument("--tensor-parallel-size", "-tp", type=_positive, default=1)
    group.add_argument("--pipeline-parallel-size", "-pp", type=_positive, default=1)
    group.add_argument("--distributed-executor-backend", choices=("mp", "ray"), default="mp")
    group.add_argument(
        "--distributed-timeout-seconds", type=_duration, default=600.0, help="to wait for the others"
    )
    own = parser.add_argument_group("the simulation")
    own.add_argument(
        "--kv-blocks", "--num-gpu-blocks-override", type=_positive, default=None, help="KV capacity"
    )
    own.add_argument("--time-scale", type=_duration, default=1.0, help="factor on durations, 0 = instant")
    own.add_argument("--prefill-us-per-token", type=_duration, default=20.0)
    own.add_argument("--decode-ms", type=_duration, default=2.0, help="each step (default: 2)")
    own.add_argument("--decode-us-per-seq", type=_duration, default=20.0, help="each request in a step")
    own.add_argument("--load-time", type=_duration, default=0.0, help="seconds until the port opens")
    own.add_argument("--salt", default="", help="makes another, equally deterministic model")
    own.add_argument(
        "--embedding-size", type=_positive, default=64, help="dimensions of vectors (default: 64)"
    )
    own.add_argument(
        "--fault", type=_fault, action="append", default=[], metavar="JSON", help="see /sim/fault"
    )
    own.add_argument(
        "--spawn-children", type=int, default=0, metavar="N", help="helper processes like vLLM's"
    )
    own.add_argument(
        "--lost-follower",
        choices=("hang", "fail"),
        default="hang",
        help="what a step does without it: hang until $VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS are over, or fail at once",
    )
    own.add_argument(
        "--follower-outlives-leader",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="as vLLM's do, until somebody ends them",
    )
    return parser


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the command line; exits with status 2 and a message if it is wrong, as argparse does."""
    parser = _parser()
    given, ignored = parser.parse_known_args([_with_dashes(word) for word in arguments])
    # Room for four of the longest requests, or for what a small GPU has.
    kv_blocks = given.kv_blocks or max(8192, -(-4 * given.max_model_len // given.block_size))
    if kv_blocks * given.block_size < given.max_model_len:
        parser.error(
            f"a request of --max-model-len {given.max_model_len} does not fit {kv_blocks} KV blocks of "
            f"{given.block_size} tokens: raise --kv-blocks or lower --max-model-len"
        )
    if given.ssl_certfile is None and (given.ssl_keyfile or given.ssl_ca_certs or given.ssl_cert_reqs):
        parser.error("TLS needs --ssl-certfile")
    for path in filter(None, (given.ssl_keyfile, given.ssl_certfile, given.ssl_ca_certs)):
        if not Path(path).is_file():
            parser.error(f"there is no file {path}")
    try:
        place, ray = _place(given, environment), _ray(given, environment)
    except PlaceError as error:
        parser.error(str(error))
    keys = given.api_key or [environment.get("VLLM_API_KEY", "")]
    return Settings(
        host=given.host,
        port=given.port,
        model=given.model,
        served=tuple(given.served_model_name) or (given.model,),
        api_keys=tuple(key for key in keys if key),
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_num_queued_reqs=given.max_num_queued_reqs,
        scheduling_policy=given.scheduling_policy,
        stream_interval=given.stream_interval,
        prefix_caching=given.enable_prefix_caching,
        block_size=given.block_size,
        kv_blocks=kv_blocks,
        time_scale=given.time_scale,
        prefill_us_per_token=given.prefill_us_per_token,
        decode_ms=given.decode_ms,
        decode_us_per_seq=given.decode_us_per_seq,
        load_time=given.load_time,
        shutdown_timeout=given.shutdown_timeout,
        salt=given.salt,
        embedding_size=given.embedding_size,
        auto_tools=given.enable_auto_tool_choice,
        cached_tokens=given.enable_prompt_tokens_details,
        force_usage=given.enable_force_include_usage,
        faults=tuple(given.fault),
        children=given.spawn_children,
        place=place,
        ray=ray,
        ssl_keyfile=given.ssl_keyfile,
        ssl_certfile=given.ssl_certfile,
        ssl_ca_certs=given.ssl_ca_certs,
        ssl_cert_reqs=given.ssl_cert_reqs,
        ignored=tuple(ignored),
    )


def _ray(given: argparse.Namespace, environment: Mapping[str, str]) -> RayGroup | None:
    if given.distributed_executor_backend != "ray":
        return None
    if given.nnodes > 1:
        raise PlaceError("--nnodes > 1 can only be set when the distributed executor backend is mp")
    return RayGroup(
        tensor_parallel=given.tensor_parallel_size,
        pipeline_parallel=given.pipeline_parallel_size,
        join_timeout=given.distributed_timeout_seconds,
        execute_timeout=execute_timeout(environment),
    )


def _place(given: argparse.Namespace, environment: Mapping[str, str]) -> Place | None:
    if given.nnodes == 1:
        if given.headless:
            raise PlaceError("--headless needs --nnodes")
        return None
    place = Place(
        nnodes=given.nnodes,
        rank=given.node_rank,
        master_addr=given.master_addr,
        master_port=given.master_port,
        tensor_parallel=given.tensor_parallel_size,
        pipeline_parallel=given.pipeline_parallel_size,
        join_timeout=given.distributed_timeout_seconds,
        execute_timeout=execute_timeout(environment),
        hangs_without_follower=given.lost_follower == "hang",
        outlives_leader=given.follower_outlives_leader,
    )
    if given.headless != (place.rank > 0):
        raise PlaceError("every node rank but 0 is --headless, and 0 is not")
    if given.headless and given.fault:
        raise PlaceError("a --headless process takes no --fault: send it signals")
    return place


def _with_dashes(word: str) -> str:
    """Write ``--max_model_len=5`` as ``--max-model-len=5``; vLLM takes both."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
