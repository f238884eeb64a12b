"""The referral worker: `python -m referral.worker`. Consumes what is cleared, relays what is asked."""

from referral import events, service
from servicekit import consuming
from servicekit.settings import Settings

if __name__ == "__main__":
    consuming.work(Settings(), events.DOOR.service, events.DOOR.cleared_topic, service.apply, service.poison)
