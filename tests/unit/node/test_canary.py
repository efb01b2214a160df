import pytest

from shoal.node.canary import Answers, judge

GOOD = Answers(("Paris, of course", "6, 7, 8", "a + b"), 1.0)


@pytest.mark.parametrize(
    ("new", "former", "wrong"),
    [
        (GOOD, GOOD, None),
        (GOOD, None, None),
        (Answers(("Rome", "six", "b"), 2.0), GOOD, None),  # another model says other things
        (Answers((), 1.0), None, None),  # one that continues no text, and did what it is for
        (Answers((), 1.0), Answers((), 1.0), None),
        (Answers(problem="it refused the connection"), GOOD, "refused the connection"),
        (Answers(("", " ", ""), 1.0), GOOD, "empty"),
        (Answers(("!!!!!!", "!!!!", "!!!!!!!!"), 1.0), GOOD, "say nothing"),
        (Answers(("!!!!!!", "!!!!", "!!!!!!!!"), 1.0), None, "say nothing"),
        (Answers(("!!!", "!", "!!"), 1.0), Answers(("!!!", "!", "!!"), 1.0), None),  # as the former one did
        (Answers(GOOD.texts, 30.0), GOOD, "it took 30.0 s"),
        (Answers(GOOD.texts, 30.0), Answers(problem="it is gone"), None),
        (Answers((), 1.0), GOOD, "of another kind"),
    ],
)
def test_a_new_engine_is_judged_by_its_answers_and_by_the_former_one(
    new: Answers, former: Answers | None, wrong: str | None
):
    problem = judge(new, former)
    assert (problem is None) is (wrong is None)
    assert wrong is None or wrong in (problem or "")
