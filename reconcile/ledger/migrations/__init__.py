"""Alembic's migrations of schema `reconcile`."""
