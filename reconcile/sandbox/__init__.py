"""Everything on one machine with nothing installed: Postgres with LiteLLM's schema, a Lago, sample traffic.

An optional extra (`litellm-lago-reconcile[sandbox]`), for the demo and the tests. The job never imports it.
"""
