"""Reconciles LiteLLM's spend logs with the usage events in Lago."""

__version__ = "0.2.0"
