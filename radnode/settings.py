"""`.env` and the environment -> one frozen Settings. The only module that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from radnode.domain.errors import SettingsError

_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Duration = float
"""Seconds."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _setting(default: str, doc: str, *, secret: bool = False) -> Any:
    return field(metadata={"default": default, "doc": doc, "secret": secret})


@dataclass(frozen=True)
class Settings:
    """One field per setting; its variable is the name in capitals, with `RADNODE_` before it unless it ends in URL."""

    home: Path = _setting("./var", "Folder of the spool, the ledger, logs and the embedded Valkey.")
    aet: tuple[str, ...] = _setting(
        "RADNODE", "AE title, or several separated by commas: the called title is a condition."
    )
    host: str = _setting("0.0.0.0", "Address the DICOM port listens on.")  # noqa: S104 - the DICOM port is the one public door
    port: int = _setting("11112", "DICOM port; 0 turns it off, where there is one for TLS.")
    tz: str = _setting("", "Time zone (`Europe/Berlin`) of `run_between` and of times in results; empty: the system's.")
    routing: Path = _setting("routing.yaml", "The routing file.")
    apps: Path = _setting("apps", "Folder whose folders and modules are apps.")
    http_host: str = _setting("127.0.0.1", "Address of `/metrics`, `/healthz` and `/readyz`, served by core.")
    http_port: int = _setting("8104", "Port of the same; 0 turns it off.")
    receivers: int = _setting(str(_CPUS), "Receiver processes.")
    workers: int = _setting(str(_CPUS), "Cores for jobs: as many that need one core run at once.")
    gpus: str = _setting(
        "auto",
        "GPUs for jobs, as `CUDA_VISIBLE_DEVICES` names them, separated by commas; one named twice takes two jobs at "
        "once. `auto`: those the machine has; `none`: this worker takes no job that needs one.",
    )
    models: dict[str, str] = _setting(
        "", "Names of models and their addresses, `NAME=ADDRESS`, separated by spaces: see docs/models.md."
    )
    durability: str = _setting(
        "fsync", "`fsync`: an instance is on the disk before it is acknowledged; `flush`: in the system's cache."
    )
    keep: Duration = _setting(
        "0", "How long the files of a finished study are kept: `30d`, `12h`, `8w`; 0: for ever. See docs/retention.md."
    )
    keep_free: int = _setting(
        "0", "GiB that are to stay free: below that the oldest finished studies' files go earlier; 0: off."
    )
    max_pdu: int = _setting("1048576", "Largest PDU the receiver offers to take, in bytes.")
    max_associations: int = _setting("128", "Associations open at once, over all receivers.")
    max_associations_per_peer: int = _setting("0", "Of these from one address; 0: no limit of its own.")
    request_timeout: int = _setting(
        "10", "Seconds until an association request, or a TLS handshake, is complete."
    )
    idle_timeout: int = _setting("60", "Seconds without a byte from a sender after which its association is ended.")
    tls_port: int = _setting("0", "DICOM port for TLS, commonly 2762; 0 turns it off.")
    tls_cert: str = _setting("", "PEM file: the node's certificate, and those between it and its authority.")
    tls_key: str = _setting("", "PEM file: the private key of that certificate, without passphrase.")
    tls_ca: str = _setting("", "PEM file: authorities of the senders' certificates; set: a sender needs a certificate.")
    tls_min: str = _setting("1.2", "Oldest TLS version that is taken, `1.2` or `1.3`.")
    tls_match_aet: bool = _setting("false", "Whether a sender's certificate has to name its AE title.")
    log_level: str = _setting("info", "`debug`, `info`, `warning` or `error`; patient data appears at `debug` only.")
    log_format: str = _setting("auto", "`human`, `json`, or `auto`: human in a terminal, JSON otherwise.")
    crash_at: str = _setting(
        "", "For tests: a folder that names instructions at which a process kills itself, see `state/crash.py`."
    )
    webhook_url: str = _setting(
        "", "Where a rule's `notify` is told, as JSON by POST; needed by rules that have one.", secret=True
    )
    webhook_secret: str = _setting("", "Signs those messages: HMAC-SHA256 in `X-Radnode-Signature`.", secret=True)
    notify_identity: bool = _setting(
        "false", "Whether those messages and mails name Accession Number and Patient ID, and attach PDFs that may."
    )
    smtp_host: str = _setting("", "Mail server for rules that have `mail_to`.")
    smtp_port: int = _setting("587", "Its port: commonly 587 with STARTTLS, 465 with TLS, 25 without either.")
    smtp_tls: str = _setting("starttls", "`starttls`, `tls` from the first byte, or `none`.")
    smtp_user: str = _setting("", "User name there; empty: no login.")
    smtp_password: str = _setting("", "That user's password.", secret=True)
    smtp_from: str = _setting("", "Sender of the mails: `radnode@hospital.org`.")
    redis_url: str = _setting("", "Redis or Valkey; empty: an embedded one.", secret=True)
    database_url: str = _setting("", "PostgreSQL (`postgresql://…`); empty: SQLite in `RADNODE_HOME`.", secret=True)

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    @property
    def run(self) -> Path:
        """Locks, flush marks, sockets and metric files of the running parts."""
        return self.home / "run"

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.tz) if self.tz else None


