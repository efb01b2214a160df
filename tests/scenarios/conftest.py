from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster

QUICK = frozenset(
    {
        "test_requests_to_one_port_are_answered_by_all_engines",
        "test_a_killed_engine_under_load_costs_no_request_and_comes_back",
        "test_the_loss_of_a_machine_is_routed_around_within_two_seconds_and_its_return_noticed",
        "test_a_graceful_stop_finishes_running_requests_and_ends_the_engines",
        "test_a_stream_through_another_node_does_not_notice_the_death_of_its_engines_node_process",
        "test_streams_go_on_when[kill_engine]",
        "test_a_warm_standby_starts_its_engine_for_a_lost_node_and_gives_back_without_a_failed_request",
        "test_requests_flow_over_three_nodes_and_an_engine_port_refuses_all_others",
        "test_a_node_serves_https_and_its_commands_ask_by_https",
        "test_a_revoked_key_is_refused_within_a_second_and_nobody_else_notices",
        "test_a_burst_waits_and_none_of_it_fails",
        "test_64_requests_at_once_are_spread_evenly_by_least_connections",
        "test_a_conversation_finds_its_engine_through_any_gateway",
        "test_a_program_is_balanced_over_nodes_and_restarted_when_it_is_killed",
        "test_two_nodes_serve_a_model_as_one_engine_at_its_leaders_address",
        "test_a_part_that_is_killed_ends_the_engine_everywhere_and_it_is_whole_again[the follower]",
        "test_a_group_answers_as_a_single_engine",
        "test_a_drained_node_gets_no_new_requests_finishes_its_streams_and_comes_back_over_a_restart",
        "test_users_find_a_place_at_once_while_a_batch_uses_the_rest",
        "test_each_node_tells_of_its_own_and_any_of_all",
        "test_nodes_check_each_other_and_each_tells_of_all_pairs",
        "test_sighup_takes_new_gateway_settings_and_refuses_a_broken_file",
        "test_where_udp_is_blocked_requests_go_by_tcp_and_none_fails",
        "test_shoal_status_shows_the_cluster_from_any_node_and_as_json",
    }
)
"""Of each part of the product what breaks first when it is broken: `make test-quick` has these, the rest is `long`."""


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are dropped
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        names = {item.name, getattr(item, "originalname", "")}
        if item.path.is_relative_to(here) and not names & QUICK:
            item.add_marker(pytest.mark.long)


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Return a maker of clusters (not yet started), all ended with the test."""
    made: list[Cluster] = []

    def make(nodes: int = 3, **config: Any) -> Cluster:
        directory = tmp_path / f"cluster{len(made)}"
        directory.mkdir()
        made.append(Cluster(directory, nodes, **config))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Return three running nodes with a simulated engine each."""
    return make_cluster().start()
