"""HTTP of the door, one file a subject: publishing, clients, the register, operations."""

from fastapi import APIRouter

from consent.api import clients, operations, publishing, register

router = APIRouter()
for part in (publishing, clients, register, operations):
    router.include_router(part.router)