def variable(name: str) -> str:
    """The environment variable of a field."""
    return name.upper() if name.endswith("_url") else f"RADNODE_{name.upper()}"


def secret_variables() -> frozenset[str]:
    """Variables an app's process must never see."""
    fields = Settings.__dataclass_fields__.values()
    names = {variable(each.name) for each in fields if each.metadata["secret"]}
    return frozenset(names | {f"{name}_FILE" for name in names})


_PRIVATE = re.compile("PASSW|SECRET|TOKEN|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|^PG", re.IGNORECASE)


def child_environment(settings: Settings) -> dict[str, str]:
    """What an app's process has of the environment: no secret of the node, and nothing that is named like one."""
    secret = secret_variables()
    given = inherited() | environment(settings)
    return {key: value for key, value in given.items() if key not in secret and not _PRIVATE.search(key)} | {
        "CUDA_VISIBLE_DEVICES": ""
    }


def private_files(settings: Settings) -> list[Path]:
    """Files and sockets with which an app could get at what its environment does not tell it."""
    dotenv = Path(".env").absolute()
    given = {key: value for key, (value, _) in _read_dotenv(dotenv).items()} | os.environ
    named = [given[f"{each}_FILE"] for each in map(variable, Settings.__dataclass_fields__) if f"{each}_FILE" in given]
    sockets = [unquote(urlsplit(settings.redis_url).path)] if settings.redis_url.startswith("unix:") else []
    database = urlsplit(settings.database_url)
    if settings.database_url and not database.hostname:  # PostgreSQL's own place for its socket, or the one given
        sockets.append(parse_qs(database.query).get("host", ["/var/run/postgresql"])[0])
    return [dotenv, *(Path(each).absolute() for each in (*named, *sockets, settings.tls_key) if each)]


