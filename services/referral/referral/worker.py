"""The referral worker: `python -m referral.worker`. Consumes what is cleared, relays what is asked."""

from referral import events, service
from servicekit import consuming
from servicekit.settings import Settings

apply = events.DOOR.apply(service.take_in)

if __name__ == "__main__":
    consuming.work(Settings(), events.SERVICE, events.CLEARED_TOPIC, apply, service.poison)
