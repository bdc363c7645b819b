"""Settings: their defaults, every accepted and refused form, and the table of docs/settings.md."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import trustme

from app.config import Config, ConfigError, Rate


def mistakes(**environ):
    """The text with which these variables are refused."""
    with pytest.raises(ConfigError) as wrong:
        Config.from_env(environ)
    return str(wrong.value)


@pytest.mark.parametrize(
    ("environ", "wrong"),
    [
        ({"PORT": "8000", "METRICS_PORT": "8000"}, True),
        ({"METRICS_PORT": "8000"}, True),
        ({"BIND": "[::]:8002", "METRICS_PORT": "8002"}, True),
        ({"BIND": "10.0.0.1:8002", "METRICS_PORT": "8002", "METRICS_HOST": "0.0.0.0"}, True),
        ({"BIND": "10.0.0.1:8002", "METRICS_PORT": "8002"}, False),
        ({"BIND": "unix:/run/uploader:8002", "METRICS_PORT": "8002"}, False),
        ({"PORT": "8000", "METRICS_PORT": "8002"}, False),
    ],
)
def test_metrics_need_another_port_than_the_service(environ, wrong):
    if wrong:
        assert "METRICS_PORT" in mistakes(**environ)
    else:
        Config.from_env(environ)


def test_the_defaults_are_the_documented_ones():
    config = Config.from_env({})
    assert config.redis_url == "redis://127.0.0.1:6379/0"
    assert config.s3_endpoint == "http://127.0.0.1:9000"
    assert (config.s3_bucket, config.s3_region) == ("assets", "us-east-1")
    assert config.rate_limit == Rate(60, 60)
    assert config.max_image_pixels == 100_000_000
    assert config.image_check == "decode"
    assert config.cors_origins == ()
    assert config.bind == "127.0.0.1:8000"
    assert config.metrics_port is None


@pytest.mark.parametrize("variable", ["S3_CA_CERTS", "REDIS_CA_CERTS"])
def test_a_file_of_authorities_must_hold_certificates(variable, tmp_path):
    path = tmp_path / "authority.pem"
    assert variable in mistakes(**{variable: str(path)})
    path.write_text("no certificate")
    assert variable in mistakes(**{variable: str(path)})
    trustme.CA().cert_pem.write_to_path(path)
    assert Config.from_env({variable: str(path)}) != Config.from_env({})


@pytest.mark.parametrize(
    ("value", "meant"), [("1", "yes"), ("No", "no"), ("Certificate", "certificate")]
)
def test_only_a_setting_switches_off_the_check_of_the_certificate_of_redis(value, meant, tmp_path):
    path = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(path)
    config = Config.from_env({"REDIS_TLS_VERIFY": value, "REDIS_CA_CERTS": str(path)})
    assert config.redis_tls_verify == meant
    assert Config.from_env({}).redis_tls_verify == "yes"
    assert "REDIS_TLS_VERIFY" in mistakes(REDIS_TLS_VERIFY="perhaps")


def test_a_pinned_certificate_needs_the_file_of_a_certificate():
    assert "REDIS_CA_CERTS" in mistakes(REDIS_TLS_VERIFY="certificate")
    assert "REDIS_CA_CERTS" in mistakes(REDIS_TLS_VERIFY="certificate", REDIS_CA_CERTS=" ")


def test_an_empty_variable_counts_as_unset():
    assert Config.from_env({"PORT": "", "RATE_LIMIT": " "}) == Config.from_env({})


def test_a_port_alone_binds_to_all_addresses():
    assert Config.from_env({"PORT": "5000"}).bind == "0.0.0.0:5000"


def test_bind_wins_over_port():
    environ = {"PORT": "5000", "BIND": "unix:/run/uploader.sock"}
    assert Config.from_env(environ).bind == "unix:/run/uploader.sock"


def test_all_mistakes_are_named_at_once_with_form_and_example():
    text = mistakes(PORT="x", RATE_LIMIT="lots", IMAGE_CHECK="maybe", S3_ENDPOINT="s3")
    for variable in ("PORT", "RATE_LIMIT", "IMAGE_CHECK", "S3_ENDPOINT"):
        assert f"\n  {variable}: " in text
    assert "60/minute" in text
    assert "'lots'" in text


def test_mistakes_are_named_without_secrets():
    text = mistakes(
        REDIS_URL="ftp://user:hunter2@host",
        S3_ENDPOINT="http://access:hunter2@host",
        S3_SECRET_KEY="hunter2",
    )
    assert "hunter2" not in text


def test_the_repr_of_the_settings_has_no_secret():
    config = Config.from_env(
        {
            "REDIS_URL": "redis://:hunter2@host",
            "S3_ACCESS_KEY": "access",
            "S3_SECRET_KEY": "hunter2",
        }
    )
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://user:pass@host",
        "rediss://host:6380/1",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=1",
        "rediss://host/0?ssl_ca_certs=/etc/ca.pem&client_name=uploader",
        "redis+sentinel://a:26379,b:26379,c:26379/main/0",
        "redis+sentinel://:pass@a:26379/main",
        "redis+cluster://a:7000,b:7001",
    ],
)
def test_every_form_of_redis_url_is_accepted(url):
    assert Config.from_env({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "http://host",
        "redis://",
        "redis://host:port",
        "redis://host:99999",
        "redis://a:1,b:2",
        "redis://host/main",
        "unix://",
        "redis+sentinel://a:26379",
        "redis+cluster://a:7000,",
        "redis+cluster://a:7000/3",
        "redis+cluster://a:7000,:7001",
        "redis+cluster://a:7000?db=1",
        "redis+sentinel://a:26379/main?db=1",
        "redis://host/0?decode_responses=True",
        "redis://host/0?foo=bar",
        "redis://host/0?db",
        "unix:///run/redis.sock?db=x",
    ],
)
def test_other_forms_of_redis_url_are_refused(url):
    assert "REDIS_URL" in mistakes(REDIS_URL=url)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("S3_REGION", "not a region!"),
        ("S3_REGION", "eu/../west"),
        ("S3_BUCKET", "192.168.0.1"),
        ("S3_BUCKET", "a.-b"),
        ("S3_BUCKET", "ab"),
        ("S3_BUCKET", "a" * 64),
        ("S3_ENDPOINT", "http://a b:9"),
        ("S3_ENDPOINT", "http://a/bucket"),
        ("METRICS_HOST", "999.1.1.1"),
        ("METRICS_HOST", "a host"),
    ],
)
def test_values_that_the_store_or_the_system_would_refuse_later_are_refused_now(variable, value):
    assert f"\n  {variable}: " in mistakes(**{variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("S3_BUCKET", "assets.example-1.org"),
        ("S3_REGION", "auto"),
        ("S3_ENDPOINT", "http://[::1]:9000"),
        ("METRICS_HOST", "::1"),
        ("METRICS_HOST", "localhost"),
    ],
)
def test_unusual_but_valid_names_are_accepted(variable, value):
    assert getattr(Config.from_env({variable: value}), variable.lower()) == value


def test_a_secret_key_without_an_access_key_is_refused():
    assert "S3_ACCESS_KEY, S3_SECRET_KEY" in mistakes(S3_ACCESS_KEY="  ", S3_SECRET_KEY="x")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60/minute", Rate(60, 60)),
        (" 5 / SECOND ", Rate(5, 1)),
        ("1/hour", Rate(1, 3600)),
        ("100000/Day", Rate(100_000, 86400)),
    ],
)
def test_rates_are_read(text, rate):
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text",
    ["0/minute", "maybe", "5", "/minute", "-1/minute", "5/minutes", "5/week", "1.5/hour", "٣/day"],
)
def test_other_rates_are_refused(text):
    with pytest.raises(ValueError, match="not a rate"):
        Rate.parse(text)


def test_a_rate_is_written_as_it_is_read():
    assert str(Rate.parse("120/minute")) == "120/minute"


@pytest.mark.parametrize(
    "origins", ["https://*.example.org", "*", "cms.example.org", "https://a/b"]
)
def test_an_origin_has_a_scheme_and_a_host_and_no_wildcard_or_path(origins):
    assert "CORS_ORIGINS" in mistakes(CORS_ORIGINS=origins)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("https://assets.example.org", "https://assets.example.org"),
        ("https://assets.example.org/", "https://assets.example.org"),
        ("http://[::1]:8080/a/b-c", "http://[::1]:8080/a/b-c"),
    ],
)
def test_a_public_address_may_have_a_path(value, address):
    assert Config.from_env({"PUBLIC_URL": value}).public_url == address


@pytest.mark.parametrize(
    "value",
    [
        "assets.example.org",
        "javascript://x",
        "https://",
        "https://user:secret@host",
        "https://host/?a=b",
        "https://host/#",
        "https://host/a b",
        'https://host/"',
        "https://host//a",
        "/assets",
    ],
)
def test_addresses_that_no_object_key_could_follow_are_refused(value):
    assert "PUBLIC_URL" in mistakes(PUBLIC_URL=value)


def test_several_origins_are_separated_by_commas():
    config = Config.from_env({"CORS_ORIGINS": "https://a.example, http://b.example:8080"})
    assert config.cors_origins == ("https://a.example", "http://b.example:8080")


def test_every_setting_has_a_variable_a_form_and_an_example_that_is_valid(tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "private-ca.pem")
    for each in fields(Config):
        setting = each.metadata
        assert setting["variable"].isupper()
        assert setting["form"]
        setting["parse"](setting["example"].replace("/etc/ssl", str(tmp_path)))


def test_the_docs_have_every_setting_with_its_default_and_form():
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == {each.metadata["variable"] for each in fields(Config)}
    for each in fields(Config):
        setting = each.metadata
        default, _, form = rows[setting["variable"]].partition(" | ")
        assert form == setting["form"]
        if default.startswith("`"):
            parsed = setting["parse"](default.strip("`"))
            assert parsed == each.default
