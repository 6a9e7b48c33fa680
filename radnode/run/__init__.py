"""The long-lived parts: receiver, core, worker, runner, supervisor."""

EXIT_CONFIG = 78
"""Exit code of a part that cannot start until a person changes something (EX_CONFIG of sysexits.h)."""
