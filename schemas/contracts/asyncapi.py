"""The AsyncAPI 3.0 document: topics as channels; `schemas/asyncapi-intro.md` says what no schema can."""

from typing import Any

from contracts.topics import TopicFile

_KEYS = {
    "intake": "Key: your surrogate for the client, never a real number. See *If you publish*.",
    "partner": "Key: your reference for the client, as in `subject`.",
    "cleared": "Key: the service's reference for the client, as in `subject`.",
    "requests": "Key: the service's reference for the client.",
}
_DOOR_SENDS = {"replies", "partner", "cleared", "heads"}
_PARAMETERS = {
    "agency": "The agency's id, such as `harbour-housing`.",
    "service": "One of our own services: referral, matching or notifications.",
}


def document(topics: list[TopicFile], purposes: dict[str, str], intro: str) -> dict[str, Any]:
    """The document; `purposes` says of each event type what it is for, `intro` what no schema can say."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:throughgate:events",
        "info": {
            "title": "Throughgate events",
            "version": "1.0.0",
            "description": intro,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka-secure",
                "description": "The cluster; the operator gives its addresses with the credentials.",
                "variables": {"bootstrap": {"default": "localhost:9092", "description": "Bootstrap servers."}},
                "security": [{"$ref": "#/components/securitySchemes/scram"}],
            }
        },
        "channels": {topic.kind: _channel(topic) for topic in topics},
        "operations": {topic.kind: _operation(topic) for topic in topics},
        "components": {
            "securitySchemes": {
                "scram": {
                    "type": "scramSha512",
                    "description": "SASL SCRAM-SHA-512; each agency and service has a user.",
                }
            },
            "messages": {name: _message(name, purposes[name]) for name in purposes},
        },
    }


def _channel(topic: TopicFile) -> dict[str, Any]:
    names = [name for name in _PARAMETERS if f"{{{name}}}" in topic.name]
    sentences = (
        topic.comment,
        _KEYS.get(topic.kind, ""),
        f"Written by {topic.writer}, read by {topic.reader}. Kept for {topic.retention}.",
    )
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": "\n\n".join(filter(None, sentences)) + "\n",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in topic.messages},
    }
    if names:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    channel["bindings"] = {
        "kafka": {
            "partitions": topic.partitions,
            "topicConfiguration": {
                "cleanup.policy": [topic.cleanup_policy],
                "retention.ms": topic.retention_ms,
                "max.message.bytes": topic.max_message_bytes,
            },
            "bindingVersion": "0.5.0",
        }
    }
    return channel


def _operation(topic: TopicFile) -> dict[str, Any]:
    sends = topic.kind in _DOOR_SENDS
    return {
        "action": "send" if sends else "receive",
        "channel": {"$ref": f"#/channels/{topic.kind}"},
        "summary": f"The door {'writes' if sends else 'reads'} `{topic.name}`.",
        "messages": [{"$ref": f"#/channels/{topic.kind}/messages/{name}"} for name in topic.messages],
    }


def _message(name: str, purpose: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": purpose,
        "contentType": "application/cloudevents+json",
        "payload": {"$ref": f"./events/{name}.json"},
    }
