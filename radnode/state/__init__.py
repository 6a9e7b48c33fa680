"""Durable state: the spool (files) and the ledger (rows)."""
