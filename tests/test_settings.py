"""Every setting: what it means, what it is where nobody sets it, and the sentence that answers a wrong one."""

import re
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cityweb import settings
from cityweb.settings import OperatorError, RateLimit

NAMES = [
    "DATABASE_URL", "CITYWEB_DATA", "CITYWEB_HOSTS", "CITYWEB_TRUSTED_PROXIES", "CITYWEB_RATE_LIMIT",
    "CITYWEB_CONTACT", "CITYWEB_CORRECTIONS", "CITYWEB_ECHO",
]  # fmt: skip


def test_every_setting_is_in_the_docs() -> None:
    code = (settings.TOP / "cityweb" / "settings.py").read_text()
    docs = (settings.TOP / "docs" / "settings.md").read_text()
    assert {"DATABASE_URL", *re.findall(r'"(CITYWEB_[A-Z_]+)"', code)} == {*NAMES, *settings.GONE}
    assert [name for name in NAMES if f"`{name}`" not in docs] == []


DEFAULTS = {
    "database_url": None,
    "folder": settings.TOP / "var",
    "hosts": ("localhost", "127.0.0.1", "[::1]"),
    "trusted_proxies": (),
    "rate_limit": RateLimit(burst=10, per_minute=10, per_hour=60),
    "corrections": True,
    "contact": "",
    "echo": False,
    "listening": "http://localhost:8000",
}


def test_an_empty_environment_gives_the_defaults() -> None:
    assert vars(settings.read({})) == DEFAULTS


@pytest.mark.parametrize("nothing", ["", " "])
@pytest.mark.parametrize("name", NAMES)
def test_a_setting_without_a_value_is_not_set(name: str, nothing: str) -> None:
    assert vars(settings.read({name: nothing})) == DEFAULTS


def test_the_default_folder_is_beside_manage_py() -> None:
    assert (settings.read({}).folder.parent / "manage.py").is_file()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        settings.read({}).echo = True  # type: ignore[misc]


READ = [
    ("CITYWEB_DATA", "/srv/cityweb", "folder", Path("/srv/cityweb")),
    ("CITYWEB_DATA", "data", "folder", Path.cwd() / "data"),
    ("CITYWEB_DATA", "~/cityweb", "folder", Path.home() / "cityweb"),
    ("CITYWEB_HOSTS", "example.com", "hosts", ("example.com",)),
    ("CITYWEB_HOSTS", " Example.COM , *.example.com,", "hosts", ("example.com", "*.example.com")),
    ("CITYWEB_HOSTS", "192.0.2.7,[2001:db8::7]", "hosts", ("192.0.2.7", "[2001:db8::7]")),
    ("CITYWEB_HOSTS", "*", "hosts", ("*",)),
    ("CITYWEB_TRUSTED_PROXIES", "10.0.0.2, 10.1.0.0/16", "trusted_proxies", ("10.0.0.2", "10.1.0.0/16")),
    ("CITYWEB_TRUSTED_PROXIES", "2001:DB8::7,2001:db8::/32", "trusted_proxies", ("2001:db8::7", "2001:db8::/32")),
    ("CITYWEB_RATE_LIMIT", "1,2,3", "rate_limit", RateLimit(burst=1, per_minute=2, per_hour=3)),
    ("CITYWEB_RATE_LIMIT", " 1 , 2 , 3 ", "rate_limit", RateLimit(burst=1, per_minute=2, per_hour=3)),
    ("CITYWEB_RATE_LIMIT", "off", "rate_limit", None),
    ("CITYWEB_RATE_LIMIT", " Off ", "rate_limit", None),
    ("CITYWEB_CORRECTIONS", " Off ", "corrections", False),
    ("CITYWEB_CORRECTIONS", "on", "corrections", True),
    ("CITYWEB_CONTACT", " security@example.com ", "contact", "mailto:security@example.com"),
    ("CITYWEB_CONTACT", "mailto:security@example.com", "contact", "mailto:security@example.com"),
    ("CITYWEB_CONTACT", "https://example.com:8443/x?y=1#z", "contact", "https://example.com:8443/x?y=1#z"),
    ("CITYWEB_ECHO", "1", "echo", True),
    ("CITYWEB_ECHO", "0", "echo", False),
]


