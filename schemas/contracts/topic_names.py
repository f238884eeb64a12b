"""What topics are called, without the namespace that an installation puts before the names (`schemas/topics`)."""

HEADS = "heads"
"""The ledger's signed heads, for everyone. Where it cannot be written its shard waits: nothing could be checked."""


def intake(agency: str) -> str:
    """What an agency publishes."""
    return f"intake.{agency}"


def replies(agency: str) -> str:
    """Where the door answers what an agency publishes."""
    return f"replies.{agency}"


def partner(agency: str) -> str:
    """What an agency is told."""
    return f"partner.{agency}"


def cleared(service: str) -> str:
    """What one of our services is told."""
    return f"cleared.{service}"


def requests(service: str) -> str:
    """What one of our services asks of the door."""
    return f"requests.{service}"


def parts(topic: str, namespace: str = "") -> tuple[str, str]:
    """Of which kind a topic is, and whose: `partner` and `hostel`. `heads` is nobody's."""
    name = topic.removeprefix(namespace)
    kind, dot, whose = name.rpartition(".")
    return (kind, whose) if dot else (name, "")
