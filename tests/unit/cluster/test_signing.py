import pytest

from shoal.cluster.signing import WINDOW, NotSignedError, Signer

SECRET = "a secret of some length"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_request_and_its_answer_are_taken(clock: Clock):
    client, server = Signer("c", SECRET, clock), Signer("c", SECRET, clock)
    header = client.sign("POST", "/x?y=1", b"body")
    nonce = server.check(header, "POST", "/x?y=1", b"body")
    answer = server.sign_answer(nonce, 200, b"fine")
    client.check_answer(answer, header, 200, b"fine")
    with pytest.raises(NotSignedError):
        client.check_answer(answer, header, 200, b"other")
    with pytest.raises(NotSignedError):
        client.check_answer(answer, client.sign("POST", "/x?y=1", b"body"), 200, b"fine")
    with pytest.raises(NotSignedError):
        client.check_answer(None, header, 200, b"fine")


@pytest.mark.parametrize(
    ("method", "target", "body"), [("GET", "/x", b"b"), ("POST", "/y", b"b"), ("POST", "/x", b"c")]
)
def test_nothing_of_a_request_can_be_altered(clock: Clock, method: str, target: str, body: bytes):
    signer = Signer("c", SECRET, clock)
    header = signer.sign("POST", "/x", b"b")
    with pytest.raises(NotSignedError, match="does not verify"):
        signer.check(header, method, target, body)


def test_a_request_is_taken_once_and_in_time_only(clock: Clock):
    signer = Signer("c", SECRET, clock)
    header = signer.sign("GET", "/x")
    signer.check(header, "GET", "/x")
    with pytest.raises(NotSignedError, match="came before"):
        signer.check(header, "GET", "/x")
    late = signer.sign("GET", "/x")
    clock.now += WINDOW + 1
    with pytest.raises(NotSignedError, match="clocks"):
        signer.check(late, "GET", "/x")


@pytest.mark.parametrize(
    ("cluster", "secret"), [("c", "another secret of length"), ("d", SECRET), ("c", None)]
)
def test_another_secret_or_cluster_is_refused(clock: Clock, cluster: str, secret: str | None):
    header = Signer(cluster, secret, clock).sign("GET", "/x")
    with pytest.raises(NotSignedError, match="does not verify"):
        Signer("c", SECRET, clock).check(header, "GET", "/x")


@pytest.mark.parametrize("header", [None, "", "1 2 3", "1 x y z", "1 2 3 4 5", "1 2 é é", "2 1000000 n m"])
def test_what_is_no_signature_is_refused(clock: Clock, header: str | None):
    with pytest.raises(NotSignedError):
        Signer("c", SECRET, clock).check(header, "GET", "/x")