@pytest.mark.parametrize(("name", "text", "setting", "value"), READ)
def test_a_setting_is_read(name: str, text: str, setting: str, value: object) -> None:
    assert getattr(settings.read({name: text}), setting) == value


@pytest.mark.parametrize(
    ("hosts", "origin"),
    [
        ("", "http://127.0.0.1:5"),
        ("*,localhost,192.0.2.7,[2001:db8::7],*.example.com", "http://127.0.0.1:5"),
        ("localhost,cities.example.com,example.org", "https://cities.example.com"),
        ("xn--stdte-gra.example", "https://xn--stdte-gra.example"),
    ],
)
def test_the_first_public_host_begins_the_addresses_for_the_public(hosts: str, origin: str) -> None:
    assert settings.read({"CITYWEB_HOSTS": hosts, settings.LISTENING: "http://127.0.0.1:5"}).origin == origin


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg", "postgres"])
def test_the_address_of_a_database_is_read_and_asyncpg_speaks_to_it(scheme: str) -> None:
    read = settings.read({"DATABASE_URL": f" {scheme}://me:secret@db.example:5433/cities "})
    assert read.database_url == make_url("postgresql+asyncpg://me:secret@db.example:5433/cities")


PARAMETERS = (
    "host, port, sslmode, sslrootcert, sslcert, sslkey, sslcrl, passfile, ssl_min_protocol_version, application_name,"
    " options"
)


def test_the_parameters_of_a_database_url_are_those_of_libpq_and_in_the_docs() -> None:
    text = (
        f"postgresql:///cities?host=/run/x&port=5433&sslmode=verify-full&sslrootcert={__file__}&sslcert={__file__}"
        f"&sslkey={__file__}&sslcrl={__file__}&passfile={__file__}&ssl_min_protocol_version=TLSv1.3"
        "&application_name=x&options=-c%20search_path%3Dx"
    )
    read = settings.read({"DATABASE_URL": text})
    assert read.database_url
    assert ", ".join(read.database_url.query) == ", ".join(settings.PARAMETERS) == PARAMETERS
    docs = (settings.TOP / "docs" / "settings.md").read_text()
    assert [name for name in settings.PARAMETERS if f"`{name}" not in docs] == []


NO_DATABASE = "{name} is not the address of a PostgreSQL server: write postgresql://user@host/database."
DATABASE = "postgresql://me:secret@db.example/cities"
NO_PARAMETER = f"{{{{name}}}} has the unknown parameter {{parameter}}: write {PARAMETERS}."
NO_VALUE = "{{name}} has a wrong value of {parameter}: docs/settings.md says what to write."
NO_FILE = "{{name}} has sslrootcert={file}, which is not a readable file: write its whole path."
NO_HOST = (
    "CITYWEB_HOSTS has {text}, which is not the name of a host:"
    " write names without scheme and port, like example.com,*.example.com,[::1]."
)
NO_PROXY = (
    "CITYWEB_TRUSTED_PROXIES has {text}, which is not an address or a network:"
    " write the addresses of your own proxies, like 10.0.0.2,10.1.0.0/16."
)
EVERY_PROXY = (
    "CITYWEB_TRUSTED_PROXIES has {text}, and then every visitor could claim any address:"
    " write the addresses of your own proxies, like 10.0.0.2,10.1.0.0/16."
)
NO_RATE = "CITYWEB_RATE_LIMIT is {text}: write BURST,PER_MINUTE,PER_HOUR as whole numbers above zero, like 10,10,60."
NO_CONTACT = (
    "CITYWEB_CONTACT is {text}, which is neither an e-mail address nor an https URL:"
    " write security@example.com or https://example.com/contact."
)

