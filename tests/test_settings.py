"""What the environment may decide, and the one sentence for what it may not."""

import re
from pathlib import Path

import pytest

from cityweb import settings
from cityweb.settings import RateLimit, WrongSetting


def test_without_an_environment_everything_has_a_value() -> None:
    read = settings.read({})
    assert (read.database_url, read.listen_url) == (None, None)
    assert read.folder == settings.TOP / "var"
    assert read.hosts == ("localhost", "127.0.0.1", "[::1]")
    assert read.trusted_proxies == ()
    assert read.rate_limit == RateLimit(10, 10, 60)
    assert (read.streams_per_address, read.streams_per_process) == (20, 3000)
    assert read.echo is False


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_a_database_may_be_written_three_ways(scheme: str) -> None:
    read = settings.read({"DATABASE_URL": f" {scheme}://me@there:5433/cities "})
    assert str(read.database_url) == "postgresql+asyncpg://me@there:5433/cities"
    assert read.listen_url == read.database_url


def test_listening_may_go_past_a_pooler() -> None:
    read = settings.read({"DATABASE_URL": "postgresql://pooler/c", "CITYWEB_LISTEN_URL": "postgresql://direct/c"})
    assert read.listen_url
    assert read.listen_url.host == "direct"


def test_each_setting_is_read() -> None:
    read = settings.read(
        {
            "CITYWEB_DATA": "/tmp/cities",  # noqa: S108 (never made)
            "CITYWEB_HOSTS": "Example.com, *.example.org",
            "CITYWEB_TRUSTED_PROXIES": "10.0.0.2, 10.1.0.0/16,::1",
            "CITYWEB_RATE_LIMIT": "1, 2,3",
            "CITYWEB_STREAMS": "4,5",
            "CITYWEB_ECHO": "1",
        }
    )
    assert read.folder == Path("/tmp/cities")  # noqa: S108 (never made)
    assert read.hosts == ("example.com", "*.example.org")
    assert read.trusted_proxies == ("10.0.0.2", "10.1.0.0/16", "::1")
    assert read.rate_limit == RateLimit(1, 2, 3)
    assert (read.streams_per_address, read.streams_per_process) == (4, 5)
    assert read.echo is True


@pytest.mark.parametrize("off", ["off", "OFF"])
def test_the_rate_limit_may_be_off(off: str) -> None:
    assert settings.read({"CITYWEB_RATE_LIMIT": off}).rate_limit is None


WRONG = [
    ("DATABASE_URL", "sqlite://"),
    ("DATABASE_URL", "nonsense"),
    ("DATABASE_URL", "postgresql://host:port/x"),
    ("CITYWEB_LISTEN_URL", "mysql://x"),
    ("CITYWEB_TRUSTED_PROXIES", "*"),
    ("CITYWEB_TRUSTED_PROXIES", "10.0.0.1,proxy"),
    ("CITYWEB_RATE_LIMIT", "10,10"),
    ("CITYWEB_RATE_LIMIT", "10,0,60"),
    ("CITYWEB_RATE_LIMIT", "many"),
    ("CITYWEB_STREAMS", "20,-1"),
    ("CITYWEB_STREAMS", "²,3"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named_in_one_sentence(name: str, value: str) -> None:
    with pytest.raises(WrongSetting) as raised:
        settings.read({name: value})
    assert str(raised.value).startswith(name)
    assert ": write " in str(raised.value)


def test_every_setting_is_in_the_docs() -> None:
    code = (settings.TOP / "cityweb" / "settings.py").read_text()
    docs = (settings.TOP / "docs" / "settings.md").read_text()
    names = set(re.findall(r'"(CITYWEB_[A-Z_]+)"', code))
    assert len(names) == 7
    assert [name for name in names if f"`{name}`" not in docs] == []
