"""HTTP of the door, one file a subject: publishing, clients, the register, operations."""

from fastapi import APIRouter

from consent.api import agreements, clients, identity, ledger, operations, publishing, register

router = APIRouter()
for part in (publishing, clients, register, agreements, identity, ledger, operations):
    router.include_router(part.router)