WRONG = [
    *[
        ("DATABASE_URL", text, NO_DATABASE)
        for text in (
            "cities", "mysql://me:secret@db.example/cities", "sqlite:///cities.db", "postgresql+psycopg://db.example/cities",
            "https://db.example", "postgresql://db.example:port/cities",
        )
    ],
    *[
        ("DATABASE_URL", f"{DATABASE}?{parameter}=secret", NO_PARAMETER.format(parameter=parameter))
        for parameter in ("ssl", "connect_timeout", "channel_binding", "prepared_statement_cache_size", "password")
    ],
    *[
        ("DATABASE_URL", f"{DATABASE}?{query}", NO_VALUE.format(parameter=query.partition("=")[0]))
        for query in (
            "sslmode=on", "sslmode=require&sslmode=require", "port=x", "host=a,b", "host=a:5432",
            "ssl_min_protocol_version=SSLv3",
        )
    ],
    *(
        ("DATABASE_URL", f"{DATABASE}?sslrootcert={file}", NO_FILE.format(file=file))
        for file in ("/nowhere", "/", "/" + 300 * "x", "/" + 2_000 * "x/")
    ),
    ("CITYWEB_DATA", "~no-such-account/x", "CITYWEB_DATA is {text}, but no account has that name: write a whole path."),
    *[
        ("CITYWEB_HOSTS", text, NO_HOST)
        for text in (
            "https://example.com", "example.com:8000", "example.com/", "*example.com", "www.*.com", "*.*.com", "::1",
            "zürich.example", "example.com other.example",
        )
    ],
    *[
        ("CITYWEB_TRUSTED_PROXIES", text, NO_PROXY)
        for text in ("*", "proxy.example", "10.0.0.256", "10.0.0.1/16", "10.0.0.2:8000", "[::1]")
    ],
    *[("CITYWEB_TRUSTED_PROXIES", text, EVERY_PROXY) for text in ("0.0.0.0/0", "::/0", "::0/0")],
    *[
        ("CITYWEB_RATE_LIMIT", text, NO_RATE)
        for text in (
            "10", "10,10", "10,10,60,60", "10,10,0", "10,10,-1", "10,10,1.5", "10,,60", "10,10,²", "on",
            "10,10," + "9" * 5000,
        )
    ],
    *[
        ("CITYWEB_CORRECTIONS", text, f"CITYWEB_CORRECTIONS is {text}: write on or off.")
        for text in ("0", "false", "aus")
    ],
    *[
        ("CITYWEB_CONTACT", text, NO_CONTACT)
        for text in (
            "nobody", "me@", "me@localhost", "a b@example.com", "mailto:", "http://example.com", "https://",
            "//example.com", "javascript:x@example.com", "https://example.com/ x", "https://example.com/?<b>",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "sentence"), WRONG, ids=lambda value: value[:40])
def test_a_wrong_setting_is_named_in_one_sentence_that_says_what_to_write(name: str, text: str, sentence: str) -> None:
    with pytest.raises(OperatorError) as wrong:
        settings.read({name: text})
    assert str(wrong.value) == sentence.format(name=name, text=text)


def test_one_wrong_entry_of_a_list_is_the_one_that_is_named() -> None:
    with pytest.raises(OperatorError, match=r"^CITYWEB_TRUSTED_PROXIES has \*,"):
        settings.read({"CITYWEB_TRUSTED_PROXIES": "10.0.0.2,*"})


@pytest.mark.parametrize(
    "text", ["secret", "mysql://me:secret@db.example/cities", "postgresql://me:secret@db.example:port/cities"]
)
def test_a_wrong_address_of_a_database_is_not_shown_for_its_password(text: str) -> None:
    with pytest.raises(OperatorError) as wrong:
        settings.read({"DATABASE_URL": text})
    assert "secret" not in str(wrong.value)
