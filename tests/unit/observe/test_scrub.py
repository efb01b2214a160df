import pytest

from shoal.observe.scrub import Scrubber, secrets_in

BROKER = "br0ker-passw0rd"
DOCUMENT = {
    "cluster": {"name": "c", "secret": "cluster-secret-1"},
    "gateway": {"keys": {"api_keys": ["api-key-number-one"], "admin_keys": ["admin-key-number-1"]}},
    "models": [
        {
            "args": {"api-key": "engine-key-1", "max-model-len": "4096"},
            "env": {"HF_TOKEN": "hf_secretsecret"},
        },
        {
            "command": [
                "serve",
                "--api-key",
                "command-key-1",
                "--hf-token=token-in-command",
                "--port",
                "12345678",
            ]
        },
    ],
    "communication": {
        "rabbitmq": {"url": f"amqps://shoal:{BROKER}@broker:5671/x", "password": "second-password"}
    },
}
ENV = {
    "AWS_SECRET_KEY": "aws-secret-1",
    "SHOAL_API_KEYS": "first-of-keys,second-of-keys",
    "HOME": "/home/somebody",
}


def test_secrets_are_found_by_their_names_and_in_urls():
    found = secrets_in(DOCUMENT, ENV)
    assert found >= {
        "cluster-secret-1", "api-key-number-one", "admin-key-number-1", "engine-key-1", "hf_secretsecret",
        "command-key-1", "token-in-command", BROKER, "second-password", "aws-secret-1", "second-of-keys",
    }  # fmt: skip
    assert not found & {"c", "4096", "12345678", "/home/somebody"}


def test_known_values_go_wherever_they_stand():
    scrubber = Scrubber(secrets_in(DOCUMENT, ENV))
    told = scrubber.tree(
        {"log": [f"connected with {BROKER}x", {"cluster-secret-1": 7}], "n": 1, "none": None}
    )
    assert BROKER not in str(told)
    assert "cluster-secret-1" not in str(told)
    assert (told["n"], told["none"]) == (1, None)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdefgh12345", "abcdefgh12345"),
        ("amqp://user:pa55word@host/", "pa55word"),
        ("HF_TOKEN=hf_abcdefghijkl", "abcdefghijkl"),
        ("vllm serve m --api-key topsecret1 --port 8000", "topsecret1"),
        ('{"api_key": "another-one", "x": 1}', "another-one"),
        ("password: hunter22", "hunter22"),
        ("-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----", "MIIabc"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIcut", "MIIcut"),
    ],
)
def test_what_looks_like_a_secret_goes_too(text: str, secret: str):
    assert secret not in Scrubber(()).text(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=16, prompt_tokens: 80",
        'shoal_key_requests_total{key="team"} 4',
        "vllm serve m --ssl-keyfile /x/node.key --max-num-seqs 8",
        "http://node1:8000/v1 answers for the cluster",
        "127.0.0.1:8000/m-0 is ready after 4 s",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert Scrubber(("key",)).text(text) == text
    assert Scrubber(()).tree({"tokens": text}) == {"tokens": text}
