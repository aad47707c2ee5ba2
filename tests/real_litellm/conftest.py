"""The LiteLLMs that these tests drive."""

from .versions import litellm

__all__ = ["litellm"]
