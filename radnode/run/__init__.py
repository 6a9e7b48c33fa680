"""The long-lived parts: receiver, core, worker, runner, supervisor."""
