"""Unattended runs: cron.yaml, what is due by it, and the process that does it until it is stopped."""

from __future__ import annotations

from reconcile.unattended.schedule.cron_file import CronFile, CronJob, default_file, load
from reconcile.unattended.schedule.service import Service
from reconcile.unattended.schedule.trigger import CronLine, firings

__all__ = ["CronFile", "CronJob", "CronLine", "Service", "default_file", "firings", "load"]
