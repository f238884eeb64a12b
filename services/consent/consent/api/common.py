"""What every route of the door needs."""

from typing import Annotated

from fastapi import Depends, Request

from servicekit.db import Database


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db = Annotated[Database, Depends(_database)]
