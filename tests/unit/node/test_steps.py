import msgspec

from shoal.engine.spec import EngineSpec
from shoal.node.steps import Step, mixed, steps


def spec(engine: str, *gpus: int, path: str = "/m") -> EngineSpec:
    model = engine.rpartition("-")[0]
    return EngineSpec(id=engine, model=model, kind="sim", model_path=path, served_name=model, gpus=gpus)


def named(*specs: EngineSpec) -> dict[str, EngineSpec]:
    return {s.id: s for s in specs}


def test_nothing_to_do_is_no_step():
    same = named(spec("m-0"), spec("m-1"))
    assert steps(same, dict(same)) == ()


def test_what_is_new_comes_before_what_is_replaced_and_what_is_gone_is_no_step():
    old = named(spec("a-0"), spec("m-0"), spec("m-1"))
    new = named(spec("m-0", path="/other"), spec("m-1"), spec("z-0"))
    assert steps(old, new) == (
        Step(engine="z-0", model="z"),
        Step(engine="m-0", model="m", replaces=True),
    )


def test_an_engine_in_the_way_stops_first_and_once():
    old = named(spec("a-0", 0, 1))
    new = named(spec("b-0", 0), spec("b-1", 1))
    first, second = steps(old, new)
    assert (first.stops, second.stops) == (("a-0",), ())
    assert steps(old, new, shares={"a"})[0].stops == ()


def test_step_by_step_a_node_gets_from_the_old_to_the_new():
    old = named(spec("a-0", 0), spec("m-0", 1))
    new = named(spec("b-0", 0), msgspec.structs.replace(spec("m-0", 1), args=("--x",)))
    all_steps = steps(old, new)
    assert mixed(old, new, ()) == old
    assert mixed(old, new, all_steps[:1]) == named(new["b-0"], old["m-0"])
    assert mixed(old, new, all_steps) == new
