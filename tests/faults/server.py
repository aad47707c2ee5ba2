"""A Postgres that can be restarted in the middle of whatever goes on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from reconcile.sandbox.litellm_schema import migrate
from reconcile.sandbox.postgres import create_database, database_url, postgres

from .world import World

TEMPLATE = "litellm_template"


class Server:
    """It keeps its data when it is stopped, and comes back on another port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = contextlib.ExitStack()
        self.url = ""
        self.start()

    def start(self) -> None:
        self.url = self._running.enter_context(postgres(self._folder))

    def stop(self) -> None:
        self._running.close()

    def restart(self, *worlds: World) -> None:
        """Stops it, with whoever is connected, and starts it again; the worlds' proxies lead there."""
        self.stop()
        self.start()
        for world in worlds:
            world.database_url = database_url(self.url, urlsplit(world.database_url).path[1:])
            self.is_behind(world)

    def is_behind(self, world: World) -> None:
        place = urlsplit(self.url)
        world.to_postgres.leads_to(str(place.hostname), int(place.port or 0))


@contextlib.contextmanager
def restartable() -> Iterator[Server]:
    """One with a database that holds LiteLLM's tables, to be copied."""
    # Not below pytest's own folder, which every pytest that starts closes to other users; Postgres is one.
    folder = Path(tempfile.mkdtemp(prefix="reconcile-faults-"))
    folder.chmod(0o755)
    server = Server(folder / "data")
    try:
        migrate(create_database(server.url, TEMPLATE))
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
