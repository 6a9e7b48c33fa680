"""Settings come from the environment and from .env, and what cannot be used is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from radnode.domain.errors import SettingsError
from radnode.settings import Settings, environment, load, secret_variables, variable


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def fault(given: dict[str, str], dotenv: Path) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(given, dotenv)
    return caught.value


def test_without_any_setting_there_are_defaults(dotenv: Path) -> None:
    found = load({}, dotenv)
    assert (found.aet, found.port, found.host, found.http_host) == (("RADNODE",), 11112, "0.0.0.0", "127.0.0.1")
    assert found.home == Path("var").absolute()
    assert (found.spool, found.run) == (found.home / "spool", found.home / "run")
    assert (found.redis_url, found.database_url, found.zone) == ("", "", None)


def test_the_environment_wins_over_dotenv(dotenv: Path) -> None:
    dotenv.write_text("RADNODE_PORT=104\nRADNODE_HTTP_PORT=9000\n")
    found = load({"RADNODE_PORT": "105"}, dotenv)
    assert (found.port, found.http_port) == (105, 9000)


def test_dotenv_takes_comments_quotes_and_export(dotenv: Path) -> None:
    dotenv.write_text(
        "# the hospital's\n\nexport RADNODE_AET='AI ONE, AI TWO'  # two titles\nDATABASE_URL=\"postgresql://u:a#b@h/d\"\n"
    )
    found = load({}, dotenv)
    assert found.aet == ("AI ONE", "AI TWO")
    assert found.database_url == "postgresql://u:a#b@h/d"


def test_an_empty_value_means_the_default(dotenv: Path) -> None:
    dotenv.write_text("RADNODE_PORT=\n")
    assert load({"RADNODE_TZ": "", "RADNODE_WORKERS": " "}, dotenv).port == 11112


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RADNODE_PORT", "eleven", "RADNODE_PORT='eleven'"),
        ("RADNODE_PORT", "70000", "no port number"),
        ("RADNODE_WORKERS", "0", "at least 1"),
        ("RADNODE_AET", "A TITLE MUCH TOO LONG", "no AE title"),
        ("RADNODE_AET", "BACK\\SLASH", "no AE title"),
        ("RADNODE_TZ", "Europe/Atlantis", "no time zone"),
        ("RADNODE_TZ", "../../etc/passwd", "no time zone"),
        ("RADNODE_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("RADNODE_DURABILITY", "hope", "fsync, flush"),
        ("RADNODE_MAX_PDU", "10", "between 4096"),
        ("REDIS_URL", "127.0.0.1:6379", "redis:// or rediss:// or unix://"),
        ("DATABASE_URL", "sqlite:///x.db", "postgresql:// or postgres://"),
        ("WEBHOOK_URL", "hook.hospital.org", "http:// or https://"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_the_setting_means(
    name: str, value: str, said: str, dotenv: Path
) -> None:
    error = fault({name: value}, dotenv)
    assert name in error.message
    assert said in error.message
    assert error.remedy


def test_a_url_that_cannot_be_used_is_not_shown_for_it_may_hold_a_password(dotenv: Path) -> None:
    assert "sesame" not in str(fault({"DATABASE_URL": "mysql://u:sesame@db/radnode"}, dotenv))


def test_a_fault_in_dotenv_names_its_file_and_line(dotenv: Path) -> None:
    dotenv.write_text("# first\nRADNODE_HOST=127.0.0.1\n\nRADNODE_PORT=eleven\n")
    assert fault({}, dotenv).message.startswith(f"{dotenv}:4: RADNODE_PORT='eleven'")


def test_a_line_that_is_no_setting_is_refused_with_its_place(dotenv: Path) -> None:
    dotenv.write_text("RADNODE_PORT=104\n\nDATABASE_URL 'postgresql://u:sesame@h/d\n")
    error = fault({}, dotenv)
    assert error.message.startswith(f"{dotenv}:3: not understood: 'DATABASE_URL'")
    assert "sesame" not in str(error)


def test_a_dotenv_that_is_no_text_is_refused(dotenv: Path) -> None:
    dotenv.write_bytes(b"RADNODE_HOST=\xff\xfe\n")
    assert str(dotenv) in fault({}, dotenv).message


def test_an_unknown_setting_is_refused_with_the_one_that_was_meant(dotenv: Path) -> None:
    dotenv.write_text("\nRADNODE_PROT=104\n")
    error = fault({}, dotenv)
    assert error.message == f"{dotenv}:2: unknown setting RADNODE_PROT"
    assert error.remedy == "did you mean RADNODE_PORT?"
    assert "docs/settings.md" in fault({"RADNODE_FAVOURITE_COLOUR_OF_THE_NODE": "1"}, dotenv.with_name("none")).remedy


def test_other_programs_variables_are_left_alone(dotenv: Path) -> None:
    assert load({"PATH": "/bin", "ORTHANC_PORT": "x", "RAD": "1"}, dotenv).port == 11112


def test_a_secret_can_lie_in_a_file(dotenv: Path, tmp_path: Path) -> None:
    secret = tmp_path / "database_url"
    secret.write_text("postgresql://u:sesame@db/radnode\n")
    dotenv.write_text(f"DATABASE_URL_FILE={secret}\n")
    assert load({}, dotenv).database_url == "postgresql://u:sesame@db/radnode"
    assert load({"DATABASE_URL": "postgresql://other/d"}, dotenv).database_url == "postgresql://other/d"


def test_a_secret_file_that_cannot_be_read_is_named_with_its_place(dotenv: Path) -> None:
    dotenv.write_text("\nREDIS_URL_FILE=/nowhere/redis\n")
    assert fault({}, dotenv).message.startswith(f"{dotenv}:2: REDIS_URL_FILE=/nowhere/redis")


def test_an_app_is_kept_from_every_secret_and_from_the_files_they_lie_in() -> None:
    names = {"REDIS_URL", "DATABASE_URL", "WEBHOOK_URL", "RADNODE_WEBHOOK_SECRET", "RADNODE_SMTP_PASSWORD"}
    assert secret_variables() == names | {f"{each}_FILE" for each in names}


def test_settings_reach_a_part_that_is_started_as_a_process_unchanged(dotenv: Path, tmp_path: Path) -> None:
    given = {
        "RADNODE_HOME": str(tmp_path / "a b"),
        "RADNODE_AET": "ONE,TWO",
        "RADNODE_TZ": "Europe/Berlin",
        "DATABASE_URL": "postgresql://u:p,w@h/d",
        "RADNODE_DURABILITY": "flush",
    }
    found = load(given, dotenv)
    dotenv.write_text("RADNODE_TZ=UTC\nRADNODE_HTTP_PORT=1\n")
    assert load(environment(found), dotenv) == found
    assert load(environment(load({}, dotenv.with_name("none"))), dotenv.with_name("none")).database_url == ""


def test_every_setting_has_a_variable_of_its_own_and_says_what_it_is_for() -> None:
    fields = Settings.__dataclass_fields__
    assert len({variable(name) for name in fields}) == len(fields)
    assert all(each.metadata["doc"].endswith(".") for each in fields.values())
