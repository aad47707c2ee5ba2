"""The LiteLLM side: its Postgres, only read."""
