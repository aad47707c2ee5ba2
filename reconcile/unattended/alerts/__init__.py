"""Alerts: what is worth one, how it reads, and how it reaches people. An alert never fails a run."""

from __future__ import annotations

from reconcile.unattended.alerts.message import Alert, of_run, overdue, refused, trial
from reconcile.unattended.alerts.sending import Channel, channels, send

__all__ = ["Alert", "Channel", "channels", "of_run", "overdue", "refused", "send", "trial"]