def load(environment: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> Settings:
    """Settings from the environment, which wins, and `.env`. Raises SettingsError naming the variable and its place."""
    given = _read_dotenv(dotenv)
    given |= {k: (v, "environment") for k, v in (os.environ if environment is None else environment).items()}
    known = {variable(name): name for name in Settings.__dataclass_fields__}
    _refuse_unknown(given, known)
    values = {name: _value(name, variable(name), given) for name in Settings.__dataclass_fields__}
    return _checked(Settings(**values))


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for a part started as a process of its own."""
    values = {variable(name): getattr(settings, name) for name in Settings.__dataclass_fields__}
    return {key: _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value}s"
    return " ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, dict) else str(value)


def inherited(*, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """This process' environment less the variables named."""
    return {key: value for key, value in os.environ.items() if key not in without}


def _read_dotenv(path: Path) -> dict[str, tuple[str, str]]:
    """Variable -> (value, `file:line`)."""
    if not path.exists():
        return {}
    try:
        bindings = list(parse_stream(StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", remedy="make it a readable UTF-8 text file") from None
    for each in bindings:
        if each.error:
            name = re.split(r"[\s=]", each.original.string.strip(), maxsplit=1)[0]  # the rest may be a secret
            raise SettingsError(f"{path}:{_line(each)}: not understood: {name!r} …", remedy="write NAME=value")
    lines = {each.key: _line(each) for each in bindings}
    return {key: (value, f"{path}:{lines[key]}") for key, value in dotenv_values(path).items() if value is not None}


def _line(binding: Binding) -> int:
    """Where it stands: the parser counts the empty lines before it as part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _refuse_unknown(given: Mapping[str, tuple[str, str]], known: Mapping[str, str]) -> None:
    for key, (_, place) in given.items():
        if key.startswith("RADNODE_") and key not in known and key.removesuffix("_FILE") not in known:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else "`docs/settings.md` lists them all"
            raise SettingsError(f"{place}: unknown setting {key}", remedy=hint)


def _value(name: str, key: str, given: Mapping[str, tuple[str, str]]) -> Any:
    spec = Settings.__dataclass_fields__[name]
    text, place = given.get(key, ("", ""))
    if not text and f"{key}_FILE" in given:
        text, place = _from_file(key, *given[f"{key}_FILE"])
    try:
        return _PARSERS[str(spec.type)](text.strip() or spec.metadata["default"])
    except ValueError as error:
        raise SettingsError(f"{place}: {key}={text!r}: {error}", remedy=spec.metadata["doc"]) from None


def _from_file(key: str, file: str, place: str) -> tuple[str, str]:
    try:
        return Path(file).read_text(encoding="utf-8").strip(), file
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{place}: {key}_FILE={file}: {error}", remedy="name a readable file that holds the value"
        ) from None


def _titles(text: str) -> tuple[str, ...]:
    titles = tuple(each.strip() for each in text.split(",") if each.strip())
    for title in titles:
        if len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            raise ValueError(f"{title!r} is no AE title: at most 16 printable ASCII characters (PS3.5 6.2)")
    return titles


def _models(text: str) -> dict[str, str]:
    models = {}
    for each in text.split():
        name, equals, address = each.partition("=")
        if not (name and equals and address):
            raise ValueError(f"{each!r} is not NAME=ADDRESS")
        models[name] = address
    return models


def seconds(text: str) -> Duration:
    """Of `30s`, `15m`, `12h`, `30d`, `8w`, or `0`. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None and text != "0":
        raise ValueError("no duration")
    return float(found[1]) * _UNITS[found[2]] if found else 0.0


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "Path": lambda text: Path(text).absolute(),
    "str": str,
    "int": int,
    "bool": _truth,
    "Duration": seconds,
    "tuple[str, ...]": _titles,
    "dict[str, str]": _models,
}


_SCHEMES = {
    "redis_url": ("redis", "rediss", "unix"),
    "database_url": ("postgresql", "postgres"),
    "webhook_url": ("http", "https"),
}


def _checked(settings: Settings) -> Settings:
    def refuse(name: str, fault: str) -> None:
        about = Settings.__dataclass_fields__[name].metadata
        shown = "" if about["secret"] else f"={getattr(settings, name)!r}"
        raise SettingsError(f"{variable(name)}{shown}: {fault}", remedy=about["doc"])

    for name in ("port", "http_port", "tls_port", "smtp_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            refuse(name, "no port number")
    for name, fault in _malformed(settings):
        refuse(name, fault)
    for name in ("receivers", "workers", "max_associations", "request_timeout", "idle_timeout"):
        if getattr(settings, name) < 1:
            refuse(name, "must be at least 1")
    if not 4096 <= settings.max_pdu <= 16 * 1024 * 1024:
        refuse("max_pdu", "must be between 4096 and 16777216")
    for name, allowed in (
        ("durability", ("fsync", "flush")),
        ("log_format", ("auto", "human", "json")),
        ("log_level", ("debug", "info", "warning", "error")),
        ("tls_min", ("1.2", "1.3")),
        ("smtp_tls", ("starttls", "tls", "none")),
    ):
        if getattr(settings, name) not in allowed:
            refuse(name, f"must be one of {', '.join(allowed)}")
    for name in ("max_associations_per_peer", "keep_free"):
        if getattr(settings, name) < 0:
            refuse(name, "must be at least 0")
    for name, needed in (
        ("tls_port", "tls_cert"),
        ("tls_port", "tls_key"),
        ("tls_match_aet", "tls_ca"),
        ("smtp_host", "smtp_from"),
    ):
        if getattr(settings, name) and not getattr(settings, needed):
            refuse(name, f"needs {variable(needed)}")
    return settings


def _malformed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings whose text cannot be what it is to be, with the fault."""
    for name, schemes in _SCHEMES.items():
        if (url := getattr(settings, name)) and not re.match(rf"({'|'.join(schemes)})(\+\w+)?://", url):
            yield name, f"has to begin with {' or '.join(f'{each}://' for each in schemes)}"
    try:
        _ = settings.zone
    except (ZoneInfoNotFoundError, ValueError):
        yield "tz", "no time zone of that name"
